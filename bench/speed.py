"""Training rate of Morphogen's loop against a plain PyTorch loop of the same networks, paired in one run.

    python bench/speed.py            prints a table and writes bench/speed.json
    python bench/speed.py VAE        the cases whose names begin so, into bench/speed-vae.json

plain: fp32, NCHW, unfused Adam, every network call on its own, a per-step .item().  by hand: the same loop with
autocast to bf16 and channels_last. Rounds alternate between the three, so that a busy neighbour meets all of them; the
median round counts. Work is counted by torch's FlopCounterMode on Morphogen's own steps (2 per multiply-add), and
compared with the bf16 convolution rate measured here on a 3x3 convolution of 128 channels.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus
from torch.utils.flop_counter import FlopCounterMode

from morphogen import api
from morphogen.description import Description, describe
from morphogen.domains import load_data
from morphogen.loop import Trainer
from morphogen.model import build_family
from morphogen.precision import choose
from morphogen.run import RunFolder

HERE = Path(__file__).resolve().parent
# name: recipe, space, batch size, steps a round (whole lazy cycles), settings
CASES = {
    "GAN, conv 28x28x1, batch 64": ("gan-image", (1, 28, 28), 64, 16, []),
    "GAN, conv 32x32x3, batch 128": ("gan-image", (3, 32, 32), 128, 8, []),
    "GAN, residual 32x32x3, batch 32": (
        "gan-image", (3, 32, 32), 32, 4,
        [f"model.{role}={{kind: residual, width: 64, most: 256}}" for role in ("generator", "discriminator")],
    ),
    "VAE, conv 28x28x1, batch 128": ("vae-image", (1, 28, 28), 128, 12, []),
    "VAE, conv 32x32x3, batch 128": ("vae-image", (3, 32, 32), 128, 8, ["model.encoder.width=64"]),
    "CycleGAN, 128x128x3, batch 1, 6 blocks": (
        "cyclegan-image", (3, 128, 128), 1, 4,
        [f"model.to_{side}={{width: 32, downs: 2, blocks: 6, norm: true, reflect: true}}" for side in "ab"],
    ),
    "CycleGAN, 32x32x3, batch 32": (
        "cyclegan-image", (3, 32, 32), 32, 4, [f"model.to_{side}={{width: 16}}" for side in "ab"],
    ),
}  # fmt: skip
ROUNDS = 5
PRECISION = choose()  # the loops by hand run where ours does, and clocks wait for its device
DEVICE = PRECISION.device


def random_items(folder: Path, space: tuple[int, ...]) -> str:
    import numpy as np

    c, h, w = space
    items = np.random.default_rng(0).integers(0, 256, (2000, h, w, c), np.uint8)
    np.save(folder / "x.npy", items)
    return str(folder / "x.npy")


def trainer(folder: Path, recipe: str, space: tuple[int, ...], batch: int, settings: list[str]) -> Trainer:
    settings = [f"train.batch_size={batch}", "augment.mode=off", *settings]
    source = random_items(folder, space)
    two = {"data_b": source} if recipe.startswith("cycle") else {}
    config = api.resolve_config(recipe, settings, data=source, steps=100_000, **two)
    data = load_data(config)
    family = build_family(describe(config, data), config.augment)
    return Trainer(
        config,
        family,
        data.train,
        data.heldout,
        [],
        RunFolder(folder),
        choose(),
        lambda _: {"fid": 0.0},
        lambda *_: None,
        other=None if (b := data.other) is None else (b.train, b.heldout, None, []),
    )


def plain_adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), 1e-3, (0.0, 0.99), fused=False, foreach=False)


def slope(judge: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The squared slope of a critic at x, by a difference."""
    noise = torch.randn_like(x)
    return ((judge(x + 0.05 * noise) - judge(x - 0.05 * noise)).flatten(1).mean(1) / 0.1).square().mean()


class Plain:
    """What one writes by hand, and what both families need of it."""

    def __init__(self, ours: Trainer, space: tuple[int, ...], batch: int, tuned: bool):
        other = {"modality": "image", "space": list(space)} if ours.other is not None else {}
        description = Description(ours.config.family, "image", list(space), ours.config.model, other=other)
        self.family: Any = build_family(description, ours.config.augment)
        self.tuned, self.batch, self.step_number = tuned, batch, 0
        self.family.to(DEVICE)
        self.items = torch.from_numpy(ours.items.data).to(DEVICE)
        if tuned:
            self.family.to(memory_format=torch.channels_last)

    def run(self, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.tuned):
            return network(x)

    def real(self) -> torch.Tensor:
        x = self.items[torch.randint(len(self.items), (self.batch,), device=DEVICE)].float() / 127.5 - 1
        return x.contiguous(memory_format=torch.channels_last) if self.tuned else x


class PlainVAE(Plain):
    """Encoder, sample, decoder, the Gaussian likelihood with the batch's own scale, and the KL in closed form."""

    def __init__(self, ours: Trainer, space: tuple[int, ...], batch: int, tuned: bool):
        super().__init__(ours, space, batch, tuned)
        self.adam = plain_adam(self.family)

    def train_step(self) -> None:
        x = self.real()
        mean, log_std = self.run(self.family.encoder, x).float().chunk(2, dim=1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        error = (self.run(self.family.decoder, z).float().tanh() - x).square()
        reconstruction = 0.5 * x[0].numel() * error.mean().log()
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1).mean()
        loss = reconstruction + kl
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.last = loss.item()


class PlainGAN(Plain):
    """The same losses and lazy penalties, step by step."""

    def __init__(self, ours: Trainer, space: tuple[int, ...], batch: int, tuned: bool):
        super().__init__(ours, space, batch, tuned)
        self.generator, self.discriminator = self.family.generator, self.family.discriminator
        self.generator_adam, self.discriminator_adam = plain_adam(self.generator), plain_adam(self.discriminator)

    def penalty(self, x: torch.Tensor) -> torch.Tensor:
        return slope(lambda x: self.run(self.discriminator, x)[:, None], x)

    def train_step(self) -> None:
        real = self.real()
        fake = self.run(self.generator, torch.randn(self.batch, 64, device=DEVICE)).float().tanh()
        real_logit, fake_logit = self.run(self.discriminator, real), self.run(self.discriminator, fake.detach())
        loss = softplus(fake_logit - real_logit).mean()
        if self.step_number % 4 == 0:
            loss = loss + 0.1 * (self.penalty(real) + self.penalty(fake.detach()))
        self.discriminator_adam.zero_grad()
        loss.backward()
        self.discriminator_adam.step()
        fake = self.run(self.generator, torch.randn(self.batch, 64, device=DEVICE)).float().tanh()
        generator_loss = softplus(
            self.run(self.discriminator, real).detach() - self.run(self.discriminator, fake)
        ).mean()
        self.generator_adam.zero_grad()
        generator_loss.backward()
        self.generator_adam.step()
        self.last = loss.item(), generator_loss.item()
        self.step_number += 1


class PlainCycle(Plain):
    """The same four networks and losses (least squares, cycles, identities, lazy R1), every call a pass of its own."""

    def __init__(self, ours: Trainer, space: tuple[int, ...], batch: int, tuned: bool):
        super().__init__(ours, space, batch, tuned)
        f = self.family
        self.makers, self.critics = nn.ModuleList([f.to_a, f.to_b]), nn.ModuleList([f.critic_a, f.critic_b])
        self.maker_adam, self.critic_adam = plain_adam(self.makers), plain_adam(self.critics)

    def make(self, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.run(network, x).float().tanh()

    def train_step(self) -> None:
        f, a, b = self.family, self.real(), self.real()
        fake_a, fake_b = self.make(f.to_a, b), self.make(f.to_b, a)
        loss = sum(0.5 * (self.run(c, x) - 1).square().mean() for c, x in ((f.critic_a, fake_a), (f.critic_b, fake_b)))
        loss = (
            loss + 10 * (self.make(f.to_a, fake_b) - a).abs().mean() + 10 * (self.make(f.to_b, fake_a) - b).abs().mean()
        )
        loss = loss + 5 * (self.make(f.to_a, a) - a).abs().mean() + 5 * (self.make(f.to_b, b) - b).abs().mean()
        self.maker_adam.zero_grad()
        loss.backward()
        self.maker_adam.step()
        critic_loss = torch.zeros((), device=DEVICE)
        for critic, real, fake in ((f.critic_a, a, fake_a.detach()), (f.critic_b, b, fake_b.detach())):
            critic_loss = critic_loss + 0.5 * (self.run(critic, real) - 1).square().mean()
            critic_loss = critic_loss + 0.5 * self.run(critic, fake).square().mean()
            if self.step_number % 4 == 0:
                critic_loss = critic_loss + 0.1 * slope(lambda x, c=critic: self.run(c, x), real)
        self.critic_adam.zero_grad()
        critic_loss.backward()
        self.critic_adam.step()
        self.last = loss.item(), critic_loss.item()
        self.step_number += 1


PLAIN = {"vae-image": PlainVAE, "gan-image": PlainGAN, "cyclegan-image": PlainCycle}


def rate(step: Callable[[], object], batch: int, steps: int) -> float:
    begin = PRECISION.clock()
    for _ in range(steps):
        step()
    return steps * batch / (PRECISION.clock() - begin)


def peak() -> float:
    """Floating-point operations a second of a bf16 channels_last convolution forward, best of 20."""
    conv = nn.Conv2d(128, 128, 3, padding=1).to(DEVICE, torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.randn(128, 128, 16, 16, dtype=torch.bfloat16, device=DEVICE).to(memory_format=torch.channels_last)
    times = []
    with torch.no_grad():
        for _ in range(20):
            begin = PRECISION.clock()
            conv(x)
            times.append(PRECISION.clock() - begin)
    return 2 * 128 * 128 * 9 * 128 * 16 * 16 / min(times)


def work_per_image(ours: Trainer) -> float:
    """Operations an image in Morphogen's step, averaged over two lazy cycles."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(8):
            ours.train_step()
    return counter.get_total_flops() / 8 / ours.config.train.batch_size


def measure(name: str, best: float) -> dict[str, float | str]:
    recipe, space, batch, count, settings = CASES[name]
    plain_loop = PLAIN[recipe]
    with tempfile.TemporaryDirectory() as folder:
        ours = trainer(Path(folder), recipe, space, batch, settings)
        loops = {"plain": plain_loop(ours, space, batch, False), "by hand": plain_loop(ours, space, batch, True)}
        work = work_per_image(ours)
        steps = {"morphogen": ours.train_step} | {k: v.train_step for k, v in loops.items()}
        for step in steps.values():
            rate(step, batch, count)
        rounds = [{k: rate(step, batch, count) for k, step in steps.items()} for _ in range(ROUNDS)]
    median = {k: statistics.median(r[k] for r in rounds) for k in steps}
    plain, tuned = (statistics.median(r["morphogen"] / r[k] for r in rounds) for k in ("plain", "by hand"))
    return {
        "case": name, **{f"{k} images/s": round(v) for k, v in median.items()}, "against plain": round(plain, 2),
        "against by hand": round(tuned, 2), "MFLOP/image": round(work / 1e6),
        "share of peak": round(median["morphogen"] * work / best, 3),
    }  # fmt: skip


def help_seconds() -> float:
    """Median time of `morphogen --help`."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "morphogen", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    return round(statistics.median(times), 3)


def main() -> None:
    best, only = peak(), sys.argv[1] if len(sys.argv) > 1 else ""
    rows = [measure(name, best) for name in CASES if name.startswith(only)]
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {choose().why}, {torch.get_num_threads()} threads",
        "torch": torch.__version__, "bf16 convolution peak TFLOP/s": round(best / 1e12, 3), "rows": rows,
        "seconds of morphogen --help": help_seconds(),
    }  # fmt: skip
    name = f"speed-{only.lower()}.json" if only else "speed.json"
    (HERE / name).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
