"""An encoder whose code is whitened domain by domain: what says which domain an item is of goes, what tells the items
of one domain apart stays.

Of each domain k the running mean μ_k and covariance C_k of the network's means h are kept, and the code's mean is

    z = gain · Σ_k share_k(x) · C_k^(−1/2) (h − μ_k)            (ZCA, Kessy et al. 2018, of each domain)

with the shares that a small network, which sees the item alone, gives to the domains. So in every domain the code has
nearly the mean 0 and the covariance 1, times the gain: the statistics lag behind the network. A code of many variables
is only brought to the variance 1.

Shapes: B batch · Z latent_dim · K domains
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from morphogen.nets.blocks import Block

FOLLOW = 0.002  # what each item adds to its domain's statistics
MOST = 32  # variables up to which covariances are kept, and not only variances
LEAST = 1e-3  # of the mean variance, added to each
ITERATIONS = 20  # of the inverse root; enough for variances 1,000 times apart


class WhitenedEncoder(Block):
    """x (B, *space) → (B, 2·Z) or, of point codes, (B, Z): as the network itself, the means whitened.

    net: an encoder that does not see the domain. guess: x → logits (B, K) of the domain. While it trains, labels given
    to `forward` teach the statistics, and nothing else.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, net: nn.Module, guess: nn.Module, latent_dim: int, classes: int):
        super().__init__()
        self.net, self.guess, self.latent_dim = net, guess, latent_dim
        self.gain = nn.Parameter(torch.ones(latent_dim))
        spread = torch.eye(latent_dim) if latent_dim <= MOST else torch.ones(latent_dim)
        self.register_buffer("mean", torch.zeros(classes, latent_dim))
        self.register_buffer("covariance", spread.repeat(classes, *[1] * spread.ndim))

    def reset_own_parameters(self) -> None:
        nn.init.ones_(self.gain)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean, *rest = self.net(x, None).float().split(self.latent_dim, 1)
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                share = self.guess(x, None).float().softmax(1)
                if self.training and y is not None:
                    self._follow(mean, y)
            return torch.cat([self.whitened(mean, share), *rest], 1)

    def whitened(self, mean: Tensor, share: Tensor) -> Tensor:
        """The code's means (B, Z) of the network's, as items that belong to the domains in shares (B, K)."""
        apart = mean[:, None] - self.mean  # (B, K, Z)
        if self.covariance.ndim == 2:
            least = LEAST * self.covariance.mean(1, keepdim=True)
            each = apart * (self.covariance + least).rsqrt()
        else:
            each = torch.einsum("bki,kij->bkj", apart, inverse_root(self.covariance))
        return self.gain * (share[:, :, None] * each).sum(1)

    def _follow(self, mean: Tensor, y: Tensor) -> None:
        """Bring each domain's statistics towards those of the items' means (B, Z) of domains y (B,)."""
        hot = nn.functional.one_hot(y, len(self.mean)).to(mean.dtype)  # (B, K)
        count = hot.sum(0).clamp_min(1)[:, None]
        pace = (1 - (1 - FOLLOW) ** hot.sum(0))[:, None]
        apart = mean - self.mean[y]
        if self.covariance.ndim == 2:
            self.covariance.lerp_(hot.T @ apart.square() / count, pace)
        else:
            found = torch.einsum("bk,bi,bj->kij", hot, apart, apart) / count[:, None]
            self.covariance.lerp_((found + found.mT) / 2, pace[:, :, None])
        self.mean.lerp_(hot.T @ mean / count, pace)


def inverse_root(covariance: Tensor) -> Tensor:
    """(C + least)^(−1/2) of positive matrices (K, Z, Z), by the coupled Newton-Schulz iteration (Higham 1997):
    products alone, so that no device waits for the host, as it would for eigenvectors."""
    one = torch.eye(covariance.shape[-1], device=covariance.device)
    least = LEAST * covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    matrix = covariance + least * one
    size = matrix.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]  # no eigenvalue is larger
    root, inverse = matrix / size, one.expand_as(matrix)
    for _ in range(ITERATIONS):
        step = 1.5 * one - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return inverse * size.rsqrt()
