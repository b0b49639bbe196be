"""An evaluation as it is read: a table with its lines for a person, one object for scripts.

`result` is what `evaluation.evaluate_items` makes and `assessment` adds to: rows of scores by name, the audit, health
findings, and what a family or a modality has of its own.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table

from morphogen.evaluation import FLOOR, SAMPLES
from morphogen.metrics.text import LONG
from morphogen.watch import Finding

HEADINGS = {"fid": "FID", "kid": "KID", "precision": "prec.", "recall": "rec.", "density": "dens.", "coverage": "cov.",
            "class_entropy": "entropy", "confident": "conf."}  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """A result as a rich table: a column per number (with its error), whatever the rows hold; the caption says how."""
    counts = result["counts"]
    caption = (
        f"{counts['samples']} items in each row against {counts['heldout']} held-out items · "
        f"features: {result['extractor']} · resize: {result['resize']} · split: {result['split']}"
    )
    rows = result["rows"]
    columns = dict.fromkeys(key for row in rows.values() for key, value in row.items() if not isinstance(value, dict))
    columns = [key for key in columns if not key.endswith("_error")]
    if "modes" in result:
        caption += "\nagainst the truth: " + ", ".join(f"{k} {v:.4g}" for k, v in result["modes"].items())
    told = (likelihood_lines, text_lines, audit_lines, health_lines)
    shown = Table(
        caption="\n".join([caption, *(line for lines in told for line in lines(result)), *result["notes"]]),
        caption_justify="left",
        padding=(0, 0),
    )
    shown.add_column("")
    for column in columns:
        shown.add_column(HEADINGS.get(column) or column.replace("_", " "), justify="right")
    for name, row in rows.items():
        shown.add_row(name, *(_cell(row, column) for column in columns))
    return shown


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """An evaluation in one object for scripts: {"scores": {metric: {"value", "error", "floor"}}, "audit", "health",
    "extractor", "n"}. `floor` is that of real data, None where there is none; of two domains the names of the scores
    end in _a_to_b and _b_to_a, and the audit is the worse one."""
    if "back" not in result:
        return {
            "scores": scores_of(result), "audit": result["audit"], "health": result["health"],
            "extractor": result["extractor"], "n": result["counts"]["samples"],
        }  # fmt: skip
    ways = {"a_to_b": result, "b_to_a": result["back"]}
    found = {way: summary({k: v for k, v in part.items() if k != "back"}) for way, part in ways.items()}
    return found["a_to_b"] | {
        "scores": {f"{name}_{way}": v for way, part in found.items() for name, v in part["scores"].items()},
        "audit": min((part["audit"] for part in found.values()), key=lambda a: a["p"]),
        "health": [
            f if f.get("where") == "" else f | {"direction": way} for way, part in found.items() for f in part["health"]
        ],
        "extractor": " and ".join(dict.fromkeys(part["extractor"] for part in found.values())),
    }


def scores_of(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Every number of an evaluation with its error and that of real data, as far as they are known; what classifiers
    hear in conversions is named heard_…."""
    pairs = [(result["rows"][SAMPLES], result["rows"].get(FLOOR, {}))] if "rows" in result else []
    pairs += [(result[part], {}) for part in ("likelihood", "conversions", "cycle", "modes") if part in result]
    pairs += [({f"heard_{name}": v for name, v in result["heard"].items()}, {})] if "heard" in result else []
    pairs += [(result["text"][SAMPLES], result["text"][FLOOR])] if "text" in result else []
    pairs += [(result["sound"]["samples"], result["sound"]["held-out"])] if "sound" in result else []
    return {
        name: {"value": value, "error": row.get(f"{name}_error"), "floor": floor.get(name)}
        for row, floor in pairs
        for name, value in row.items()
        if isinstance(value, (int, float)) and not name.endswith("_error")
    }


def likelihood_lines(result: dict[str, Any]) -> list[str]:
    """The likelihood of an evaluation, and the scores of the priors that could make its samples, for a person."""
    lines = []
    if "likelihood" in result:
        found = result["likelihood"]
        text = f"on {found['items']} held-out items: reconstruction {found['reconstruction']:.4g}"
        text += f", KL {found['kl']:.4g} nats"
        if "iw_nll" in found:
            text += f", −log p(x) {found['iw_nll']:.5g} ± {found['iw_nll_error']:.2g} ({found['samples']} samples)"
            bits = found.get("bits_per_dim")
            text += f", {bits:.4g} bits/dim" if bits else ""
            known = {
                "mutual_information": "mutual information",
                "top_mutual_information": "the top's mutual information",
            }
            text += "".join(f"; {words} {found[key]:.3g} nats" for key, words in known.items() if key in found)
        lines += [f"{text}; {found['active_units']:.0f} of {found['latent_dim']} units active"]
        lines += [found["note"]] if "note" in found else []
    if "conversions" in result:
        told = _told(result["conversions"])
        lines.append(f"conversions of held-out items: {told}")
    if "heard" in result:
        told = _told(result["heard"])
        lines.append(f"conversions as they are heard: {told}")
    if "sound" in result:
        sound, codec = result["sound"], result["sound"]["codec"]
        lines.append(
            f"the codec alone: STFT distance {codec['multi_resolution_stft']:.3g}, mel {codec['mel_db']:.3g} dB, STOI "
            f"{codec['stoi']:.3g}; nearest training recording: {sound['samples']['nearest']:.3g} (held-out "
            f"{sound['held-out']['nearest']:.3g})"
        )
    if "priors" in result:
        told = lambda v: " (copies)" if v.get("copies") else ""
        scores = ", ".join(f"{name} FID {v['fid']:.3g}{told(v)}" for name, v in result["priors"].items())
        lines.append(f"priors by held-out score: {scores}")
    return lines


def text_lines(result: dict[str, Any]) -> list[str]:
    """What a text's evaluation says beside its table."""
    lines, found = [], result.get("likelihood", {})
    for whose, values in (("this model", found), ("the same decoder without z", result.get("language_model", {}))):
        if "nll_per_token" in values:
            kind = "per item and unit" if whose == "this model" else "for as many steps"
            lines.append(
                f"{whose}, {kind}: −log p(x) {values['iw_nll']:.4g}; {values['nll_per_token']:.4g} nats a token "
                f"(perplexity {values['perplexity_token']:.4g}), {values['nll_per_character']:.4g} a character"
            )
    rows = dict(result.get("text", {}))
    rows |= {f"maximum likelihood at {r['temperature']:g}": r for r in result.get("maximum_likelihood", [])}
    for name, row in rows.items():
        text = (
            f"{name}: BLEU-4 {row['bleu4']:.3g}, Self-BLEU-4 {row['self_bleu4']:.3g}, distinct-2 {row['distinct2']:.3g}"
        )
        if "reverse_perplexity" in row:
            text += f", reverse perplexity {row['reverse_perplexity']:.4g}"
        if "language_fid" in row:
            text += f", by the language model's states FID {row['language_fid']:.3g}, KID {row['language_kid']:.3g}"
        if "copied" in row:
            long = row["copied_8grams"]
            text += f", copied {100 * row['copied']:.2g} %, of {LONG}-grams {100 * long:.2g} %"
        lines.append(text)
    return lines


def audit_lines(result: dict[str, Any]) -> list[str]:
    """What the audit says of copying."""
    found = result["audit"]
    gap, real = found["gap"], found["rows"][FLOOR]
    verdict = "samples COPY training items" if found["verdict"] == "copies" else "no copying found"
    lines = [
        f"audit of {found['samples']} samples: {verdict} (p {found['p']:.2g}); near copies {found['near_copies']:.2%}, "
        f"of held-out items {found['near_copies_heldout']:.2%}; C_T {found['ct']:.2f} (p {found['ct_p']:.2g}), of "
        f"held-out items {real['ct']:.2f} (p {real['ct_p']:.2g}); authentic {found['authenticity']:.1%}, held-out "
        f"items {real['authenticity']:.1%}",
        f"FID to training items {_cell(gap, 'fid_train')}, to as many held-out items {_cell(gap, 'fid_heldout')}",
    ]
    if found["by_chance"]:
        lines.append("the near copies are of training and held-out items alike: such short items coincide by chance")
    if "nelbo_train" in gap:
        lines[1] += (
            f"; −ELBO of training items {_cell(gap, 'nelbo_train')}, of held-out items {_cell(gap, 'nelbo_heldout')}"
        )
    return lines


def health_lines(result: dict[str, Any]) -> list[str]:
    """The findings of an evaluation as sentences."""
    return [Finding(**found).sentence() for found in result.get("health", [])]


def _told(values: dict[str, float]) -> str:
    """Numbers with their names and errors, for a person."""
    plain = [name for name in values if not name.endswith("_error")]
    return ", ".join(f"{name.replace('_', ' ')} {_cell(values, name)}" for name in plain)


def _cell(row: dict[str, Any], column: str) -> str:
    if column not in row:
        return "–"
    error = row.get(f"{column}_error")
    return f"{row[column]:.3g}" + ("" if error is None else f" ±{error:.1g}")
