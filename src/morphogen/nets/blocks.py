"""Blocks that several networks share.

Shapes: B batch · C channels · H, W height and width · Z latent dimension · K classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Space = tuple[int, ...]


def halvings(height: int, width: int, largest: int = 7) -> int:
    """How often a size is halved (rounding up) until its shorter side is at most `largest`; at least once."""
    count, side = 0, min(height, width)
    while side > largest or count == 0:
        side, count = -(-side // 2), count + 1
    return count


def shrunk(size: tuple[int, int], times: int) -> tuple[int, int]:
    """(H, W) halved `times` times, rounding up: the grid that `times` doublings turn into at least `size`."""
    return -(-size[0] // 2**times), -(-size[1] // 2**times)


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (H, W) of (B, C, H', W'), H' ≥ H and W' ≥ W."""
    top, left = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]]


class Role(nn.Module):
    """A network that plays a role. ranks: how many numbers the shape of its space may have (3: images, 1: points)."""

    ranks: ClassVar[tuple[int, ...]] = (3,)


class Block(nn.Module):
    """A module that wants a start of its own, after its layers have drawn theirs."""

    def reset_own_parameters(self) -> None:
        raise TypeError(f"{type(self).__name__} must say how it starts")


class ConditionedNoise(nn.Module):
    """Noise z (B, Z) with a learned embedding of the label y (B,) beside it: (B, Z + embed_dim)."""

    def __init__(self, latent_dim: int, classes: int, embed_dim: int = 32):
        super().__init__()
        self.embedding = nn.Embedding(classes, embed_dim) if classes else None
        self.out_dim = latent_dim + (embed_dim if classes else 0)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        return z if self.embedding is None else torch.cat([z, self.embedding(y)], dim=1)


class Verdict(Block):
    """Features (B, F) → one logit an item (B,), in float32.

    With labels it is the projection discriminator: logit + ⟨embedding(y), features⟩ (Miyato & Koyama 2018, eq. 3).
    """

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features) if classes else None

    def reset_own_parameters(self) -> None:
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.02)  # labels begin as a hint, not as the verdict

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            h = h.float()
            logit = self.linear(h).squeeze(1)
            return logit if self.embedding is None else logit + (self.embedding(y) * h).sum(1)


class Summary(nn.Module):
    """Features (B, F), with a learned embedding of the label beside them, → numbers (B, outputs), in float32."""

    def __init__(self, features: int, outputs: int, classes: int):
        super().__init__()
        self.conditioned = ConditionedNoise(features, classes)
        self.linear = nn.Linear(self.conditioned.out_dim, outputs)

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return self.linear(self.conditioned(h.float(), y))


class ResidualBlock(Block):
    """Two 3x3 convolutions beside a shortcut, without normalisation; the last one starts at zero (Fixup, R3GAN)."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.leaky_relu(x, 0.2))
        return self.shortcut(x) + self.second(F.leaky_relu_(h, 0.2))  # in place: h is nobody else's
