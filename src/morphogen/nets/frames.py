"""Networks along time: an item is a row of columns, such as a spectrogram's frames, and its code keeps their order.

A code without places must say where everything is; here each of its parts speaks of its own stretch of time, as frame
by frame voice conversion has it (Tobing et al. 2019). What stays the same all the time, such as who speaks, is taken
out of the stream by instance normalisation on the way in, and given back by the domain's scale and shift on the way
out (Chou et al. 2019, AdaIN-VC).

Shapes: B batch · C·M numbers in each of F columns · P = F / 2^downs places · Z = places x variables each · K domains
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.nets.blocks import Block, ConditionedNoise, Role, Space, shrunk

KERNEL = 5


class Still(nn.Module):
    """Takes out what does not change along time: every channel of (B, H, T) has mean 0 and deviation 1."""

    def forward(self, h: Tensor) -> Tensor:
        wide = h.float()
        mean = wide.mean(2, keepdim=True)
        return ((wide - mean) * (wide.var(2, keepdim=True, unbiased=False) + 1e-4).rsqrt()).to(h.dtype)


class FrameBlock(Block):
    """Two convolutions along time beside a shortcut, the last of which starts at zero; with domains, each channel is
    scaled and shifted between them as the domain says.

    forward: h (B, H, T), domain (B, E) or None → (B, H, T).
    """

    def __init__(self, hidden: int, embedded: int = 0):
        super().__init__()
        self.first = nn.Conv1d(hidden, hidden, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv1d(hidden, hidden, KERNEL, padding=KERNEL // 2)
        self.style = nn.Linear(embedded, 2 * hidden) if embedded else None

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, domain: Tensor | None = None) -> Tensor:
        inner = self.first(F.leaky_relu(h, 0.2))
        if self.style is not None and domain is not None:
            scale, shift = self.style(domain).unsqueeze(2).chunk(2, 1)
            inner = inner * (1 + scale) + shift
        return h + self.second(F.leaky_relu(inner, 0.2))


class FrameEncoder(Role):
    """x (B, C, M, F) → (B, outputs): of means, then of log σ, channel after channel, place after place.

    width: channels. downs: how often time is halved. blocks: residual blocks at each length.
    still: whether what does not change along time is taken out.
    """

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, width: int = 128, downs: int = 2, blocks: int = 1,
        still: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.outputs, self.numbers = outputs, -(-outputs // 2)  # means, then log σ
        each = 2 * variables_at(self.numbers, space, downs)
        self.label = nn.Embedding(classes, width) if classes else None
        layers: list[nn.Module] = [nn.Conv1d(math.prod(space[:2]), width, KERNEL, padding=KERNEL // 2)]
        for _ in range(downs):
            layers += [FrameBlock(width) for _ in range(blocks)]
            layers += [Still()] if still else []
            layers += [nn.LeakyReLU(0.2), nn.Conv1d(width, width, 4, 2, 1)]
        layers += [FrameBlock(width) for _ in range(blocks)]
        self.body = nn.Sequential(*layers)
        self.still = Still() if still else nn.Identity()
        self.last = nn.Conv1d(width, each, KERNEL, padding=KERNEL // 2)
        self.multiple = 2**downs

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = F.pad(x.flatten(1, 2), (0, -x.shape[3] % self.multiple), mode="replicate")
        h = self.still(self.body(h))
        h = h if self.label is None else h + self.label(y).unsqueeze(2)
        h = F.leaky_relu(h, 0.2)
        with torch.autocast(h.device.type, enabled=False):
            both = self.last(h.float()).chunk(2, 1)
        return torch.cat([part.flatten(1)[:, : self.numbers] for part in both], 1)[:, : self.outputs]


class FrameDecoder(Role):
    """The way back: a code (B, Z), domain y → (B, C, M, F). width, downs, blocks: as in the encoder."""

    def __init__(
        self, space: Space, latent_dim: int, classes: int = 0, *, width: int = 128, downs: int = 2, blocks: int = 1
    ):
        super().__init__()
        self.space, self.places = tuple(space), shrunk((1, space[2]), downs)[1]
        self.noise = ConditionedNoise(latent_dim, classes)  # its embedding is the domain's code
        embedded = self.noise.out_dim - latent_dim
        self.first = nn.Conv1d(variables_at(latent_dim, space, downs), width, KERNEL, padding=KERNEL // 2)
        self.blocks = nn.ModuleList(FrameBlock(width, embedded) for _ in range(blocks * (downs + 1)))
        self.ups = nn.ModuleList(nn.ConvTranspose1d(width, width, 4, 2, 1) for _ in range(downs))
        self.last = nn.Conv1d(width, math.prod(space[:2]), KERNEL, padding=KERNEL // 2)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        domain = None if self.noise.embedding is None else self.noise.embedding(y)
        whole = F.pad(z, (0, -z.shape[1] % self.places))
        h = self.first(whole.view(len(z), -1, self.places))
        share = len(self.blocks) // (len(self.ups) + 1)
        for k, block in enumerate(self.blocks):
            if k and k % share == 0:
                h = self.ups[k // share - 1](F.leaky_relu(h, 0.2))
            h = block(h, domain)
        return self.last(F.leaky_relu(h, 0.2))[:, :, : self.space[2]].unflatten(1, self.space[:2])


def variables_at(numbers: int, space: Space, downs: int) -> int:
    """Variables at each place of a code of so many numbers; where they do not come out even, the last place of the last
    channel goes without."""
    return -(-numbers // shrunk((1, space[2]), downs)[1])
