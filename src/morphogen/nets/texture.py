"""What a decoder's mean leaves out of items, drawn as it was measured: noise as large as the errors are at each level,
and as alike from one pixel to the next.

A Gaussian likelihood has one scale for all pixels, each on its own. With that, silence hisses, and where errors come in
strokes, as a voice's do, there are grains.

Shapes: B batch · N items · C channels · H, W size
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.objectives.likelihoods import normal_quantile

BINS = 64  # of the levels between -1 and 1
REACH = 3  # pixels to each side, beyond which errors count as unrelated
FEW = 10  # errors of the usual size that are added to those of each bin, so that a rare level has a size, too


class Texture(nn.Module):
    """sizes (BINS,): root mean square error where the mean has that level. kernel (2·REACH + 1, 2·REACH + 1), of norm
    1: what white noise is convolved with. mixing (C, C): how channels come out of unrelated ones. All are buffers:
    measured once, never learned by gradient. Drawn errors are normal, whatever the density."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        side = 2 * REACH + 1
        self.register_buffer("sizes", torch.zeros(BINS))
        self.register_buffer("kernel", torch.zeros(side, side))
        self.register_buffer("mixing", torch.eye(channels))
        self.sizes: Tensor
        self.kernel: Tensor
        self.mixing: Tensor

    @torch.no_grad()
    def learn(self, mean: Tensor, x: Tensor) -> None:
        """Measure the errors of means (N, C, H, W), in [-1, 1] as the items x (N, C, H, W) that they stand for."""
        bins, error = _bins(mean), x - mean
        flat, square = bins.flatten().cpu(), error.square().flatten().double().cpu()  # float32 would lose small ones
        count, total = (torch.bincount(flat, weights, BINS) for weights in (None, square))
        self.sizes.copy_(((total + FEW * square.mean()) / (count + FEW)).sqrt())
        size = self.sizes[bins]
        self.kernel.copy_(_kernel(_likeness(error, size)))
        self.mixing.copy_(_mixing(error, size))

    def numbers(self, mean: Tensor) -> int:
        """How many random numbers an item of means (B, C, H, W) takes."""
        return mean.shape[1] * (mean.shape[2] + 2 * REACH) * (mean.shape[3] + 2 * REACH)

    def forward(self, mean: Tensor, u: Tensor) -> Tensor:
        """Noise (B, C, H, W) for means (B, C, H, W), out of `numbers` between 0 and 1 an item, u (B, numbers)."""
        channels, height, width = mean.shape[1:]
        with torch.autocast(mean.device.type, enabled=False):
            white = normal_quantile(u.float()).view(-1, channels, height + 2 * REACH, width + 2 * REACH)
            mixed = torch.einsum("ij,bjhw->bihw", self.mixing.float(), white)
            kernel = self.kernel.float().expand(channels, 1, -1, -1)
            return self.sizes[_bins(mean)] * F.conv2d(mixed, kernel, groups=channels)


def _bins(mean: Tensor) -> Tensor:
    return ((mean.float() + 1) / 2 * BINS).long().clamp(0, BINS - 1)


def _likeness(error: Tensor, size: Tensor) -> Tensor:
    """Correlation (2·REACH + 1, 2·REACH + 1) of errors (N, C, H, W) of expected sizes (N, C, H, W) with those so many
    rows and columns away; it fades towards REACH, so that it ends without a step."""
    found = torch.zeros(2 * REACH + 1, 2 * REACH + 1, device=error.device)
    height, width = error.shape[2:]
    for dy in range(min(REACH + 1, height)):
        for dx in range(-min(REACH, width - 1), min(REACH + 1, width)):
            related = _lagged(error, dy, dx) / _lagged(size, dy, dx).clamp_min(1e-12)
            fade = (1 - (dy / (REACH + 1)) ** 2) * (1 - (dx / (REACH + 1)) ** 2)
            found[REACH + dy, REACH + dx] = found[REACH - dy, REACH - dx] = fade * related
    return found


def _lagged(v: Tensor, dy: int, dx: int) -> Tensor:
    """Sum () of the products of all numbers of v (N, C, H, W) with those dy ≥ 0 rows and dx columns further."""
    rows, columns = v.shape[2] - dy, v.shape[3] - abs(dx)
    here = v[:, :, :rows, max(0, -dx) :][..., :columns]
    return (here * v[:, :, dy:, max(0, dx) :][..., :columns]).sum()


def _mixing(error: Tensor, size: Tensor) -> Tensor:
    """L (C, C) with L Lᵀ = the correlation of the channels' errors (N, C, H, W) of expected sizes (N, C, H, W)."""
    related, expected = (torch.einsum("nihw,njhw->ij", v.double(), v.double()) for v in (error, size))
    covariance = related / expected.clamp_min(1e-12)
    scale = covariance.diagonal().clamp_min(1e-12).rsqrt()
    correlation = covariance * scale[:, None] * scale
    return torch.linalg.cholesky(correlation + 1e-4 * torch.eye(len(scale), device=scale.device)).float()


def _kernel(likeness: Tensor) -> Tensor:
    """The symmetric kernel with which white noise becomes so alike: the root of the likeness's spectrum
    (Wiener-Khinchin), cut off at REACH, of norm 1."""
    centred = torch.fft.ifftshift(F.pad(likeness.double(), (REACH,) * 4))
    root = torch.fft.fft2(centred).real.clamp_min(0).sqrt()
    kernel = torch.fft.fftshift(torch.fft.ifft2(root).real)[REACH:-REACH, REACH:-REACH]
    return (kernel / kernel.norm().clamp_min(1e-12)).float()
