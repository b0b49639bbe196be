"""The zoo's table in RESULTS.md, made of `zoo/*/evaluation.json` and `zoo/*/model`: the twelve cells.

    python bench/results_table.py [--check]          or: make results-table

It replaces what stands between the two comments `BEGIN` and `END`; --check only says whether that is as it would be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- zoo table: made by make results-table -->", "<!-- end -->"
FAMILIES = {"gan": "GAN", "vae": "VAE", "cycle_gan": "cycle GAN", "cycle_vae": "cycle VAE"}
MODALITIES = {"image": "images", "text": "text", "audio": "sound"}
SAMPLES, FLOOR = "samples", "real held-out data"
TARGETS = {  # as the project's issues set them; "yardstick" is an outside scorer, see the sections below the table
    "gan-mnist": "yardstick FID ≤ 0.5, ≤ 20 minutes",
    "vae-mnist": "yardstick FID ≤ 3.0, 10 minutes",
    "vae-mnist-binary": "−log p(x) ≤ 81.0 nats (500 samples)",
    "cyclegan-mnist-usps": "yardstick accuracy ≥ 96.4 %",
    "cyclegan-usps-mnist": "yardstick accuracy ≥ 96.5 %",
    "cyclegan-mnist-noise": "FID ≤ 1.5 times that of gan-mnist",
    "cyclevae-mnist": "conversions read right ≥ 98.3 %",
    "gan-fsdd": "digit right ≥ 95 %, yardstick FID ≤ 2.4",
    "vae-fsdd": "yardstick FID ≤ 3.6, digit kept ≥ 95 %",
    "cyclegan-fsdd": "speaker ≥ 95 %, digit kept ≥ 93 %",
    "cyclevae-fsdd": "speaker ≥ 90 %, digit kept ≥ 93 %",
    "gan-coco": "BLEU-4 ≥ 0.32 at Self-BLEU-4 ≤ 0.583",
    "vae-names": "≤ 2.00 nats a character, KL ≥ 2",
    "cyclegan-cipher": "≥ 95 % of the characters",
}
FURTHER = {  # what else an evaluation may hold: path → words, and whether it is a share
    ("likelihood", "iw_nll"): ("−log p(x)", False),
    ("likelihood", "nll_per_character"): ("nats a character", False),
    ("likelihood", "kl"): ("KL", False),
    ("conversions", "domain_right"): ("converted right", True),
    ("heard", "domain_right"): ("heard as the target", True),
    ("heard", "content_kept"): ("content kept", True),
    ("cycle", "label_kept"): ("label kept", True),
    ("cycle", "content_kept"): ("found again after the cycle", True),
    ("text", "samples", "bleu4"): ("BLEU-4", False),
    ("text", "samples", "self_bleu4"): ("Self-BLEU-4", False),
}
HEAD = ("cell", "model", "data", "target", "own FID (floor)", "own KID (floor)", "further, own", "audit", "minutes",
        "command")  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def cell_of(folder: Path) -> tuple[str, str]:
    """(family, modality) of a model of the zoo; one that works on codes makes what its codec makes."""
    about = read(folder / "model" / "config.json")
    modality = about["modality"]
    if modality == "codes":
        modality = read(folder / "model" / "codec" / "config.json")["modality"]
    return about["family"], modality


def score(result: dict[str, Any], name: str) -> str:
    """A score with its error, and in brackets the floor's."""
    row, floor = result["rows"][SAMPLES], result["rows"][FLOOR]
    error = f" ± {row[name + '_error']:.1g}" if f"{name}_error" in row else ""
    return f"{row[name]:.3g}{error} ({floor[name]:.2g})"


def both(result: dict[str, Any], name: str) -> str:
    """The same, in both directions where there are two."""
    if "back" not in result:
        return score(result, name)
    return f"a→b {score(result, name)}; b→a {score(result['back'], name)}"


def further(result: dict[str, Any]) -> str:
    told = []
    for path, (words, share) in FURTHER.items():
        value: Any = result
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        density = path[-1] == "iw_nll" and "note" in result.get(
            "likelihood", {}
        )  # of continuous values: it says little alone
        if value is not None and not density:
            told.append(f"{words} {f'{100 * value:.1f} %' if share else f'{value:.3g}'}")
    return ", ".join(told) or "–"


def audit(result: dict[str, Any]) -> str:
    """The verdict on copying; of two directions the worse one."""
    found = [part["audit"] for part in (result, result.get("back", {})) if "audit" in part]
    if not found:
        return "not made yet"
    worst = min(found, key=lambda a: a["p"])
    return f"{worst['verdict']} (p {worst['p']:.2g})"


def size(folder: Path) -> str:
    return f"{sum(f.stat().st_size for f in (folder / 'model').rglob('*.safetensors')) / 1e6:.1f} MB"


def row_of(folder: Path) -> list[str]:
    """Everything after the cell's name."""
    result, training = read(folder / "evaluation.json"), read(folder / "model" / "config.json")["training"]
    sources = [training["data"], (training.get("data_b") or {}).get("source")]
    data = ", ".join(source.removeprefix("../shared/data/") for source in sources if source)
    minutes = result.get("training", {}).get("minutes")
    return [
        f"`zoo/{folder.name}`, {size(folder)}", data.replace("|", "\\|"), TARGETS.get(folder.name, ""),
        both(result, "fid"), both(result, "kid"), further(result), audit(result),
        "–" if minutes is None else f"{minutes:.1f}", f"`python bench/zoo.py {folder.name}`",
    ]  # fmt: skip


def table() -> str:
    """The whole table, a row for each model and one for each cell without any."""
    models = sorted(path.parent for path in (ROOT / "zoo").glob("*/evaluation.json"))
    cells: dict[tuple[str, str], list[Path]] = {}
    for folder in models:
        cells.setdefault(cell_of(folder), []).append(folder)
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for family, name in FAMILIES.items():
        for modality, words in MODALITIES.items():
            cell = f"{name}, {words}"
            for folder in cells.get((family, modality), []):
                lines.append(f"| {' | '.join([cell, *row_of(folder)])} |")
            if (family, modality) not in cells:
                lines.append(f"| {cell} | no model in the zoo |{' |' * (len(HEAD) - 2)}")
    return "\n".join(lines)


def results(text: str) -> str:
    """RESULTS.md with the table in its place; SystemExit where the comments are not there."""
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise SystemExit(f"RESULTS.md needs the lines {BEGIN} and {END}.")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    path = ROOT / "RESULTS.md"
    old = path.read_text(encoding="utf-8")
    new = results(old)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == old else "RESULTS.md is behind zoo/: make results-table")
    path.write_text(new, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
