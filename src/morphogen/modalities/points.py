"""Points: plain vectors, for toy truth (`builtin:grid`, `builtin:ring`) and feature tables.

Raw: float32 (B, D).  Space: (D,).  Tensors: float32 (B, D), standardised by the training data's mean and scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor


class Points:
    """The point modality.

    space: (D,).  mean, scale: of the training data, one number each, so that the shape of the cloud is kept.
    """

    name = "points"
    suffix = ".txt"

    def __init__(self, space: tuple[int, ...], mean: float = 0.0, scale: float = 1.0):
        self.space, self.mean, self.scale = tuple(space), mean, scale

    @property
    def item_space(self) -> tuple[int, ...]:
        """The shape of a raw item."""
        return self.space

    def stored(self, raw: np.ndarray) -> np.ndarray:
        """What is kept of raw items for training: the items."""
        return raw

    def encode(self, raw: Tensor) -> Tensor:
        """float32 (B, D) → standardised float32 (B, D)."""
        return (raw.float() - self.mean) / self.scale

    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, D) → float32 (B, D) in the data's own units."""
        return (x.float() * self.scale + self.mean).cpu().numpy()

    def squash(self, x: Tensor) -> Tensor:
        """Any value is valid."""
        return x.float()

    def array(self, raw: np.ndarray) -> np.ndarray:
        """The layout of .npy files: (N, D)."""
        return raw

    def raw(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `array`."""
        return array

    def save(self, item: np.ndarray, path: Path) -> None:
        """One (D,) item as a line of numbers."""
        path.write_text(" ".join(f"{v:.6g}" for v in item) + "\n", encoding="utf-8")

    def preview(self, raw: np.ndarray, path: Path, columns: int) -> None:
        """(N, D) → a scatter plot of the first two coordinates, 256 pixels square."""
        from PIL import Image as Pillow

        low, high = self.mean - 2.5 * self.scale, self.mean + 2.5 * self.scale
        xy = np.clip((raw[:, :2] - low) / (high - low) * 255, 0, 255).astype(int)
        sheet = np.full((256, 256), 255, np.uint8)
        sheet[255 - xy[:, -1], xy[:, 0]] = 0
        Pillow.fromarray(sheet).save(path)

    def animate(self, raw: np.ndarray, path: Path, milliseconds: int = 60) -> None:
        """Points have no frames: the same scatter plot, as one picture."""
        self.preview(raw, path, 1)
