"""Images.  Raw: uint8 (B, C, H, W), 0 to 255.  Space: (C, H, W).  Tensors: float32 (B, C, H, W) in [-1, 1].

`decode(encode(x)) == x` exactly, since 256 levels survive the way there and back in float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Image:
    """The image modality for one shape.

    space: (C, H, W) with C 1 (grey), 3 (colour) or 4 (with alpha).
    """

    name = "image"
    suffix = ".png"

    def __init__(self, space: tuple[int, ...]):
        self.space = tuple(space)

    @property
    def item_space(self) -> tuple[int, ...]:
        """The shape of a raw item."""
        return self.space

    def stored(self, raw: np.ndarray) -> np.ndarray:
        """What is kept of raw items for training: the items."""
        return raw

    def encode(self, raw: Tensor) -> Tensor:
        """uint8 (B, C, H, W) → float32 in [-1, 1], in the memory format that convolutions like."""
        return (raw.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, C, H, W) in [-1, 1] → uint8 (B, C, H, W); values outside are clipped."""
        return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()

    def squash(self, x: Tensor) -> Tensor:
        """What a network's last layer goes through so that it can only give valid values: tanh."""
        return x.float().tanh()

    def array(self, raw: np.ndarray) -> np.ndarray:
        """uint8 (N, C, H, W) → the layout of .npy files: (N, H, W) grey, else (N, H, W, C)."""
        return raw[:, 0] if raw.shape[1] == 1 else raw.transpose(0, 2, 3, 1)

    def raw(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `array`: (N, H, W) or (N, H, W, C) → (N, C, H, W)."""
        return array[:, None] if array.ndim == 3 else np.ascontiguousarray(array.transpose(0, 3, 1, 2))

    def save(self, item: np.ndarray, path: Path) -> None:
        """One uint8 (C, H, W) item as a PNG file."""
        from PIL import Image as Pillow

        Pillow.fromarray(self.array(item[None])[0]).save(path)

    def preview(self, raw: np.ndarray, path: Path, columns: int) -> None:
        """uint8 (N, C, H, W) → one PNG with the items in rows of `columns`; small items are enlarged."""
        from PIL import Image as Pillow

        n, c, h, w = raw.shape
        rows = -(-n // columns)
        sheet = np.zeros((rows * columns, c, h, w), np.uint8)
        sheet[:n] = raw
        sheet = sheet.reshape(rows, columns, c, h, w).transpose(2, 0, 3, 1, 4).reshape(1, c, rows * h, columns * w)
        picture = Pillow.fromarray(self.array(sheet)[0])
        scale = max(1, 56 // max(h, w))
        picture = picture.resize((picture.width * scale, picture.height * scale), Pillow.Resampling.NEAREST)
        picture.save(path)

    def preview_pairs(self, above: np.ndarray, below: np.ndarray, path: Path, columns: int) -> None:
        """uint8 (N, …) → one PNG with rows of items and, under each row, of their counterparts (N, C, H, W), in whose
        size and colours all are shown."""
        above = self.stretched(above)
        rows = [
            part for k in range(0, len(above), columns) for part in (above[k : k + columns], below[k : k + columns])
        ]
        self.preview(np.concatenate(rows), path, columns)

    def stretched(self, raw: np.ndarray) -> np.ndarray:
        """uint8 (N, C', H', W') of any image space → (N, C, H, W) of this one."""
        from morphogen.data.images import fit_image, to_channels

        c, h, w = self.space
        items = [fit_image(to_channels(item.transpose(1, 2, 0), c), (h, w), "stretch") for item in raw]
        return np.stack(items).transpose(0, 3, 1, 2)

    def animate(self, raw: np.ndarray, path: Path, milliseconds: int = 60) -> None:
        """uint8 (N, C, H, W) → a looping GIF of N frames, small ones enlarged."""
        from PIL import Image as Pillow

        scale = max(1, 112 // max(raw.shape[2:]))
        frames = [Pillow.fromarray(a).convert("L" if raw.shape[1] == 1 else "RGB") for a in self.array(raw)]
        frames = [f.resize((f.width * scale, f.height * scale), Pillow.Resampling.NEAREST) for f in frames]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
