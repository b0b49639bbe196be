"""Cycle GAN: two domains, a network each way, a critic on each side; there and back again must give the same.

    a ── to_b ──▶ b        critic_a judges what to_a makes of b, critic_b what to_b makes of a
      ◀── to_a ──          cycle_a: to_a(to_b(a)) ≈ a      cycle_b: to_b(to_a(b)) ≈ b

The second domain is another data set (Zhu et al. 2017), or noise: then to_a is a generator, to_b an encoder, and the
critics judge pictures and codes, and pairs of both if asked (the BiGAN and ALICE line; Li et al. 2017). Without the
terms that touch to_b the latter is exactly the GAN.

Shapes: B batch · space_a, space_b (C, *S), or (Z,) for noise · K classes (0: unconditional) · Y style_dim, the numbers
that choose among several translations of one item (0: there is one).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.config import AugmentConfig
from morphogen.errors import UsageError
from morphogen.families.base import CHUNK, Family, Turn, chunks, seed_of
from morphogen.families.critic import (
    WITHOUT_SLOPE,
    CriticOptions,
    as_frequent,
    fixed,
    fooling,
    judge,
    slope_penalty,
    spread_of,
    whole,
)
from morphogen.families.diagnosis import Activity, judged, unlike
from morphogen.nets import (
    CRITICS,
    ENCODERS,
    GENERATORS,
    PAIR_CRITICS,
    PATCH_CRITICS,
    TRANSLATORS,
    build_network,
)
from morphogen.nets.blocks import Summary
from morphogen.nets.roles import Trunk
from morphogen.nets.translators import fitted, reduced
from morphogen.objectives.adversarial import LOSSES


class CycleGANOptions(CriticOptions):
    """The `model` section of a cycle GAN's config. latent_dim: of the noise, where the second domain is noise."""

    known_losses: ClassVar[tuple[str, ...]] = WITHOUT_SLOPE
    loss: str = Field(default="leastsquares", description=", ".join(known_losses))
    penalty: Literal["exact", "difference"] = "difference"
    pool: int = Field(default=50, ge=0, description="earlier translations kept for the critics, 0 for none")
    hide: float = Field(default=0.0, ge=0, description="noise on a translation before the way back, against hiding")
    style_dim: int = Field(default=0, ge=0, description="numbers that choose among several translations of one item")
    match_labels: bool = Field(
        default=False, description="where one domain has labels: critics see as many of each as the other seems to have"
    )
    encoder: Literal["separate", "shared"] = Field(
        default="separate", description="against noise: to_b is a network of its own, or a head on critic_a's trunk"
    )
    to_a: dict[str, Any] = Field(default_factory=dict, description="kind and options of the network b → a")
    to_b: dict[str, Any] = Field(default_factory=dict, description="kind and options of the network a → b")
    critic_a: dict[str, Any] = Field(default_factory=dict, description="kind and options")
    critic_b: dict[str, Any] = Field(default_factory=dict, description="kind and options")
    critic_joint: dict[str, Any] | None = Field(
        default=None, description="against noise: kind and options of a critic of pairs (item, code); by default none"
    )
    style: dict[str, Any] = Field(default_factory=dict, description="kind and options of the encoders of styles")


COUNTED = 0.01  # of the classes' shares, what a batch counts


class Teacher(nn.Module):
    """A trained classifier of one domain, frozen, as a judge of both: items are brought to that domain's channels and
    size, and reduced, aspect kept, to the `largest` side that the classifier was trained on.

    shares (2, classes): how frequent each class is, in its own domain and, as it reads it, in the other.
    """

    shares: Tensor

    def __init__(self, classifier: nn.Module, side: str, space: tuple[int, ...], largest: int | None):
        super().__init__()
        self.classifier, self.side, self.space = classifier.requires_grad_(False).eval(), side, space
        self.seen = reduced((space[1], space[2]), largest or max(space[1:]))
        device = next(classifier.parameters(), torch.zeros(())).device
        with torch.no_grad():
            classes = self(torch.zeros(1, *space, device=device)).shape[1]
        self.register_buffer("shares", torch.full((2, classes), 1 / classes))

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Items (B, *space_a) or (B, *space_b) → logits (B, classes)."""
        if x.shape[1] != self.space[0]:
            x = x[:, :3].mean(1, keepdim=True).expand(-1, self.space[0], -1, -1)
        x = fitted(fitted(x, (self.space[1], self.space[2])), self.seen)
        return self.classifier(x.contiguous(memory_format=torch.channels_last)).float()

    @torch.no_grad()
    def count(self, labels: Tensor, read: Tensor) -> None:
        """Moves the shares towards a batch's labels (B,) and the logits (B, classes) of what came from the other."""
        own = F.one_hot(labels, self.shares.shape[1]).float().mean(0)
        self.shares.lerp_(torch.stack([own, read.softmax(1).mean(0)]), COUNTED)

    def redrawn(self, labels: Tensor, chance: Tensor | float = 0.5, back: bool = False) -> Tensor:
        """Which of a batch with labels (B,) to take so that classes are as frequent as in the other domain (target
        shift; Zhang et al. 2013), or, with `back`, those of the other as in this one: indices (B,)."""
        here, there = self.shares.flip(0) if back else self.shares
        return as_frequent(labels, here, there, chance)


class CycleGAN(Family):
    """Terms of the generators: 'adversarial_a', 'adversarial_b', 'cycle_a', 'cycle_b'; between two data sets also
    'identity_a', 'identity_b' (where the spaces agree), 'semantic_a', 'semantic_b' (where one of them has labels) and
    'style_a', 'style_b' (with `style_dim`); against noise 'adversarial_joint' (with `critic_joint`). Of the critics:
    'critic_a', 'critic_b', 'critic_joint', and R1 and R2 of each.

    Cycles are mean absolute errors, of codes mean squared ones.
    """

    Options = CycleGANOptions
    players = {"generator": ("to_a", "to_b"), "discriminator": ("critic_a", "critic_b")}  # noqa: RUF012
    terms = {  # noqa: RUF012
        "generator": (
            "adversarial_a", "adversarial_b", "adversarial_joint", "cycle_a", "cycle_b", "identity_a", "identity_b",
            "semantic_a", "semantic_b", "style_a", "style_b",
        ),
        "discriminator": ("critic_a", "critic_b", "critic_joint", "r1_a", "r2_a", "r1_b", "r2_b", "r1_joint"),
    }  # fmt: skip
    averaged = ("to_a", "to_b")
    relaxed = True
    to_a: Any
    to_b: Any
    critic_a: Any
    critic_b: Any
    critic_joint: Any
    style_a: Any
    style_b: Any
    for_training = ("pool_a", "pool_b", "teacher")
    augmentations = ("off", "fixed")

    def __init__(
        self,
        modality: Any,
        options: CycleGANOptions,
        classes: int = 0,
        augment: AugmentConfig | None = None,
        networks: dict[str, nn.Module] | None = None,
        other: Any = None,
    ):
        """other: the modality of the second domain; None for noise."""
        super().__init__(modality, options, classes, augment, other)
        own = networks or {}
        self.latent_dim = options.latent_dim if other is None else max(1, options.style_dim)
        made = self._against_noise() if other is None else self._between_two()
        for name, make in made.items():
            setattr(self, name, own.get(name) or make())
        self._assign_players(made.keys())
        self.register_buffer("spreads", torch.ones(2))
        self.spreads: Tensor
        for side in "ab":
            pooled = options.pool if other is not None else 0
            self.register_buffer(f"pool_{side}", torch.zeros(pooled, *(self._space(side) if pooled else ())))
        self.numbers = {"augment": self.augment.start}
        if other is not None and options.pool:
            self.numbers |= {"pooled_a": 0, "pooled_b": 0}
        self.teacher: Teacher | None = None

    def _space(self, side: str) -> tuple[int, ...]:
        """The shape of items of domain 'a' or 'b'."""
        if side == "a":
            return self.modality.space
        return (self.latent_dim,) if self.other is None else self.other.space

    def _against_noise(self) -> dict[str, Callable[[], nn.Module]]:
        """How the networks between data and noise are made, by name."""
        o, space, k, dim = self.options, self.modality.space, self.classes, self.latent_dim
        if o.style_dim:
            raise UsageError("model.style_dim is for two data sets: against noise, the noise is the choice.")
        made: dict[str, Callable[[], nn.Module]] = {
            "to_a": lambda: build_network(GENERATORS, o.to_a, space=space, latent_dim=dim, classes=k),
            "critic_a": lambda: build_network(CRITICS, o.critic_a, space=space, classes=k),
            "critic_b": lambda: build_network(
                CRITICS, {"kind": "dense", **o.critic_b}, space=(dim,), classes=k
            ),
            "to_b": lambda: build_network(ENCODERS, o.to_b, space=space, outputs=dim, classes=k),
        }  # fmt: skip
        if o.encoder == "shared":
            made["to_b"] = self._head
        if o.critic_joint is not None:
            made["critic_joint"] = lambda: build_network(PAIR_CRITICS, o.critic_joint, space=space, latent_dim=dim)
        return made

    def _head(self) -> nn.Module:
        """The encoder as a second head on the discriminator's trunk: G feeds D, and D feeds G."""
        if not isinstance(self.critic_a, Trunk) or self.options.to_b:
            raise UsageError("With model.encoder=shared critic_a must be conv or residual, and to_b has no options.")
        return Summary(self.critic_a.dense.out_features, self.latent_dim, self.classes)

    def _between_two(self) -> dict[str, Callable[[], nn.Module]]:
        """How the networks between two data sets are made, by name."""
        o, a, b = self.options, self._space("a"), self._space("b")
        if self.classes:
            raise UsageError("Labels do not condition a cycle GAN between two data sets; they hold its meaning.")
        if o.encoder == "shared" or o.critic_joint is not None:
            raise UsageError("model.encoder=shared and model.critic_joint are for data against noise; leave them out.")
        choice, pair = o.style_dim, a[0] + b[0]
        made: dict[str, Callable[[], nn.Module]] = {
            "to_a": lambda: build_network(TRANSLATORS, o.to_a, space=(b[0] + choice, *b[1:]), space_out=a),
            "to_b": lambda: build_network(TRANSLATORS, o.to_b, space=(a[0] + choice, *a[1:]), space_out=b),
            "critic_a": lambda: build_network(PATCH_CRITICS, o.critic_a, space=a),
            "critic_b": lambda: build_network(PATCH_CRITICS, o.critic_b, space=b),
        }
        if choice:
            small = {"width": 16, **o.style}
            made["style_a"] = lambda: build_network(ENCODERS, small, space=(pair, *a[1:]), outputs=choice)
            made["style_b"] = lambda: build_network(ENCODERS, small, space=(pair, *b[1:]), outputs=choice)
        return made

    def _assign_players(self, names: Any) -> None:
        """Who learns in whose turn. A trunk with two heads learns in both: its encoder's part in the generator's."""
        critics = tuple(name for name in names if name.startswith("critic"))
        makers = tuple(name for name in names if name not in critics)
        if self.options.encoder == "shared":
            makers = (*makers, "critic_a")
        self.players = {"generator": makers, "discriminator": critics}  # type: ignore[misc]
        if self.other is None:  # critics of codes soon learn again; that of items tells anomalies, and stays
            rest = tuple(name for name in critics if name != "critic_a")
            self.for_training = (*CycleGAN.for_training, *rest)  # type: ignore[misc]
        self.averaged = makers  # type: ignore[misc]

    @torch.no_grad()
    def prepare(self, x: Tensor, b: Tensor | None = None) -> None:
        spread_b = torch.tensor(float(self.latent_dim), device=x.device) if b is None else spread_of(b)
        self.spreads.copy_(torch.stack([spread_of(x), spread_b]))

    def teach(self, side: str, classifier: nn.Module, largest: int | None = None) -> None:
        """Let a classifier of domain `side`, trained on items of at most `largest` a side, hold the meaning."""
        self.teacher = Teacher(classifier, side, self._space(side), largest).to(self.device)

    # ---- the two ways ---------------------------------------------------------------------------------------------

    def translate_a(self, b: Tensor, y: Tensor | None = None, style: Tensor | None = None) -> Tensor:
        """b (B, *space_b), style (B, Y) or none → a (B, *space_a)."""
        if self.other is None:
            return self.modality.squash(self.to_a(b, y))
        return self.modality.squash(self.to_a(self._with(b, style)))

    def translate_b(self, a: Tensor, y: Tensor | None = None, style: Tensor | None = None) -> Tensor:
        """a (B, *space_a), style (B, Y) or none → b (B, *space_b)."""
        if self.other is not None:
            return self.other.squash(self.to_b(self._with(a, style)))
        seen = self.critic_a.features(a) if self.options.encoder == "shared" else a
        return self.to_b(seen, y).float()

    def _with(self, x: Tensor, style: Tensor | None) -> Tensor:
        """Items (B, C, H, W) with their style as Y further channels; no style is the middle one, 0."""
        if not self.options.style_dim:
            return x
        if style is None:
            style = x.new_zeros(len(x), self.options.style_dim)
        maps = style.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, maps], dim=1).contiguous(memory_format=torch.channels_last)

    def _style(self, side: str, source: Tensor, item: Tensor) -> Tensor | None:
        """The style (B, Y) in which `source`, of the other domain, becomes `item` of domain `side`."""
        if not self.options.style_dim:
            return None
        encoder = self.style_a if side == "a" else self.style_b
        pair = torch.cat([item, fitted(source, (item.shape[2], item.shape[3]))], dim=1)
        return encoder(pair.contiguous(memory_format=torch.channels_last), None)

    def _domain_b(self, turn: Turn, batch: dict[str, Tensor]) -> Tensor:
        """This step's items of the second domain (B, *space_b): of the data, or noise."""
        if self.other is not None:
            return batch["b"]
        if turn.player == "generator" or turn.repeat or "noise" not in turn.cache:
            turn.cache["noise"] = turn.normal("z", len(batch["a"]), self.latent_dim, device=self.device)
        return turn.cache["noise"]

    # ---- learning -------------------------------------------------------------------------------------------------

    def losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if turn.player == "generator":
            return self._generator_losses(turn, batch)
        return self._critic_losses(turn, batch)

    def _generator_losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        a, b, y, wanted = batch["a"], self._domain_b(turn, batch), self._condition(batch), turn.weights
        same = self.other is not None and a.shape[1:] == b.shape[1:]
        style_a, style_b = self._styles(turn, len(a)), self._styles(turn, len(a), " b")
        terms: dict[str, Tensor] = {}
        fake_a, kept_a = self._both(self.translate_a, b, a if same and "identity_a" in wanted else None, y, style_a)
        fake_b = kept_b = None
        if {"adversarial_b", "adversarial_joint", "cycle_a", "identity_b", "semantic_b", "style_b"} & wanted.keys():
            fake_b, kept_b = self._both(self.translate_b, a, b if same and "identity_b" in wanted else None, y, style_b)
            turn.cache["fake_b"] = fake_b.detach(), y
        turn.cache["fake_a"] = fake_a.detach(), y
        if "adversarial_a" in wanted:
            real, fake = self._as_frequent(turn, batch, "a", a, fake_a)
            terms["adversarial_a"] = self._adversarial(turn, "a", real, fake, y)
        if "adversarial_b" in wanted and fake_b is not None:
            real, fake = self._as_frequent(turn, batch, "b", b, fake_b)
            terms["adversarial_b"] = self._adversarial(turn, "b", real, fake, y)
        if self._pairs_count(turn, "adversarial_joint") and fake_b is not None:
            turn.cache["pairs"] = (a, fake_b.detach()), (fake_a.detach(), b)
            real, fake = self._judge_pairs(turn, (a, fake_b), (fake_a, b))
            terms["adversarial_joint"] = LOSSES["relativistic"].generator(real, fake)
        if "cycle_a" in wanted and fake_b is not None:
            way_back = self._covered(turn, "b", fake_b)
            error = self.translate_a(way_back, y, self._style("a", way_back, a)) - a
            terms["cycle_a"] = error.abs().flatten(1).mean(1)
        if "cycle_b" in wanted:
            way_back = self._covered(turn, "a", fake_a)
            error = self.translate_b(way_back, y, self._style("b", way_back, b)) - b
            terms["cycle_b"] = (error.square() if self.other is None else error.abs()).flatten(1).mean(1)
        for name, kept, item in (("identity_a", kept_a, a), ("identity_b", kept_b, b)):
            if kept is not None:
                terms[name] = (kept - item).abs().flatten(1).mean(1)
        for side, source, fake, style in (("a", b, fake_a, style_a), ("b", a, fake_b, style_b)):
            if f"style_{side}" in wanted and style is not None and fake is not None:
                seen = self._style(side, source, fake)
                assert seen is not None
                terms[f"style_{side}"] = (seen - style).square().mean(1)
            if f"semantic_{side}" in wanted and self.teacher is not None and fake is not None:
                terms[f"semantic_{side}"] = self._semantic(side, source, fake, batch)
        return terms

    def _condition(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The labels (B,) that condition the networks: those of the data, against noise."""
        return batch.get("label") if self.other is None else None

    def _styles(self, turn: Turn, count: int, side: str = "") -> Tensor | None:
        if not self.options.style_dim:
            return None
        return turn.normal("style" + side, count, self.options.style_dim, device=self.device)

    @staticmethod
    def _both(
        translate: Any, x: Tensor, kept: Tensor | None, y: Tensor | None, style: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Translations of x and, in the same pass, of items that are in the target domain already."""
        if kept is None:
            return translate(x, y, style), None
        styles = None if style is None else torch.cat([style, torch.zeros_like(style)])
        out = translate(torch.cat([x, kept]), None, styles)
        return out[: len(x)], out[len(x) :]

    def _covered(self, turn: Turn, side: str, x: Tensor) -> Tensor:
        """A translation with noise on it before the way back, so that nothing can be hidden in its last bits
        (Bashkirova et al. 2019); codes are left as they are."""
        if not self.options.hide or self.other is None:
            return x
        return x + self.options.hide * turn.normal("hide " + side, *x.shape, device=x.device)

    def _semantic(self, to: str, source: Tensor, fake: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy (B,) of what the teacher sees in translations with what their sources are: by their labels
        where the source's domain is the labelled one, else by what the teacher sees in them (Hoffman et al. 2018,
        eq. 4)."""
        assert self.teacher is not None
        if self.teacher.side != to:
            target = batch["label" if to == "b" else "label_b"]
        else:
            with torch.no_grad():
                target = self.teacher(source).softmax(1)
        seen = self.teacher(fake)
        if self.teacher.side == to:
            self.teacher.count(batch["label" if to == "a" else "label_b"], seen)
        return F.cross_entropy(seen, target, reduction="none")

    def _as_frequent(
        self, turn: Turn, batch: dict[str, Tensor], side: str, real: Tensor, fake: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Items and translations (B, *space) of domain `side` as its critic is to see them: with `match_labels` those
        of the labelled domain, or made from it, are redrawn. A critic of whole items sees how frequent the classes are,
        and would have translators change what an item is until that agrees."""
        if not self.options.match_labels or self.teacher is None:
            return real, fake
        labels = batch["label" if self.teacher.side == "a" else "label_b"]
        taken = self.teacher.redrawn(labels, turn.uniform("redrawn", 1, device=labels.device))
        return (real[taken], fake) if self.teacher.side == side else (real, fake[taken])

    @torch.no_grad()
    def comparable(self, side: str, made: Tensor, y: Tensor | None) -> Tensor | None:
        """Which translations `made` (N, *space), of items of domain `side` with labels y (N,), to compare with items of
        the other domain, so that the classes are as frequent; None for all."""
        if not self.options.match_labels or self.teacher is None:
            return None
        if self.teacher.side == side:
            assert y is not None
            return self.teacher.redrawn(y)
        return self.teacher.redrawn(self.teacher(made).argmax(1), back=True)

    def _adversarial(self, turn: Turn, side: str, real: Tensor, fake: Tensor, y: Tensor | None) -> Tensor:
        judge_real = lambda: self._judge(turn, side, "real", real, y)
        return whole(fooling(self.options.loss, judge_real, lambda: self._judge(turn, side, "fake", fake, y)))

    def _critic_losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        y, terms = self._condition(batch), {}
        items = {"a": batch["a"], "b": self._domain_b(turn, batch)}
        both = self._pairs_count(turn, "critic_joint")
        fakes = {side: self._fake(turn, side, batch) for side in "ab" if both or f"critic_{side}" in turn.weights}
        for k, side in enumerate("ab"):
            if f"critic_{side}" not in turn.weights:
                continue
            (fake, fake_y), real = fakes[side], items[side]
            real, fake = self._as_frequent(turn, batch, side, real, fake)
            fake = self._pooled(turn, side, fake)
            labels = None if y is None or fake_y is None else torch.cat([y, fake_y])
            logits = self._judge(turn, side, "both", torch.cat([real, fake]), labels).chunk(2)
            terms[f"critic_{side}"] = whole(LOSSES[self.options.loss].discriminator(*logits))
            for name, x, its in (("r1", real, y), ("r2", fake, fake_y)):
                if f"{name}_{side}" in turn.weights:
                    terms[f"{name}_{side}"] = self._penalty(turn, side, name, x, its, self.spreads[k])
        if both:
            now = (items["a"], fakes["b"][0]), (fakes["a"][0], items["b"])
            real, made = turn.cache.pop("pairs", now)
            terms["critic_joint"] = LOSSES["relativistic"].discriminator(*self._judge_pairs(turn, real, made))
            if "r1_joint" in turn.weights:
                terms["r1_joint"] = self._penalty(turn, "joint", "r1", real[0], real[1], self.spreads[0])
        return terms

    def _pairs_count(self, turn: Turn, term: str) -> bool:
        """Whether there is a critic of pairs and a term of it has weight now."""
        return term in turn.weights and self.options.critic_joint is not None

    def _fake(self, turn: Turn, side: str, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """What the generators made in this step, or, in a further turn of the critics, make now; and their labels."""
        if f"fake_{side}" in turn.cache:
            return turn.cache.pop(f"fake_{side}")
        y, style = self._condition(batch), self._styles(turn, len(batch["a"]), "" if side == "a" else " b")
        with torch.no_grad():
            if side == "a":
                return self.translate_a(self._domain_b(turn, batch), y, style), y
            return self.translate_b(batch["a"], y, style), y

    @torch.no_grad()
    def _pooled(self, turn: Turn, side: str, fake: Tensor) -> Tensor:
        """The translations (B, *space), half of them swapped for earlier ones once the pool is full (Shrivastava et al.
        2017, section 2.3)."""
        pool = getattr(self, f"pool_{side}")
        if not len(pool):
            return fake
        filled = int(self.numbers[f"pooled_{side}"])
        if filled < len(pool):
            room = min(len(pool) - filled, len(fake))
            pool[filled : filled + room] = fake[:room]
            self.numbers[f"pooled_{side}"] = filled + room
            return fake
        slots = turn.uniform("pool " + side, len(pool), device=fake.device).argsort()[: len(fake)]
        swap = turn.uniform("swap " + side, len(fake), device=fake.device)[: len(slots)] < 0.5
        swap = swap.view(-1, *[1] * (fake.dim() - 1))
        old, new = pool[slots], fake[: len(slots)]
        pool[slots] = torch.where(swap, new, old)
        return torch.cat([torch.where(swap, old, new), fake[len(slots) :]])

    def _judge(self, turn: Turn, side: str, purpose: str, x: Tensor, y: Tensor | None) -> Tensor:
        purpose = purpose if side == "a" else purpose + " b"  # domain a draws what the GAN draws
        return judge(self._critic(turn, side), turn, purpose, x, y, self.augment, self.numbers["augment"])

    def _judge_pairs(self, turn: Turn, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> tuple[Any, ...]:
        """Logits (B,) of the pairs (item, its code) and (generated item, its noise)."""
        x, z = (torch.cat([one, other]) for one, other in zip(real, fake, strict=True))
        return self._judge(turn, "joint", "both", x, z).chunk(2)

    def _critic(self, turn: Turn, side: str) -> Callable[..., Tensor]:
        """A critic as the generators' turn sees it: where its trunk learns then, too, it does so as an encoder only."""
        critic = getattr(self, f"critic_{side}")
        if turn.player == "discriminator" or self.options.encoder == "separate":
            return critic
        return fixed(critic)

    def _penalty(self, turn: Turn, side: str, name: str, x: Tensor, y: Tensor | None, spread: Tensor) -> Tensor:
        critic, purpose = getattr(self, f"critic_{side}"), name if side == "a" else f"{name} {side}"
        return slope_penalty(
            critic, turn, purpose, x, y, self.augment, self.numbers["augment"], spread, self.options.difference
        )

    # ---- use ------------------------------------------------------------------------------------------------------

    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        self._need_noise("sample")
        return self.translate_a(z, y)

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None, seed: int, sampled: bool = False) -> Tensor:
        """The codes (B, Z) of items of domain a; its second domain must be noise."""
        self._need_noise("encode")
        if sampled:
            raise UsageError("This encoder gives one code for an item: there is no distribution to draw from.")
        return self.translate_b(x, y)

    def translate(self, x: Tensor, to: str, noise: Tensor | None = None) -> Tensor:
        if self.other is None:
            raise UsageError("This model's second domain is noise: use sample, encode and reconstruct.")
        style = None if noise is None else noise[:, : self.options.style_dim]
        return self.translate_b(x, None, style) if to == "b" else self.translate_a(x, None, style)

    @torch.no_grad()
    def there_and_back(self, x: Tensor, side: str, spoil: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Items (B, *space) of domain `side`: their translations, and those, spoilt, translated back."""
        go, come = (self.translate_b, self.translate_a) if side == "a" else (self.translate_a, self.translate_b)
        there = go(x)
        spoilt = spoil(there)
        return there, come(spoilt, None, self._style(side, spoilt, x))

    def _need_noise(self, verb: str) -> None:
        if self.other is not None:
            raise UsageError(f"This model translates between two data sets and cannot {verb}; use translate.")

    @torch.no_grad()
    def score(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The logit (B,) that critic_a gives items of domain a: high for typical ones."""
        return torch.cat([whole(self.critic_a(part, label)) for _, part, label in chunks(x, y)])

    @torch.no_grad()
    def measure(self, x: Tensor, y: Tensor | None, seed: int) -> dict[str, float]:
        """Mean absolute error of the cycle a → b → a on held-out items."""
        back = [self._back(part, label) for _, part, label in chunks(x, y)]
        return {"cycle_a": float((torch.cat(back) - x).abs().mean())}

    @torch.no_grad()
    def diagnose(self, train: dict[str, Tensor], heldout: dict[str, Tensor], seed: int) -> dict[str, float]:
        """What each critic knows of its domain and of translations; of noise also what either cycle loses, as
        `diagnosis.unlike` counts it; dead units of the networks between the domains."""
        y, known_y, seen = heldout.get("label"), train.get("label"), Activity()
        if self.other is None:
            noise = [self.noise(len(b["a"]), seed_of(seed, "diagnosis", k)).to(self.device)
                     for k, b in enumerate((train, heldout))]  # fmt: skip
            train, heldout = ({**b, "b": z} for b, z in zip((train, heldout), noise, strict=True))
        else:
            y = known_y = None
        count = min(len(heldout["a"]), len(heldout["b"]))
        a, b = heldout["a"][:count], heldout["b"][:count]
        made: dict[str, list[Tensor]] = {"a": [], "b": []}
        for start, part, label in chunks(a, y):
            seen.again()
            with seen:
                made["a"].append(self.translate_a(b[start : start + CHUNK], label))
                made["b"].append(self.translate_b(part, label))
        fakes = {side: torch.cat(parts) for side, parts in made.items()}
        found = seen.numbers()
        for side, unseen in (("a", a), ("b", b)):
            critic = getattr(self, f"critic_{side}")
            logits = [
                torch.cat([whole(critic(part, label)) for _, part, label in chunks(x, its)])
                for x, its in ((train[side], known_y), (unseen, y), (fakes[side], y))
            ]
            found |= judged(f"critic_{side}", *logits)
        if self.other is None:
            back_a = torch.cat([self.translate_a(part, label) for _, part, label in chunks(fakes["b"], y)])
            back_b = torch.cat([self.translate_b(part, label) for _, part, label in chunks(fakes["a"], y)])
            found |= {"lost/a": unlike(a, back_a), "lost/b": unlike(b, back_b)}
        return found

    def _back(self, a: Tensor, y: Tensor | None) -> Tensor:
        """Items a (B, *space_a) after the way to b and back."""
        if self.other is not None:
            return self.there_and_back(a, "a", lambda there: there)[1]
        return self.translate_a(self.translate_b(a, y), y)
