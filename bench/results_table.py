"""The zoo's tables in RESULTS.md, made of `zoo/*/evaluation.json` and `zoo/*/model`: the twelve cells, by modality.

    python bench/results_table.py [--check]          or: make results-table

It replaces what stands between the two comments `BEGIN` and `END`; --check only says whether that is as it would be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

from morphogen.report.sections import cell, heading
from morphogen.scorecard import scores_of

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- zoo table: made by make results-table -->", "<!-- end -->"
FAMILIES = {"gan": "GAN", "vae": "VAE", "cycle_gan": "cycle GAN", "cycle_vae": "cycle VAE"}
MODALITIES = {"image": "Images", "audio": "Sound", "text": "Text"}
TARGETS = {  # as the project's issues set them; "yardstick" is an outside scorer, see the sections below the tables
    "gan-mnist": "yardstick FID ≤ 0.5, precision and coverage ≥ 0.80; ≤ 20 minutes",
    "vae-mnist": "yardstick FID ≤ 3.0; 10 minutes",
    "vae-mnist-binary": "−log p(x) ≤ 81.0 nats on all test images, 500 samples; ≤ 2 hours",
    "cyclegan-mnist-usps": "yardstick accuracy ≥ 96.4 %; ≤ 30 minutes",
    "cyclegan-usps-mnist": "yardstick accuracy ≥ 96.5 %; ≤ 30 minutes",
    "cyclegan-mnist-noise": "yardstick FID ≤ 1.5 times that of a GAN in the same time",
    "cyclevae-mnist": "digit read from the code ≤ 17 %, converted digits read right ≥ 98.3 %, style kept r ≥ 0.6",
    "gan-fsdd": "yardstick: digit right ≥ 95 %, FID ≤ 2.4",
    "vae-fsdd": "yardstick: FID ≤ 3.6, digit kept ≥ 95 %",
    "cyclegan-fsdd": "yardstick: speaker ≥ 95 %, digit kept ≥ 93 %",
    "cyclevae-fsdd": "yardstick: speaker ≥ 90 %, digit kept ≥ 93 %, MCD below unconverted and mean-variance matched",
    "vae-coco": "−log p(x) ≤ 1.01 times that of a language model, KL ≥ 5 nats, ≥ 10 active units",
    "gan-coco": "yardstick: BLEU-4 ≥ 0.32 at Self-BLEU-4 ≤ 0.583, copied ≤ 0.5 %, 8-grams ≤ 1.5 %",
    "vae-names": "≤ 2.00 nats a character, KL ≥ 2 nats",
    "cyclegan-cipher": "≥ 95 % of the characters right",
    "cyclevae-cipher": "≥ 95 % of the characters right",
}
SHOWN = ("fid", "kid", "iw_nll", "nll_per_character", "kl", "active_units", "domain_right", "heard_domain_right",
         "heard_content_kept", "label_kept", "bleu4", "self_bleu4")  # fmt: skip
HEAD = ("model", "target", "own scores ± error (floor)", "audit", "minutes")
SPACE = "\N{NO-BREAK SPACE}"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def cell_of(folder: Path) -> tuple[str, str]:
    """(family, modality) of a model of the zoo; one that works on codes makes what its codec makes."""
    about = read(folder / "model" / "config.json")
    modality = about["modality"]
    if modality == "codes":
        modality = read(folder / "model" / "codec" / "config.json")["modality"]
    return about["family"], modality


def scores(result: dict[str, Any], way: str = "") -> list[str]:
    """The scores of an evaluation, a line each."""
    told = []
    for name, score in scores_of(result).items():
        density = name == "iw_nll" and "note" in result["likelihood"]  # of continuous values: it says little alone
        if name in SHOWN and not density:
            floor = "" if score["floor"] is None else f" ({cell({name: score['floor']}, name)})"
            told.append(
                f"{heading(name)}{way} {cell({name: score['value'], f'{name}_error': score['error']}, name)}{floor}"
            )
    return told


def audit(result: dict[str, Any]) -> str:
    """The verdict on copying; of two directions the worse one."""
    found = [part["audit"] for part in (result, result.get("back", {})) if "audit" in part]
    worst = min(found, key=lambda part: part["p"], default=None)
    return "not made yet" if worst is None else f"{worst['verdict']}<br>p{SPACE}{cell(worst, 'p')}"


def row_of(folder: Path, family: str) -> str:
    """A model of the zoo."""
    result, training = read(folder / "evaluation.json"), read(folder / "model" / "config.json")["training"]
    sources = [training["data"], (training.get("data_b") or {}).get("source")]
    data = [f"`{source.removeprefix('../shared/data/')}`".replace("|", "\\|") for source in sources if source]
    size = sum(file.stat().st_size for file in (folder / "model").rglob("*.safetensors")) / 1e6
    told = [*scores(result, " a→b" if "back" in result else ""), *scores(result.get("back", {}), " b→a")]
    minutes = f"{result['training']['minutes']:.1f}" if "training" in result else "–"
    name = f"{family}<br>`{folder.name}`, {size:.1f} MB<br>on {' and '.join(data)}"
    told = [part.replace(" ", SPACE) for part in told]
    return line(name, TARGETS.get(folder.name, "–"), "<br>".join(told), audit(result), minutes)


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def tables() -> str:
    """For each modality a row for each model, and one for each family without any."""
    cells: dict[tuple[str, str], list[Path]] = {}
    for path in sorted((ROOT / "zoo").glob("*/evaluation.json")):
        cells.setdefault(cell_of(path.parent), []).append(path.parent)
    parts = []
    for modality, title in MODALITIES.items():
        parts += [f"### {title}\n", line(*HEAD), "|" + "---|" * len(HEAD)]
        names = []
        for family, words in FAMILIES.items():
            folders = cells.get((family, modality), [])
            parts += [row_of(folder, words) for folder in folders]
            parts += [] if folders else [line(f"{words}<br>none in the zoo", *[""] * (len(HEAD) - 1))]
            names += [folder.name for folder in folders]
        command = f"python bench/zoo.py {' '.join(names)}"
        parts += ["", fill(command, 120, initial_indent=" " * 4, subsequent_indent=" " * 6, break_on_hyphens=False), ""]
    return "\n".join(parts)


def results(text: str) -> str:
    """RESULTS.md with the tables in their place; SystemExit where the comments are not there."""
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise SystemExit(f"RESULTS.md needs the lines {BEGIN} and {END}.")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


def write() -> None:
    """RESULTS.md with the tables as they are now."""
    path = ROOT / "RESULTS.md"
    path.write_text(results(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def main() -> None:
    old = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    if "--check" not in sys.argv[1:]:
        write()
    elif results(old) != old:
        sys.exit("RESULTS.md is behind zoo/: make results-table")


if __name__ == "__main__":
    main()
