"""What `morphogen data check` finds: what is in a source, what is wrong with it, and whether it would train.

N items · H,W,C pixels · D coordinates of a point
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from morphogen.data.dataset import Dataset, map_ordered, refusal
from morphogen.data.images import BadItem
from morphogen.data.sources import Source, row_keys
from morphogen.data.text import too_long

_CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}
_OTHERS = {1: lambda shape: "points", 2: lambda shape: f"{shape[1]} of sound"}
Extent = tuple[np.ndarray, np.ndarray]  # lowest and highest value (C,) of each channel or coordinate
_BLOCK = 256
_TOP_SIZES, _TOP_LABELS, _EXAMPLES = 10, 50, 20


def check_source(source: Source, length: int | None = None) -> dict[str, Any]:
    """Decode every item and return a dict that json can write. length: as data.length, of text.

    source, kind: what was opened. total, good, bad: numbers of items.
    sizes: {"height" and "width": {"min", "median", "max"}, "common": [[H, W, count], …]}; {"dimensions": D} for points,
        {"bytes": {"min", "median", "max"}} for text, {"samples": …} for recordings.
    channels: {"grey" | "RGB" | "RGBA" | "points" | "1 of sound": count}; nothing for text.
    labels: attribute → {"distinct", "counts": {value: count} of the 50 most frequent}, over the good items.
    duplicates: {"groups", "items": copies beyond the first in each, "examples": [[name, …], …]}, of equal pixels.
    constant: number of items that are a single value throughout. flat: {"channels": [0, …], "of": C}, the channels or
        coordinates that have one value in all items, and how many there are; None for text, or where their number
        differs. bad_files: [[absolute path, reason], …].
    would_train: whether `prepare` with its defaults accepts the source; why: the sentence that says so.
    """
    seen: dict[bytes, list[str]] = defaultdict(list)
    shapes: Counter[tuple[int, ...]] = Counter()
    bad: dict[int, str] = too_long(source, length) if source.space == "text" else {}
    constant, extents = 0, list[Extent]()
    for i, result in enumerate(map_ordered(lambda i: bad.get(i) or _look(source, i), len(source))):
        if isinstance(result, str):
            bad[i] = result
            continue
        key, shape, is_constant, extent = result
        extents = joined(extents, extent)
        seen[key].append(source.names[i])
        shapes[shape] += 1
        constant += is_constant
    reason = refusal(source, bad)
    good = len(source) - len(bad)
    return {
        "source": source.spec,
        "kind": source.kind,
        "total": len(source),
        "good": good,
        "bad": len(bad),
        "sizes": _sizes(shapes, source.space),
        "channels": {} if source.space == "text" else _channels(shapes),
        "labels": {name: _label_table(column, bad) for name, column in source.labels.items()},
        "duplicates": _duplicates(list(seen.values())),
        "constant": constant,
        "flat": flat(extents),
        "bad_files": [[source.paths[i] or source.names[i], why] for i, why in sorted(bad.items())],
        "would_train": reason is None,
        "why": reason or f"{good} of {len(source)} items are readable, which is enough to train on",
    }


def facts_of_check(result: dict[str, Any]) -> dict[str, Any]:
    """What `health.data_findings` asks of a source, out of `check_source`."""
    tables = {name: t["counts"] for name, t in result["labels"].items() if 1 < t["distinct"] <= _TOP_LABELS}
    return {
        "total": result["good"], "duplicates": result["duplicates"]["items"], "constant": result["constant"],
        "flat": result["flat"], "classes": tables,
    }  # fmt: skip


def facts_of(dataset: Dataset, label: str | None) -> dict[str, Any]:
    """What `health.data_findings` asks of items (N, …) that are ready for training; label: the one that conditions."""
    keys = set(row_keys(np.asarray(dataset.data)))
    extents, constant = list[Extent](), 0
    for start in range(0, len(dataset), _BLOCK):
        block = np.asarray(dataset.data[start : start + _BLOCK])
        whole = block.reshape(len(block), -1)
        constant += 0 if whole.shape[1] == 1 else int((whole.min(1) == whole.max(1)).sum())
        if dataset.space != "text":
            axes = tuple(k for k in range(block.ndim) if k != 1)
            extents = joined(extents, (block.min(axes), block.max(axes)))
    counts = {} if label is None else Counter(map(str, dataset.labels[label]))
    return {
        "total": len(dataset), "duplicates": len(dataset) - len(keys), "constant": constant, "flat": flat(extents),
        "classes": {label: dict(counts)} if label is not None else {},
    }  # fmt: skip


def joined(extents: list[Extent], more: Extent | None) -> list[Extent]:
    """The extents so far, one for each number of channels, with those of further items; None adds nothing."""
    if more is None:
        return extents
    for k, (low, high) in enumerate(extents):
        if len(low) == len(more[0]):
            return [*extents[:k], (np.minimum(low, more[0]), np.maximum(high, more[1])), *extents[k + 1 :]]
    return [*extents, more]


def flat(extents: list[Extent]) -> dict[str, Any] | None:
    """{"channels": those with one value in all items, "of": how many there are}; None where items differ in that."""
    if len(extents) != 1:
        return None
    low, high = extents[0]
    return {"channels": np.flatnonzero(low == high).tolist(), "of": len(low)}


def _look(source: Source, i: int) -> tuple[bytes, tuple[int, ...], bool, Extent | None] | str:
    """(hash of content and shape, shape, whether all values are equal, extent) of item i, or the reason why it is
    bad."""
    try:
        item = source.load(i)
    except BadItem as error:
        return error.reason
    if source.space == "audio" and item.ndim == 1:
        item = item[:, None]
    key = row_keys([item])[0] + repr(item.shape).encode()
    axes = tuple(range(item.ndim - 1))
    extent = None if source.space == "text" else (item.min(axes), item.max(axes))
    return key, item.shape, item.size > 1 and bool((item == item.flat[0]).all()), extent


_UNITS = {"text": "bytes", "audio": "samples"}  # of an item's length


def _sizes(shapes: "Counter[tuple[int, ...]]", space: str) -> dict[str, Any]:
    if not shapes:
        return {}
    if space in _UNITS:
        lengths = np.repeat([shape[0] for shape in shapes], list(shapes.values()))
        found = {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())}
        return {_UNITS[space]: found}
    if space == "points":
        return {"dimensions": next(iter(shapes))[0]}
    table: dict[str, Any] = {}
    for axis, name in enumerate(("height", "width")):
        sides = np.repeat([shape[axis] for shape in shapes], list(shapes.values()))
        table[name] = {"min": int(sides.min()), "median": float(np.median(sides)), "max": int(sides.max())}
    pairs: Counter[tuple[int, ...]] = Counter()
    for shape, count in shapes.items():
        pairs[shape[:2]] += count
    return table | {"common": [[*pair, count] for pair, count in pairs.most_common(_TOP_SIZES)]}


def _channels(shapes: "Counter[tuple[int, ...]]") -> dict[str, int]:
    counts: Counter[str] = Counter()
    for shape, count in shapes.items():
        counts[_CHANNELS[shape[2]] if len(shape) == 3 else _OTHERS[len(shape)](shape)] += count
    return dict(counts)


def _label_table(column: list[str], bad: dict[int, str]) -> dict[str, Any]:
    counts = Counter(value for i, value in enumerate(column) if i not in bad)
    return {"distinct": len(counts), "counts": dict(counts.most_common(_TOP_LABELS))}


def _duplicates(groups: list[list[str]]) -> dict[str, Any]:
    groups = [group for group in groups if len(group) > 1]
    return {
        "groups": len(groups),
        "items": sum(len(group) - 1 for group in groups),
        "examples": [group[:_EXAMPLES] for group in groups[:_EXAMPLES]],
    }
