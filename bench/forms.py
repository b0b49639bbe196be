"""Which form of instance normalisation and of reflected edges keeps convolutions fast: a forward and a backward pass.

    python bench/forms.py        prints a table and writes bench/forms.json

A block of 3x3 convolutions of 64 channels in bf16 and channels_last, with the form between them; milliseconds, the
median of rounds that alternate. `kept`: whether what comes out still has the channels_last format.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from morphogen.nets.translators import InstanceNorm, padded

CHANNELS, ROUNDS = 64, 15
SHAPES = {"32x32, batch 32": (32, CHANNELS, 32, 32), "64x64, batch 1": (1, CHANNELS, 64, 64)}


def conv(reflect: bool) -> nn.Module:
    return padded(CHANNELS, CHANNELS, 3, reflect)


class ByMoments(InstanceNorm):
    """The same by mean and variance, in float32: the format stays by itself."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
        factor = self.scale * (variance + self.eps).rsqrt()
        return (x * factor + (self.shift - mean * factor)).to(x.dtype)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "InstanceNorm2d of torch": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "GroupNorm(C, C) of torch": lambda: nn.GroupNorm(CHANNELS, CHANNELS),
    "var_mean and a product": lambda: ByMoments(CHANNELS),
    "instance_norm and back to channels_last, as here": lambda: InstanceNorm(CHANNELS),
}
EDGES: dict[str, Callable[[], nn.Module]] = {
    "zeros": lambda: conv(False),
    "ReflectionPad2d, then the convolution": lambda: nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(CHANNELS, CHANNELS, 3)
    ),
    "padding_mode=reflect, as here": lambda: conv(True),
}


def block(norm: Callable[[], nn.Module], edges: Callable[[], nn.Module]) -> nn.Sequential:
    layers = [layer for _ in range(3) for layer in (edges(), norm(), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def step(network: nn.Module, x: Tensor) -> float:
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x)
    out.float().square().mean().backward()
    return 1000 * (time.perf_counter() - begin)


def kept(network: nn.Module, x: Tensor) -> bool:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        return network(x).is_contiguous(memory_format=torch.channels_last)


def main() -> None:
    result = []
    for name, shape in SHAPES.items():
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_(True)
        networks = {f"norm: {k}": block(v, EDGES["zeros"]) for k, v in NORMS.items()}
        networks |= {f"edges: {k}": block(NORMS["none"], v) for k, v in EDGES.items()}
        times = [{k: step(network, x) for k, network in networks.items()} for _ in range(ROUNDS)][3:]
        result += [
            {"shape": name, "form": k, "ms": round(statistics.median(t[k] for t in times), 2), "kept": kept(n, x)}
            for k, n in networks.items()
        ]
    (Path(__file__).parent / "forms.json").write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(f"{r['shape']:<16} {r['form']:<48} {r['ms']:>8} ms  kept {r['kept']}" for r in result))


if __name__ == "__main__":
    main()
