"""What families with a discriminator share: its options, its judgement of augmented items, penalties on its slope.

Shapes: B batch · space (C, *S). A discriminator's logits are (B,), or (B, H', W') for patches, (B, N) for heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.func import functional_call

from morphogen.config import AugmentConfig, Section
from morphogen.errors import UsageError
from morphogen.families.augment import augment
from morphogen.families.base import Turn
from morphogen.objectives.adversarial import LOSSES, squared_difference, squared_slope

WITHOUT_SLOPE = tuple(name for name in LOSSES if name != "wasserstein")
"""Losses that do without a gradient penalty."""


class CriticOptions(Section):
    """The part of the `model` section that says how a discriminator is taught."""

    known_losses: ClassVar[tuple[str, ...]] = tuple(LOSSES)
    latent_dim: int = Field(default=64, ge=1, description="of the noise")
    loss: str = Field(default="relativistic", description=", ".join(LOSSES))
    penalty: Literal["exact", "difference"] = Field(
        default="exact", description="form of R1 and R2: gradient or difference"
    )
    sigma: float = Field(default=0.05, gt=0, description="step of the difference form")

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        if name not in cls.known_losses:
            raise ValueError(f"there is no such loss here, only {', '.join(cls.known_losses)}")
        return name

    @property
    def difference(self) -> float | None:
        """The step of the difference form, None for the exact one."""
        return None if self.penalty == "exact" else self.sigma


def fixed(network: nn.Module) -> Callable[..., Tensor]:
    """The network as a function that hands slopes on to its inputs, and does not learn from them."""
    still = {name: weight.detach() for name, weight in network.named_parameters()}
    return lambda *inputs: functional_call(network, still, inputs)


def spread_of(x: Tensor) -> Tensor:
    """The total variance () of items (N, *space): the unit in which slopes of D are counted."""
    return x.flatten(1).var(0).sum().clamp_min(1e-8)


def judge(
    critic: Callable[..., Tensor],
    turn: Turn,
    purpose: str,
    x: Tensor,
    y: Tensor | None,
    how: AugmentConfig,
    probability: float,
) -> Tensor:
    """The discriminator's logits of augmented items x (B, *space) with labels y (B,) or None."""
    generator = turn.generator("augment " + purpose, x.device)
    return critic(augment(x, how.policy, probability, generator), y)


def fooling(loss: str, real: Callable[[], Tensor], fake: Callable[[], Tensor]) -> Tensor:
    """The generator's side of a loss, as the logits: `real` gives those of real items, and is asked without gradient,
    and only where the loss compares with them."""
    chosen, real_logit = LOSSES[loss], torch.zeros(())
    if chosen.generator_sees_real:
        with torch.no_grad():
            real_logit = real()
    return chosen.generator(real_logit, fake())


def slope_penalty(
    critic: Callable[..., Tensor], turn: Turn, purpose: str, x: Tensor, y: Tensor | None, how: AugmentConfig,
    probability: float, spread: Tensor, sigma: float | None,
) -> Tensor:  # fmt: skip
    """R1 or R2 (B,): the squared slope of D at augmented items, in units of the data's spread.

    sigma: the step of the finite-difference form; None: the exact form, by a second backward pass.
    """
    x = augment(x, how.policy, probability, turn.generator("augment " + purpose, x.device))
    if sigma is None:
        return spread * squared_slope(lambda x: whole(critic(x, y)), x)
    if isinstance(critic, nn.Module) and any(isinstance(m, nn.Dropout) for m in critic.modules()):
        raise UsageError("With dropout a discriminator's differences are chance: set model.penalty=exact.")
    noise = turn.normal("difference " + purpose, *x.shape, device=x.device)
    twice = None if y is None else torch.cat([y, y])
    return spread * squared_difference(lambda x: whole(critic(x, twice)), x, noise, sigma)


def critic_terms(
    critic: Callable[..., Tensor], turn: Turn, real: tuple[Tensor, Tensor | None], fake: tuple[Tensor, Tensor | None],
    options: CriticOptions, how: AugmentConfig, probability: float, spread: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """A critic's own terms, of real and made items (B, *space) with their labels (B,) or None: 'critic', and those of
    'r1' and 'r2' that count in this turn."""
    labels = None if real[1] is None or fake[1] is None else torch.cat([real[1], fake[1]])
    logits = judge(critic, turn, "both", torch.cat([real[0], fake[0]]), labels, how, probability).chunk(2)
    terms = {"critic": whole(LOSSES[options.loss].discriminator(*logits))}
    for name, (items, y) in (("r1", real), ("r2", fake)):
        if name in turn.weights:
            terms[name] = slope_penalty(critic, turn, name, items, y, how, probability, spread, options.difference)
    return terms


def whole(values: Tensor) -> Tensor:
    """One number an item (B,) out of (B,), or out of its patches (B, H', W') or heads (B, N): their mean."""
    return values if values.dim() == 1 else values.flatten(1).mean(1)


def as_frequent(labels: Tensor, here: Tensor, there: Tensor, chance: Tensor | float = 0.5) -> Tensor:
    """Which items, some of them twice, make classes as frequent as `there` says: indices (N,) into labels (N,), by
    systematic resampling with weights there / here, between 0.1 and 10.

    here, there: shares of the classes (K,).  chance: () in [0, 1), where the evenly spaced draws begin.
    """
    order = labels.argsort(stable=True)  # class by class, each gets its share to within one item
    weights = (there / here.clamp_min(1e-6)).clamp(0.1, 10.0)[labels[order]]
    reached = weights.cumsum(0) / weights.sum()
    points = (torch.arange(len(labels), device=labels.device) + chance) / len(labels)
    return order[torch.searchsorted(reached, points).clamp_max(len(labels) - 1)]
