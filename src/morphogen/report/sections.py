"""The sections of a report that come out of the files of a run: words, scores, curves, findings, audit, previews."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from morphogen.report.charts import Chart, Line, number
from morphogen.report.page import (
    Alarm,
    Code,
    Drawing,
    Drawings,
    Picture,
    Sound,
    Sounds,
    Strip,
    Table,
    Texts,
    Words,
    spaced,
)
from morphogen.report.records import MODALITY, Records

SAMPLES, FLOOR = "samples", "real held-out data"
HEADINGS = {"fid": "FID", "kid": "KID", "class_entropy": "class entropy", "confident": "sure", "iw_nll": "−log p(x)",
            "nelbo": "−ELBO", "kl": "KL", "mcd_db": "MCD in dB"}  # fmt: skip
MOST_CHARTS, MOST_CLASSES = 12, 40
TIMELINE = 12
PREVIEW_LINES = 6


def heading(key: str) -> str:
    """A key of an evaluation in words."""
    return HEADINGS.get(key) or key.replace("_", " ").replace("fid", "FID").replace("kid", "KID")


def lead(records: Records) -> list[str]:
    """The run in sentences: what was trained on what, how long, and what the checks say."""
    return [trained(records), verdict(records)]


def trained(records: Records) -> str:
    training, description = records.training, records.description
    what = MODALITY.get(records.modality, records.modality or "data")
    text = f"A {records.family} for {what}" if records.family != "model" else "A model"
    sources = records.sources
    if sources:
        text += f", trained on {' and '.join(sources)}"
    if training.get("items"):
        text += f" ({number(training['items'])} items, {number(training.get('heldout', 0))} more held out)"
    if description.get("label"):
        known = description.get("classes", [])
        role = "with the domains of" if description.get("family") == "cycle_vae" else "conditioned on"
        text += f", {role} the label “{description['label']}” ({len(known)} values)"
    how = []
    if records.steps:
        how.append(f"{number(records.steps)} steps")
    minutes = records.evaluation.get("training", {}).get("minutes")
    if minutes is not None:
        how.append(f"{number(minutes)} minutes")
    if how:
        text += ": " + " in ".join(how)
    if training.get("step") and training["step"] != records.steps:
        text += f"; shown is the best by held-out score, of step {number(training['step'])}"
    return text + "."


def verdict(records: Records) -> str:
    """Audit and health in a sentence each."""
    if not records.evaluation:
        return (
            f"Not evaluated yet, so there are no scores and no audit: “morphogen evaluate {records.path}” makes them."
        )
    told = []
    for where, result in records.directions.items():
        audit = result.get("audit")
        of = f" ({where})" if where else ""
        if audit:
            copies = audit.get("verdict") == "copies"
            word = "the samples look like copies of training items" if copies else "the samples are no copies"
            told.append(f"Audit{of}: {word} (p = {number(audit.get('p'))}).")
    if not told:
        told.append("This evaluation holds no audit for copies.")
    findings = records.findings()
    standing = dict.fromkeys(str(f.get("what")) for f in findings if f.get("until") is None)
    gone = dict.fromkeys(str(f.get("what")) for f in findings if f.get("until") is not None)
    names = "; ".join([", ".join(standing)] * bool(standing) + [f"gone again: {', '.join(gone)}"] * bool(gone))
    told.append(f"Health: {names}." if findings else "Health: nothing was found wrong.")
    return " ".join(told)


def health(records: Records) -> list[Any]:
    """Every finding with its evidence and remedy."""
    blocks: list[Any] = []
    for found in records.findings():
        since = [f"since step {number(found['since'])}"] if found.get("since") is not None else []
        since += [f"until step {number(found['until'])}"] if found.get("until") is not None else []
        where = [found["where"]] if found.get("where") else []
        remedy = str(found.get("remedy") or "").rstrip(".")
        remedy += f". Done by itself: {found['done']}" if found.get("done") else ""
        blocks.append(Alarm(str(found.get("what")), ", ".join(where + since), str(found.get("evidence", "")), remedy))
    if blocks:
        return blocks
    looked = "training and evaluation" if records.evaluation else "training so far"
    return [Words(f"Nothing was found wrong in {looked}.")]


def score_table(rows: dict[str, dict[str, Any]], caption: str) -> Table:
    """Rows of scores with their errors; the floor's and the samples' are to be seen first."""
    columns = dict.fromkeys(k for row in rows.values() for k, v in row.items() if not isinstance(v, dict | list | str))
    columns = [key for key in columns if not key.endswith("_error")]
    cells = [[name, *(cell(row, key) for key in columns)] for name, row in rows.items()]
    return Table(caption, ["", *map(heading, columns)], cells, [SAMPLES])


def cell(row: dict[str, Any], key: str) -> str:
    """A score and its error."""
    value, error = row.get(key), row.get(f"{key}_error")
    if isinstance(value, str):
        return value
    return number(value) + ("" if error is None or value is None else f" ± {error:.1g}")


def scores(records: Records) -> list[Any]:
    """The scores of each direction beside the floor, and how they were measured."""
    blocks: list[Any] = []
    for where, result in records.directions.items():
        counts = result.get("counts", {})
        caption = f"{where}: " if where else ""
        caption += "scores of the samples, and of real data in their place: the floor, what a perfect model would have"
        if result.get("rows"):
            blocks.append(score_table(result["rows"], caption))
        measured = [f"{number(counts['samples'])} items in each row" if "samples" in counts else ""]
        measured += [f"against {number(counts['heldout'])} held-out items" if "heldout" in counts else ""]
        measured += [f"{name}: {result[name]}" for name in ("extractor", "resize", "split") if result.get(name)]
        blocks.append(Words("How: " + "; ".join(m for m in measured if m) + ".", "note"))
        blocks += [Words(str(note), "note") for note in result.get("notes") or []]
        blocks += further(result, where)
    return blocks


TABLES = {
    "text": "what the texts are like", "sound": "what the sounds are like",
    "priors": "held-out scores of each prior that could make the samples",
}  # fmt: skip
NUMBERS = {
    "likelihood": "likelihood of held-out items, in nats where nothing else is said",
    "language_model": "the same decoder without codes",
    "cycle": "how honest the cycle is, on held-out items", "conversions": "conversions of held-out items",
    "heard": "conversions, as they are heard", "modes": "against the truth, which is known here",
}  # fmt: skip


def further(result: dict[str, Any], where: str) -> list[Any]:
    """What else an evaluation may hold: tables of rows, and single numbers."""
    blocks: list[Any] = []
    begin = f"{where}: " if where else ""
    for key, words in TABLES.items():
        rows = {k: v for k, v in (result.get(key) or {}).items() if isinstance(v, dict)}
        if rows:
            blocks.append(score_table(rows, begin + words))
    ways = [row for row in result.get("maximum_likelihood") or [] if isinstance(row, dict)]
    if ways:
        rows = {f"temperature {number(row.get('temperature'))}": row for row in ways}
        blocks.append(score_table(rows, begin + "the same decoder trained by maximum likelihood alone"))
    for key, words in NUMBERS.items():
        found = result.get(key) or {}
        plain = {k: v for k, v in found.items() if isinstance(v, int | float) and not k.endswith("_error")}
        if plain:
            rows = [[heading(k), cell(found, k)] for k in plain]
            blocks.append(Table(begin + words, ["", "value"], rows))
        if isinstance(found.get("note"), str):
            blocks.append(Words(found["note"], "note"))
    return blocks


def by_class(records: Records) -> list[Any]:
    """What each class got: its share of samples and data, and its own scores where there are any."""
    blocks: list[Any] = []
    for where, result in records.directions.items():
        rows = {k: v for k, v in (result.get("by_class") or {}).items() if isinstance(v, dict)}
        if not rows:
            rows = _shares(result.get("rows", {}))
        if rows:
            caption = f"{where + ': ' if where else ''}by class, as the classifier of the scores sees the samples"
            table = score_table(dict(list(rows.items())[:MOST_CLASSES]), caption)
            blocks.append(table)
        if len(rows) > MOST_CLASSES:
            blocks.append(Words(f"{len(rows) - MOST_CLASSES} further classes are left out here.", "note"))
    return blocks


def _shares(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """class → its share in each row, out of the rows themselves."""
    known = {name: row["class_shares"] for name, row in rows.items() if row.get("class_shares")}
    classes = dict.fromkeys(c for shares in known.values() for c in shares)
    return {c: {f"share of {name}": shares.get(c) for name, shares in known.items()} for c in classes}


def curves(records: Records) -> list[Any]:
    """Held-out scores and losses over the steps, a small chart each."""
    blocks: list[Any] = []
    best = records.training.get("step")
    marks = {} if best is None else {float(best): f"step {best}: the best, which is the model"}
    for heldout, words in ((True, "Held-out scores"), (False, "Losses")):
        found = {name: line for name, line in records.curves(heldout).items() if len(line[0]) > 1}
        if not found:
            continue
        charts = [Chart(heading(n), [Line(n, *line)], marks if heldout else {}) for n, line in found.items()]
        told = f"{words} over the steps; the scale is logarithmic where it has to be."
        if heldout and marks:
            told += f" The broken line stands at step {number(best)}, whose model was kept as the best."
        blocks += [Words(told, "note"), Drawings([Drawing(c.svg(), c.title) for c in charts[:MOST_CHARTS]])]
    return blocks


def timeline(records: Records) -> list[Any]:
    """The previews that the training made, first to last."""
    blocks: list[Any] = []
    for direction, files in records.previews().items():
        way = direction.replace("-", " ")
        if direction:
            blocks.append(Words(f"From {way}:"))
        pictures = [(step, path) for step, path in files if path.suffix == ".png"]
        shown = spaced(pictures, TIMELINE)
        found = [(step, opened(path)) for step, path in shown]
        strip = [Picture(p, f"Preview at step {s}", f"step {number(s)}") for s, p in found if p is not None]
        if strip:
            blocks.append(Strip(strip))
        blocks += _heard(pictures[-1][1].with_suffix(".wav"), pictures[-1][0]) if pictures else []
        texts = [(step, path) for step, path in files if path.suffix == ".txt"]
        for step, path in spaced(texts, 4):
            blocks.append(Texts(first_lines(path), f"step {number(step)}"))
    return blocks


def _heard(path: Path, step: int) -> list[Any]:
    """The sound of a preview, cut after some seconds."""
    import soundfile

    with contextlib.suppress(OSError, RuntimeError):
        if path.exists():
            with soundfile.SoundFile(path) as file:
                wave = file.read(int(12 * file.samplerate), dtype="int16", always_2d=True)
                return [Sounds([Sound(wave, file.samplerate, f"preview at step {step}, its first 12 seconds")])]
    return []


def opened(path: Path) -> Pillow.Image | None:
    """A picture, or None where it cannot be read."""
    try:
        with Pillow.open(path) as picture:
            return picture.copy()
    except (OSError, ValueError):
        return None


def first_lines(path: Path) -> list[str]:
    found = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in found if line][:PREVIEW_LINES]


def audit(records: Records) -> list[Any]:
    """Whether samples are copies: the verdict, its numbers, and the closest pairs."""
    blocks: list[Any] = []
    for where, result in records.directions.items():
        found = result.get("audit") or {}
        begin = f"{where}: " if where else ""
        if found:
            blocks += _audited(found, begin)
        blocks += _closest(found, records.path / "galleries", where, begin)
    return blocks


def _audited(found: dict[str, Any], begin: str) -> list[Any]:
    copies = found.get("verdict") == "copies"
    word = "copies: the samples are closer to training items than held-out data are" if copies else "clean"
    near, floor = found.get("near_copies"), found.get("near_copies_heldout")
    told = f"{begin}verdict: {word} (p = {number(found.get('p'))})."
    if near is not None and floor is not None:
        told += f" Near copies: {number(100 * near)} % of the samples, {number(100 * floor)} % of held-out data."
    blocks: list[Any] = [Words(told[0].upper() + told[1:])]
    if found.get("by_chance"):
        blocks.append(Words("Such short items coincide by chance, with held-out data as often as with training items."))
    rows = {k: v for k, v in (found.get("rows") or {}).items() if isinstance(v, dict)}
    if rows:
        blocks.append(
            score_table(rows, begin + "the audit of the samples, and of real held-out data, which must be clean")
        )
    plain = {k: v for k, v in (found.get("gap") or {}).items() if not isinstance(v, dict | list)}
    if plain:
        cells = [[heading(k), cell(plain, k)] for k in plain if not k.endswith("_error")]
        blocks.append(Table(begin + "scores against training and against held-out data", ["", "value"], cells))
    return blocks


def _closest(found: dict[str, Any], folder: Path, where: str, begin: str) -> list[Any]:
    """The samples that are nearest to training items, above each the item."""
    pairs = [c["texts"] for c in found.get("closest") or [] if isinstance(c, dict) and len(c.get("texts") or []) == 2]
    if pairs:
        rows = [[str(i + 1), str(a), str(b)] for i, (a, b) in enumerate(pairs)]
        return [Table(begin + "the closest pairs", ["", "sample", "nearest training item"], rows, wraps=True)]
    caption = f"{begin}the closest pairs: above each sample the training item that is nearest to it"
    return _gallery(folder, "closest", where, caption)


def failures(records: Records) -> list[Any]:
    """The samples that are farthest from any data."""
    blocks: list[Any] = []
    for where, result in records.directions.items():
        begin = f"{where}: " if where else ""
        given = [f.get("text") if isinstance(f, dict) else f for f in result.get("failures") or []]
        texts = [text for text in given if isinstance(text, str)]
        if texts:
            blocks.append(Texts(texts, begin + "the samples that are farthest from any data"))
        else:
            caption = f"{begin}the samples that are farthest from any data"
            blocks += _gallery(records.path / "galleries", "failures", where, caption)
    return blocks


def _gallery(folder: Path, name: str, where: str, caption: str) -> list[Any]:
    """A picture that an evaluation has left, and the sound beside it."""
    end = f"-{where.replace(' ', '-')}" if where else ""
    path = folder / f"{name}{end}.png"
    picture = opened(path)
    if picture is None:
        return []
    caption = caption[0].upper() + caption[1:] + "."
    wave = _heard(path.with_suffix(".wav"), 0)
    for block in wave:
        block.sounds[0].name = "the same, to listen to: its first 12 seconds"
    return [Picture(picture, caption, caption), *wave]


def made_again(records: Records, versions: str) -> list[Any]:
    """Command, versions, config and what was left out."""
    training = records.training
    blocks: list[Any] = []
    if training.get("command"):
        blocks += [Words("The command:"), Code(training["command"])]
    elif training:
        blocks.append(Words("Made through the Python API; the whole config is below."))
    rows = [
        [heading(k), str(training[k])] for k in ("recipe", "seed", "split", "precision") if training.get(k) is not None
    ]
    rows += [[f"{name}, in training", str(v)] for name, v in (training.get("versions") or {}).items()]
    if records.description.get("version"):
        rows.append(["Morphogen, in training", records.description["version"]])
    rows.append(["this report", versions])
    rows.append(["files left out as unreadable", str(len(records.skipped))])
    blocks.append(Table("what it was made with", ["", "value"], rows, wraps=True))
    if records.skipped:
        first = [line.replace("\t", ": ") for line in records.skipped[:5]]
        blocks.append(Texts(first, "the first of those that were left out; skipped.txt lists all"))
    if records.config:
        blocks.append(Code(yaml_of(records.config), "The whole config"))
    return blocks


def yaml_of(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
