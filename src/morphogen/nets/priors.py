"""Priors p(z) of a VAE: trained with it, or fitted to its codes afterwards (post hoc).

    log_prob(z (B, Z), y) → (B,)      draw(noise (B, Z), pick (B,), y) → z (B, Z): a sample out of standard normal noise
                                      and, for mixtures, a number between 0 and 1 that picks the component

Shapes: B batch · Z latent_dim · M components · K classes (0: no labels).
`encode` is handed to both: the encoder's top posterior of items, which only the Vamp prior asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from morphogen.nets.blocks import Block, ConditionedNoise, Space
from morphogen.objectives.variational import Normal

Encode = Callable[[Tensor, Tensor | None], Normal]


class Prior(Block):
    """closed: whether the KL from a normal posterior to it has a closed form.
    holds_codes: whether those of training items are in it, so that its samples may be copies."""

    closed = False
    holds_codes = False
    ranks = (1, 2, 3)

    def reset_own_parameters(self) -> None:
        """Nothing to start from, unless a prior says so."""

    def prepare(self, x: Tensor) -> None:
        """See some training items once."""

    def log_prob(self, z: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        raise NotImplementedError

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, 1) in every dimension."""

    closed = True

    def __init__(self, latent_dim: int, space: Space, classes: int = 0):
        super().__init__()

    def log_prob(self, z: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        return Normal.standard(z).log_prob(z).sum(1)

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        return noise


class Mixture(Prior):
    """M normal components with learned weights, means and variances."""

    def __init__(self, latent_dim: int, space: Space, classes: int = 0, *, components: int = 50):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.zeros(components, latent_dim))
        self.log_stds = nn.Parameter(torch.zeros(components, latent_dim))

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.logits)
        nn.init.normal_(self.means, std=0.5)
        nn.init.zeros_(self.log_stds)

    def components(self, encode: Encode | None) -> Normal:
        """The components (M, Z)."""
        return Normal(self.means, 5 * torch.tanh(self.log_stds / 5))

    def log_prob(self, z: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        parts = self.components(encode)
        each = Normal(parts.mean[None], parts.log_std[None]).log_prob(z[:, None]).sum(2)  # (B, M)
        return (self.logits.log_softmax(0) + each).logsumexp(1)

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        parts, index = self.components(encode), chosen(self.logits.softmax(0), pick)
        return Normal(parts.mean[index], parts.log_std[index]).rsample(noise)


class Vamp(Mixture):
    """The mixture of the posteriors of M learned pseudo-items (Tomczak & Welling 2018, eq. 10).

    With labels the pseudo-items take turns through the classes.
    """

    def __init__(self, latent_dim: int, space: Space, classes: int = 0, *, components: int = 100):
        super().__init__(latent_dim, space, classes, components=components)
        del self.means, self.log_stds
        self.items = nn.Parameter(torch.zeros(components, *space))
        self.register_buffer("labels", torch.arange(components) % classes if classes else None)
        self.labels: Tensor | None

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.logits)
        nn.init.normal_(self.items, std=0.1)

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """The pseudo-items begin as training items: each is then the centre of a code that exists."""
        index = torch.arange(len(self.items), device=x.device) * max(1, len(x) // len(self.items)) % len(x)
        self.items.copy_(x[index])

    def components(self, encode: Encode | None) -> Normal:
        assert encode is not None
        return encode(self.items.contiguous(memory_format=_format(self.items)), self.labels)


class Coupling(nn.Module):
    """z ↔ noise by affine coupling (Dinh et al. 2017, eq. 7 and 8): one half moves and scales the other."""

    def __init__(self, latent_dim: int, classes: int, hidden: int, flip: bool):
        super().__init__()
        self.still, self.flip = latent_dim // 2, flip
        self.conditioned = ConditionedNoise(self.still, classes)
        moved = latent_dim - self.still
        self.net = nn.Sequential(
            nn.Linear(self.conditioned.out_dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2), Zero(hidden, 2 * moved),
        )  # fmt: skip

    def _parts(self, v: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        v = v.flip(1) if self.flip else v
        still, moved = v[:, : self.still], v[:, self.still :]
        shift, log_scale = self.net(self.conditioned(still, y)).chunk(2, dim=1)
        return still, moved, shift, 2 * torch.tanh(log_scale / 2)

    def to_noise(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (B, Z) → (nearer to noise (B, Z), log |det| (B,))."""
        still, moved, shift, log_scale = self._parts(z, y)
        out = torch.cat([still, (moved - shift) * (-log_scale).exp()], dim=1)
        return out.flip(1) if self.flip else out, -log_scale.sum(1)

    def to_code(self, noise: Tensor, y: Tensor | None) -> Tensor:
        """The inverse of `to_noise`."""
        still, moved, shift, log_scale = self._parts(noise, y)
        out = torch.cat([still, moved * log_scale.exp() + shift], dim=1)
        return out.flip(1) if self.flip else out


class Zero(Block):
    """A fully connected layer that starts at zero."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.linear(h)


class Flow(Prior):
    """An invertible network between codes and normal noise: `depth` affine couplings, the dimensions mixed between them
    by fixed random rotations, after one standardisation. With labels it is a flow for each."""

    def __init__(
        self, latent_dim: int, space: Space, classes: int = 0, *, depth: int = 6, hidden: int = 128
    ):  # fmt: skip
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(latent_dim, classes, hidden, bool(k % 2)) for k in range(depth))
        rotations = [_rotation(latent_dim, k) for k in range(depth)]
        self.register_buffer("rotations", torch.stack(rotations))
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("std", torch.ones(latent_dim))
        self.rotations: Tensor
        self.mean: Tensor
        self.std: Tensor

    def _couplings(self) -> list[Any]:
        return list(self.couplings)

    def log_prob(self, z: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        v, log_det = self.to_noise(z, y)
        return Normal.standard(v).log_prob(v).sum(1) + log_det

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        return self.to_code(noise, y)

    def to_noise(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes z (B, Z) → (noise (B, Z), log |det| (B,))."""
        with torch.autocast(z.device.type, enabled=False):  # densities are float32
            v, log_det = (z.float() - self.mean) / self.std, -self.std.log().sum()
            for coupling, rotation in zip(self._couplings(), self.rotations, strict=True):
                v, more = coupling.to_noise(v @ rotation, y)
                log_det = log_det + more
        return v, log_det

    def to_code(self, noise: Tensor, y: Tensor | None) -> Tensor:
        """The inverse of `to_noise`: noise (B, Z) → codes (B, Z)."""
        v = noise
        for coupling, rotation in zip(self._couplings()[::-1], self.rotations.flip(0), strict=True):
            v = coupling.to_code(v, y) @ rotation.T
        return v * self.std + self.mean


class GaussianMixture(Prior):
    """M normal components with full covariances, for each label apart: fitted to codes, never trained by gradient."""

    def __init__(self, latent_dim: int, space: Space, classes: int = 0, *, components: int = 10):
        super().__init__()
        groups = max(1, classes)
        self.register_buffer("weights", torch.full((groups, components), 1 / components))
        self.register_buffer("means", torch.zeros(groups, components, latent_dim))
        self.register_buffer("factors", torch.eye(latent_dim).repeat(groups, components, 1, 1))  # Σ = L Lᵀ
        self.weights: Tensor
        self.means: Tensor
        self.factors: Tensor

    def _group(self, y: Tensor | None, count: int, device: torch.device) -> Tensor:
        if y is None or len(self.weights) == 1:
            return torch.zeros(count, dtype=torch.long, device=device)
        return y

    def log_prob(self, z: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        group, out = self._group(y, len(z), z.device), torch.empty(len(z), device=z.device)
        for g in group.unique().tolist():
            rows = group == g
            offset = (z[rows][:, None] - self.means[g]).transpose(0, 1).transpose(1, 2)  # (M, Z, B')
            white = torch.linalg.solve_triangular(self.factors[g], offset, upper=False)
            log_det = self.factors[g].diagonal(dim1=1, dim2=2).log().sum(1)
            each = -0.5 * white.square().sum(1) - log_det[:, None] - 0.5 * z.shape[1] * math.log(2 * math.pi)
            out[rows] = (self.weights[g].log()[:, None] + each).logsumexp(0)
        return out

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        group = self._group(y, len(noise), noise.device)
        index = torch.stack([chosen(self.weights[g], p) for g, p in zip(group, pick, strict=True)])
        return self.means[group, index] + (self.factors[group, index] @ noise[:, :, None]).squeeze(2)


class OnCodes(Prior):
    """A kernel on each of many codes, with labels on those of the label; never trained by gradient."""

    holds_codes = True

    def __init__(self, latent_dim: int, classes: int, kernels: int, width: float):
        super().__init__()
        self.width = width
        self.register_buffer("centres", torch.zeros(kernels, latent_dim))
        self.register_buffer("labels", torch.zeros(kernels, dtype=torch.long) if classes else None)
        self.centres: Tensor
        self.labels: Tensor | None

    def _put(self, centres: Tensor, y: Tensor | None) -> None:
        """The kernels' centres (N, Z) and labels (N,)."""
        self.centres.copy_(centres)
        if self.labels is not None and y is not None:
            self.labels.copy_(y)

    def _groups(self, y: Tensor | None, count: int) -> list[tuple[Tensor, Tensor]]:
        """(rows of `count` items, the kernels of their label) for each label in y (count,); of one without any kernel,
        and where there are no labels, all kernels."""
        device = self.centres.device
        everyone = torch.arange(len(self.centres), device=device)
        if self.labels is None or y is None:
            return [(torch.arange(count, device=device), everyone)]
        own = {k: everyone[self.labels == k] for k in y.unique().tolist()}
        return [((y == k).nonzero()[:, 0], some if len(some) else everyone) for k, some in own.items()]

    def _picked(self, pick: Tensor, y: Tensor | None) -> Tensor:
        """The kernels (B,) that numbers `pick` (B,) between 0 and 1 fall on, of those of the labels y (B,)."""
        index = torch.zeros(len(pick), dtype=torch.long, device=pick.device)
        for rows, own in self._groups(y, len(pick)):
            index[rows] = own[(pick[rows] * len(own)).long().clamp_max(len(own) - 1)]
        return index


class Kernels(OnCodes):
    """Normal kernels of one shape, the codes' covariance times width²; the codes are drawn to their mean so that the
    whole keeps mean and covariance (West 1993): at width 1 it is one normal distribution, near 0 it says the codes
    again. The centres are codes as noise: of mean 0 and covariance 1.
    """

    def __init__(self, latent_dim: int, space: Space, classes: int = 0, *, kernels: int = 1000, width: float = 0.5):
        super().__init__(latent_dim, classes, kernels, width)
        self.shrunk = math.sqrt(1 - width**2)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("factor", torch.eye(latent_dim))  # covariance = L Lᵀ
        self.mean: Tensor
        self.factor: Tensor

    def set_codes(self, codes: Tensor, y: Tensor | None) -> None:
        """Put the kernels on codes (N, Z) with labels (N,)."""
        self.mean.copy_(codes.mean(0))
        self.factor.copy_(_root(torch.cov(codes.double().T)))
        self._put(self._white(codes), y)

    def _white(self, z: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.factor, (z - self.mean).T, upper=False).T

    def log_prob(self, z: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        white, out, size = self._white(z), torch.empty(len(z), device=z.device), z.shape[1]
        for rows, own in self._groups(y, len(z)):
            apart = torch.cdist(white[rows], self.shrunk * self.centres[own]).square() / (2 * self.width**2)
            out[rows] = (-apart).logsumexp(1) - math.log(len(own))
        scale = self.factor.diagonal().log().sum() + size * math.log(self.width * math.sqrt(2 * math.pi))
        return out - scale

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        white = self.width * noise + self.shrunk * self.centres[self._picked(pick, y)]
        return white @ self.factor.T + self.mean


ROWS = 50  # kernels whose shapes are in memory at once
THIN = 1e-3  # of the codes' mean variance: what every direction has at least, so that kernels are densities


class LocalKernels(OnCodes):
    """Normal kernels, each as wide in each direction as the codes of the items most alike to its own: it reaches along
    the codes, and not across what lies empty between them.

    p(z) = mean over i of N(z; zᵢ, width²·Cᵢ + thin·I), Cᵢ the covariance of zᵢ and the codes of the M − 1 items most
    alike to item i (manifold Parzen windows, Vincent & Bengio 2003, eq. 3 to 5, by likeness of items, not of codes).
    near (N, M): those items' numbers, i first.
    """

    def __init__(
        self, latent_dim: int, space: Space, classes: int = 0, *, kernels: int = 1000, width: float = 1.0,
        near: int = 17,
    ):  # fmt: skip
        super().__init__(latent_dim, classes, kernels, width)
        self.register_buffer("near", torch.zeros(kernels, near, dtype=torch.int32))
        self.register_buffer("thin", torch.ones(()))
        self.near: Tensor
        self.thin: Tensor

    def set_codes(self, codes: Tensor, y: Tensor | None, views: Tensor, kinds: Tensor | None) -> None:
        """Put the kernels on codes (N, Z) with labels (N,) of items that are the more alike, the nearer their views
        (N, V) are, those of one kind (N,) above all."""
        self._put(codes, y)
        self.near.copy_(most_alike(views, kinds, self.near.shape[1]))
        self.thin.copy_(THIN * codes.var(0).mean() + 1e-12)

    def _roots(self, index: Tensor) -> Tensor:
        """L (n, Z, Z) of the kernels `index` (n,): their covariances are L Lᵀ."""
        about = self.centres[self.near[index].long()].double()
        about = about - about.mean(1, keepdim=True)
        thin = self.thin.double() * torch.eye(about.shape[2], dtype=torch.double, device=about.device)
        covariance = self.width**2 * about.mT @ about / max(1, about.shape[1] - 1) + thin
        return torch.linalg.cholesky(covariance).float()

    def log_prob(self, z: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        out = torch.full((len(z),), -torch.inf, device=z.device)
        for rows, own in self._groups(y, len(z)):
            for part in own.split(ROWS):
                root, offset = self._roots(part), z[rows] - self.centres[part, None]  # (n, B, Z)
                white = torch.linalg.solve_triangular(root, offset.mT, upper=False)
                each = -0.5 * white.square().sum(1) - root.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
                out[rows] = torch.logaddexp(out[rows], each.logsumexp(0))
            out[rows] -= math.log(len(own))
        return out - 0.5 * z.shape[1] * math.log(2 * math.pi)

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        index = self._picked(pick, y)
        parts = zip(index.split(ROWS), noise.split(ROWS), strict=True)
        spread = torch.cat([(self._roots(i) @ e[:, :, None]).squeeze(2) for i, e in parts])
        return self.centres[index] + spread


class LastCodes(OnCodes):
    """Local kernels on the last codes seen in training, for a decoder that is to learn while they change.

    views (P, V) of their items say which are most alike, as in `LocalKernels`, whose covariance z has, but for the
    thin part: z = zᵢ + width · Σₖ εₖ (zₖ − mean) / √(M − 1), ε normal, k over i and the M − 1 items most alike.
    """

    def __init__(self, latent_dim: int, space: Space, classes: int = 0, *, kernels: int = 2048, width: float = 0.9):
        super().__init__(latent_dim, classes, kernels, width)
        self.near = min(NEAR, latent_dim, kernels)
        self.register_buffer("views", torch.zeros(kernels, look(torch.zeros(1, *space), self.centres[:1]).shape[1]))
        self.views: Tensor

    @torch.no_grad()
    def keep(self, codes: Tensor, y: Tensor | None, x: Tensor, before: int) -> int:
        """Put codes (B, Z) of items x (B, *space) with labels y (B,) in the places of the oldest of the `before` that
        came so far, the first ones in all places; returns how many have come now."""
        size, count = len(self.centres), len(codes)
        source = torch.arange(min(count, size) if before else size, device=codes.device)
        place = (before + source) % size
        source = source % count
        self.centres[place], self.views[place] = codes[source].float(), look(x, codes)[source].float()
        if self.labels is not None and y is not None:
            self.labels[place] = y[source]
        return before + count

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None, encode: Encode | None = None) -> Tensor:
        index = self._picked(pick, y)
        apart = torch.cdist(self.views[index], self.views, compute_mode="donot_use_mm_for_euclid_dist").double()
        apart = apart.masked_fill(apart == 0, 2 * OTHER)  # the same item, which may have come more than once
        if self.labels is not None:
            apart = apart + OTHER * (self.labels[index, None] != self.labels)
        near = torch.cat([index[:, None], apart.topk(self.near - 1, largest=False).indices], 1)
        about = self.centres[near]
        about = about - about.mean(1, keepdim=True)
        return self.centres[index] + self.width * (noise[:, : self.near, None] * about).sum(1) / (self.near - 1) ** 0.5


NEAR = 17  # an item and those most alike, whose codes give a kernel its shape
COARSE = 16  # pixels a side: at this size pictures are compared


def look(x: Tensor, codes: Tensor) -> Tensor:
    """What says how alike items x (N, *space) with codes (N, Z) are: pictures (N, V) at `COARSE` pixels a side, since a
    small shift must not make the same thing another; anything else by its codes."""
    if x.dim() != 4:
        return codes
    return adaptive_avg_pool2d(x.float(), (min(x.shape[2], COARSE), min(x.shape[3], COARSE))).flatten(1)


OTHER = 1e6  # a distance beyond all others, to items of another label


def most_alike(views: Tensor, y: Tensor | None, most: int) -> Tensor:
    """(N, most) numbers of the items whose views (N, V) are nearest to each, itself first, then those of its own label
    y (N,), then, where these are too few, of others; itself again where there are no more."""
    found = []
    for start in range(0, len(views), 500):
        rows = torch.arange(start, min(start + 500, len(views)), device=views.device)
        apart = torch.cdist(views[rows].double(), views.double())
        if y is not None:
            apart = apart + OTHER * (y[rows, None] != y)
        apart[torch.arange(len(rows)), rows] = -1.0  # itself, also where another is the same
        near = apart.topk(min(most, len(views)), largest=False).indices
        found.append(torch.cat([near, rows[:, None].expand(-1, most - near.shape[1])], 1))
    return torch.cat(found)


def _root(covariance: Tensor) -> Tensor:
    """L of covariance (Z, Z) = L Lᵀ."""
    ridge = 1e-6 * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.cholesky(covariance + ridge).float()


def chosen(weights: Tensor, pick: Tensor) -> Tensor:
    """The components that numbers `pick` between 0 and 1 fall on, where component m takes the share weights[m]."""
    return torch.searchsorted(weights.cumsum(0), pick.contiguous()).clamp_max(len(weights) - 1)


def _rotation(size: int, seed: int) -> Tensor:
    """A fixed random orthogonal matrix (size, size)."""
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]).float()


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


PRIORS: dict[str, Any] = {
    "normal": StandardNormal, "mixture": Mixture, "vamp": Vamp, "flow": Flow, "gmm": GaussianMixture,
    "kernels": Kernels, "local": LocalKernels,
}  # fmt: skip
