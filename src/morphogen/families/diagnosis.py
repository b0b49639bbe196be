"""Numbers that tell whether a family learns as it should, out of forward passes alone; `health` judges them.

Shapes: N items · C channels · F features · U units that were looked at
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

RECTIFIERS = {"relu", "relu_", "leaky_relu", "leaky_relu_", "gelu", "silu"}


def share_above(high: Tensor, low: Tensor) -> float:
    """P(high > low) + ½ P(high = low) over all pairs of (N,) and (M,): 1 always higher, ½ no telling (the AUC)."""
    gap = high.float()[:, None] - low.float()[None]
    return float((gap > 0).float().mean() + 0.5 * (gap == 0).float().mean())


def judged(name: str, known: Tensor, unseen: Tensor, fake: Tensor) -> dict[str, float]:
    """What a discriminator's scores of training items, held-out items and samples, each (N,), say about the game:

    told/NAME        share of pairs in which a held-out item scores higher than a sample: 1 it wins, ½ it cannot tell
    told_train/NAME  the same for training items; more than `told` is what it has learned by heart
    """
    return {f"told/{name}": share_above(unseen, fake), f"told_train/{name}": share_above(known, fake)}


def unlike(x: Tensor, like: Tensor) -> float:
    """Mean |x − like| of pairs (N, …) over mean |x − m|, m the mean item: 0 is alike, 1 knows the mean item only."""
    x, like = x.float(), like.float()
    return float((x - like).abs().mean() / (x - x.mean(0)).abs().mean().clamp_min(1e-8))


class Activity(TorchFunctionMode):
    """Within, sees what goes into every rectifier, and remembers which units (channels, features) were ever positive.

    Several passes over the same networks: `again()` before each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Tensor] = []
        self.at = 0

    def again(self) -> None:
        self.at = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in RECTIFIERS:
            self._look(args[0].detach())
        return func(*args, **(kwargs or {}))

    def _look(self, x: Tensor) -> None:
        positive = (x > 0).transpose(0, 1).flatten(1).any(1)  # (U,)
        if self.at == len(self.alive):
            self.alive.append(positive)
        else:
            self.alive[self.at] |= positive
        self.at += 1

    def numbers(self) -> dict[str, float]:
        """{"dead", "units"}: share of units that were never positive, and how many there are; {} without rectifiers."""
        if not self.alive:
            return {}
        alive = torch.cat(self.alive)
        return {"dead": 1 - float(alive.float().mean()), "units": float(len(alive))}
