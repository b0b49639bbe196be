"""Networks whose code keeps its places in both directions: an item is a picture, and its code a smaller one.

Most of an item passes through as it is, and only what the domain asks for is changed, as in a translator between two
domains; but one pair of networks serves all (Choi et al. 2018, StarGAN; Kameoka et al. 2018, StarGAN-VC). On the way in
what a channel is on average goes (instance normalisation); on the way out each channel is scaled and shifted as the
domain says, and each row of the small picture, which of a spectrogram is a band of pitches, has numbers of the domain.

Shapes: B batch · C, H, W space · p, q = H, W / 2^downs places · Z = variables each x p·q places · K domains
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.nets.blocks import ConditionedNoise, ResidualBlock, Role, Space, shrunk
from morphogen.nets.translators import InstanceNorm

BANDS = 8  # numbers that a domain has for each row of places


class StyledBlock(ResidualBlock):
    """A residual block whose channels are scaled and shifted between its convolutions as the domain says.

    forward: h (B, C, p, q), domain (B, E) or None → (B, C, p, q).
    """

    def __init__(self, channels: int, embedded: int):
        super().__init__(channels, channels)
        self.style = nn.Linear(embedded, 2 * channels) if embedded else None

    def forward(self, h: Tensor, domain: Tensor | None = None) -> Tensor:
        inner = self.first(F.leaky_relu(h, 0.2))
        if self.style is not None and domain is not None:
            scale, shift = self.style(domain)[:, :, None, None].to(inner.dtype).chunk(2, 1)
            inner = inner * (1 + scale) + shift
        return h + self.second(F.leaky_relu(inner, 0.2))


class MapEncoder(Role):
    """x (B, C, H, W) → (B, outputs): of means, then of log σ, channel after channel, place after place.

    width: channels at half the size, to which four pixels each are folded, doubled at each further one of `downs`
    halvings. blocks: residual blocks at the small size. still: instance normalisation after every halving and at the
    end.
    """

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, width: int = 32, downs: int = 2, blocks: int = 2,
        still: bool = True,
    ):  # fmt: skip
        super().__init__()
        each, self.multiple = variables_at(outputs, space, downs), 2**downs
        wide = width * 2 ** (downs - 1)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * space[0], width, 5, padding=2)]
        for k in range(downs - 1):
            layers += [InstanceNorm(width * 2**k)] if still else []
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(width * 2**k, width * 2 ** (k + 1), 4, 2, 1)]
        layers += [InstanceNorm(wide)] if still else []
        layers += [ResidualBlock(wide, wide) for _ in range(blocks)]
        layers += [InstanceNorm(wide)] if still else []
        self.body = nn.Sequential(*layers)
        self.label = nn.Embedding(classes, wide) if classes else None
        self.last = nn.Conv2d(wide, each, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        padding = (0, -x.shape[3] % self.multiple, 0, -x.shape[2] % self.multiple)
        h = self.body(F.pad(x, padding, mode="replicate"))
        h = h if self.label is None else h + self.label(y)[:, :, None, None].to(h.dtype)
        h = F.leaky_relu(h, 0.2)
        with torch.autocast(h.device.type, enabled=False):
            return self.last(h.float()).flatten(1)


class MapDecoder(Role):
    """The way back: a code (B, Z), domain y → (B, C, H, W). width, downs, blocks: as in the encoder."""

    def __init__(
        self, space: Space, latent_dim: int, classes: int = 0, *, width: int = 32, downs: int = 2, blocks: int = 3
    ):
        super().__init__()
        self.space, self.places = tuple(space), shrunk((space[1], space[2]), downs)
        self.noise = ConditionedNoise(latent_dim, classes)  # its embedding is the domain's code
        embedded, wide = self.noise.out_dim - latent_dim, width * 2 ** (downs - 1)
        self.bands = nn.Linear(embedded, BANDS * self.places[0]) if classes else None
        each = variables_at(latent_dim, space, downs) + (BANDS if classes else 0)
        self.first = nn.Conv2d(each, wide, 3, padding=1)
        self.blocks = nn.ModuleList(StyledBlock(wide, embedded) for _ in range(blocks))
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(width * 2**k, width * 2 ** (k - 1), 4, 2, 1) for k in range(downs - 1, 0, -1)
        )
        self.last = nn.Conv2d(width, 4 * space[0], 5, padding=2)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        domain = None if self.noise.embedding is None else self.noise.embedding(y)
        h = z.view(len(z), -1, *self.places)
        if self.bands is not None and domain is not None:
            band = self.bands(domain).view(len(z), BANDS, self.places[0], 1)
            h = torch.cat([h, band.to(h.dtype).expand(-1, -1, -1, self.places[1])], 1)
        h = self.first(h.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h, domain)
        for up in self.ups:
            h = up(F.leaky_relu(h, 0.2))
        whole = F.pixel_shuffle(self.last(F.leaky_relu(h, 0.2)), 2)
        return whole[:, :, : self.space[1], : self.space[2]]


def variables_at(numbers: int, space: Space, downs: int) -> int:
    """Variables at each place of a code of so many numbers; ValueError where they do not come out even."""
    if downs < 1:
        raise ValueError("downs must be at least 1")
    places = math.prod(shrunk((space[1], space[2]), downs))
    if places == 1:
        raise ValueError(f"downs={downs} leaves one place only")
    if numbers % places:
        raise ValueError(f"model.latent_dim must be a multiple of the {places} places of this code")
    return numbers // places
