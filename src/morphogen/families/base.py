"""What a family is to the loop, and what a turn is to a family.

Shapes: B batch · Z latent_dim · space (C, *S).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from morphogen.config import AugmentConfig, Section
from morphogen.errors import UsageError
from morphogen.nets.projected import FrozenTrunk

CHUNK = 100  # items drawn at once: fixed, so that item i is a function of (seed, i) alone


def seed_of(*parts: object) -> int:
    """A 63-bit seed out of any names and numbers: every random draw is a function of (seed, step, purpose)."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little") >> 1


def chunks(rows: Any, y: Tensor | None, size: int = CHUNK) -> Iterator[tuple[int, Any, Tensor | None]]:
    """(start, part of the rows, its labels), `size` rows at a time; rows (N, …) of an array or a tensor."""
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size], None if y is None else y[start : start + size]


def rows_of_noise(z: Tensor, width: int) -> Tensor:
    """Numbers between 0 and 1 (B, width), each row a function of the code z (B, Z) beside it alone: so what is drawn of
    a code does not depend on what is drawn with it."""
    rows = [
        torch.rand(width, generator=torch.Generator().manual_seed(seed_of(row.tobytes().hex())))
        for row in z.detach().cpu().numpy()
    ]
    return torch.stack(rows).to(z.device)


def uniform_rows(count: int, *purpose: object) -> Tensor:
    """Numbers between 0 and 1 (count,), each a function of (purpose, row), whatever the count."""
    generators = [torch.Generator().manual_seed(seed_of(*purpose, k)) for k in range(-(-count // CHUNK))]
    return torch.cat([torch.rand(CHUNK, generator=g) for g in generators])[:count]


def apart(x: Tensor, other: Tensor) -> Tensor:
    """Mean |x − other| (B,) of each pair of items; of numbered symbols, which have no distance, the differing share."""
    return ((x - other).abs() if x.is_floating_point() else (x != other).float()).flatten(1).mean(1)


@dataclass
class Turn:
    """One player's move.

    weights: the terms that count at this step, by name; a term that is not in it need not be computed.
    cache: lives one step and is shared by the step's turns.
    """

    player: str
    step: int
    seed: int
    weights: dict[str, float]
    repeat: int = 0
    cache: dict[str, Any] = field(default_factory=dict)

    def generator(self, purpose: str, device: torch.device) -> torch.Generator:
        """The source of randomness for one purpose of this turn."""
        seed = seed_of(self.seed, self.step, self.player, self.repeat, purpose)
        return torch.Generator(device).manual_seed(seed)

    def normal(self, purpose: str, *shape: int, device: torch.device) -> Tensor:
        """Standard normal numbers of this turn."""
        return torch.randn(*shape, generator=self.generator(purpose, device), device=device)

    def uniform(self, purpose: str, *shape: int, device: torch.device) -> Tensor:
        """Numbers of this turn between 0 and 1."""
        return torch.rand(*shape, generator=self.generator(purpose, device), device=device)


class Family(nn.Module, ABC):
    """Networks, their players and terms. The loop owns weights, optimizers and schedules; nothing of them is here.

    players: player → names of the sub-modules that learn in its turn; turns are taken in this order.
    terms: player → names of the terms it may have; the first is required.
    needed: terms without which a network would stay as it was drawn, beside the first ones.
    averaged: sub-modules whose moving average makes the samples.
    criterion: the held-out score, lower better, that chooses the best model: 'fid' or one of `measure`.
    numbers: plain state beside the tensors (the strength of augmentation), saved in every checkpoint.
    augmentations: the values of `augment.mode` that it heeds.
    converts: whether its labels are domains between which it converts items; then it has `convert` and `converted`.
    relaxed: whether it wants items through which gradients flow, of modalities whose items are symbols.
    drawing: (temperature, top_p) with which symbols are drawn, where a likelihood's samples show more than its mode,
        and how much of their own noise other items show; None for the mode. Set by `drawn`.
    for_training: names of buffers and sub-modules (at any depth, as 'critic.heads') that only the training needs, so
        that they are in checkpoints and not in models.
    """

    Options: ClassVar[type[Section]]
    players: ClassVar[dict[str, tuple[str, ...]]]
    terms: ClassVar[dict[str, tuple[str, ...]]]
    needed: ClassVar[tuple[str, ...]] = ()
    averaged: ClassVar[tuple[str, ...]]
    criterion: ClassVar[str] = "fid"
    converts: ClassVar[bool] = False
    relaxed: ClassVar[bool] = False
    for_training: ClassVar[tuple[str, ...]] = ()
    augmentations: ClassVar[tuple[str, ...]] = ("off", "fixed", "adaptive")
    latent_dim: int

    def __init__(
        self,
        modality: Any,
        options: Any,
        classes: int = 0,
        augment: AugmentConfig | None = None,
        other: Any = None,
    ):
        """modality: of the items.  options: an instance of `Options`.  classes: number of labels, 0 for none.
        other: the modality of a second domain, for families that have one."""
        super().__init__()
        self.modality, self.other, self.options, self.classes = modality, other, options, classes
        self.augment = augment or AugmentConfig()
        self.numbers: dict[str, float] = {}
        self.drawing: tuple[float, float, float] | None = None

    @abstractmethod
    def prepare(self, x: Tensor, b: Tensor | None = None) -> None:
        """See some training items x (N, *space), and b of the second domain, once, before the first step."""

    @abstractmethod
    def losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms of this turn, each (B,) or (); batch: 'a' (B, *space), 'label' (B,) where labels condition,
        'b' (B, *space_b) of a second domain, 'heldout' (B, *space) and 'heldout_label' where `wants_heldout` says."""

    def only_trains(self, key: str) -> bool:
        """Whether a tensor of the state, by its key, is of what only the training needs."""
        return any(key == name or key.startswith(f"{name}.") for name in self.for_training)

    @property
    def taught(self) -> FrozenTrunk | None:
        """What looks at items as a classifier of their labels does, and must `learn` from one before the first step."""
        return next((module for module in self.modules() if isinstance(module, FrozenTrunk)), None)

    def wants_heldout(self, step: int) -> bool:
        """Whether `losses` needs held-out items at this step."""
        return False

    def after_step(self, step: int, turn_cache: dict[str, Any], batch_size: int) -> None:
        """Adapt whatever follows the step's outcome; by default nothing."""

    @abstractmethod
    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Noise (B, Z) and labels (B,) → items (B, *space)."""

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor | None, seed: int, sampled: bool = False) -> Tensor:
        """Items x (B, *space) and labels (B,) → latent codes (B, Z): the best, or, `sampled`, random fitting ones."""

    @abstractmethod
    def score(self, x: Tensor, y: Tensor | None) -> Tensor:
        """How well each item (B,) fits the training data: high for typical items, low for anomalies."""

    @property
    def chooses(self) -> bool:
        """Whether its samples can be chosen among several (`sample.tries`)."""
        return False

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None) -> Tensor:
        """Standard normal noise (B, Z) and numbers `pick` (B,) between 0 and 1 → latent codes (B, Z) of the prior."""
        return noise

    def translate(self, x: Tensor, to: str, noise: Tensor | None = None) -> Tensor:
        """Items (B, *space) of one domain in the domain `to`; noise (B, ≥ Y) chooses among several outputs, where the
        family makes more than one."""
        raise UsageError("This model has one domain and cannot translate.")

    def measure(self, x: Tensor, y: Tensor | None, seed: int) -> dict[str, float]:
        """The family's own held-out scores of items x (N, *space), lower better where one is its `criterion`."""
        return {}

    def diagnose(self, train: dict[str, Tensor], heldout: dict[str, Tensor], seed: int) -> dict[str, float]:
        """Numbers by which `health.training_findings` sees that something goes wrong, of some training and held-out
        items, keyed as in `losses`; nothing is learned and no state is changed."""
        return {}

    def noise(self, count: int, seed: int, temperature: float = 1.0, truncation: float | None = None) -> Tensor:
        """Latent noise (count, Z): rows are a function of (seed, row), whatever the count."""
        chunks = []
        for chunk in range(-(-count // CHUNK)):
            generator = torch.Generator().manual_seed(seed_of(seed, "noise", chunk))
            if truncation is None:
                z = torch.randn(CHUNK, self.latent_dim, generator=generator)
            else:  # the normal distribution between ±truncation, by the inverse of its distribution function
                u = torch.rand(CHUNK, self.latent_dim, generator=generator, dtype=torch.float64)
                inside = math.erf(truncation / math.sqrt(2))
                z = (math.sqrt(2) * torch.erfinv((2 * u - 1) * inside)).float()
            chunks.append(z)
        return temperature * torch.cat(chunks)[:count]

    @contextmanager
    def drawn(self, temperature: float = 1.0, top_p: float = 1.0, grain: float = 0.0) -> Iterator[None]:
        """Within, `generate`, here or in a codec, draws its items from the likelihood: symbols, or, with `grain`, what
        is between the mode (0) and a sample (1)."""
        codec = getattr(self.modality, "codec", None)
        families: list[Any] = [self, *([] if codec is None else [codec.family])]
        for family in families:
            family.drawing = (temperature, top_p, grain)
        try:
            yield
        finally:
            for family in families:
                family.drawing = None

    @torch.no_grad()
    def codes(
        self, count: int, seed: int, labels: Tensor | None = None, temperature: float = 1.0,
        truncation: float | None = None,
    ) -> Tensor:  # fmt: skip
        """Latent codes (count, Z) drawn from the prior, of labels (count,); row i is a function of (seed, i, label)."""
        noise, pick = self.noise(count, seed, temperature, truncation), uniform_rows(count, seed, "pick")
        return torch.cat(list(self._in_chunks(self.draw, labels, noise, pick))).cpu()

    def chosen_codes(
        self, count: int, seed: int, labels: Tensor | None, temperature: float, truncation: float | None, tries: int
    ) -> Tensor:
        """`codes`, each chosen among `tries`, where the family `chooses`."""
        raise UsageError("This model cannot choose among its samples; set sample.tries=1.")

    def items_of(self, codes: Tensor, labels: Tensor | None) -> Iterator[Tensor]:
        """Items of latent codes (N, Z) in chunks (≤ CHUNK, *space)."""
        return self._in_chunks(self.generate, labels, codes)

    @torch.no_grad()
    def _in_chunks(self, call: Callable[..., Tensor], labels: Tensor | None, *rows: Tensor) -> Iterator[Tensor]:
        """call(*rows, y) in chunks, each computed at full size: a row must not depend on how many come with it."""
        for start in range(0, len(rows[0]), CHUNK):
            parts = [r[start : start + CHUNK] for r in (*rows, *([] if labels is None else [labels]))]
            count = len(parts[0])
            padding = [(0, 0) * (p.dim() - 1) + (0, CHUNK - count) for p in parts]
            full = [nn.functional.pad(p, sides).to(self.device) for p, sides in zip(parts, padding, strict=True)]
            yield call(*full, *([None] if labels is None else []))[:count]
