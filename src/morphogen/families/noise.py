"""Noise on what a discriminator sees, real and generated alike, at a level that it is told (Diffusion-GAN, Wang et al.
2023): high levels show whether every part of the data is reached, low ones whether the items are sharp.

Shapes: B batch · space (C, *S).
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor

from morphogen.config import Section
from morphogen.families.base import Turn


class NoiseOptions(Section):
    """Which levels σ there are, in units of the items' own numbers; log σ is uniform."""

    least: float = Field(default=0.01, gt=0, description="smallest standard deviation of the noise")
    most: float = Field(default=1.0, gt=0, description="largest")
    power: float = Field(default=1.0, description="the generator's loss at level σ counts σ to this power")

    @model_validator(mode="after")
    def _in_order(self) -> NoiseOptions:
        if self.most <= self.least:
            raise ValueError("most must be more than least")
        return self

    def levels(self, turn: Turn, count: int, device: torch.device) -> Tensor:
        """A level σ for each of this turn's items (count,)."""
        return self.least * (self.most / self.least) ** turn.uniform("noise levels", count, device=device)

    def seen(self, x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """What D sees (B, C + 1, *S) of items x (B, C, *S) at levels σ (B,): (x + σε) / √(1 + σ²), and as the last
        channel where log σ lies among the levels, from -1 at the least to 1 at the most."""
        sigma = level.view(-1, *[1] * (x.dim() - 1))
        place = 2 * (sigma / self.least).log() / math.log(self.most / self.least) - 1
        items = (x + sigma * noise) / (1 + sigma.square()).sqrt()
        return torch.cat([items, place.expand_as(x[:, :1])], dim=1)
