"""What families with a discriminator ask of it: a judgement of augmented items, and the penalties on its slope.

Shapes: B batch · space (C, *S). A discriminator's logits are (B,), or (B, H', W') for patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from morphogen.config import AugmentConfig
from morphogen.families.augment import augment
from morphogen.families.base import Turn
from morphogen.objectives.adversarial import squared_difference, squared_slope


def judge(
    critic: nn.Module, turn: Turn, purpose: str, x: Tensor, y: Tensor | None, how: AugmentConfig, probability: float
) -> Tensor:
    """The discriminator's logits of augmented items x (B, *space) with labels y (B,) or None."""
    generator = turn.generator("augment " + purpose, x.device)
    return critic(augment(x, how.policy, probability, generator), y)


def slope_penalty(
    critic: nn.Module, turn: Turn, purpose: str, x: Tensor, y: Tensor | None, how: AugmentConfig, probability: float,
    spread: Tensor, sigma: float | None,
) -> Tensor:  # fmt: skip
    """R1 or R2 (B,): the squared slope of D at augmented items, in units of the data's spread.

    sigma: the step of the finite-difference form; None: the exact form, by a second backward pass.
    """
    x = augment(x, how.policy, probability, turn.generator("augment " + purpose, x.device))
    if sigma is None:
        return spread * squared_slope(lambda x: whole(critic(x, y)), x)
    noise = turn.normal("difference " + purpose, *x.shape, device=x.device)
    twice = None if y is None else torch.cat([y, y])
    return spread * squared_difference(lambda x: whole(critic(x, twice)), x, noise, sigma)


def whole(logits: Tensor) -> Tensor:
    """One number an item (B,): the logit, or the mean of its patches' logits."""
    return logits if logits.dim() == 1 else logits.flatten(1).mean(1)
