"""What a discriminator needs to look at items as a frozen network does (Projected GANs, Sauer et al. 2021): there one
that knows ImageNet, here a small classifier that learned the user's own labels a minute before.

Shapes: B batch · C channels · H, W size · K classes (0: no labels).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.nets.blocks import Verdict
from morphogen.nets.translators import fitted, reduced

SIDE = 32  # pixels: what the classifiers of `metrics.classifier` reduce larger images to, where nothing else is said
PLAN = ((32, 1), (32, 2), (64, 1), (64, 2), (128, 1))  # channels and stride of each of their 3x3 convolutions
FINE = ((32, 2), (32, 1), (64, 2), (64, 1), (128, 2))  # of those that see larger images: halved at once
LOOKS = (1, 3, 4)  # after which of them a head looks


def plan_of(side: int) -> tuple[tuple[int, int], ...]:
    """The convolutions of a classifier that sees images of at most `side` pixels."""
    return PLAN if side <= SIDE else FINE


class FrozenTrunk(nn.Module):
    """The convolutions of a trained classifier, batch normalisation folded in. All its numbers are buffers: they are
    saved, and never learned.

    largest: the side to which items are reduced by area, aspect kept, as they were for the classifier.
    """

    def __init__(self, space: tuple[int, ...], largest: int = SIDE):
        super().__init__()
        self.largest = max(SIDE, min(largest, max(space[1:])))  # of small items a larger one would make no difference
        channels, self.size, self.plan = space[0], reduced((space[1], space[2]), self.largest), plan_of(self.largest)
        for k, (out, _) in enumerate(self.plan):
            self.register_buffer(f"weight_{k}", torch.zeros(out, channels, 3, 3))
            self.register_buffer(f"bias_{k}", torch.zeros(out))
            channels = out

    @torch.no_grad()
    def learn(self, trunk: nn.Sequential) -> None:
        """Take over the blocks of a classifier that sees images as large: convolution without bias, batch normalisation
        and ReLU."""
        for k in range(len(self.plan)):
            conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(trunk[k].children())[:2])
            assert norm.running_mean is not None
            assert norm.running_var is not None
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            getattr(self, f"weight_{k}").copy_(conv.weight * gain.view(-1, 1, 1, 1))
            getattr(self, f"bias_{k}").copy_(norm.bias - norm.running_mean * gain)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (B, C, H, W) in [-1, 1] → what is seen at each of LOOKS, from shallow to deep."""
        h, seen = fitted(x, self.size).contiguous(memory_format=torch.channels_last), []
        for k, (_, stride) in enumerate(self.plan):
            h = F.relu(F.conv2d(h, getattr(self, f"weight_{k}"), getattr(self, f"bias_{k}"), stride, 1))
            if k in LOOKS:
                seen.append(h)
        return seen


class Head(nn.Module):
    """Features (B, C, H, W) of one depth → one logit an item (B,), in float32."""

    def __init__(self, example: Tensor, classes: int, width: int, features: int):
        super().__init__()
        down = nn.Conv2d(example.shape[1], width, 4, 2, 1)
        self.body = nn.Sequential(
            down, nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten()
        )
        with torch.no_grad():
            flat = self.body(example).shape[1]
        self.dense = nn.Linear(flat, features)
        self.verdict = Verdict(features, classes)

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        return self.verdict(F.leaky_relu(self.dense(self.body(h)), 0.2), y)
