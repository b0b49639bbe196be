"""Networks from one image space to another, and the patch discriminator that judges their outputs.

    translator     x (B, *space_in) → (B, *space_out), before the modality's squash
    patch critic   x (B, *space) → logits (B, H', W'): one for each patch, high for real, float32

Shapes: B batch · C channels · H, W size. Where sizes differ, the input is first brought to the output's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.nets.blocks import Block, ResidualBlock, Role, Space, crop
from morphogen.nets.text import PlacesTranslator


class InstanceNorm(nn.Module):
    """Each channel of each item to mean 0 and variance 1, then scaled and shifted (Ulyanov et al. 2016).

    torch's own kernel leaves the channels_last format; going back to it at once was the fastest form of six
    (`bench/forms.py`).
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.eps = eps

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale.flatten().to(x.dtype), self.shift.flatten().to(x.dtype)
        return F.instance_norm(x, weight=scale, bias=shift, eps=self.eps).contiguous(memory_format=torch.channels_last)


def padded(inputs: int, outputs: int, kernel: int, reflect: bool) -> nn.Conv2d:
    """A convolution that keeps the size, with reflected edges or zeros around."""
    mode = "reflect" if reflect else "zeros"
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode=mode)


class ResidualTranslator(Role):
    """Down, residual blocks, up (Zhu et al. 2017, appendix 7.2), on a slim scale.

    width: channels at the full size, doubled at each of `downs` halvings.  norm: instance normalisation after the
    convolutions that change the size; the blocks go without.  reflect: reflected edges in the first and last one.
    """

    def __init__(
        self, space: Space, space_out: Space, *, width: int = 32, downs: int = 1, blocks: int = 4, norm: bool = False,
        reflect: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.size, channels = (space_out[1], space_out[2]), space[0]
        layers: list[nn.Module] = [padded(channels, width, 5, reflect)]
        for k in range(downs):
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(width * 2**k, width * 2 ** (k + 1), 4, 2, 1)]
            layers += [InstanceNorm(width * 2 ** (k + 1))] if norm else []
        layers += [ResidualBlock(width * 2**downs, width * 2**downs) for _ in range(blocks)]
        for k in range(downs, 0, -1):
            layers += [nn.LeakyReLU(0.2), nn.ConvTranspose2d(width * 2**k, width * 2 ** (k - 1), 4, 2, 1)]
            layers += [InstanceNorm(width * 2 ** (k - 1))] if norm else []
        self.body = nn.Sequential(*layers, nn.LeakyReLU(0.2), padded(width, space_out[0], 5, reflect))
        self.multiple = 2**downs

    def forward(self, x: Tensor) -> Tensor:
        return _at_multiple(self.body, fitted(x, self.size), self.multiple)


class UNetTranslator(Role):
    """Halvings and doublings with a bridge across at every size (Ronneberger et al. 2015; Isola et al. 2017).

    width: channels at half the full size; each further halving doubles them, up to `most`.
    """

    def __init__(self, space: Space, space_out: Space, *, width: int = 32, most: int = 128, downs: int = 2):
        super().__init__()
        self.size, self.multiple = (space_out[1], space_out[2]), 2**downs
        widths = [min(most, width * 2**k) for k in range(downs)]
        self.down = nn.ModuleList(
            nn.Conv2d(i, o, 4, 2, 1) for i, o in zip([space[0], *widths[:-1]], widths, strict=True)
        )
        self.middle = ResidualBlock(widths[-1], widths[-1])
        inputs = [widths[-1], *(2 * w for w in widths[-2::-1])]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in zip(inputs, [*widths[-2::-1], width], strict=True)
        )
        self.last = nn.Conv2d(width + space[0], space_out[0], 3, padding=1)

    def _body(self, x: Tensor) -> Tensor:
        passed, h = [x], x
        for down in self.down:
            h = F.leaky_relu(down(h), 0.2)
            passed.append(h)
        h = self.middle(passed.pop())
        for up in self.up:
            h = torch.cat([F.leaky_relu(up(h), 0.2), passed.pop().to(h.dtype)], dim=1)
        return self.last(h)

    def forward(self, x: Tensor) -> Tensor:
        return _at_multiple(self._body, fitted(x, self.size), self.multiple)


class PatchDiscriminator(Role, Block):
    """Strided convolutions to a map of logits, each of which sees one patch (Isola et al. 2017, section 3.2.2).

    With labels a patch's logit is also ⟨embedding(y), its features⟩ (Miyato & Koyama 2018, eq. 3).
    width: channels at half the full size; each further halving doubles them, up to `most`.
    """

    def __init__(self, space: Space, classes: int = 0, *, width: int = 32, most: int = 256, downs: int = 2):
        super().__init__()
        channels, layers = space[0], []
        for k in range(downs):
            out = min(most, width * 2**k)
            layers += [nn.Conv2d(channels, out, 4, 2, 1), nn.LeakyReLU(0.2)]
            channels = out
        layers += [nn.Conv2d(channels, min(most, 2 * channels), 3, padding=1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(min(most, 2 * channels), 1, 3, padding=1)
        self.embedding = nn.Embedding(classes, min(most, 2 * channels)) if classes else None

    def reset_own_parameters(self) -> None:
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.02)  # labels begin as a hint, not as the verdict

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.body(x)
        with torch.autocast(h.device.type, enabled=False):
            h = h.float()
            logits = self.last(h).squeeze(1)
            return logits if self.embedding is None else logits + (self.embedding(y)[:, :, None, None] * h).sum(1)


def reduced(size: tuple[int, int], largest: int) -> tuple[int, int]:
    """The size (H, W) brought down to at most `largest` a side, aspect kept."""
    scale = min(1.0, largest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fitted(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Items (B, C, H, W) at another size, by area where that is smaller and bilinear where it is larger."""
    if x.shape[2:] == size:
        return x
    smaller = size[0] <= x.shape[2] and size[1] <= x.shape[3]
    if smaller:
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _at_multiple(body, x: Tensor, multiple: int) -> Tensor:
    """body(x) for a body that wants sides divisible by `multiple`: edges are repeated around x and cut off again."""
    height, width = x.shape[2:]
    down, right = -height % multiple, -width % multiple
    if not down and not right:
        return body(x)
    wide = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
    return crop(body(wide), (height, width))


TRANSLATORS = {"residual": ResidualTranslator, "unet": UNetTranslator, "places": PlacesTranslator}
