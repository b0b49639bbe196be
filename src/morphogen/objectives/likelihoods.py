"""Likelihoods p(x|z) as objects, made from a decoder's output.

    log_prob(x) → (B,)   in nats        mode() → (B, C, *S)   the picture to show        sample(generator) → (B, C, *S)
    quantile(u) → (B, C, *S)   of numbers u (B, C, *S) between 0 and 1: a sample, where these are random

Shapes: B batch · space (C, *S) with S = () for points · M mixture components. Images lie in [-1, 1].
`outputs(C)` says how many channels the decoder must give. `discrete` marks probabilities of the data's own levels: only
these have bits per dimension; the others are densities, whose nats depend on the data's scale. `ranks`: how many
numbers the shape of their items' space may have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from morphogen.objectives.categorical import Autoregressive, Categorical

LEVELS = 256  # grey levels of an image
HALF_BIN = 1 / (LEVELS - 1)  # half the distance between two levels in [-1, 1]
SMALLEST_SCALE = math.exp(-6)  # of the densities: below it the likelihood of flat pictures grows without end


def normal_quantile(u: Tensor) -> Tensor:
    """Standard normal numbers out of numbers u between 0 and 1, of any shape; cut off at 4.9 deviations."""
    return math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-6, 1 - 1e-6))


class Drawable:
    """A likelihood whose samples are its quantiles at random numbers."""

    def mode(self) -> Tensor:
        raise NotImplementedError

    def quantile(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, generator: torch.Generator) -> Tensor:
        like = self.mode()
        return self.quantile(torch.rand(like.shape, generator=generator, device=like.device))

    def grainy(self, u: Tensor, grain: float) -> Tensor:
        """Between the mode (grain 0) and a sample (1), by random numbers u (B, C, *S), within [-1, 1]."""
        mode = self.mode()
        return (mode + grain * (self.quantile(u) - mode)).clamp(-1, 1)


class Bernoulli(Drawable):
    """Independent pixels that are black or white: p(x|z) = Π p^x (1 − p)^(1 − x) with x in {0, 1} for {-1, 1}.

    For grey pictures the same formula is only a loss, no probability: binarise them (`model.binarize`).
    """

    discrete: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (3,)

    def __init__(self, output: Tensor, squash: Callable[[Tensor], Tensor], scale: Tensor):
        self.logits = output

    @staticmethod
    def outputs(channels: int, components: int) -> int:
        return channels

    def log_prob(self, x: Tensor) -> Tensor:
        target = (x + 1) / 2
        return -F.binary_cross_entropy_with_logits(self.logits, target, reduction="none").flatten(1).sum(1)

    def mode(self) -> Tensor:
        """The probabilities as grey: what people show."""
        return self.logits.sigmoid() * 2 - 1

    def quantile(self, u: Tensor) -> Tensor:
        return (u < self.logits.sigmoid()).float() * 2 - 1


class Density(Drawable):
    """A density around a mean with one scale for all pixels.

    The best scale has a closed form (σ-VAE, Rybkin et al. 2021, section 4): `optimal_scale`. It balances reconstruction
    and KL by itself, where a fixed scale would be a hidden β.
    """

    discrete: ClassVar[bool] = False
    ranks: ClassVar[tuple[int, ...]] = (1, 3)

    def __init__(self, output: Tensor, squash: Callable[[Tensor], Tensor], scale: Tensor):
        self.mean, self.scale = squash(output), scale

    @staticmethod
    def outputs(channels: int, components: int) -> int:
        return channels

    def mode(self) -> Tensor:
        return self.mean

    def optimal_scale(self, x: Tensor) -> Tensor:
        """The scale () with the highest likelihood of the items x (B, *space); carries no gradient: at the optimum
        the likelihood does not change with it."""
        raise NotImplementedError


class Gaussian(Density):
    """N(x; mean, σ²) in every pixel."""

    def log_prob(self, x: Tensor) -> Tensor:
        each = -0.5 * ((x - self.mean) / self.scale).square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def optimal_scale(self, x: Tensor) -> Tensor:
        """σ² = the mean squared error (Rybkin et al. 2021, eq. 6)."""
        return (x - self.mean).detach().square().mean().sqrt().clamp_min(SMALLEST_SCALE)

    def quantile(self, u: Tensor) -> Tensor:
        return self.mean + self.scale * normal_quantile(u)


class Laplace(Density):
    """Laplace(x; mean, b) in every pixel: absolute errors, so sharper edges than the Gaussian's squares."""

    def log_prob(self, x: Tensor) -> Tensor:
        return (-(x - self.mean).abs() / self.scale - (2 * self.scale).log()).flatten(1).sum(1)

    def optimal_scale(self, x: Tensor) -> Tensor:
        """b = the mean absolute error."""
        return (x - self.mean).detach().abs().mean().clamp_min(SMALLEST_SCALE)

    def quantile(self, u: Tensor) -> Tensor:
        u = u - 0.5
        return self.mean - self.scale * u.sign() * torch.log1p(-2 * u.abs().clamp_max(0.5 - 1e-7))


class DiscretizedLogistic(Drawable):
    """A mixture of M logistics cut into the 256 grey levels (Salimans et al. 2017, eq. 2).

    The probability of a level is the mass of its bin, σ(a) − σ(b); the outermost bins reach to infinity. The
    difference is taken as σ(a) σ(−b) (1 − exp(b − a)), which stays exact where both sigmoids are nearly 1.
    """

    discrete: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (3,)

    def __init__(self, output: Tensor, squash: Callable[[Tensor], Tensor], scale: Tensor, components: int = 1):
        b, _, *size = output.shape
        weights, rest = output[:, :components], output[:, components:]
        self.log_weights = weights.log_softmax(1)  # (B, M, *S)
        self.means, log_scales = rest.view(b, 2, components, -1, *size).unbind(1)  # (B, M, C, *S)
        self.log_scales = (log_scales - 2).clamp_min(-7)

    @staticmethod
    def outputs(channels: int, components: int) -> int:
        return components * (1 + 2 * channels)

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        inverse = (-self.log_scales).exp()
        upper, lower = inverse * (x - self.means + HALF_BIN), inverse * (x - self.means - HALF_BIN)
        log_upper, log_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
        width = 2 * HALF_BIN * inverse
        inside = log_upper + log_lower + torch.log(-torch.expm1(-width))
        each = torch.where(x < -1 + HALF_BIN, log_upper, torch.where(x > 1 - HALF_BIN, log_lower, inside))
        return (self.log_weights + each.sum(2)).logsumexp(1).flatten(1).sum(1)

    def mode(self) -> Tensor:
        """The mixture's mean, within [-1, 1]: the mode of a mixture flickers from pixel to pixel."""
        return (self.log_weights.exp().unsqueeze(2) * self.means.clamp(-1, 1)).sum(1)

    def quantile(self, u: Tensor) -> Tensor:
        """Of the components in their order; where u falls among their weights says how far it is within its own."""
        weights, first = self.log_weights.exp(), u[:, :1]  # all channels of a pixel are of one component
        ends = weights.cumsum(1)
        pick = (first > ends).sum(1, keepdim=True).clamp_max(weights.shape[1] - 1)  # (B, 1, *S)
        within = 1 - (ends.gather(1, pick) - first) / weights.gather(1, pick).clamp_min(1e-12)
        u = torch.cat([within, u[:, 1:]], 1).clamp(1e-6, 1 - 1e-6)
        index = pick.unsqueeze(2).expand(-1, 1, self.means.shape[2], *pick.shape[2:])
        mean, log_scale = self.means.gather(1, index).squeeze(1), self.log_scales.gather(1, index).squeeze(1)
        x = (mean + log_scale.exp() * (u.log() - torch.log1p(-u))).clamp(-1, 1)
        return ((x + 1) / 2 * (LEVELS - 1)).round() / (LEVELS - 1) * 2 - 1


LIKELIHOODS: dict[str, Any] = {
    "bernoulli": Bernoulli, "gaussian": Gaussian, "laplace": Laplace, "logistic": DiscretizedLogistic,
    "categorical": Categorical, "autoregressive": Autoregressive,
}  # fmt: skip
