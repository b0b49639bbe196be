""".npy and .npz files → one array of images, points or waves, by a stated rule.

N items · H,W,C pixels, C in {1, 3, 4} · D coordinates of a point · T samples of a wave
"""

import zipfile
from pathlib import Path

import numpy as np

from morphogen.errors import MorphogenError, UsageError

_ITEM_NAMES, _LABEL_NAMES = ("images", "x", "data"), ("labels", "label", "y")
_SLACK = 1e-3  # rounding just outside [0, 1] or [-1, 1] is clipped, not refused
_BLOCK = 1024


def read_array_file(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(the items as `as_items` has them, labels as str (N,) or None).

    An .npz gives its array named images, x or data, else its first; labels from one named labels, label or y.
    Raises MorphogenError for a damaged file, UsageError for an array that is none of these.
    """
    try:
        items, labels = _load(path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise MorphogenError(
            f"{path} cannot be read as plain numbers ({error}): save it again with numpy.save or numpy.savez"
        ) from error
    if labels is not None and labels.shape != items.shape[:1]:
        raise UsageError(f"{path} has labels of shape {labels.shape} for {len(items)} items: give one label an item")
    return as_items(items, str(path)), None if labels is None else labels.astype(str)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False), None  # mapped: may be larger than memory
    with np.load(path, allow_pickle=False) as file:
        label_name = next((name for name in _LABEL_NAMES if name in file.files), None)
        others = [name for name in file.files if name != label_name]
        if not others:
            raise ValueError("it holds no array of items")
        item_name = next((name for name in _ITEM_NAMES if name in others), others[0])
        return file[item_name], file[label_name] if label_name else None


def as_items(x: np.ndarray, name: str) -> np.ndarray:
    """Recognise what an array holds; `name` stands in the message when it is nothing known (UsageError).

    float (N, D) → points, float32; a recipe for audio takes them as waves (N, T). int16 (N, T), and int16 or float
    (N, T, 2) → waves, mono or stereo: as int16, of which 32768 stands for 1, or float32. Other (N, H, W) or
    (N, H, W, C) → images, uint8: integers must lie in 0..255; floats are taken as [-1, 1] when the smallest value is
    negative and as [0, 1] otherwise; booleans become 0 and 255.
    """
    if x.ndim == 2 and x.dtype.kind == "f":
        return x.astype(np.float32)
    if is_sound(x):
        return x if x.dtype == np.int16 else x.astype(np.float32)
    images = x[..., None] if x.ndim == 3 else x
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4) or 0 in images.shape[1:] or x.dtype.kind not in "buif":
        raise UsageError(
            f"{name} holds {x.dtype} {x.shape} but must hold images (N, H, W) or (N, H, W, C) with C 1, 3 or 4, "
            "points as floats (N, D), or waves as int16 (N, T), or as floats or int16 (N, T, 2): reshape it"
        )
    if x.dtype == np.uint8 or not len(images):
        return images
    low, high = float(images.min()), float(images.max())
    scale, shift = _scale(x.dtype.kind, low, high, name)
    out = np.empty(images.shape, np.uint8)
    for i in range(0, len(out), _BLOCK):  # a block at a time: a float copy of everything may not fit
        block = images[i : i + _BLOCK].astype(np.float64)
        out[i : i + _BLOCK] = np.rint(np.clip((block + shift) * scale, 0, 255))
    return out


def is_sound(x: np.ndarray) -> bool:
    """Whether an array can only be waves: of 16 bits, or of two channels, since no picture is two pixels wide."""
    mono = x.ndim == 2 and x.dtype == np.int16
    return mono or (x.ndim == 3 and x.shape[2] == 2 and (x.dtype == np.int16 or x.dtype.kind == "f"))


def _scale(kind: str, low: float, high: float, name: str) -> tuple[float, float]:
    """(scale, shift) so that (x + shift)·scale lies in 0..255."""
    if kind == "b":
        return 255.0, 0.0
    if kind in "ui" and low >= 0 and high <= 255:
        return 1.0, 0.0
    if kind == "f" and high <= 1 + _SLACK:
        if low >= 0:
            return 255.0, 0.0
        if low >= -1 - _SLACK:
            return 127.5, 1.0
    raise UsageError(
        f"{name} holds values from {low:g} to {high:g} but images must lie in 0..255 as integers or in [0, 1] or "
        "[-1, 1] as floats: rescale it"
    )
