"""Adversarial losses and penalties: pure functions, one value an item.

Shapes: B batch.  real, fake: logits (B,) of the discriminator D on real and generated items.  Every loss → (B,),
to be minimised.  Where a loss compares the two, item i of one is paired with item i of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(−(D(x) − D(G(z)))) (Jolicoeur-Martineau 2018, eq. 1; R3GAN, arXiv 2501.05441, eq. 2)."""
    return softplus(fake - real)


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(−(D(G(z)) − D(x))): the same comparison, the other way round."""
    return softplus(real - fake)


def nonsaturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(x)) − log(1 − σ(D(G(z)))) (Goodfellow et al. 2014, eq. 1)."""
    return softplus(-real) + softplus(fake)


def nonsaturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(G(z))) (Goodfellow et al. 2014, section 3)."""
    return softplus(-fake)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 − D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017; Miyato et al. 2018, eq. 16)."""
    return relu(1 - real) + relu(1 + fake)


def linear_generator(real: Tensor, fake: Tensor) -> Tensor:
    """−D(G(z)), the generator's side of hinge and Wasserstein (Miyato et al. 2018, eq. 17)."""
    return -fake


def leastsquares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """½(D(x) − 1)² + ½D(G(z))² (Mao et al. 2017, eq. 9)."""
    return ((real - 1).square() + fake.square()) / 2


def leastsquares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """½(D(G(z)) − 1)² (Mao et al. 2017, eq. 9)."""
    return (fake - 1).square() / 2


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) − D(x) (Arjovsky et al. 2017, eq. 2); needs `gradient_penalty`."""
    return fake - real


class AdversarialLoss(NamedTuple):
    """The two sides of a game, each (real logits, fake logits) → (B,).

    generator_sees_real: whether the generator's side needs the real logits (it is given zeros where not).
    """

    generator: Callable[[Tensor, Tensor], Tensor]
    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator_sees_real: bool = False


LOSSES = {
    "relativistic": AdversarialLoss(relativistic_generator, relativistic_discriminator, generator_sees_real=True),
    "nonsaturating": AdversarialLoss(nonsaturating_generator, nonsaturating_discriminator),
    "hinge": AdversarialLoss(linear_generator, hinge_discriminator),
    "leastsquares": AdversarialLoss(leastsquares_generator, leastsquares_discriminator),
    "wasserstein": AdversarialLoss(linear_generator, wasserstein_discriminator),
}


def squared_slope(discriminator: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² (B,): R1 on real items, R2 on generated ones (Mescheder et al. 2018, eq. 9); a double backward."""
    x = x.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return slope.float().square().flatten(1).sum(1)


def squared_difference(discriminator: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """((D(x + σε) − D(x − σε)) / 2σ)² (B,), ε standard normal: ‖∇ₓD‖² in expectation, without a double backward.

    The cheap form of R1 and R2 (GAT, arXiv 2509.24935, uses the one-sided difference); central, so that the curvature
    of D along ε drops out.
    """
    upper, lower = discriminator(torch.cat([x + sigma * noise, x - sigma * noise])).chunk(2)
    return ((upper - lower) / (2 * sigma)).square()


def pair_distance(x: Tensor, y: Tensor | None) -> Tensor:
    """Mean squared distance (), a number of an item, of all pairs of items x (B, *space) with the same label y (B,): of
    all pairs where there are no labels, and 0 where no two have the same."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float().flatten(1)
        square = x.square().mean(1)
        distance = square[:, None] + square[None] - 2 * (x @ x.T) / x.shape[1]
    pairs = torch.ones_like(distance) if y is None else (y[:, None] == y[None]).float()
    pairs = pairs - torch.eye(len(x), device=x.device)
    return (distance * pairs).sum() / pairs.sum().clamp_min(1)


def lack_of_diversity(fake: Tensor, real: Tensor) -> Tensor:
    """max(0, 1 − d(G) / d(x))², of the mean squared distances () of samples and of items: Yang et al. 2019, eq. 1 and
    2, pull samples apart up to a bound; here the bound is how far apart the data are."""
    return relu(1 - fake / real.clamp_min(1e-8)).square()


def unit_slope(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """(‖∇D(x̂)‖ − 1)² (B,) at x̂ = mix·x + (1 − mix)·G(z) (WGAN-GP, Gulrajani et al. 2017, eq. 3); mix (B,) in [0, 1]."""
    mix = mix.view(-1, *[1] * (real.dim() - 1))
    norm = (squared_slope(discriminator, mix * real + (1 - mix) * fake) + 1e-12).sqrt()
    return (norm - 1).square()
