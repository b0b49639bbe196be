"""Several runs beside one another: what each is, its scores, the best of each, and what forbids comparing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from morphogen.domains import NOISE
from morphogen.errors import MorphogenError, UsageError
from morphogen.model import load
from morphogen.report import sections, show
from morphogen.report.charts import Chart, Line, number
from morphogen.report.page import Block, Charts, Heading, Page, Table, Words, write_page
from morphogen.report.records import Records, read_records
from morphogen.report.writing import attempted
from morphogen.scorecard import scores_of

HIGHER = {"precision", "recall", "density", "coverage", "bleu4", "domain_right", "content_kept", "label_kept",
          "heard_domain_right", "heard_content_kept"}  # fmt: skip
LOWER = {"fid", "kid", "iw_nll", "bits_per_dim", "nll_per_token", "nll_per_character", "self_bleu4",
         "heard_mcd_db"}  # fmt: skip
SAME = {
    "extractor": "the features differ, so no score of one compares with the other's",
    "resize": "the items were resized in different ways before they were measured",
    "split": "training and held-out data were parted in different ways",
    "data": "they learned from different data",
    "heldout": "they were measured against different numbers of held-out items",
    "samples": "different numbers of samples were measured, on which FID depends",
    "likelihood": "their likelihoods are of different kinds, so −log p(x) does not compare",
    "modality": "they make different kinds of items",
}
NO_BEST = ("extractor", "resize", "heldout", "samples", "modality")  # where these differ no score is called the best
NOTE = "★ the best of a row, and what is within its error; ↓ lower is better, ↑ higher."


def comparison(runs: Sequence[str | Path]) -> dict[str, Any]:
    """{"runs": [{"name", "recipe", "data", "steps", "minutes", "parameters", "scores", "audit", "health", …}, …],
    "best": {metric: [name, …]}, "warnings": […]} of two or more runs; plain JSON.

    A score counts as the best together with those that are within its error; where scores do not compare none is.
    UsageError for fewer than two runs.
    """
    return compared(named(runs))


def named(runs: Sequence[str | Path]) -> dict[str, Records]:
    """Runs by their folders' names, with as much of the path as tells them apart."""
    if len(runs) < 2:
        raise UsageError("compare takes two or more runs.")
    records = [read_records(run) for run in runs]
    paths = [r.path.resolve() for r in records]
    if len(set(paths)) < len(paths):
        raise UsageError("compare takes different runs, and one was named twice.")
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, records, strict=True))


def compared(records: dict[str, Records]) -> dict[str, Any]:
    """`comparison` of runs that are read."""
    runs = [facts(name, r) for name, r in records.items()]
    differs = any(len(values(runs, key)) > 1 for key in NO_BEST)
    return {"runs": runs, "best": {} if differs else best(runs), "warnings": warnings(runs)}


def facts(name: str, records: Records) -> dict[str, Any]:
    """What the table says of one run."""
    scores, verdicts, counts = {}, [], {"heldout": [], "samples": []}
    for way, result in records.directions.items():
        end = f"_{way.replace(' ', '_')}" if way else ""
        scores |= {f"{key}{end}": s for key, s in scores_of(result).items() if key in HIGHER | LOWER}
        verdicts += [result["audit"]["verdict"]] if "audit" in result else []
        for key, found in counts.items():
            found.append(result.get("counts", {}).get(key))
    return {
        "name": name, "recipe": records.training.get("recipe") or records.config.get("recipe"),
        "family": records.family, "modality": records.modality, "data": records.sources, "steps": records.steps,
        "minutes": records.minutes, "parameters": parameters(records.path), "scores": scores,
        "audit": "copies" if "copies" in verdicts else "clean" if verdicts else None,
        "health": [finding["what"] for finding in records.findings()],
        **{key: records.evaluation.get(key) for key in ("extractor", "resize", "split")}, **counts,
        "likelihood": records.description.get("options", {}).get("likelihood") if "iw_nll" in scores else None,
    }  # fmt: skip


def parameters(path: Path) -> int | None:
    """How many numbers the model's file holds."""
    file = path / "model" / "weights.safetensors"
    try:
        with safe_open(file if file.exists() else path / "weights.safetensors", "pt") as found:
            return sum(math.prod(found.get_slice(name).get_shape()) for name in found.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def metric(name: str) -> str:
    """The score without the direction."""
    return name.removesuffix("_a_to_b").removesuffix("_b_to_a")


def score_names(runs: list[dict[str, Any]]) -> list[str]:
    """The scores that any run has."""
    return list(dict.fromkeys(name for run in runs for name in run["scores"]))


def best(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """score → the runs that have the best value, and those that are within its error of it."""
    found = {}
    for name in score_names(runs):
        known = {run["name"]: run["scores"][name] for run in runs if name in run["scores"]}
        if len(known) > 1:
            choose = max if metric(name) in HIGHER else min
            top = choose(known.values(), key=lambda score: score["value"])
            found[name] = [r for r, s in known.items() if abs(s["value"] - top["value"]) <= (top["error"] or 0)]
    return found


def warnings(runs: list[dict[str, Any]]) -> list[str]:
    """Why scores of these runs must not be compared, a sentence each."""
    told = [f"{run['name']} has no evaluation" for run in runs if not run["scores"]]
    for key, words in SAME.items():
        found = values(runs, key)
        if len(found) > 1:
            told.append(f"{words} ({'; '.join(value + ': ' + ', '.join(names) for value, names in found.items())})")
    return [sentence[0].upper() + sentence[1:] + "." for sentence in told]


def values(runs: list[dict[str, Any]], key: str) -> dict[str, list[str]]:
    """What runs that are evaluated say of one thing that must be the same → the runs that say so."""
    found: dict[str, list[str]] = {}
    for run in runs:
        said = run[key]
        if key == "data":  # by their last names, for folders lie elsewhere on every machine
            said = [source.rstrip("/").rpartition("/")[2] for source in said if source != NOISE]
        if run["scores"] and not (key == "likelihood" and said is None):
            found.setdefault(", ".join(map(str, said)) if isinstance(said, list) else str(said), []).append(run["name"])
    return found


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """The table: a row for each fact and score, a column for each run; the best are marked by a star."""
    runs = found["runs"]
    lists = lambda key: [", ".join(run[key]) or "–" for run in runs]
    rows = [["recipe", *(run["recipe"] or "–" for run in runs)], ["data", *lists("data")]]
    rows += [[key, *(number(run[key]) for run in runs)] for key in ("steps", "minutes", "parameters")]
    for name in score_names(runs):
        words = sections.heading(metric(name)) + name.removeprefix(metric(name)).replace("_", " ")
        cells = [score_cell(run, name, found["best"].get(name, [])) for run in runs]
        rows.append([f"{words} {'↑' if metric(name) in HIGHER else '↓'}", *cells])
        if metric(name) in ("fid", "kid"):
            rows.append([f"{words}, floor", *(number(run["scores"].get(name, {}).get("floor")) for run in runs)])
    return [*rows, ["audit", *(run["audit"] or "–" for run in runs)], ["health", *lists("health")]]


def score_cell(run: dict[str, Any], name: str, best: list[str]) -> str:
    """A score with its error, and a star where it is the best."""
    if name not in run["scores"]:
        return "–"
    score = run["scores"][name]
    told = sections.cell({metric(name): score["value"], f"{metric(name)}_error": score["error"]}, metric(name))
    return told + (" ★" if run["name"] in best else "")


def write_comparison(runs: Sequence[str | Path], out: Path) -> Path:
    """The comparison as one HTML file: the table, curves laid over one another, samples side by side."""
    records = named(runs)
    found = compared(records)
    parts = {
        "Not comparable": [Words(text) for text in found["warnings"]],
        "Runs": [Table("The runs, a column each.", ["", *records], rows_of(found), wraps=True), Words(NOTE, note=True)],
        "Curves": overlaid(records),
        "Samples": [block for name, r in records.items() for block in beside(name, r)],
    }
    told = [sections.trained(r).replace("A ", f"{name}: a ", 1) for name, r in records.items()]
    return write_page(Page(" · ".join(records), told, parts), out)


def overlaid(records: dict[str, Records]) -> list[Block]:
    """Held-out scores and losses that two or more runs have, a chart each."""
    blocks: list[Block] = []
    for heldout, words in ((True, "Held-out scores"), (False, "Losses")):
        curves = {name: r.curves(heldout) for name, r in records.items()}
        charts = []
        for key in dict.fromkeys(key for found in curves.values() for key in found):
            lines = [Line(name, *found.get(key, ([], []))) for name, found in curves.items()]
            if sum(len(line.x) > 1 for line in lines) > 1:
                charts.append(Chart(sections.heading(key), lines))
        if charts:
            blocks += [
                Words(f"{words} over the steps.", note=True),
                Charts(charts[: sections.MOST_CHARTS], list(records)),
            ]
    return blocks


def beside(name: str, records: Records) -> list[Block]:
    """Samples of one run, or its last preview where there is no model that samples."""
    try:
        model = load(records.path)
    except MorphogenError:
        model = None
    if model is not None and model.family.other is None:
        return [Heading(name), *attempted(show.samples, model)]
    last = sections.timeline({way: files[-1:] for way, files in records.previews().items()})
    return [Heading(name), *last] if last else []
