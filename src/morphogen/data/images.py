"""One picture file → uint8 pixels of a chosen size and number of channels.

H,W height and width in pixels · C channels: 1 grey, 3 RGB, 4 RGBA (alpha not premultiplied) · values 0..255
"""

import math
import os
import re
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from morphogen.errors import MorphogenError, UsageError

# Only self-contained raster formats: among Pillow's others, EPS would start a foreign program on a user's file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
FITS = ("crop", "pad", "stretch")
LARGEST_DEFAULT_SIDE = 128
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


class BadItem(MorphogenError):
    """One item that cannot be used. `reason` is a few words ("truncated", "not an image"); `path` is its file."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path or 'an item'} cannot be read ({reason}): replace or remove it")
        self.reason = reason
        self.path = path


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Decode a picture file (first frame, EXIF rotation applied) to uint8 (H, W, C), C in {1, 3, 4}.

    16-bit grey is scaled from 0..65535; float and 32-bit grey by the picture's own minimum and maximum. Anything that
    has transparency becomes RGBA. Raises BadItem for whatever cannot be decoded completely.
    """
    try:
        with _open(path) as image:
            image.load()  # the whole file, so that a truncated one raises
            return _pixels(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise nearly any type on damaged bytes
        raise BadItem(_reason(error, path), str(path)) from error


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """The (H, W, C) that `read_image` will return, from the header alone. Raises BadItem."""
    try:
        with _open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(0x0112) in _SIDEWAYS
            return (width, height, _channels(image)) if sideways else (height, width, _channels(image))
    except Exception as error:
        raise BadItem(_reason(error, path), str(path)) from error


def _open(path: str | os.PathLike[str]) -> Image.Image:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise BadItem("not a regular file")  # opening a pipe would wait for ever
    if status.st_size == 0:
        raise BadItem("empty file")
    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        image.close()
        raise BadItem("too large")
    return image


def _reason(error: Exception, path: str | os.PathLike[str]) -> str:
    if isinstance(error, BadItem):
        return error.reason
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "too large"
    if isinstance(error, UnidentifiedImageError):
        with open(path, "rb") as file:
            head = file.read(12)
        known = head.startswith(_SIGNATURES) or (head[:4], head[8:]) == (b"RIFF", b"WEBP")
        return "truncated" if known else "not an image"
    cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return "truncated" if cut else "damaged"


def _channels(image: Image.Image) -> int:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return 1
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return 4
    return 1 if image.mode in ("1", "L") else 3


def _pixels(image: Image.Image) -> np.ndarray:
    """A loaded picture of any Pillow mode → uint8 (H, W, C)."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image))
    if image.mode in ("I", "F"):
        return _from_wide(np.asarray(image))
    channels = _channels(image)
    pixels = np.array(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    return pixels.reshape(image.height, image.width, channels)


def _from_16_bit(x: np.ndarray) -> np.ndarray:
    return ((x.astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None]  # 65535 = 255·257


def _from_wide(x: np.ndarray) -> np.ndarray:
    """int32 or float32 grey (H, W) → uint8 (H, W, 1); integers that fit 16 bits count as 16-bit grey."""
    if x.dtype.kind == "i" and x.min() >= 0 and x.max() <= 65535:
        return _from_16_bit(x)
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise BadItem("values that are not finite numbers")
    low, high = x.min(), x.max()
    return np.rint((x - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)[..., None]


def fit_image(x: np.ndarray, size: tuple[int, int], fit: str = "crop") -> np.ndarray:
    """Resize uint8 (h, w, C) to (H, W, C) = (*size, C), antialiased (Lanczos); equal sizes are returned unchanged.

    fit "crop" covers the target and cuts the centre out; "pad" fits inside and fills the rest with 0 (black,
    transparent where there is alpha); "stretch" ignores the aspect ratio. Raises UsageError for any other fit.
    """
    if fit not in FITS:
        raise UsageError(f"fit is '{fit}' but must be one of {', '.join(FITS)}")
    height, width = size
    h, w = x.shape[:2]
    if (h, w) == (height, width):
        return x
    if fit == "stretch":
        return _resize(x, height, width)
    if fit == "crop":
        scale = max(height / h, width / w)
        cut_h, cut_w = height / scale, width / scale
        top, left = (h - cut_h) / 2, (w - cut_w) / 2
        return _resize(x, height, width, (left, top, min(left + cut_w, w), min(top + cut_h, h)))
    scale = min(height / h, width / w)
    inner_h, inner_w = (min(max(round(side * scale), 1), most) for side, most in ((h, height), (w, width)))
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    canvas = np.zeros((height, width, x.shape[2]), np.uint8)
    canvas[top : top + inner_h, left : left + inner_w] = _resize(x, inner_h, inner_w)
    return canvas


def _resize(x: np.ndarray, height: int, width: int, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    image = Image.fromarray(x[..., 0] if x.shape[2] == 1 else x)
    pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
    return pixels.reshape(height, width, x.shape[2])


def to_channels(x: np.ndarray, channels: int) -> np.ndarray:
    """Convert uint8 (…, H, W, C) to (…, H, W, channels), each of C and channels in {1, 3, 4}; a batch converts at once.

    Alpha is composited on white unless 4 channels are asked for; grey is the ITU-R 601 luma; new alpha is 255.
    Raises UsageError for another number of channels.
    """
    if channels not in (1, 3, 4):
        raise UsageError(f"channels is {channels} but must be 1 (grey), 3 (RGB) or 4 (RGBA)")
    if x.shape[-1] == channels:
        return x
    if x.shape[-1] == 4:
        alpha = x[..., 3:].astype(np.uint16)  # 255·255 + 127 still fits
        x = ((x[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if channels == 1:
        rows = Image.fromarray(x.reshape(-1, *x.shape[-2:]))  # a batch as one tall picture
        return np.array(rows.convert("L")).reshape(*x.shape[:-1], 1)
    if x.shape[-1] == 1:
        x = np.repeat(x, 3, axis=-1)
    if channels == 4:
        x = np.concatenate([x, np.full_like(x[..., :1], 255)], axis=-1)
    return x


def parse_size(size: Any) -> tuple[int, int] | None:
    """64, "64", "48x64" (HEIGHTxWIDTH) or (48, 64) → (H, W) in pixels; None → None. Raises UsageError otherwise."""
    if size is None:
        return None
    text = "x".join(map(str, size)) if isinstance(size, tuple | list) else str(size)
    match = re.fullmatch(r"\s*(\d+)(?:\s*[xX×]\s*(\d+))?\s*", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(height, width) < 1:
        raise UsageError(f"size is '{size}' but must be pixels such as 64 or HEIGHTxWIDTH such as 48x64")
    return height, width


def default_size(shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The (H, W) to train at: each side the smallest multiple of 4 that holds its median over `shapes` (h, w, …).

    When the larger median exceeds 128, both are first scaled so that it becomes 128. `shapes` must not be empty.
    """
    height, width = np.median(np.array([shape[:2] for shape in shapes], dtype=np.float64), axis=0)
    scale = min(1.0, LARGEST_DEFAULT_SIDE / max(height, width))
    # The small slack keeps a rounding error from adding four pixels.
    up = lambda side: max(4, 4 * math.ceil(side * scale / 4 - 1e-9))
    return up(height), up(width)
