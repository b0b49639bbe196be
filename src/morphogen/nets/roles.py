"""The networks that play a role in a family, by kind.

    generator      z (B, Z), y (B,) or None → x (B, *space), before the modality's squash
    discriminator  x (B, *space), y (B,) or None → logit (B,), or several of an item (B, N): high for real, float32
    encoder        x (B, *space), y (B,) or None → (B, outputs): mean and log σ of the latent variables
    decoder        a generator whose output are the parameters of a likelihood

Any module with these calls can take a network's place. Shapes: B batch · Z latent_dim · K classes (0: no labels) ·
C channels · H, W size. Images of any size work: a grid of at least 4 a side is doubled and its middle is taken.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.config import near
from morphogen.errors import UsageError
from morphogen.nets.blocks import (
    Block,
    ConditionedNoise,
    ResidualBlock,
    Role,
    Space,
    Summary,
    Verdict,
    crop,
    halvings,
    shrunk,
)
from morphogen.nets.frames import FrameDecoder, FrameEncoder
from morphogen.nets.ladder import LadderDecoder, LadderEncoder
from morphogen.nets.maps import MapDecoder, MapEncoder
from morphogen.nets.projected import SIDE, FrozenTrunk, Head
from morphogen.nets.text import TEXT_DECODERS, TEXT_ENCODERS, PlacesCritic
from morphogen.nets.translators import PatchDiscriminator


class ConvGenerator(Role):
    """Fully connected, then transposed convolutions with batch normalisation (DCGAN, Radford et al. 2016).

    width: channels at half the full size; each halving below doubles them, up to `most`.
    depth: convolutions at each size below the full one; those after the first keep the size.
    """

    def __init__(
        self, space: Space, latent_dim: int, classes: int = 0, *, width: int = 64, most: int = 256, depth: int = 1
    ):
        super().__init__()
        channels, *self.size = space
        stages = halvings(*self.size)
        widths = [min(most, width * 2**k) for k in range(stages - 1, -1, -1)]
        self.start = (widths[0], *shrunk((self.size[0], self.size[1]), stages))
        self.noise = ConditionedNoise(latent_dim, classes)
        self.dense = nn.Linear(self.noise.out_dim, self.start[0] * self.start[1] * self.start[2])
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.LeakyReLU(0.2)]
        for stage, o in enumerate(widths):
            if stage:
                layers += [nn.ConvTranspose2d(widths[stage - 1], o, 4, 2, 1, bias=False)]
                layers += [nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
            for _ in range(depth - 1):
                layers += [nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.last = nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.dense(self.noise(z, y)).view(-1, *self.start)  # (B, C0, H0, W0)
        h = self.body(h.contiguous(memory_format=torch.channels_last))
        return crop(self.last(h), (self.size[0], self.size[1]))


class Trunk(Role):
    """A body that makes of an item (B, *space) numbers (B, F), and fully connected features of them."""

    def __init__(self, body: nn.Module, space: Space, features: int):
        super().__init__()
        self.body = body
        with torch.no_grad():
            flat = body(torch.zeros(1, *space)).shape[1]
        self.dense = nn.Linear(flat, features)

    def features(self, x: Tensor) -> Tensor:
        """x (B, *space) → (B, features)."""
        return F.leaky_relu(self.dense(self.body(x)), 0.2)


class ConvTrunk(Trunk):
    """Strided convolutions, then fully connected features, without normalisation (which would couple the items).

    width: channels at half the full size; each further halving doubles them, up to `most`.
    """

    def __init__(self, space: Space, width: int, most: int, features: int, dropout: float):
        channels, height, wide = space
        stages = halvings(height, wide)
        layers: list[nn.Module] = []
        for k in range(stages):
            out = min(most, width * 2**k)
            layers += [nn.Conv2d(channels, out, 4, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
            channels = out
        out = min(most, 2 * channels)
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(out, out, 3, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Dropout(dropout)]
        kept = (layer for layer in layers if dropout or not isinstance(layer, nn.Dropout))
        super().__init__(nn.Sequential(*kept), space, features)


class ConvDiscriminator(ConvTrunk):
    """A convolutional trunk that ends in one logit."""

    def __init__(
        self, space: Space, classes: int = 0, *, width: int = 32, most: int = 256, features: int = 256,
        dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__(space, width, most, features, dropout)
        self.verdict = Verdict(features, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.verdict(self.features(x), y)


class ProjectedDiscriminator(ConvDiscriminator):
    """A convolutional discriminator and, while it trains, heads beside it that look at three depths of a frozen
    classifier's trunk (Sauer et al. 2021, section 3.2): then it gives a logit each (B, 1 + 3), else its own (B,).

    heads: channels in each head.  side: the largest at which the classifier sees items, in pixels. `seen` must learn
    that trunk before the first step.
    """

    def __init__(
        self, space: Space, classes: int = 0, *, width: int = 32, most: int = 256, features: int = 256,
        dropout: float = 0.0, heads: int = 32, side: int = SIDE,
    ):  # fmt: skip
        super().__init__(space, classes, width=width, most=most, features=features, dropout=dropout)
        self.seen = FrozenTrunk(space, side)
        examples = self.seen(torch.zeros(1, *space))
        self.heads = nn.ModuleList(Head(example, classes, heads, features) for example in examples)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        own = super().forward(x, y)
        if not self.training:
            return own
        return torch.stack([own, *(head(h, y) for head, h in zip(self.heads, self.seen(x), strict=True))], dim=1)


class ConvEncoder(ConvTrunk):
    """A convolutional trunk that ends in the parameters of a posterior."""

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, width: int = 64, most: int = 256, features: int = 256,
        dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__(space, width, most, features, dropout)
        self.summary = Summary(features, outputs, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.summary(self.features(x), y)


class PairDiscriminator(ConvTrunk):
    """A convolutional trunk for the item, the code beside its features, and fully connected layers to one logit: the
    joint critic of an item and its code (Donahue et al. 2017)."""

    def __init__(
        self, space: Space, latent_dim: int, *, width: int = 32, most: int = 256, features: int = 256,
        hidden: int = 256,
    ):  # fmt: skip
        super().__init__(space, width, most, features, 0.0)
        self.both = nn.Sequential(nn.Linear(features + latent_dim, hidden), nn.LeakyReLU(0.2))
        self.verdict = Verdict(hidden, 0)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, *space), z (B, Z) → logit (B,)."""
        h = self.features(x)
        return self.verdict(self.both(torch.cat([h, z.to(h.dtype)], dim=1)), None)


class ResidualGenerator(Role):
    """Fully connected, then residual blocks and nearest-neighbour doublings, without normalisation (after R3GAN)."""

    def __init__(
        self, space: Space, latent_dim: int, classes: int = 0, *, width: int = 32, most: int = 128, depth: int = 1
    ):
        super().__init__()
        channels, *self.size = space
        stages = halvings(*self.size)
        widths = [min(most, width * 2**k) for k in range(stages, -1, -1)]
        self.start = (widths[0], *shrunk((self.size[0], self.size[1]), stages))
        self.noise = ConditionedNoise(latent_dim, classes)
        self.dense = nn.Linear(self.noise.out_dim, self.start[0] * self.start[1] * self.start[2])
        layers: list[nn.Module] = [ResidualBlock(widths[0], widths[0]) for _ in range(depth)]
        for i, o in itertools.pairwise(widths):
            layers += [nn.Conv2d(i, o, 1), nn.Upsample(scale_factor=2)]  # the 1x1 first: a quarter of the work
            layers += [ResidualBlock(o, o) for _ in range(depth)]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.dense(self.noise(z, y)).view(-1, *self.start)
        h = self.body(h.contiguous(memory_format=torch.channels_last))
        return crop(self.last(F.leaky_relu(h, 0.2)), (self.size[0], self.size[1]))


class ResidualTrunk(Trunk):
    """The residual generator mirrored: blocks and average pooling, then fully connected features."""

    def __init__(self, space: Space, width: int, most: int, depth: int, features: int):
        channels, height, wide = space
        stages = halvings(height, wide)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        i = width
        for k in range(stages):
            o = min(most, width * 2 ** (k + 1))
            layers += [ResidualBlock(i, i) for _ in range(depth)]
            layers += [nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(i, o, 1)]
            i = o
        layers += [ResidualBlock(i, i), nn.LeakyReLU(0.2), nn.Conv2d(i, i, 3, 2, 1), nn.LeakyReLU(0.2), nn.Flatten()]
        super().__init__(nn.Sequential(*layers), space, features)


class ResidualDiscriminator(ResidualTrunk):
    """A residual trunk that ends in one logit."""

    def __init__(
        self, space: Space, classes: int = 0, *, width: int = 32, most: int = 128, depth: int = 1, features: int = 256
    ):
        super().__init__(space, width, most, depth, features)
        self.verdict = Verdict(features, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.verdict(self.features(x), y)


class ResidualEncoder(ResidualTrunk):
    """A residual trunk that ends in the parameters of a posterior."""

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, width: int = 32, most: int = 128, depth: int = 1,
        features: int = 256,
    ):  # fmt: skip
        super().__init__(space, width, most, depth, features)
        self.summary = Summary(features, outputs, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.summary(self.features(x), y)


class Waves(nn.Module):
    """Numbers (B, D), and sin and cos of each at so many octaves beside them (B, D · (1 + 2 · octaves)), the Fourier
    features of Tancik et al. 2020, section 4."""

    def __init__(self, octaves: int):
        super().__init__()
        self.register_buffer("octaves", 2.0 ** torch.arange(octaves), persistent=False)
        self.octaves: Tensor

    def forward(self, x: Tensor) -> Tensor:
        angles = (x.unsqueeze(2) * self.octaves).flatten(1)
        return torch.cat([x, angles.sin(), angles.cos()], dim=1)


class DenseGenerator(Role):
    """Fully connected layers only, for points and for the seed's generator.

    norm_momentum: torch's momentum of batch normalisation after each activation; None leaves it out.
    waves: octaves of sin and cos of every number of z, and of the label's embedding, beside it (Tancik et al. 2020): a
        short way in the latent space can then be a long one among the items, as between two modes it must be.
    """

    ranks = (1, 3)

    def __init__(
        self, space: Space, latent_dim: int, classes: int = 0, *, hidden: tuple[int, ...] = (256, 256, 256),
        slope: float = 0.2, norm_momentum: float | None = None, waves: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.space = tuple(space)
        self.noise = ConditionedNoise(latent_dim, classes)
        self.waves = Waves(waves)
        layers: list[nn.Module] = []
        width = self.noise.out_dim * (1 + 2 * waves)
        for out in hidden:
            layers += [nn.Linear(width, out), nn.LeakyReLU(slope)]
            layers += [nn.BatchNorm1d(out, momentum=norm_momentum)] if norm_momentum else []
            width = out
        self.body = nn.Sequential(*layers, nn.Linear(width, int(torch.tensor(space).prod())))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.body(self.waves(self.noise(z, y))).view(-1, *self.space)


class DenseDiscriminator(Role):
    """Fully connected layers to one logit.

    waves: octaves of sin and cos of every coordinate beside it (Tancik et al. 2020). Without them a small network is
    blind to structure much finer than the whole cloud, such as the modes of the grid, 1/50 of its width.
    plain: how many of the last coordinates get no waves, such as the level of `model.noise`.
    """

    ranks = (1, 3)

    def __init__(
        self, space: Space, classes: int = 0, *, hidden: tuple[int, ...] = (256, 256, 256), waves: int = 0,
        plain: int = 0,
    ):  # fmt: skip
        super().__init__()
        size = int(torch.tensor(space).prod())
        if not 0 <= plain <= size:
            raise ValueError(f"plain={plain} of {size} coordinates")
        self.waves, self.waved = Waves(waves), size - plain
        layers: list[nn.Module] = []
        width = size + 2 * waves * self.waved
        for out in hidden:
            layers += [nn.Linear(width, out), nn.LeakyReLU(0.2)]
            width = out
        self.body = nn.Sequential(*layers)
        self.verdict = Verdict(width, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        h = torch.cat([self.waves(x[:, : self.waved]), x[:, self.waved :]], dim=1)
        return self.verdict(self.body(h), y)


class DenseEncoder(Role):
    """Fully connected layers to the parameters of a posterior."""

    ranks = (1, 3)

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, hidden: tuple[int, ...] = (256, 256), slope: float = 0.2
    ):
        super().__init__()
        widths = [int(torch.tensor(space).prod()), *hidden]
        layers = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.LeakyReLU(slope))]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.summary = Summary(widths[-1], outputs, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.summary(self.body(x), y)


GENERATORS = {"conv": ConvGenerator, "residual": ResidualGenerator, "dense": DenseGenerator}
CRITICS = {"conv": ConvDiscriminator, "residual": ResidualDiscriminator, "dense": DenseDiscriminator}
PATCH_CRITICS = {"patch": PatchDiscriminator, **CRITICS, "places": PlacesCritic}
DISCRIMINATORS = {**CRITICS, "projected": ProjectedDiscriminator}
PAIR_CRITICS = {"conv": PairDiscriminator}
ENCODERS = {"conv": ConvEncoder, "residual": ResidualEncoder, "dense": DenseEncoder, "ladder": LadderEncoder}
ENCODERS |= {"frames": FrameEncoder, "maps": MapEncoder, **TEXT_ENCODERS}
GUESSES = {kind: ENCODERS[kind] for kind in ("conv", "residual", "dense")}  # those that see an item as a whole
DECODERS = {**GENERATORS, "ladder": LadderDecoder, "frames": FrameDecoder, "maps": MapDecoder, **TEXT_DECODERS}


def build_network(registry: Mapping[str, type[Role]], options: dict[str, Any], **context: Any) -> nn.Module:
    """The network that `options` describe: {'kind': name, then that kind's own keywords}.

    Raises UsageError for an unknown kind or keyword, or a network that does not take the given space.
    """
    options = dict(options)
    kind = options.pop("kind", next(iter(registry)))
    if kind not in registry:
        raise UsageError(f"No network is of kind '{kind}'; there are {', '.join(registry)}.{near(kind, registry)}")
    known = [p.name for p in inspect.signature(registry[kind]).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            raise UsageError(f"A '{kind}' network has no option '{key}'; it has {', '.join(known)}.{near(key, known)}")
    if len(context["space"]) not in registry[kind].ranks:
        raise UsageError(f"A '{kind}' network cannot work on data of shape {context['space']}; set another kind.")
    try:
        return registry[kind](**context, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"A '{kind}' network cannot be made with {options}: {str(error).splitlines()[0]}.") from None


def _seed(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:7], "little")


def initialise(module: nn.Module, seed: int, name: str = "") -> None:
    """Draw every layer's weights anew, each a function of (seed, its name) alone.

    So the same layer starts the same whatever stands beside it.
    """
    for path, layer in module.named_modules(prefix=name):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(seed, path))
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
    for path, layer in module.named_modules(prefix=name):  # after their layers, blocks have the last word
        if isinstance(layer, Block):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_seed(seed, path))
                layer.reset_own_parameters()
