"""Codes: another family's space is the latent space of a trained VAE, its codec (`codec: RUN`).

Raw: the codec's own items.  Space: (Z,).  Tensors: float32 (B, Z), each dimension standardised over the training data.
What is measured and shown are always decoded items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Codes:
    """The latent space of a codec as a modality.

    space: (Z,).  codec: a trained, unconditional VAE.  mean, std: (Z,) of the training codes.
    """

    name = "codes"

    def __init__(self, space: tuple[int, ...], codec: Any, mean: list[float], std: list[float]):
        self.space, self.codec, self.items = tuple(space), codec, codec.modality
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.suffix = self.items.suffix

    @property
    def item_space(self) -> tuple[int, ...]:
        """The shape of a raw item."""
        return self.items.item_space

    def stored(self, raw: np.ndarray) -> np.ndarray:
        """Raw items → codes float32 (N, Z), once, before the training."""
        return codes_of(self.codec, raw)

    def encode(self, raw: Tensor) -> Tensor:
        """Codes (B, Z) → standardised."""
        self.mean, self.std = self.mean.to(raw.device), self.std.to(raw.device)  # once: no copy at each step
        return (raw.float() - self.mean) / self.std

    def decode(self, x: Tensor) -> np.ndarray:
        """Standardised codes (B, Z) → raw items, by the codec."""
        codes = (x.float() * self.std.to(x.device) + self.mean.to(x.device)).cpu()
        return np.concatenate([self.items.decode(part) for part in self.codec.family.items_of(codes, None)])

    def squash(self, x: Tensor) -> Tensor:
        """Any value is valid."""
        return x.float()

    def array(self, raw: np.ndarray) -> np.ndarray:
        """The layout of .npy files: the items'."""
        return self.items.array(raw)

    def raw(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `array`."""
        return self.items.raw(array)

    def save(self, item: np.ndarray, path: Path) -> None:
        """One item as a file."""
        self.items.save(item, path)

    def preview(self, raw: np.ndarray, path: Path, columns: int) -> None:
        """Items as one picture."""
        self.items.preview(raw, path, columns)

    def animate(self, raw: np.ndarray, path: Path, milliseconds: int = 60) -> None:
        """Items as the frames of a GIF."""
        self.items.animate(raw, path, milliseconds)


def codes_of(codec: Any, raw: np.ndarray) -> np.ndarray:
    """The codec's codes float32 (N, Z) of raw items."""
    return codec.encode(codec.modality.array(raw))
