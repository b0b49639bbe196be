"""A source: what the user names on the command line, opened as an ordered list of named, labelled items.

N items · H,W,C pixels, uint8, C in {1, 3, 4} · D coordinates of a point, float32
"""

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from morphogen.data.arrays import is_sound, read_array_file
from morphogen.data.audio import SOUNDS, audio_shape, read_audio
from morphogen.data.builtin import BUILTINS, GRID_CENTERS, GRID_SIGMA, RING_CENTERS, RING_SIGMA, SOUNDING
from morphogen.data.idx import is_idx_folder, read_part
from morphogen.data.images import BadItem, image_shape, read_image
from morphogen.data.sampler import split_indices
from morphogen.data.select import labels_from_names, parse_select, select_rows
from morphogen.data.text import (
    TABLES,
    Pieces,
    array_of,
    column_of,
    faults,
    is_text_folder,
    read_table,
    read_text,
    words,
)
from morphogen.errors import UsageError

UNMATCHED = "name does not match label_pattern"
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}

__all__ = ["BUILTINS", "GRID_CENTERS", "GRID_SIGMA", "RING_CENTERS", "RING_SIGMA", "Source", "open_source", "row_keys"]


@dataclass(eq=False)
class Source:
    """N items in a fixed order. Made by `open_source`.

    spec: as the user wrote it. kind: folder, idx, array, builtin; of text line, paragraph,
        window or row. space: image, points, text or audio.
    rate: of built-in sounds, in Hz.
    names (N): relative path with suffix in a folder, else the zero-padded index in the whole file.
    paths (N): absolute path of the file that holds the item, "" for a built-in one.
    labels: attribute → N strings. `bad`: row → reason, for items known to be unusable before they are read.
    """

    spec: str
    kind: str
    space: str
    names: list[str]
    paths: list[str]
    labels: dict[str, list[str]]
    bad: dict[int, str] = field(default_factory=dict)
    rate: int = 0
    # The items of every kind but "folder": item i is _whole[_rows[i]]; the file itself may be mapped, not in memory.
    _whole: np.ndarray | None = field(default=None, repr=False)
    _rows: np.ndarray = field(default_factory=lambda: np.arange(0), repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def load(self, i: int) -> np.ndarray:
        """Item i: uint8 (H, W, C) image, float32 (D,) point, float32 (T,) or (T, C) sound at its own rate.

        Raises BadItem.
        """
        if i in self.bad:
            raise BadItem(self.bad[i], self.paths[i])
        if self._whole is None:
            return read_audio(self.paths[i])[0] if self.space == "audio" else read_image(self.paths[i])
        item = self._whole[self._rows[i]]
        if item.dtype == np.int16:
            return item.astype(np.float32) / 32768
        if self.space in ("points", "audio") and not np.isfinite(item).all():
            raise BadItem("values that are not finite numbers", self.paths[i])
        return item

    def shape(self, i: int) -> tuple[int, ...]:
        """The shape of `load(i)`, of a sound file with its rate, without decoding it. Raises BadItem where the header
        shows that it is bad."""
        if i in self.bad:
            raise BadItem(self.bad[i], self.paths[i])
        if self._whole is not None:
            return self._whole.shape[1:]
        return audio_shape(self.paths[i]) if self.space == "audio" else image_shape(self.paths[i])

    def block(self, start: int, stop: int) -> np.ndarray | None:
        """Items start … stop-1 in one array, (n, H, W, C) or (n, D); None for a folder. Bad points are not removed."""
        return None if self._whole is None else self._whole[self._rows[start:stop]]

    def array(self) -> np.ndarray | None:
        """All items in one array, (N, H, W, C) uint8 or (N, D) float32; None for a folder."""
        return self._whole if self._whole is not None and len(self) == len(self._whole) else self.block(0, len(self))

    def take(self, rows: Iterable[int]) -> "Source":
        """The source with only these rows, in this order."""
        rows = list(rows)
        return Source(
            spec=self.spec,
            kind=self.kind,
            space=self.space,
            names=[self.names[i] for i in rows],
            paths=[self.paths[i] for i in rows],
            labels={name: [column[i] for i in rows] for name, column in self.labels.items()},
            bad={new: self.bad[old] for new, old in enumerate(rows) if old in self.bad},
            rate=self.rate,
            _whole=self._whole,
            _rows=self._rows if self._whole is None else self._rows[np.array(rows, dtype=np.int64)],
        )


def open_source(spec: str, *, label_pattern: str | None = None, split: str = "line") -> Source:
    """Open `builtin:NAME`, a folder of images, one picture, an IDX folder, .npy or .npz, with an optional `#SELECT`.
    Text: a .txt file or a folder of them, whose items are what `split` says (line, paragraph, window), or a column of
    a .csv or .jsonl file, `#column=NAME`.

    Folder: every file that is not hidden is an item, sorted by relative path. The first-level sub-folder is the
    attribute "label" ("" for files beside the sub-folders). `label_pattern`, such as "{digit}_{speaker}_{take}", is
    matched with the file stem and adds attributes; a file that does not match is a bad item. Other kinds ignore it.
    `#train` and `#test` mean the IDX files, or the sub-folders train/ and test/ where both exist; both kinds of folder
    mean #train when nothing is said. Elsewhere they are our seeded split (10 % test), and no `#` means all items.
    Raises UsageError for a wrong spec, MorphogenError for a damaged file.
    """
    base, text = _separate(spec)
    part, conditions = parse_select(text, spec)
    path = Path(base).expanduser().absolute()
    if base == "builtin:words":
        source = _text(spec, "line", [(k + 1, text.encode()) for k, text in enumerate(words())])
    elif base.startswith("builtin:"):
        source = _open_builtin(base, spec)
    elif path.suffix.lower() == ".txt" and path.is_file():
        source = _text(spec, split, read_text(path, split), str(path))
    elif path.suffix.lower() in TABLES and path.is_file():
        pieces, columns = read_table(path, column_of(conditions))
        source = _text(spec, "row", pieces, str(path), columns)
    elif path.suffix in (".npy", ".npz") and path.is_file():
        source = _from_array(spec, "array", str(path), *_with_labels(*read_array_file(path)))
    elif path.is_dir() and is_idx_folder(path):
        source, part = _open_idx(path, part or "train", spec), None
    elif path.is_dir() and (path / "train").is_dir() and (path / "test").is_dir():
        source, part = _open_folder(path / (part or "train"), spec, label_pattern, split), None
    elif path.is_dir():
        source = _open_folder(path, spec, label_pattern, split)
    elif path.is_file() and path.suffix.lower() in PICTURES | SOUNDS:
        space = "image" if path.suffix.lower() in PICTURES else "audio"
        source = Source(spec, "folder", space, names=[path.name], paths=[str(path)], labels={})
    else:
        state = "is not a source" if path.exists() else "does not exist"
        raise UsageError(
            f"'{base}' {state}: name a folder of images, recordings or text, one picture or recording, an IDX folder, "
            "an .npy, .npz, .txt, .csv or .jsonl file or builtin:NAME"
        )
    if not len(source):
        raise UsageError(f"'{spec}' has no items: name a source that has some")
    if part:
        source = source.take(split_indices(_keys(source))[("train", "test").index(part)])
    return source.take(select_rows(source.labels, len(source), conditions, spec)) if conditions else source


def _separate(spec: str) -> tuple[str, str]:
    """ "data/x#test" → ("data/x", "test"); a path that exists may itself contain "#"."""
    if "#" not in spec or Path(spec).expanduser().exists():
        return spec, ""
    base, _, text = spec.rpartition("#")
    return base, text


def _open_builtin(base: str, spec: str) -> Source:
    name = base.removeprefix("builtin:")
    if name not in BUILTINS:
        near = difflib.get_close_matches(name, BUILTINS, n=1)
        hint = f"did you mean builtin:{near[0]}" if near else "there are " + ", ".join(f"builtin:{n}" for n in BUILTINS)
        raise UsageError(f"there is no built-in source '{name}': {hint}")
    source = _from_array(spec, "builtin", "", *BUILTINS[name]())
    if name in SOUNDING:
        source.space, source.rate = "audio", SOUNDING[name]
    return source


def _open_idx(folder: Path, part: str, spec: str) -> Source:
    path, images, labels = read_part(folder, part)
    return _from_array(spec, "idx", str(path), *_with_labels(images[..., None], labels))


def _with_labels(items: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, dict[str, list[str]]]:
    return items, {} if labels is None else {"label": labels.astype(str).tolist()}


def _from_array(spec: str, kind: str, path: str, items: np.ndarray, labels: dict[str, list[str]]) -> Source:
    return Source(
        spec=spec,
        kind=kind,
        space="audio" if is_sound(items) else "points" if items.ndim == 2 else "image",
        names=[f"{i:06d}" for i in range(len(items))],
        paths=[path] * len(items),
        labels=labels,
        _whole=items,
        _rows=np.arange(len(items)),
    )


def _text(
    spec: str, unit: str, pieces: Pieces, path: str = "", labels: dict[str, list[str]] | None = None
) -> Source:  # fmt: skip
    """A source of text; unit: what an item is, as its faults call it."""
    return Source(
        spec=spec,
        kind=unit,
        space="text",
        names=[f"{number - 1:06d}" for number, _ in pieces],
        paths=[path] * len(pieces),
        labels=labels or {},
        bad=faults(pieces, unit),
        _whole=array_of(pieces),
        _rows=np.arange(len(pieces)),
    )


def _text_folder(root: Path, files: list[str], spec: str, labels: dict[str, list[str]], split: str) -> Source:
    """The items of all .txt files, with the labels of their file; other files are bad items."""
    pieces, names, paths, kept, bad = [], [], [], [], {}
    for k, file in enumerate(files):
        readable = file.lower().endswith(".txt")
        own = read_text(root / file, split) if readable else [(1, b"")]
        bad |= {len(pieces) + row: why for row, why in faults(own, split).items()} if readable else {}
        bad |= {} if readable else {len(pieces): "not a .txt file"}
        pieces += own
        names += [f"{Path(file).with_suffix('').as_posix()}-{number - 1:06d}.txt" for number, _ in own]
        paths += [str(root / file)] * len(own)
        kept += [k] * len(own)
    return Source(
        spec=spec, kind=split, space="text", names=names, paths=paths,
        labels={name: [column[k] for k in kept] for name, column in labels.items()}, bad=bad,
        _whole=array_of(pieces), _rows=np.arange(len(pieces)),
    )  # fmt: skip


def _open_folder(root: Path, spec: str, label_pattern: str | None, split: str) -> Source:
    names = _list_files(root)
    labels = {}
    if any("/" in name for name in names):
        labels["label"] = [name.split("/")[0] if "/" in name else "" for name in names]
    unmatched: list[int] = []
    if label_pattern and names:
        attributes, unmatched = labels_from_names(names, label_pattern)
        labels |= attributes
    if is_text_folder(names):
        return _text_folder(root, names, spec, labels, split)
    return Source(
        spec=spec,
        kind="folder",
        space=_kind_of(names),
        names=names,
        paths=[str(root / name) for name in names],
        labels=labels,
        bad=dict.fromkeys(unmatched, UNMATCHED),
    )


def _kind_of(names: list[str]) -> str:
    """What a folder holds: recordings, where more of its files are named like these than like pictures."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    sounds, pictures = (sum(suffixes[s] for s in kind) for kind in (SOUNDS, PICTURES))
    return "audio" if sounds > pictures else "image"


def _list_files(root: Path) -> list[str]:
    """Relative posix paths of all files that are not hidden, sorted; linked folders are followed, each only once."""
    names, seen = [], set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a parent would go round for ever
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        names += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)


def row_keys(rows: Iterable[np.ndarray]) -> list[bytes]:
    """A 16-byte hash of each row's content: equal rows have equal keys."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def _keys(source: Source) -> list[object]:
    """One key an item, equal for equal content (in a folder: for equal files), without decoding."""
    if source._whole is not None:
        whole = np.asarray(source._whole)
        return [*row_keys(whole[i] for i in source._rows)]
    sizes = [os.stat(path).st_size if os.path.isfile(path) else -1 for path in source.paths]
    shared = Counter(sizes)
    # A file whose size is unique has no twin and need not be read.
    return [
        _file_key(path) if size > 0 and shared[size] > 1 else (size, path)
        for path, size in zip(source.paths, sizes, strict=True)
    ]


def _file_key(path: str) -> object:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return path  # an unreadable file is an item of its own; reading it later says why
