"""Optimizers, schedules, the moving average of weights, and the guard against bad updates.

Everything here stays on the device: no step waits for the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from morphogen.config import PlayerConfig, TermConfig, TrainConfig


def optimizer(parameters: Iterable[nn.Parameter], player: PlayerConfig) -> torch.optim.Adam:
    """Fused Adam (AdamW where weight decay is asked for)."""
    kind = torch.optim.AdamW if player.weight_decay else torch.optim.Adam
    return kind(list(parameters), player.lr, player.betas, weight_decay=player.weight_decay, fused=True)


def lr_factor(step: int, steps: int, train: TrainConfig) -> float:
    """What the learning rates are multiplied with at `step` of `steps`; the decay ends at a hundredth."""
    if step < train.warmup:
        return (step + 1) / train.warmup
    start = train.decay_from * steps
    progress = min(1.0, max(0.0, (step - start) / max(1.0, steps - start)))
    if train.schedule == "cosine":
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - 0.99 * progress if train.schedule == "linear" else 1.0


def term_weight(term: TermConfig, step: int, steps: int) -> float:
    """The weight of a term at `step`; 0 means that it is not computed. A lazy term counts `every` times as much."""
    if step % term.every or step < term.start or (term.until is not None and step >= term.until):
        return 0.0
    weight = term.weight
    if term.final is not None:
        weight *= (term.final / weight) ** min(1.0, step / steps) if weight else 0.0
    if term.warmup:
        weight *= min(1.0, (step - term.start + 1) / term.warmup)
    if term.cycle:  # cyclical annealing (Fu et al. 2019, eq. 6, R = 0.5)
        weight *= min(1.0, 2 * (step % term.cycle + 1) / term.cycle)
    return weight * term.every


class Average:
    """The exponential moving average of modules' weights and float buffers; its half-life grows with the run."""

    def __init__(self, modules: dict[str, nn.Module], share: float, most: float):
        self.modules, self.share, self.most = modules, share, most

    def decay(self, step: int) -> float:
        """How much of the average stays after `step`: half of it is forgotten in share·step steps, at most `most`."""
        half_life = min(self.most, self.share * step)
        return 0.5 ** (1 / half_life) if half_life > 0.5 else 0.0

    @torch.no_grad()
    def update(self, source: dict[str, nn.Module], step: int) -> None:
        new = 1 - self.decay(step)
        for name, module in self.modules.items():
            mine = [t for t in _tensors(module) if t.is_floating_point()]
            theirs = [t for t in _tensors(source[name]) if t.is_floating_point()]
            if mine:
                torch._foreach_lerp_(mine, theirs, new)  # pyright: ignore[reportPrivateImportUsage]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*(p.data for p in module.parameters()), *module.buffers()]


SETTLING = 100  # updates before the guard judges: the first norms are all over the place


class Guard:
    """Skips updates whose gradient is not finite or many times its usual norm, without asking the host.

    usual: running norm of good gradients. It rises soon and falls slowly: a discriminator that has won for a while has
    hardly any slope, and the one that comes when it is beaten is no explosion.
    streak, skipped: bad updates in a row, and in all.
    After a norm that was merely large `usual` grows a little, so that a lasting change of scale is accepted in the end.
    """

    def __init__(self, explode: float, device: torch.device):
        self.explode = explode
        self.state = {name: torch.zeros((), device=device) for name in ("usual", "streak", "skipped", "seen")}

    def check(self, norm: Tensor) -> Tensor:
        """1.0 where the update with this gradient norm () must be skipped, else 0.0."""
        usual, streak, skipped, seen = (self.state[k] for k in ("usual", "streak", "skipped", "seen"))
        finite = torch.isfinite(norm)
        bad = ~finite | ((norm > self.explode * usual) & (seen > SETTLING))
        safe = torch.where(finite, norm, usual)
        pace = torch.where(seen <= SETTLING, 0.1, torch.where(safe > usual, 0.02, 0.001))
        follow = torch.where(seen == 0, safe, torch.lerp(usual, safe, pace))
        usual.copy_(torch.where(bad, usual * 1.02, follow))
        streak.copy_(torch.where(bad, streak + 1, torch.zeros_like(streak)))
        skipped.add_(bad)
        seen.add_(~bad)
        return bad.float()


def guarded_step(optimizer: torch.optim.Optimizer, guard: Guard, clip: float | None) -> Tensor:
    """Clip, then step unless the guard objects; returns the gradient's norm () before clipping."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    bad = guard.check(norm)
    if clip is not None:
        factor = (clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
    optimizer.grad_scale, optimizer.found_inf = None, bad  # type: ignore[attr-defined]  # read by torch's fused kernels
    optimizer.step()
    return norm
