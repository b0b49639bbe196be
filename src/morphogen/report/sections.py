"""What the files of a run say, as blocks of a page: words, scores, curves, findings, audit, previews."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image as Pillow

from morphogen.evaluation import FLOOR
from morphogen.loop import spaced
from morphogen.precision import made_with
from morphogen.report.charts import Chart, Line, number
from morphogen.report.page import (
    Alarm,
    Block,
    Charts,
    Code,
    Heading,
    Picture,
    Sound,
    Sounds,
    Strip,
    Table,
    Texts,
    Words,
)
from morphogen.report.records import MODALITY, Records

Result = dict[str, Any]  # an evaluation, or that of one direction
KEYS = {
    "confident": "sure", "iw_nll": "−log p(x)", "nelbo": "−ELBO", "nelbo_train": "−ELBO of training items",
    "nelbo_heldout": "−ELBO of held-out items", "fid_train": "FID to training items", "ct": "C_T", "ct_p": "p of C_T",
    "fid_heldout": "FID to held-out items", "kid_floor": "KID of real data", "share": "share of samples",
    "share_real": "share of real data", "cycle_quantised": "cycle, rounded to 8 bits",
    "cycle_noisy": "cycle, with noise", "mcd_db": "MCD in dB", "samples": "importance samples",
    "domain_right": "in the wanted domain", "self_bleu2": "Self-BLEU-2", "self_bleu3": "Self-BLEU-3",
    "self_bleu4": "Self-BLEU-4", "language_fid": "FID by the language model's states",
    "language_kid": "KID by the language model's states",
}  # fmt: skip
WORDS = {"fid": "FID", "kid": "KID", "kl": "KL", "nll": "NLL", "mcd": "MCD", "db": "dB", "stft": "STFT", "stoi": "STOI",
         "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4"}  # fmt: skip
SHARES = {"share", "share_real", "near_copies", "authenticity", "copied", "copied_8grams", "content_kept", "label_kept",
          "label_kept_there_and_back", "domain_right", "domain_in_code", "chance", "silent", "tonal"}  # fmt: skip
MOST_CHARTS, TIMELINE, TEXT_TIMELINE, PREVIEW_LINES = 12, 12, 4, 6
HEARD = 12  # seconds of a preview


def heading(key: str) -> str:
    """A key of an evaluation in words."""
    if key.startswith("heard_"):
        return f"heard: {heading(key.removeprefix('heard_'))}"
    return KEYS.get(key) or " ".join(WORDS.get(word, word) for word in key.split("_"))


def cell(row: Result, key: str) -> str:
    """A score and its error, a share in per cent."""
    value, error = row.get(key), row.get(f"{key}_error")
    if value is None:
        return "–"
    times, unit = (100, " %") if key.removeprefix("heard_") in SHARES else (1, "")
    return number(times * value) + ("" if error is None else f" ± {float(f'{times * error:.1g}'):g}") + unit


def columns_of(rows: dict[str, Result]) -> list[str]:
    """The scores that rows hold."""
    plain = (key for row in rows.values() for key, value in row.items() if isinstance(value, int | float))
    return [key for key in dict.fromkeys(plain) if not key.endswith("_error")]


def score_table(rows: dict[str, Result], caption: str) -> Table:
    """A row for each name, a column for each score."""
    keys = columns_of(rows)
    cells = [[name, *(cell(row, key) for key in keys)] for name, row in rows.items()]
    return Table(caption, ["", *map(heading, keys)], cells)


def number_table(columns: dict[str, Result], caption: str) -> Table:
    """A row for each score, a column for each name: for many scores of few things."""
    rows = [[heading(key), *(cell(found, key) for found in columns.values())] for key in columns_of(columns)]
    return Table(caption, ["", *columns], rows)


def each_way(records: Records, blocks_of: Callable[[Result, str], list[Block]]) -> list[Block]:
    """blocks_of(result, direction) of an evaluation, or of each of its two directions under a heading."""
    blocks: list[Block] = []
    for way, result in records.directions.items():
        found = blocks_of(result, way)
        blocks += [Heading(way), *found] if way and found else found
    return blocks


def lead(records: Records) -> list[str]:
    """The run in sentences: what was trained on what, how long, and what the checks say."""
    return [trained(records), verdict(records)]


def trained(records: Records) -> str:
    """What was trained on what, and how long."""
    training, description = records.training, records.description
    text = f"A {records.family} for {MODALITY.get(records.modality, 'data')}"
    if records.sources:
        text += f", trained on {' and '.join(records.sources)}"
    if "items" in training:
        text += f" ({number(training['items'])} items, {number(training.get('heldout', 0))} more held out)"
    if description.get("label"):
        role = "with the domains of" if description.get("family") == "cycle_vae" else "conditioned on"
        text += f", {role} the label “{description['label']}” ({len(description.get('classes', []))} values)"
    if records.steps:
        text += f": {number(records.steps)} steps"
        text += "" if records.minutes is None else f" in {number(records.minutes)} minutes"
    if training.get("step") and training["step"] != records.steps:
        text += f"; shown is the best by held-out score, of step {number(training['step'])}"
    return text + "."


def verdict(records: Records) -> str:
    """Audit and health in a sentence each."""
    if not records.evaluation:
        return "Not evaluated yet: a training ends with its evaluation, and the same command continues it."
    told = []
    for way, result in records.directions.items():
        found, of = result.get("audit"), f" ({way})" if way else ""
        if found:
            copies = found["verdict"] == "copies"
            word = "the samples look like copies of training items" if copies else "the samples are no copies"
            told.append(f"Audit{of}: {word} (p = {number(found['p'])}).")
    standing, gone = [], []
    for finding in records.findings():
        (standing if finding.get("until") is None else gone).append(finding["what"])
    names = ", ".join([*dict.fromkeys(standing), *(f"{what} (gone again)" for what in dict.fromkeys(gone))])
    return " ".join([*told, f"Health: {names or 'nothing was found wrong'}."])


def health(records: Records) -> list[Block]:
    """Every finding with its evidence and remedy."""
    blocks: list[Block] = []
    for found in records.findings():
        since = "" if found["since"] is None else f"since step {number(found['since'])}"
        until = "" if found.get("until") is None else f"gone at step {number(found['until'])}"
        told = ", ".join(part for part in (found["where"], since, until) if part)
        done = f". Done by itself: {found['done']}" if found.get("done") else ""
        blocks.append(Alarm(found["what"], told, found["evidence"], found["remedy"].rstrip(".") + done))
    looked = "training and evaluation" if records.evaluation else "training so far"
    return blocks or [Words(f"Nothing was found wrong in {looked}.")]


def scores(result: Result, way: str) -> list[Block]:
    """The scores beside the floor, how they were measured, and what else was."""
    blocks: list[Block] = []
    if "rows" in result:
        caption = "Scores of the samples, and of real data in their place: the floor, what a perfect model would have."
        blocks.append(number_table(result["rows"], caption))
    counts = result.get("counts", {})
    told = [f"{number(counts['samples'])} items in each row" if "samples" in counts else ""]
    told += [f"against {number(counts['heldout'])} held-out items" if "heldout" in counts else ""]
    told += [f"{name}: {result[name]}" for name in ("extractor", "resize", "split") if result.get(name)]
    blocks.append(Words(f"How: {'; '.join(part for part in told if part)}.", note=True))
    blocks += [Words(note, note=True) for note in result.get("notes", [])]
    return blocks + further(result)


def further(result: Result) -> list[Block]:
    """What an evaluation holds of some families and modalities only."""
    blocks: list[Block] = []
    text, told = dict(result.get("text", {})), "What the texts are like."
    for row in result.get("maximum_likelihood", []):
        told = "What the texts are like, and those of the same decoder trained by maximum likelihood alone."
        text[f"at temperature {row['temperature']:g}"] = {k: v for k, v in row.items() if k != "temperature"}
    priors = "Held-out scores of each prior that could make the samples."
    for rows, caption in (
        (text, told),
        (result.get("sound"), "What the sounds are like."),
        (result.get("priors"), priors),
    ):
        blocks += [score_table(rows, caption)] if rows else []
    if "likelihood" in result:
        columns = {"this model": result["likelihood"]}
        if "language_model" in result:
            columns["the same decoder without codes"] = result["language_model"]
        blocks.append(number_table(columns, "Likelihood of held-out items, in nats where nothing else is said."))
        blocks += [Words(result["likelihood"]["note"], note=True)] if "note" in result["likelihood"] else []
    for key, caption in (
        ("cycle", "How honest the cycle is: mean error of held-out items there and back, and what was kept."),
        ("conversions", "Conversions of held-out items."),
        ("heard", "Conversions, as classifiers hear them."),
        ("modes", "Against the truth, which is known here."),
    ):
        blocks += [number_table({"value": result[key]}, caption)] if key in result else []
    return blocks


def quality_and_diversity(records: Records) -> list[Block]:
    """The picture that an evaluation of text has left."""
    image = opened(records.path / "curve.png")
    caption = "Quality against diversity, lower left the better, beside maximum likelihood at each temperature."
    return [] if image is None else [Picture(image, caption, caption)]


def by_class(result: Result, way: str) -> list[Block]:
    """What each class got: its share of samples and data, and its own scores."""
    rows = result.get("by_class")
    return [score_table(rows, "What the classifier of the scores sees.")] if rows else []


def curves(records: Records) -> list[Block]:
    """Held-out scores and losses over the steps, a small chart each."""
    blocks: list[Block] = []
    best = records.training.get("step")
    for heldout, words in ((True, "Held-out scores"), (False, "Losses")):
        marks = {float(best): f"step {best}: the best, which is the model"} if heldout and best is not None else {}
        charts = [
            Chart(heading(name), [Line(name, *line)], marks)
            for name, line in records.curves(heldout).items()
            if len(line[0]) > 1
        ]
        if charts:
            told = f"{words} over the steps; the scale is logarithmic where it has to be."
            told += (
                f" The broken line stands at step {number(best)}, whose model was kept as the best." if marks else ""
            )
            blocks += [Words(told, note=True), Charts(charts[:MOST_CHARTS])]
    return blocks


def timeline(previews: dict[str, list[tuple[int, Path]]]) -> list[Block]:
    """The previews that the training made, evenly spaced, and the last sound."""
    blocks: list[Block] = []
    for way, files in previews.items():
        blocks += [Heading(way)] if way else []
        pictures = [(step, path) for step, path in files if path.suffix == ".png"]
        strip = [picture_of(*pictures[i]) for i in spaced(len(pictures), TIMELINE)]
        if any(strip):
            blocks.append(Strip([picture for picture in strip if picture]))
            blocks += heard(pictures[-1][1], f"preview at step {number(pictures[-1][0])}")
        texts = [(step, path) for step, path in files if path.suffix == ".txt"]
        for i in spaced(len(texts), TEXT_TIMELINE):
            blocks.append(Texts(first_lines(texts[i][1]), f"step {number(texts[i][0])}"))
    return blocks


def picture_of(step: int, path: Path) -> Picture | None:
    """A preview, if it can be read."""
    image = opened(path)
    return None if image is None else Picture(image, f"Preview at step {step}", f"step {number(step)}")


def opened(path: Path) -> Pillow.Image | None:
    """A picture, or None where it cannot be read."""
    try:
        with Pillow.open(path) as picture:
            return picture.copy()
    except (OSError, ValueError):
        return None


def heard(picture: Path, name: str) -> list[Block]:
    """The sound that lies beside a picture, cut after some seconds."""
    import soundfile

    with contextlib.suppress(OSError, RuntimeError), soundfile.SoundFile(picture.with_suffix(".wav")) as file:
        wave = file.read(HEARD * file.samplerate, dtype="int16", always_2d=True)
        return [Sounds([Sound(wave, file.samplerate, f"{name}, its first {HEARD} seconds")])]
    return []


def first_lines(path: Path) -> list[str]:
    """The first lines of a preview of text."""
    found = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in found if line][:PREVIEW_LINES]


def audit(records: Records, result: Result, way: str) -> list[Block]:
    """Whether samples are copies: the verdict, its numbers, and the closest pairs."""
    found = result.get("audit")
    if not found:
        return []
    copies = found["verdict"] == "copies"
    told = "Copies: more samples sit on a training item than held-out data do" if copies else "Clean"
    told += f" (p = {number(found['p'])}). Near copies: {100 * found['near_copies']:.2g} % of the samples, "
    told += f"{100 * found['near_copies_heldout']:.2g} % of held-out data."
    if found.get("by_chance"):
        told += " Such short items coincide by chance, with held-out data as often as with training items."
    blocks: list[Block] = [Words(told)]
    blocks.append(number_table(found["rows"], f"The audit of the samples, and of {FLOOR}, which must be clean."))
    blocks.append(number_table({"value": found["gap"]}, "Scores against training and against held-out data."))
    pairs = [pair["texts"] for pair in found["closest"] if "texts" in pair]
    if pairs:
        rows = [[str(i + 1), *pair] for i, pair in enumerate(pairs)]
        return [*blocks, Table("The closest pairs.", ["", "sample", "nearest training item"], rows, wraps=True)]
    return blocks + gallery(
        records, "closest", way, "The closest pairs: above each sample the training item that is nearest to it."
    )


def failures(records: Records, result: Result, way: str) -> list[Block]:
    """The samples that are farthest from any data."""
    caption = "The samples that are farthest from any data."
    texts = [found["text"] for found in result.get("failures", []) if "text" in found]
    return [Texts(texts, caption)] if texts else gallery(records, "failures", way, caption)


def gallery(records: Records, name: str, way: str, caption: str) -> list[Block]:
    """A picture that an evaluation has left, and the sound beside it."""
    path = records.path / "galleries" / ("-".join([name, *way.split()]) + ".png")
    image = opened(path)
    return [] if image is None else [Picture(image, caption, caption), *heard(path, "the same, to listen to")]


def made_again(records: Records) -> list[Block]:
    """Command, versions, config and what was left out."""
    training = records.training
    blocks: list[Block] = []
    if training.get("command"):
        blocks += [Words("The command:"), Code(training["command"])]
    elif training:
        blocks.append(Words("Made through the Python API; the whole config is below."))
    facts = {key: training.get(key) for key in ("recipe", "seed", "split", "precision")}
    facts |= {f"{name}, in training": version for name, version in training.get("versions", {}).items()}
    facts |= {
        "Morphogen, in training": records.description.get("version"),
        "this report": ", ".join(f"{name} {version}" for name, version in made_with().items()),
        "files left out as unreadable": len(records.skipped),
    }
    rows = [[name, str(value)] for name, value in facts.items() if value is not None]
    blocks.append(Table("What it was made with.", ["", "value"], rows, wraps=True))
    if records.skipped:
        first = [line.replace("\t", ": ") for line in records.skipped[:5]]
        blocks.append(Texts(first, "The first of those that were left out; skipped.txt lists all."))
    if records.config:
        blocks.append(Code(yaml.safe_dump(records.config, sort_keys=False, allow_unicode=True), "The whole config"))
    return blocks
