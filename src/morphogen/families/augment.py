"""Augmentation of what a discriminator sees, real and generated alike, or a VAE learns from; differentiable.

The kinds are DiffAugment's (Zhao et al. 2020), each put on an item with probability p (ADA, Karras et al. 2020), so
that for p < 1 the generator cannot gain by making augmented items. x (B, C, H, W) in [-1, 1]; points are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from morphogen.modalities.audio import RANGE


def translation(x: Tensor, u: Tensor) -> Tensor:
    """Shift by up to an eighth of each side; what comes in from outside is black."""
    b, _, h, w = x.shape
    dy = ((u[0] * 2 - 1) * (h / 8)).round().long().view(b, 1, 1)
    dx = ((u[1] * 2 - 1) * (w / 8)).round().long().view(b, 1, 1)
    rows = torch.arange(h, device=x.device).view(1, h, 1) + dy
    columns = torch.arange(w, device=x.device).view(1, 1, w) + dx
    inside = ((rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)).unsqueeze(1)
    index = torch.arange(b, device=x.device).view(b, 1, 1)
    moved = x.permute(0, 2, 3, 1)[index, rows.clamp(0, h - 1), columns.clamp(0, w - 1)].permute(0, 3, 1, 2)
    return torch.where(inside, moved, torch.full_like(moved, -1.0))


def cutout(x: Tensor, u: Tensor) -> Tensor:
    """Grey out a square of half the sides, at a random place."""
    b, _, h, w = x.shape
    top, left = (u[0] * h - h / 4).view(b, 1, 1, 1), (u[1] * w - w / 4).view(b, 1, 1, 1)
    rows = torch.arange(h, device=x.device).view(1, 1, h, 1)
    columns = torch.arange(w, device=x.device).view(1, 1, 1, w)
    hole = (rows >= top) & (rows < top + h / 2) & (columns >= left) & (columns < left + w / 2)
    return torch.where(hole, torch.zeros_like(x), x)


def color(x: Tensor, u: Tensor) -> Tensor:
    """Brightness, contrast and, in colour, saturation."""
    b = len(x)
    x = x + (u[0].view(b, 1, 1, 1) - 0.5)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (u[1].view(b, 1, 1, 1) + 0.5) + mean
    if x.shape[1] == 3:
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * (u[2].view(b, 1, 1, 1) * 2) + grey
    return x


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror left and right; off unless asked, since digits and letters have a hand."""
    return torch.where((u[0] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)


# ---- of sound: x (B, C, M, F) spectrograms on a logarithmic scale, with -1 for silence

SILENCE = -0.99  # at or below, nothing sounds
NATS = RANGE / 2  # of magnitude in one unit


def gain(x: Tensor, u: Tensor) -> Tensor:
    """Up to 6 dB louder or softer; silence stays."""
    amount = (u[0] - 0.5).view(-1, 1, 1, 1) * (2 * math.log(2) / NATS)
    return torch.where(x > SILENCE, x + amount, x)


def shift(x: Tensor, u: Tensor) -> Tensor:
    """Earlier or later by up to an eighth; silence comes in."""
    return translation(x, torch.stack([torch.full_like(u[0], 0.5), u[1]]))


def stretch(x: Tensor, u: Tensor) -> Tensor:
    """Slower or faster by up to 15 %, about the middle."""
    rows = torch.zeros(len(x), 2, 3, device=x.device)
    rows[:, 0, 0], rows[:, 1, 1] = (1.15 ** (2 * u[0] - 1)), 1.0
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x.float() + 1, grid, align_corners=False).to(x.dtype) - 1


def noise(x: Tensor, u: Tensor) -> Tensor:
    """A faint hiss: a floor of the same magnitude in every band."""
    level = (-0.9 + 0.5 * u[0]).view(-1, 1, 1, 1).expand_as(x)
    return torch.logaddexp(NATS * x, NATS * level.to(x.dtype)) / NATS


def masks(x: Tensor, u: Tensor) -> Tensor:
    """A band of frequencies and a span of time silenced, each an eighth (SpecAugment, Park et al. 2019)."""
    for axis, start in ((2, u[0]), (3, u[1])):
        size = x.shape[axis]
        place = torch.arange(size, device=x.device).view([-1 if k == axis else 1 for k in range(4)])
        first = (start * size * 7 / 8).view(-1, 1, 1, 1)
        x = torch.where((place >= first) & (place < first + size / 8), torch.full_like(x, -1.0), x)
    return x


KINDS = {
    "translation": translation, "cutout": cutout, "color": color, "flip": flip,
    "gain": gain, "shift": shift, "stretch": stretch, "noise": noise, "masks": masks,
}  # fmt: skip


def augment(x: Tensor, policy: Sequence[str], probability: float, generator: torch.Generator) -> Tensor:
    """Each kind of `policy` on each item of x (B, C, H, W) with this probability; points (B, D) stay as they are."""
    if probability <= 0 or x.dim() != 4:
        return x
    for kind in policy:
        u = torch.rand(4, len(x), generator=generator, device=x.device)
        x = torch.where((u[3] < probability).view(-1, 1, 1, 1), KINDS[kind](x, u), x)
    return x
