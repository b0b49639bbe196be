"""Several runs beside one another: what each is, its scores, the best of each, and what forbids comparing them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from morphogen import __version__
from morphogen.domains import NOISE
from morphogen.errors import MorphogenError, UsageError
from morphogen.model import load
from morphogen.report import sections, show
from morphogen.report.charts import Chart, Line, number
from morphogen.report.page import Drawing, Drawings, Page, Picture, Section, Table, Texts, Words, html_of
from morphogen.report.records import Records, read_records
from morphogen.report.writing import attempted
from morphogen.run import write_text

HIGHER = {"precision", "recall", "density", "coverage"}
LOWER = {"fid", "kid", "iw_nll", "bits_per_dim", "nll_per_token", "nll_per_character"}
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
SHOWN = ("fid", "kid", "precision", "recall", "density", "coverage", "class_entropy", "confident")


def comparison(runs: Sequence[str | Path]) -> dict[str, Any]:
    """{"runs": [{"name", "recipe", "data", "steps", "minutes", "parameters", "scores", "audit", "health", …}, …],
    "best": {metric: [name, …]}, "warnings": […]} of two or more runs; plain JSON.

    A score counts as the best together with those that are within its error; where scores do not compare none is.
    UsageError for fewer than two runs.
    """
    if len(runs) < 2:
        raise UsageError("compare takes two or more runs.")
    return compared(named([read_records(run) for run in runs]))


def named(records: Sequence[Records]) -> dict[str, Records]:
    """Runs by their folders' names, with as much of the path as tells them apart."""
    paths = [r.path.resolve() for r in records]
    for count in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-count:]) for p in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, records, strict=True))
    raise UsageError("compare takes different runs, and one was named twice.")


def compared(records: dict[str, Records]) -> dict[str, Any]:
    """`comparison` of runs that are read."""
    runs = [facts(name, r) for name, r in records.items()]
    differs = {key for key in NO_BEST if len(values(runs, key)) > 1}
    return {"runs": runs, "best": {} if differs else best(runs), "warnings": warnings(runs)}


def facts(name: str, records: Records) -> dict[str, Any]:
    """What the table says of one run."""
    scores: dict[str, Any] = {}
    audits = {}
    for way, result in records.directions.items():
        end = f" {way}" if way else ""
        rows = result.get("rows") or {}
        for key in SHOWN:
            scores |= scored(f"{key}{end}", key, rows.get(sections.SAMPLES, {}), rows.get(sections.FLOOR, {}))
        likelihood = result.get("likelihood") or {}
        for key in LOWER:
            scores |= scored(f"{key}{end}", key, likelihood, {}) if key not in SHOWN else {}
        audits[way] = (result.get("audit") or {}).get("verdict")
    first = records.evaluation
    return {
        "name": name, "recipe": records.training.get("recipe") or records.config.get("recipe") or None,
        "family": records.family, "modality": records.modality, "data": records.sources, "steps": records.steps,
        "minutes": first.get("training", {}).get("minutes"), "parameters": parameters(records.path),
        "scores": scores, "audit": "copies" if "copies" in audits.values() else next(iter(audits.values()), None),
        "health": [f["what"] for f in records.findings()], "extractor": first.get("extractor"),
        "resize": first.get("resize"), "split": first.get("split"),
        "likelihood": records.description.get("options", {}).get("likelihood") if "iw_nll" in scores else None,
        "counts": {way: result.get("counts") for way, result in records.directions.items()},
    }  # fmt: skip


def scored(name: str, key: str, row: dict[str, Any], floor: dict[str, Any]) -> dict[str, Any]:
    """{name: {"value", "error", "floor"}} of one score, or nothing."""
    if not isinstance(row.get(key), int | float):
        return {}
    return {name: {"value": row[key], "error": row.get(f"{key}_error"), "floor": floor.get(key)}}


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
    return name.partition(" ")[0]


def best(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """score → the runs that have the best value, and those that are within its error of it."""
    found = {}
    for name in dict.fromkeys(key for run in runs for key in run["scores"]):
        known = {run["name"]: run["scores"][name] for run in runs if name in run["scores"]}
        sign = 1 if metric(name) in HIGHER else -1
        if len(known) < 2 or metric(name) not in HIGHER | LOWER:
            continue
        top = max(known, key=lambda run, known=known, sign=sign: sign * known[run]["value"])
        near = known[top]["error"] or 0.0
        found[name] = [run for run, s in known.items() if abs(s["value"] - known[top]["value"]) <= near]
    return found


def warnings(runs: list[dict[str, Any]]) -> list[str]:
    """Why scores of these runs must not be compared, a sentence each."""
    told = [f"{run['name']} has no evaluation" for run in runs if not run["scores"]]
    for key, words in SAME.items():
        found = values(runs, key)
        if len(found) > 1:
            each = "; ".join(f"{value}: {', '.join(names)}" for value, names in found.items())
            told.append(f"{words} ({each})")
    return [sentence[0].upper() + sentence[1:] + "." for sentence in told]


def values(runs: list[dict[str, Any]], key: str) -> dict[str, list[str]]:
    """What runs that are evaluated say of one thing that must be the same → the runs that say so."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if run["scores"] and not (key == "likelihood" and run[key] is None):
            found.setdefault(shown(seen(run, key)), []).append(run["name"])
    return found


def seen(run: dict[str, Any], key: str) -> Any:
    """What one run says of it: sources by their last names, for folders lie elsewhere on every machine."""
    if key == "data":
        return [s.rstrip("/").rpartition("/")[2] for s in run["data"] if s != NOISE]
    if key in ("heldout", "samples"):
        return [(counts or {}).get(key) for counts in run["counts"].values()]
    return run[key]


def shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return number(value) if isinstance(value, int | float) else str(value)


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """The table: a row for each fact and score, a column for each run; the best are marked by a star."""
    runs = found["runs"]
    lists = lambda key: [", ".join(map(str, run[key])) or "–" for run in runs]
    rows = [
        ["recipe", *(run["recipe"] or "–" for run in runs)], ["data", *lists("data")],
        *([key, *(number(run[key]) for run in runs)] for key in ("steps", "minutes", "parameters")),
    ]  # fmt: skip
    for name in dict.fromkeys(key for run in runs for key in run["scores"]):
        rows.append([heading_of(name), *(score_cell(run, name, found["best"]) for run in runs)])
        floors = [run["scores"].get(name, {}).get("floor") for run in runs]
        if any(floor is not None for floor in floors) and metric(name) in ("fid", "kid"):
            rows.append([f"{heading_of(name)}, floor", *map(number, floors)])
    rows.append(["audit", *(run["audit"] or "–" for run in runs)])
    rows.append(["health", *lists("health")])
    return rows


def heading_of(name: str) -> str:
    key, _, way = name.partition(" ")
    arrow = " ↑" if key in HIGHER else " ↓" if key in LOWER else ""
    return f"{sections.heading(key)}{arrow}" + (f", {way}" if way else "")


def score_cell(run: dict[str, Any], name: str, best: dict[str, list[str]]) -> str:
    score = run["scores"].get(name)
    if score is None:
        return "–"
    error = "" if score["error"] is None else f" ± {score['error']:.1g}"
    return number(score["value"]) + error + (" ★" if run["name"] in best.get(name, []) else "")


NOTE = "★ the best of a row, and what is within its error; ↓ lower is better, ↑ higher."


def write_comparison(runs: Sequence[str | Path], out: Path) -> Path:
    """The comparison as one HTML file: the table, curves laid over one another, samples side by side."""
    records = named([read_records(run) for run in runs])
    found = compared(records)
    parts = {
        "Not comparable": [Words(text) for text in found["warnings"]],
        "Runs": [Table("the runs, a column each", ["", *records], rows_of(found), wraps=True), Words(NOTE, "note")],
        "Curves": overlaid(records),
        "Samples": [block for name, r in records.items() for block in beside(name, r)],
    }
    told = [sections.trained(r).replace("A ", f"{name}: a ", 1) for name, r in records.items()]
    made = f"Made by Morphogen {__version__} on {time.strftime('%Y-%m-%d %H:%M %Z')}."
    page = Page(f"{' · '.join(records)}", told, [Section(k, v) for k, v in parts.items() if v], made)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html_of(page))
    return out


def overlaid(records: dict[str, Records]) -> list[Any]:
    """Held-out scores and losses that two or more runs have, a chart each."""
    blocks: list[Any] = []
    for heldout, words in ((True, "Held-out scores"), (False, "Losses")):
        curves = {name: r.curves(heldout) for name, r in records.items()}
        charts = []
        for key in dict.fromkeys(key for found in curves.values() for key in found):
            lines = [
                Line(n, *curves[n][key], k) for k, n in enumerate(curves) if len(curves[n].get(key, ([], []))[0]) > 1
            ]
            if len(lines) > 1:
                charts.append(Chart(sections.heading(key), lines))
        if charts:
            drawn = [Drawing(c.svg(), c.title) for c in charts[: sections.MOST_CHARTS]]
            blocks += [Words(f"{words} over the steps.", "note"), Drawings(drawn, list(enumerate(records)))]
    return blocks


def beside(name: str, records: Records) -> list[Any]:
    """Samples of one run, or its last preview where there is no model that samples."""
    try:
        model = load(records.path)
    except MorphogenError:
        model = None
    if model is not None and model.family.other is None:
        return [Words(f"{name}:"), *attempted(lambda: show.samples(model, None)[1:])]
    blocks = []
    for way, files in records.previews().items():
        step, path = files[-1]
        told = f"{name}{', ' + way.replace('-', ' ') if way else ''}, preview at step {number(step)}"
        picture = sections.opened(path) if path.suffix == ".png" else None
        if picture is not None:
            blocks.append(Picture(picture, told, told))
        elif path.suffix == ".txt":
            blocks.append(Texts(sections.first_lines(path), told))
    return blocks
