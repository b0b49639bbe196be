"""Source → Dataset: every readable item decoded once, at one size, into one array in memory or on disk.

N items · C,H,W channels, height, width of an image, uint8 · D coordinates of a point, float32
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from morphogen.data.audio import Span
from morphogen.data.images import FITS, BadItem, default_size, fit_image, parse_size, to_channels
from morphogen.data.sampler import split_indices
from morphogen.data.sources import Source, row_keys
from morphogen.data.text import EMPTY, rows_of
from morphogen.errors import MorphogenError, UsageError

MAX_BAD, MINIMUM = 0.1, 32
JOINED = "domain"  # the label of items that come from two sources
TOGETHER = "+"  # between the attributes that make one label, and between their values
_BLOCK = 256  # items decoded before they are handed on: bounds what waits in memory
_CACHE_FORMAT = 1  # part of every cache key; raise it when decoding changes
T = TypeVar("T")
Block = tuple[np.ndarray, list[tuple[int, str]]]  # good items (n, C, H, W) in order, and (row, reason) of the bad ones


@dataclass(eq=False)
class Dataset:
    """Items ready for training, all of one shape.

    data: uint8 (N, C, H, W), in memory or a read-only np.memmap; or float32 (N, D) points; or uint8
        (N, M) texts (`data.text`); or int16 (N, C, T) windows of recordings.
    names (N): as in the source. labels: attribute → str array (N,). space: image, points, text or audio.
    rate, spans: of windows of recordings: their rate in Hz, and where each (N) lies.
    skipped: (absolute path, reason) of each item that could not be read; a subset keeps the whole list.
    """

    data: np.ndarray
    names: list[str]
    labels: dict[str, np.ndarray]
    skipped: list[tuple[str, str]]
    spec: str
    space: str
    rate: int = 0
    spans: list[Span] = field(default_factory=list, repr=False)
    _fingerprint: str = field(default="", init=False, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """(C, H, W) or (D,)."""
        return tuple(self.data.shape[1:])

    def subset(self, indices: Iterable[int]) -> "Dataset":
        """The items at `indices`, in that order, copied to memory or, if too large, to a mapped file."""
        rows = np.asarray(indices, dtype=np.int64)
        size = len(rows) * int(np.prod(self.item_shape)) * self.data.itemsize
        data = np.asarray(self.data)[rows] if size <= available_memory() // 2 else _subset_on_disk(self.data, rows)
        return Dataset(
            data=data,
            names=[self.names[i] for i in rows],
            labels={name: column[rows] for name, column in self.labels.items()},
            skipped=self.skipped,
            spec=self.spec,
            space=self.space,
            rate=self.rate,
            spans=[self.spans[i] for i in rows] if self.spans else [],
        )

    def joined(self, other: "Dataset") -> "Dataset":
        """The items of both, under 'a/' and 'b/', with a label `JOINED` that says from which they are."""
        sizes = len(self), len(other)
        return Dataset(
            data=np.concatenate([self.data, other.data]),
            names=[f"{side}/{name}" for side, part in (("a", self), ("b", other)) for name in part.names],
            labels={n: np.concatenate([c, other.labels[n]]) for n, c in self.labels.items() if n in other.labels}
            | {JOINED: np.repeat(np.array(["a", "b"]), sizes)},
            skipped=self.skipped + other.skipped,
            spec=f"{self.spec} and {other.spec}",
            space=self.space,
            rate=self.rate,
        )

    def with_label(self, name: str | None) -> "Dataset":
        """The same items, where `name` joins several attributes ('digit+speaker') with that one, too: '7+theo'."""
        parts = [] if name is None or name in self.labels else name.split(TOGETHER)
        if len(parts) < 2 or any(part not in self.labels for part in parts):
            return self  # who asks for the label says what is missing
        columns = [np.asarray(self.labels[part], str) for part in parts]
        for part, column in zip(parts, columns, strict=True):
            if any(TOGETHER in value for value in column):
                raise UsageError(f"Values of '{part}' hold a '{TOGETHER}', so '{name}' would be open; rename them.")
        both = np.array([TOGETHER.join(values) for values in zip(*columns, strict=True)])
        return replace(self, labels={**self.labels, name: both})  # type: ignore[dict-item]

    def keys(self) -> list[object]:
        """What must not be parted, by row: equal items, and windows of one recording."""
        keys: list[object] = list(row_keys(np.asarray(self.data)))
        first = {}
        for key, span in zip(keys, self.spans, strict=False):
            first.setdefault(span.recording, key)
        return [first[span.recording] for span in self.spans] or keys

    def fingerprint(self) -> str:
        """16 hex digits of the sha256 over shape, content and labels; names and place on disk do not matter."""
        if not self._fingerprint:
            digest = hashlib.sha256(f"{self.data.dtype} {self.data.shape}".encode())
            for i in range(0, len(self), _BLOCK):
                digest.update(self.data[i : i + _BLOCK].tobytes())
            for name in sorted(self.labels):
                digest.update(json.dumps([name, self.labels[name].tolist()]).encode())
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint


def prepare(
    source: Source,
    *,
    size: Any = None,
    fit: str = "crop",
    channels: int | None = None,
    max_bad: float = MAX_BAD,
    minimum: int = MINIMUM,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    strict: bool = True,
    memory_limit: int | None = None,
    length: int | None = None,
) -> Dataset:
    """Decode all items of `source` in order, leaving unreadable ones out (they are listed in `.skipped`).

    size: anything `parse_size` takes; None chooses by `default_size`. fit: crop, pad or stretch, see `fit_image`.
    channels: 1, 3 or 4; None is 1 if every image is stored as grey, else 3. length: bytes of
    the longest text. progress: called with (done, total).
    The array stays in memory up to `memory_limit` bytes (None: half of what is available now), else it goes to a file
    in `cache_dir` (None: $MORPHOGEN_CACHE or ~/.cache/morphogen), found again while the source is unchanged.
    Raises MorphogenError when nothing is readable, the disk is full or, if `strict`, more than `max_bad` of the items
    are bad or fewer than `minimum` are left; UsageError for a wrong size, fit or channels.
    """
    if fit not in FITS:
        raise UsageError(f"fit is '{fit}' but must be one of {', '.join(FITS)}")
    if source.space == "points":
        data, bad = _points(source)
    elif source.space == "text":
        data, bad = rows_of(source, length)
    else:
        plan = _plan(source, parse_size(size), fit, channels)
        most = available_memory() // 2 if memory_limit is None else memory_limit
        if len(source) * plan.item_bytes <= most:
            data, bad = _in_memory(_decoded(source, plan, progress), (len(source), *plan.item_shape))
        else:
            blocks = lambda: _decoded(source, plan, progress)
            data, bad = _on_disk(blocks, plan, _cache_path(source, plan, cache_dir))
    reason = refusal(source, bad, max_bad, minimum) if strict else None
    if reason:
        raise MorphogenError(reason)
    if not len(data):
        raise MorphogenError(nothing_in(source))
    return _dataset(source, data, bad)


def _dataset(source: Source, data: np.ndarray, bad: dict[int, str]) -> Dataset:
    good = [i for i in range(len(source)) if i not in bad]
    return Dataset(
        data=data,
        names=[source.names[i] for i in good],
        labels={name: np.array(column)[good] for name, column in source.labels.items()},
        skipped=[(source.paths[i] or source.names[i], reason) for i, reason in sorted(bad.items())],
        spec=source.spec,
        space=source.space,
    )


def refusal(source: Source, bad: dict[int, str], max_bad: float = MAX_BAD, minimum: int = MINIMUM) -> str | None:
    """The sentence that says why these data cannot be trained on, or None if they can. bad: row → reason."""
    good = len(source) - len(bad)
    bad = {i: why for i, why in bad.items() if not why.endswith(EMPTY)}  # text has empty lines between its parts
    if bad and len(bad) > max_bad * len(source):
        i = min(bad)
        return (
            f"{len(bad)} of {len(source)} files in {source.spec} cannot be read (the first is {source.names[i]}: "
            f"{bad[i]}); run `morphogen data check {source.spec}` for the list, then repair or remove them"
        )
    if good < minimum:
        return f"{source.spec} has {good} readable items and training needs at least {minimum}: add more"
    return None


def split(
    dataset: Dataset, fraction: float = 0.1, seed: int = 0, most: int = 10_000, label: str | None = None
) -> tuple[Dataset, Dataset]:
    """(train, held-out), each in the order of `dataset`; see `split_indices` for the size of the held-out part.

    Identical items never end on both sides: what a model is tested on, it has not seen. label: an attribute each of
    whose values must be trained on; rare ones are then not held out. Raises MorphogenError when all items are
    identical, or nothing is left to hold out.
    """
    train, heldout = split_indices(dataset.keys(), fraction, seed, most)
    if label is not None:
        column = dataset.labels[label]
        rare = ~np.isin(column[heldout], column[train])
        train, heldout = np.sort(np.concatenate([train, heldout[rare]])), heldout[~rare]
    if not len(heldout):
        raise MorphogenError(f"every value of '{label}' is too rare to hold any item out: name data.heldout")
    return dataset.subset(train), dataset.subset(heldout)


def map_ordered(function: Callable[[int], T], count: int) -> Iterator[T]:
    """function(0), …, function(count - 1), computed by one thread a processor, a block ahead at most."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, _BLOCK):
            yield from pool.map(function, range(start, min(start + _BLOCK, count)))


# --- how to decode


@dataclass(frozen=True)
class _Plan:
    size: tuple[int, int]
    channels: int
    fit: str

    @property
    def item_shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.size)

    @property
    def item_bytes(self) -> int:
        return int(np.prod(self.item_shape))


def _plan(source: Source, size: tuple[int, int] | None, fit: str, channels: int | None) -> _Plan:
    """Fill in the size and channels that the user left open, from the headers of all items."""
    if channels not in (None, 1, 3, 4):
        raise UsageError(f"channels is {channels} but must be 1 (grey), 3 (RGB) or 4 (RGBA)")
    if size is None or channels is None:
        shapes = _shapes(source)
        if not shapes:
            raise MorphogenError(nothing_in(source))
        size = size or default_size(shapes)
        channels = channels or (1 if all(shape[2] == 1 for shape in shapes) else 3)
    return _Plan(size, channels, fit)


def _shapes(source: Source) -> list[tuple[int, ...]]:
    if source.kind != "folder":
        return [source.shape(0)]  # one array: all items are alike

    def shape(i: int) -> tuple[int, ...] | None:
        try:
            return source.shape(i)
        except BadItem:
            return None  # decoding it will say why

    return [found for found in map_ordered(shape, len(source)) if found]


def nothing_in(source: Source) -> str:
    return f"{source.spec} has no readable item: run `morphogen data check {source.spec}` to see why"


def _points(source: Source) -> tuple[np.ndarray, dict[int, str]]:
    points = source.array()
    assert points is not None, "points always come in one array"
    finite = np.isfinite(points).all(axis=1)
    return points[finite], {int(i): "values that are not finite numbers" for i in np.flatnonzero(~finite)}


def _decoded(source: Source, plan: _Plan, progress: Callable[[int, int], None] | None) -> Iterator[Block]:
    """All items in blocks, in order."""
    for start in range(0, len(source), _BLOCK):
        stop = min(start + _BLOCK, len(source))
        yield _decoded_block(source, plan, start, stop)
        if progress:
            progress(stop, len(source))


def _decoded_block(source: Source, plan: _Plan, start: int, stop: int) -> Block:
    whole = source.block(start, stop) if source.kind != "folder" and source.shape(0)[:2] == plan.size else None
    if whole is not None:  # already the right size: no item needs a decoder
        return np.ascontiguousarray(to_channels(whole, plan.channels).transpose(0, 3, 1, 2)), []

    def decode(i: int) -> np.ndarray | str:
        try:
            pixels = fit_image(to_channels(source.load(start + i), plan.channels), plan.size, plan.fit)
        except BadItem as error:
            return error.reason
        return pixels.transpose(2, 0, 1)

    good, bad = [], []
    for i, result in enumerate(map_ordered(decode, stop - start)):
        if isinstance(result, str):
            bad.append((start + i, result))
        else:
            good.append(result)
    return np.stack(good) if good else np.empty((0, *plan.item_shape), np.uint8), bad


# --- where the result lives


def available_memory() -> int:
    """Bytes that can be used now without swapping, as the system estimates."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: all physical memory is the best known bound
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _in_memory(blocks: Iterator[Block], shape: tuple[int, ...]) -> tuple[np.ndarray, dict[int, str]]:
    data = np.empty(shape, np.uint8)
    count, bad = 0, {}
    for block, failures in blocks:
        data[count : count + len(block)] = block
        count += len(block)
        bad.update(failures)
    return data[:count], bad


def _on_disk(blocks: Callable[[], Iterator[Block]], plan: _Plan, path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Write the blocks to `path` unless it is there already. Its .json, written last, says that it is complete."""
    note = path.with_suffix(".json")
    if not (note.is_file() and path.is_file()):
        bad: dict[int, str] = {}
        with _atomic(path) as file:
            for block, failures in blocks():
                # An ordinary write reports a full disk; storing through a mapping would kill the process.
                file.write(block.tobytes())
                bad.update(failures)
        with _atomic(note) as file:
            file.write(json.dumps(sorted(bad.items())).encode())
    bad = {int(i): str(reason) for i, reason in json.loads(note.read_text())}
    return _mapped(path, plan.item_shape, np.uint8), bad


def _subset_on_disk(data: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of `data` as a mapped file beside the one `data` is mapped from, or in the default cache."""
    name = getattr(data, "filename", None)
    key = hashlib.sha256(rows.tobytes())
    key.update(str(name).encode() if name else np.ascontiguousarray(data).data)
    path = (Path(name).parent if name else cache_folder(None)) / f"subset-{key.hexdigest()[:32]}.bin"
    if not path.is_file():
        with _atomic(path) as file:
            for i in range(0, len(rows), _BLOCK):
                file.write(np.asarray(data)[rows[i : i + _BLOCK]].tobytes())
    return _mapped(path, data.shape[1:], data.dtype)


def _mapped(path: Path, item_shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    count = path.stat().st_size // (int(np.prod(item_shape)) * np.dtype(dtype).itemsize)
    if not count:
        return np.empty((0, *item_shape), dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype=dtype, mode="r", shape=(count, *item_shape))


@contextmanager
def _atomic(path: Path) -> Iterator[Any]:
    """A file to write that appears at `path` only when it is complete. Raises MorphogenError for a disk's refusal."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            temporary = file.name
            yield file
        os.replace(temporary, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"the disk that holds {path.parent} is full" if full else f"{path.parent} cannot be written ({error})"
        raise MorphogenError(f"{what}: set MORPHOGEN_CACHE to a folder with more room") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def cache_folder(folder: str | os.PathLike[str] | None) -> Path:
    return Path(folder or os.environ.get("MORPHOGEN_CACHE") or "~/.cache/morphogen").expanduser()


def _cache_path(source: Source, plan: _Plan, folder: str | os.PathLike[str] | None) -> Path:
    """A name that changes with any file of the source, the selection, or how it is decoded."""
    digest = hashlib.sha256(f"{_CACHE_FORMAT} {source.kind} {plan}".encode())
    if source.kind == "builtin":
        digest.update(source.spec.encode())
    for path in dict.fromkeys(source.paths):  # each file once: an array's items share one
        status = os.stat(path) if os.path.exists(path) else None
        digest.update(repr((path, status and (status.st_size, status.st_mtime_ns))).encode())
    digest.update("\0".join(source.names).encode())
    digest.update(repr(sorted(source.bad.items())).encode())
    return cache_folder(folder) / f"{digest.hexdigest()[:32]}.bin"
