"""The variational bound: posteriors, the terms of the ELBO, importance-weighted bounds, and what tells of collapse.

Shapes: B batch · Z latent_dim · U units of a KL: latent dimensions, or layers of a ladder · K importance samples.
Everything is in nats and float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ACTIVE = 0.01  # variance of a unit's posterior mean from which the unit counts as used (Burda et al. 2016, section 5.2)


@dataclass
class Normal:
    """Independent normal variables, of any shape (B, …): a posterior, or a layer of a prior."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, output: Tensor) -> Normal:
        """The distribution that a network's output (B, 2·C, …) stands for; log σ stays softly within ±5."""
        mean, log_std = output.float().chunk(2, dim=1)
        return cls(mean, 5 * torch.tanh(log_std / 5))

    @classmethod
    def standard(cls, like: Tensor) -> Normal:
        """N(0, 1) in the shape of `like`."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def rsample(self, noise: Tensor) -> Tensor:
        """mean + σ·noise: a sample through which gradients flow (Kingma & Welling 2014, eq. 10)."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; mean, σ²) of every variable, shape as z."""
        return -0.5 * ((z - self.mean) / self.log_std.exp()).square() - self.log_std - 0.5 * math.log(2 * math.pi)

    def kl(self, other: Normal) -> Tensor:
        """KL(self ‖ other) of every variable, in closed form (Kingma & Welling 2014, appendix B, for any two)."""
        ratio = 2 * (self.log_std - other.log_std)
        shift = (self.mean - other.mean) / other.log_std.exp()
        return 0.5 * (ratio.exp() + shift.square() - 1 - ratio)

    def repeat(self, times: int) -> Normal:
        """Every row `times` times, in place."""
        return Normal(self.mean.repeat_interleave(times, 0), self.log_std.repeat_interleave(times, 0))


def kl_term(kl: Tensor, free_bits: float = 0.0, target: float | None = None) -> Tensor:
    """The KL's part of the loss, from the KL by unit (B, U); (B,) without options, else ().

    free_bits: no unit is pressed below so many nats on the batch's average (Kingma et al. 2016, eq. 15).
    target: the distance of the total from so many nats, either way (Burgess et al. 2018, eq. 8).
    """
    if target is not None:
        return (kl.sum(1).mean() - target).abs()
    if free_bits:
        return kl.mean(0).clamp_min(free_bits).sum()
    return kl.sum(1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """log 1/K Σ_k w_k (B,) of log-weights (B, K), w = p(x|z) p(z) / q(z|x) (Burda et al. 2016, eq. 8)."""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def doubly_reparameterized(log_weights: Tensor, z: Tensor) -> Tensor:
    """A surrogate (B,) of the importance-weighted bound whose gradient is DReG (Tucker et al. 2019, eq. 8).

    log_weights (B, K) must be made with the density of q detached from its parameters; z (B·K, Z) are the samples,
    through which alone the encoder is reached: there each sample's gradient counts with its squared normalised weight.
    """
    shares = log_weights.detach().softmax(1)
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * shares.reshape(-1, *[1] * (gradient.dim() - 1)))
    return (shares * log_weights).sum(1)


def streamed_bound(log_weights: Iterable[Tensor]) -> Tensor:
    """`importance_bound` (B,) of log-weights that come in pieces (B, k), none of which is kept."""
    total, count = None, 0
    for piece in log_weights:
        new = piece.logsumexp(1)
        total, count = new if total is None else torch.logaddexp(total, new), count + piece.shape[1]
    assert total is not None
    return total - math.log(count)


def active_units(means: Tensor) -> int:
    """How many dimensions of the posterior means (N, Z) vary over the data: Var_x E[z|x] ≥ 0.01 (Burda et al. 2016)."""
    return int((means.var(0) >= ACTIVE).sum())


def mutual_information(posterior: Normal, z: Tensor) -> float:
    """I(x; z) in nats: E[log q(z|x) − log q(z)], q(z) the mixture of all N posteriors, one sample z (N, Z) of each.

    At most log N (Hoffman & Johnson 2016, eq. 4; the estimate of Dieng et al. 2019 uses a minibatch in place of all).
    """
    own = posterior.log_prob(z).sum(1)
    mixture = torch.cat([
        Normal(posterior.mean[None], posterior.log_std[None]).log_prob(part[:, None]).sum(2).logsumexp(1)
        for part in z.split(100)
    ])  # fmt: skip
    return float((own - mixture + math.log(len(z))).mean())
