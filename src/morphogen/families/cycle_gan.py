"""Cycle GAN: two domains, a network each way, a critic on each side; there and back again must give the same.

    a ── to_b ──▶ b        critic_a judges what to_a makes of b, critic_b what to_b makes of a
      ◀── to_a ──          cycle_a: to_a(to_b(a)) ≈ a      cycle_b: to_b(to_a(b)) ≈ b

The second domain is another data set (Zhu et al. 2017), or noise: then to_a is a generator, to_b an encoder, and the
two critics judge pictures and codes (the BiGAN and ALICE line; Li et al. 2017). Without the terms that touch to_b the
latter is exactly the GAN.

Shapes: B batch · space_a, space_b (C, *S), or (Z,) for noise · K classes (0: unconditional).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from morphogen.config import AugmentConfig
from morphogen.errors import UsageError
from morphogen.families.base import Family, Turn, chunks
from morphogen.families.critic import CriticOptions, judge, slope_penalty, spread_of, whole
from morphogen.nets import DISCRIMINATORS, ENCODERS, GENERATORS, PATCH_CRITICS, TRANSLATORS, build_network
from morphogen.objectives.adversarial import LOSSES


class CycleGANOptions(CriticOptions):
    """The `model` section of a cycle GAN's config. latent_dim: of the noise, where the second domain is noise."""

    known_losses: ClassVar[tuple[str, ...]] = tuple(k for k in LOSSES if k != "wasserstein")  # it needs unit slopes
    loss: str = Field(default="leastsquares", description=", ".join(known_losses))
    penalty: Literal["exact", "difference"] = "difference"
    pool: int = Field(default=50, ge=0, description="earlier translations kept for the critics, 0 for none")
    hide: float = Field(default=0.0, ge=0, description="noise on a translation before the way back, against hiding")
    to_a: dict[str, Any] = Field(default_factory=dict, description="kind and options of the network b → a")
    to_b: dict[str, Any] = Field(default_factory=dict, description="kind and options of the network a → b")
    critic_a: dict[str, Any] = Field(default_factory=dict, description="kind and options")
    critic_b: dict[str, Any] = Field(default_factory=dict, description="kind and options")


class CycleGAN(Family):
    """Terms of the generators: 'adversarial_a', 'adversarial_b', 'cycle_a', 'cycle_b', 'identity_a', 'identity_b'
    (where the spaces agree); of the critics: 'critic_a', 'critic_b', and R1 and R2 on each side.

    Cycles are mean absolute errors, of codes mean squared ones.
    """

    Options = CycleGANOptions
    players = {"generator": ("to_a", "to_b"), "discriminator": ("critic_a", "critic_b")}  # noqa: RUF012
    terms = {  # noqa: RUF012
        "generator": ("adversarial_a", "adversarial_b", "cycle_a", "cycle_b", "identity_a", "identity_b"),
        "discriminator": ("critic_a", "critic_b", "r1_a", "r2_a", "r1_b", "r2_b"),
    }
    averaged = ("to_a", "to_b")
    for_training = ("pool_a", "pool_b")
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
        if other is not None and classes:
            raise UsageError("Labels do not condition a cycle GAN between two data sets; leave data.label out.")
        self.latent_dim, own = options.latent_dim, networks or {}
        a = modality.space
        b = (options.latent_dim,) if other is None else other.space
        if other is None:
            made = {
                "to_a": lambda: build_network(
                    GENERATORS, options.to_a, space=a, latent_dim=options.latent_dim, classes=classes
                ),
                "to_b": lambda: build_network(
                    ENCODERS, options.to_b, space=a, outputs=options.latent_dim, classes=classes
                ),
                "critic_a": lambda: build_network(DISCRIMINATORS, options.critic_a, space=a, classes=classes),
                "critic_b": lambda: build_network(
                    DISCRIMINATORS, {"kind": "dense", **options.critic_b}, space=b, classes=classes
                ),
            }
        else:
            made = {
                "to_a": lambda: build_network(TRANSLATORS, options.to_a, space=b, space_out=a),
                "to_b": lambda: build_network(TRANSLATORS, options.to_b, space=a, space_out=b),
                "critic_a": lambda: build_network(PATCH_CRITICS, options.critic_a, space=a),
                "critic_b": lambda: build_network(PATCH_CRITICS, options.critic_b, space=b),
            }
        self.to_a, self.to_b, self.critic_a, self.critic_b = (own.get(name) or made[name]() for name in made)
        self.register_buffer("spreads", torch.ones(2))
        self.spreads: Tensor
        for side, space in (("a", a), ("b", b)):
            pooled = options.pool if other is not None else 0
            self.register_buffer(f"pool_{side}", torch.zeros(pooled, *space))
        self.numbers = {"augment": self.augment.probability if self.augment.mode != "off" else 0.0}
        if other is not None and options.pool:
            self.numbers |= {"pooled_a": 0, "pooled_b": 0}

    @torch.no_grad()
    def prepare(self, x: Tensor, b: Tensor | None = None) -> None:
        spread_b = torch.tensor(float(self.latent_dim), device=x.device) if b is None else spread_of(b)
        self.spreads.copy_(torch.stack([spread_of(x), spread_b]))

    # ---- the two ways ---------------------------------------------------------------------------------------------

    def translate_a(self, b: Tensor, y: Tensor | None = None) -> Tensor:
        """b (B, *space_b) → a (B, *space_a)."""
        return self.modality.squash(self.to_a(b, y) if self.other is None else self.to_a(b))

    def translate_b(self, a: Tensor, y: Tensor | None = None) -> Tensor:
        """a (B, *space_a) → b (B, *space_b)."""
        return self.to_b(a, y).float() if self.other is None else self.other.squash(self.to_b(a))

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
        a, b, y, wanted = batch["a"], self._domain_b(turn, batch), batch.get("label"), turn.weights
        same = self.other is not None and a.shape[1:] == b.shape[1:]
        terms: dict[str, Tensor] = {}
        fake_a, kept_a = self._both(self.translate_a, b, a if same and "identity_a" in wanted else None, y)
        needs_b = {"adversarial_b", "cycle_a", "identity_b"} & wanted.keys()
        fake_b = kept_b = None
        if needs_b:
            fake_b, kept_b = self._both(self.translate_b, a, b if same and "identity_b" in wanted else None, y)
            turn.cache["fake_b"] = fake_b.detach(), y
        turn.cache["fake_a"] = fake_a.detach(), y
        if "adversarial_a" in wanted:
            terms["adversarial_a"] = self._adversarial(turn, "a", a, fake_a, y)
        if "adversarial_b" in wanted and fake_b is not None:
            terms["adversarial_b"] = self._adversarial(turn, "b", b, fake_b, y)
        if "cycle_a" in wanted and fake_b is not None:
            terms["cycle_a"] = (self.translate_a(self._covered(turn, "b", fake_b), y) - a).abs().flatten(1).mean(1)
        if "cycle_b" in wanted:
            back = self.translate_b(self._covered(turn, "a", fake_a), y) - b
            terms["cycle_b"] = (back.square() if self.other is None else back.abs()).flatten(1).mean(1)
        for name, kept, item in (("identity_a", kept_a, a), ("identity_b", kept_b, b)):
            if kept is not None:
                terms[name] = (kept - item).abs().flatten(1).mean(1)
        return terms

    @staticmethod
    def _both(translate: Any, x: Tensor, kept: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Translations of x and, in the same pass, of items that are in the target domain already."""
        if kept is None:
            return translate(x, y), None
        out = translate(torch.cat([x, kept]))
        return out[: len(x)], out[len(x) :]

    def _covered(self, turn: Turn, side: str, x: Tensor) -> Tensor:
        """A translation with noise on it before the way back, so that nothing can be hidden in its last bits
        (Bashkirova et al. 2019); codes are left as they are."""
        if not self.options.hide or self.other is None:
            return x
        return x + self.options.hide * turn.normal("hide " + side, *x.shape, device=x.device)

    def _adversarial(self, turn: Turn, side: str, real: Tensor, fake: Tensor, y: Tensor | None) -> Tensor:
        loss, real_logit = LOSSES[self.options.loss], torch.zeros((), device=real.device)
        if loss.generator_sees_real:
            with torch.no_grad():
                real_logit = self._judge(turn, side, "real", real, y)
        return whole(loss.generator(real_logit, self._judge(turn, side, "fake", fake, y)))

    def _critic_losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        y, terms = batch.get("label"), {}
        items = {"a": batch["a"], "b": self._domain_b(turn, batch)}
        for k, side in enumerate("ab"):
            if f"critic_{side}" not in turn.weights:
                continue
            fake, fake_y = self._fake(turn, side, batch)
            real, fake = items[side], self._pooled(turn, side, fake)
            labels = None if y is None else torch.cat([y, fake_y])
            logits = self._judge(turn, side, "both", torch.cat([real, fake]), labels).chunk(2)
            terms[f"critic_{side}"] = whole(LOSSES[self.options.loss].discriminator(*logits))
            for name, x, its in (("r1", real, y), ("r2", fake, fake_y)):
                if f"{name}_{side}" in turn.weights:
                    terms[f"{name}_{side}"] = self._penalty(turn, side, name, x, its, self.spreads[k])
        return terms

    def _fake(self, turn: Turn, side: str, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """What the generators made in this step, or, in a further turn of the critics, make now; and their labels."""
        if f"fake_{side}" in turn.cache:
            return turn.cache.pop(f"fake_{side}")
        y = batch.get("label")
        with torch.no_grad():
            fake = self.translate_a(self._domain_b(turn, batch), y) if side == "a" else self.translate_b(batch["a"], y)
        return fake, y

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
        critic = self.critic_a if side == "a" else self.critic_b
        purpose = purpose if side == "a" else purpose + " b"  # domain a draws what the GAN draws
        return judge(critic, turn, purpose, x, y if self.other is None else None, self.augment, self.numbers["augment"])

    def _penalty(self, turn: Turn, side: str, name: str, x: Tensor, y: Tensor | None, spread: Tensor) -> Tensor:
        critic = self.critic_a if side == "a" else self.critic_b
        purpose, y = name if side == "a" else name + " b", y if self.other is None else None
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

    def translate(self, x: Tensor, to: str) -> Tensor:
        if self.other is None:
            raise UsageError("This model's second domain is noise: use sample, encode and reconstruct.")
        return self.translate_b(x) if to == "b" else self.translate_a(x)

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
        back = torch.cat([
            self.translate_a(self.translate_b(part, label), label) for _, part, label in chunks(x, y)
        ])  # fmt: skip
        return {"cycle_a": float((back - x).abs().mean())}
