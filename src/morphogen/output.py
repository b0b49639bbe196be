"""What the verbs write: pictures in a folder, .npy, GIF, CSV, and the table of `data check`.

Outputs follow the source's order; row i is item i. Files keep their source's relative path and stem.
"""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.data import Dataset
from morphogen.data.audio import Span, joined
from morphogen.domains import read_for
from morphogen.errors import MorphogenError, UsageError
from morphogen.modalities.text import write_lines
from morphogen.model import Model
from morphogen.watch import Finding

SHEET_COLUMNS = 10  # items in a row of FILE.png


def write_items(
    model: Model, items: np.ndarray, out: Path, names: Sequence[str] | None = None, modality: Any = None,
    spans: Sequence[Span] = (), lines: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Items in .npy layout → FILE.npy, FILE.gif, FILE.png (one sheet of all items, in rows), FILE.wav (sounds one after
    another), or a folder of files, numbered or named like their sources; text also → FILE.txt, one item a line, and an
    empty one for each of `lines`, the names of all items of the source, that could not be read.

    spans: of windows of recordings, what makes whole recordings of them again.
    """
    if out.suffix == ".npy":
        write_arrays(out, {"items": items})
        return
    if out.suffix == ".txt" or (items.dtype.kind == "U" and out.suffix in (".gif", ".png")):
        if items.dtype.kind != "U" or out.suffix != ".txt":
            raise UsageError(f"--out {out.name} does not fit this model: text goes to FILE.txt, and nothing else does.")
        known = dict(zip(names or [], items, strict=False))
        write_lines(out, items if lines is None else [known.get(name, "") for name in lines])
        return
    modality = modality or model.modality
    raw = modality.raw(items)
    if out.suffix in (".gif", ".png", ".wav"):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".wav":
            if modality.name != "audio":
                raise UsageError("FILE.wav is for sounds; this model makes none.")
            modality.sequence(whole_recordings(names, modality.array(raw), spans)[1] if spans and names else raw, out)
            return
        if out.suffix == ".gif":
            modality.animate(raw, out)
        else:
            modality.preview(raw, out, SHEET_COLUMNS)
        return
    suffix = modality.suffix
    if names is None:
        names, stale = [f"{i:06d}" for i in range(len(raw))], len(raw)
        while (out / f"{stale:06d}{suffix}").exists():  # the tail of a longer output that this one overwrites
            (out / f"{stale:06d}{suffix}").unlink()
            stale += 1
    if spans and names is not None:
        names, raw = whole_recordings(names, modality.array(raw), spans)
    stems = Counter(str(Path(name).with_suffix("")) for name in names)
    for item, name in zip(raw, names, strict=True):
        alone = stems[str(Path(name).with_suffix(""))] == 1  # a.jpg and a.png in one folder keep their suffixes
        path = out / (Path(name).with_suffix(suffix) if alone else Path(name + suffix))
        path.parent.mkdir(parents=True, exist_ok=True)
        modality.save(item, path)


def whole_recordings(
    names: Sequence[str], windows: np.ndarray, spans: Sequence[Span]
) -> tuple[list[str], list[np.ndarray]]:
    """(name, int16 (C, length)) of each recording that windows (N, T) or (N, T, C), in order, are parts of."""
    found: dict[int, list[int]] = {}
    for row, span in enumerate(spans):
        found.setdefault(span.recording, []).append(row)
    wave = lambda row: windows[row][None] if windows.ndim == 2 else windows[row].T
    whole = [joined([wave(row) for row in rows], [spans[row] for row in rows]) for rows in found.values()]
    return [names[rows[0]] for rows in found.values()], [np.rint(w * 32767).astype(np.int16) for w in whole]


def whole_files(out: Path) -> bool:
    """Whether `out` is for whole recordings: a folder of them, or one sound after another. In arrays and pictures a
    recording is one window."""
    return out.suffix not in (".npy", ".npz", ".png", ".gif", ".txt")


def check_out(out: Path) -> None:
    """Refuse an --out of a kind that nothing is written to, before any work is done."""
    if out.suffix in (".jpg", ".jpeg", ".npz", ".csv"):
        kinds = "FILE.npy, FILE.png, FILE.gif, of sound FILE.wav or of text FILE.txt"
        raise UsageError(f"--out takes a folder, {kinds}, not {out.name}.")


def attributes_of(settings: Sequence[str] | None) -> dict[str, float]:
    """{'L': 2.0} of ['L=2.0']; UsageError for another form."""
    moves = {}
    for setting in settings or []:
        name, _, amount = setting.rpartition("=")
        try:
            moves[name] = float(amount)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--attribute takes LABEL=AMOUNT, as in --attribute smiling=1.5, not '{setting}'.")
    return moves


def write_arrays(out: Path, arrays: dict[str, Any]) -> None:
    """The first array → FILE.npy, or all, by name → FILE.npz."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npz":
        np.savez(out, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    else:
        np.save(out, np.asarray(next(iter(arrays.values()))), allow_pickle=False)


def write_csv(out: Path, header: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows as CSV with a header."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows])


def report_skipped(items: Dataset) -> None:
    """Say on stderr which items could not be read."""
    for path, reason in items.skipped:
        print(f"morphogen: {path} is left out: {reason}", file=sys.stderr)


def require_all(items: Dataset, out: Path) -> None:
    """In an array row i is item i, so an unreadable item is an error there; in a folder it is only reported."""
    if items.skipped and out.suffix in (".npy", ".npz"):
        path, reason = items.skipped[0]
        raise MorphogenError(
            f"{len(items.skipped)} items cannot be read, first {path} ({reason}); remove them, or write to a folder."
        )
    report_skipped(items)


def ends_of(model: Model, start: str, end: str, label: str | None, seed: int) -> np.ndarray:
    """Latent codes (2, latent_dim) of two item files."""
    if model.modality.suffix == ".txt" and not (os.path.exists(start) and os.path.exists(end)):
        return model.encode(np.array([start, end]), label, seed)  # texts themselves
    pair = [read_for(model, spec).data for spec in (start, end)]
    items = model.modality.array(np.concatenate([p[:1] for p in pair]))
    return model.encode(items, label, seed)


def print_check(result: dict[str, Any]) -> None:
    """The outcome of `data check` for a person."""
    from rich.console import Console
    from rich.pretty import pprint

    console = Console()
    bad_files, health = result.pop("bad_files"), result.pop("health")
    pprint(result, console=console, expand_all=True, max_length=60)
    for path, reason in bad_files:
        print(f"{path}: {reason}")  # a long path must not be broken into lines
    for finding in health:
        console.print(Finding(**finding).sentence(), style="bold", markup=False)
    console.print(result["why"], style="bold")
