"""MNIST's IDX files: find them in a folder and read them, gzipped or plain.

N items · an IDX file is a 4-byte magic (0, 0, type, rank), rank big-endian uint32 sizes, then the values
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from morphogen.errors import MorphogenError

PREFIXES = {"train": "train", "test": "t10k"}
_UINT8 = 0x08


def find_idx(folder: Path, part: str, what: str) -> Path | None:
    """The file of `part` ("train" or "test") and `what` ("images" or "labels") in `folder`, or None."""
    rank = 3 if what == "images" else 1
    for separator in ("-", "."):
        for suffix in (".gz", ""):
            path = folder / f"{PREFIXES[part]}-{what}{separator}idx{rank}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def is_idx_folder(folder: Path) -> bool:
    return any(find_idx(folder, part, "images") for part in PREFIXES)


def read_part(folder: Path, part: str) -> tuple[Path, np.ndarray, np.ndarray | None]:
    """(images' path, images uint8 (N, H, W), labels uint8 (N,) or None without a label file).

    Raises MorphogenError for a file that is missing, damaged or does not fit the other.
    """
    path = find_idx(folder, part, "images")
    if path is None:
        raise MorphogenError(
            f"{folder} has no file {PREFIXES[part]}-images-idx3-ubyte[.gz], which holds the {part} images: add it"
        )
    images = read_idx(path, rank=3)
    label_path = find_idx(folder, part, "labels")
    labels = read_idx(label_path, rank=1) if label_path else None
    if labels is not None and len(labels) != len(images):
        raise MorphogenError(
            f"{label_path} has {len(labels)} labels for the {len(images)} images of {path.name}: use files that belong "
            "together"
        )
    return path, images, labels


def read_idx(path: Path, rank: int) -> np.ndarray:
    """A uint8 array of `rank` dimensions. Raises MorphogenError, with the file's name, for a damaged file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise MorphogenError(f"{path} is truncated or damaged ({error}): copy or download it again") from error
    start = 4 + 4 * rank
    if len(content) < start or content[:4] != bytes([0, 0, _UINT8, rank]):
        raise MorphogenError(f"{path} is not an IDX file of bytes in {rank} dimensions: copy or download it again")
    shape = tuple(int(side) for side in np.frombuffer(content, ">u4", rank, offset=4))
    expected, found = int(np.prod(shape, dtype=object)), len(content) - start
    if found != expected:
        state = "truncated" if found < expected else "damaged"
        raise MorphogenError(
            f"{path} is {state}, its header announces {expected} bytes of data and {found} follow: copy or download it "
            "again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
