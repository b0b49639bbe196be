"""A ladder of latent layers (Sønderby et al. 2016; the residual posterior is NVAE's, Vahdat & Kautz 2020, section 3.2).

The encoder goes up once and leaves features at every size. The decoder goes down: at each layer it says what it expects
there, p(z_k | above), and, where features are given, what the item says, q(z_k | above, x), as a shift of that.

Shapes: B batch · K classes · top Z variables without a place, below them layers of (c, H', W') variables each, coarse
to fine. A code (B, Z + Σ c·H'·W') is the top variable and, for the layers below, the noise (z_k − mean) / σ under
p(z_k | above). So standard normal noise below any top is a sample of the prior, and a code alone gives the item back.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.nets.blocks import Block, ConditionedNoise, ResidualBlock, Role, Space, Summary, halvings
from morphogen.objectives.variational import Normal

Posterior = Callable[[list[Tensor]], Normal]
Visit = Callable[[int, Normal, Posterior], Tensor]
"""(layer, p(z_k | above), features → q(z_k | above, x)) → the z_k to go on with."""


class LadderEncoder(Role):
    """Up: x (B, *space), y → (top (B, outputs), features at each size, coarse to fine).

    width: channels at half the full size; each further halving doubles them, up to `most`.
    depth: residual blocks at each size.
    """

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, width: int = 32, most: int = 64, depth: int = 1,
        features: int = 256,
    ):  # fmt: skip
        super().__init__()
        channels, height, wide = space
        self.sizes = nn.ModuleList()
        stages = halvings(height, wide)
        for k in range(stages):
            out = min(most, width * 2**k)
            blocks = [ResidualBlock(out, out) for _ in range(depth)]
            self.sizes.append(nn.Sequential(nn.Conv2d(channels, out, 4, 2, 1), *blocks))
            channels = out
        coarsest = (height >> stages) * (wide >> stages)
        self.dense = nn.Linear(channels * coarsest, features)
        self.summary = Summary(features, outputs, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        features: list[Tensor] = []
        h = x
        for size in self.sizes:
            h = size(h)
            features.insert(0, F.leaky_relu(h, 0.2))
        top = F.leaky_relu(self.dense(features[0].flatten(1)), 0.2)
        return self.summary(top, y), features


class Head(Block):
    """A layer's means and log σ out of a stream; zeros at the start. hidden: with a convolution of its own before."""

    def __init__(self, channels: int, outputs: int, hidden: bool):
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels, 3, padding=1) if hidden else nn.Identity()
        self.last = nn.Conv2d(channels, outputs, 3, padding=1)

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        h = F.leaky_relu(h, 0.2)
        if isinstance(self.hidden, nn.Conv2d):
            h = F.leaky_relu_(self.hidden(h), 0.2)
        return self.last(h)


class Layer(nn.Module):
    """One layer of latent variables (c, H', W') on a stream h (B, C, H', W')."""

    def __init__(self, channels: int, latent_channels: int):
        super().__init__()
        self.expect = Head(channels, 2 * latent_channels, hidden=False)
        self.look = nn.Conv2d(channels, channels, 1)
        self.correct = Head(channels, 2 * latent_channels, hidden=True)
        self.back = nn.Conv2d(latent_channels, channels, 1)
        self.block = ResidualBlock(channels, channels)

    def prior(self, h: Tensor) -> Normal:
        """p(z | above)."""
        return Normal.of(self.expect(h))

    def posterior(self, h: Tensor, prior: Normal, features: Tensor) -> Normal:
        """q(z | above, x): the prior, shifted and scaled by what is seen (NVAE, section 3.2)."""
        change = Normal.of(self.correct(h + self.look(features)))
        return Normal(prior.mean + prior.log_std.exp() * change.mean, prior.log_std + change.log_std)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        return self.block(h + self.back(z.to(h.dtype)))


class LadderDecoder(Role):
    """Down: a code (B, Z + …), y → likelihood parameters (B, *space).

    width, most: as in the encoder, whose features it meets. layers: latent layers at each size below the full one.
    latent_channels: variables at each place of a layer.
    """

    def __init__(
        self, space: Space, latent_dim: int, classes: int = 0, *, width: int = 32, most: int = 64, layers: int = 1,
        latent_channels: int = 4,
    ):  # fmt: skip
        super().__init__()
        channels, height, wide = space
        self.size, self.top_dim = (height, wide), latent_dim
        stages = halvings(height, wide)
        self.grids = [(height >> k, wide >> k) for k in range(stages, 0, -1)]  # coarse to fine
        widths = [min(most, width * 2 ** (k - 1)) for k in range(stages, 0, -1)]
        self.noise = ConditionedNoise(latent_dim, classes)
        self.start = (widths[0], *self.grids[0])
        self.dense = nn.Linear(self.noise.out_dim, math.prod(self.start))
        self.layers, self.up, self.grid_of = nn.ModuleList(), nn.ModuleList(), []
        for k, channels_here in enumerate(widths):
            self.layers.extend(Layer(channels_here, latent_channels) for _ in range(layers))
            self.grid_of += [k] * layers
            after = widths[k + 1] if k + 1 < len(widths) else max(16, width // 2)
            self.up.append(nn.Conv2d(channels_here, after, 1))
        self.finish = ResidualBlock(after, after)
        self.last = nn.Conv2d(after, channels, 3, padding=1)
        self.shapes = [(latent_channels, *self.grids[k]) for k in self.grid_of]
        self.latent_dim = latent_dim + sum(math.prod(s) for s in self.shapes)

    def below(self, code: Tensor) -> list[Tensor]:
        """The noise of each layer (B, c, H', W') in a code."""
        parts = code[:, self.top_dim :].split([math.prod(s) for s in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, z: Tensor, y: Tensor | None = None, visit: Visit | None = None) -> Tensor:
        if visit is None:
            noise = self.below(z)
            visit = lambda k, prior, _: prior.rsample(noise[k])
        h = self.dense(self.noise(z[:, : self.top_dim], y)).view(-1, *self.start)
        h = h.contiguous(memory_format=torch.channels_last)
        k = 0
        for grid, up in enumerate(self.up):
            while k < len(self.layers) and self.grid_of[k] == grid:
                h = self._visited(k, h, visit)
                k += 1
            size = self.grids[grid + 1] if grid + 1 < len(self.grids) else self.size
            h = F.interpolate(up(h), size=size)
        return self.last(F.leaky_relu(self.finish(h), 0.2))

    def _visited(self, k: int, h: Tensor, visit: Visit) -> Tensor:
        layer: Layer = self.layers[k]  # type: ignore[assignment]
        prior = layer.prior(h)
        z = visit(k, prior, lambda features: layer.posterior(h, prior, features[self.grid_of[k]]))
        return layer(h, z)
