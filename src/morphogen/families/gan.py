"""GAN: a generator makes items out of noise, a discriminator tells them from real ones; they learn in turn.

Shapes: B batch · Z latent_dim · space (C, *S) · K classes (0: unconditional).
The generator moves first and leaves its items, detached, in the step's cache, where the discriminator finds them:
so each step runs the generator once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from morphogen.config import AugmentConfig
from morphogen.errors import UsageError
from morphogen.families.base import CHUNK, Family, Turn, chunks, seed_of, uniform_rows
from morphogen.families.critic import CriticOptions, fooling, judge, slope_penalty, spread_of, whole
from morphogen.families.diagnosis import Activity, judged
from morphogen.families.noise import NoiseOptions
from morphogen.nets import DISCRIMINATORS, GENERATORS, build_network
from morphogen.objectives.adversarial import LOSSES, lack_of_diversity, pair_distance, unit_slope

RATIOS = ("relativistic", "nonsaturating")
"""Losses whose best discriminator's logits are log p_data − log p_model, but for a constant."""
COARSE = 4  # pixels a side: what the term 'diversity' sees beside single ones
FOLLOW = 0.02  # how fast the data's own diversity follows that of the batches


class GANOptions(CriticOptions):
    """The `model` section of a GAN's config."""

    generator: dict[str, Any] = Field(default_factory=dict, description="kind and its options")
    discriminator: dict[str, Any] = Field(default_factory=dict, description="kind and its options")
    noise: NoiseOptions | None = Field(default=None, description="levels of noise on what the discriminator sees")

    @model_validator(mode="after")
    def _slope_of_noised_items(self) -> GANOptions:
        if self.noise is not None and self.penalty == "difference":
            raise ValueError("model.noise needs model.penalty=exact")
        if self.noise is not None and self.discriminator.get("kind") == "projected":
            raise ValueError("a projected discriminator sees items without noise; leave model.noise out")
        if self.noise is None and self.discriminator.get("plain"):
            raise ValueError("model.discriminator.plain is for the channel that model.noise adds; set it to 0")
        return self


class GAN(Family):
    """Terms: 'generator', 'diversity' for the generator's player; 'discriminator', 'r1', 'r2', 'gradient_penalty' for
    the other's.

    'diversity' keeps samples of one label as far from one another as the data are: told the label, a generator makes
    nearly the same item of all noise where each label has few (Shahbazi et al. 2022).

    R1 and R2 are counted in units of the data's own spread (their total variance), which is what makes one weight fit
    8x8 digits and 128x128 photographs: D's slope is measured per data-set diameter, not per grey level. With noise on
    what D sees the unit is the noise's own σ, and D, told the level, sees one channel more.
    """

    Options = GANOptions
    players = {"generator": ("generator",), "discriminator": ("discriminator",)}  # noqa: RUF012
    terms = {  # noqa: RUF012
        "generator": ("generator", "diversity"),
        "discriminator": ("discriminator", "r1", "r2", "gradient_penalty"),
    }
    averaged = ("generator",)
    for_training = ("distances",)

    def __init__(
        self,
        modality: Any,
        options: GANOptions,
        classes: int = 0,
        augment: AugmentConfig | None = None,
        networks: dict[str, nn.Module] | None = None,
    ):
        super().__init__(modality, options, classes, augment)
        self.latent_dim, own, space = options.latent_dim, networks or {}, modality.space
        self.generator = own.get("generator") or build_network(
            GENERATORS, options.generator, space=space, latent_dim=options.latent_dim, classes=classes
        )
        seen = space if options.noise is None else (space[0] + 1, *space[1:])
        self.discriminator = own.get("discriminator") or build_network(
            DISCRIMINATORS, options.discriminator, space=seen, classes=classes
        )
        if self.taught is not None:
            self.for_training = (*GAN.for_training, "discriminator.seen", "discriminator.heads")  # type: ignore[misc]
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("distances", torch.zeros(len(_views(torch.zeros(1, *space)))))
        self.spread: Tensor
        self.distances: Tensor
        self.numbers = {"augment": self.augment.start}

    @torch.no_grad()
    def prepare(self, x: Tensor, b: Tensor | None = None) -> None:
        self.spread.copy_(spread_of(x))

    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.modality.squash(self.generator(z, y))

    def losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if turn.player == "generator":
            return self._generator_losses(turn, batch["a"], batch.get("label"))
        return self._discriminator_losses(turn, batch)

    def _generator_losses(self, turn: Turn, real: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        fake, level = self._fake(turn, len(real), y), self._levels(turn, real)
        turn.cache["fake"] = fake.detach(), y
        judge_real = lambda: self._judge(turn, "real", real, y, level)
        loss = whole(fooling(self.options.loss, judge_real, lambda: self._judge(turn, "fake", fake, y, level)))
        terms = {"generator": loss if level is None else level**self.options.noise.power * loss}
        if "diversity" in turn.weights:
            terms["diversity"] = self._diversity(fake, real, y)
        return terms

    def _diversity(self, fake: Tensor, real: Tensor, y: Tensor | None) -> Tensor:
        """What samples of one label lack of the data's distance from one another, in detail and in the large."""
        made, now = (torch.stack([pair_distance(view, y) for view in _views(x)]) for x in (fake, real))
        known = torch.where(self.distances > 0, self.distances.lerp(now, FOLLOW), now)
        self.distances.copy_(torch.where(now > 0, known, self.distances))  # a batch may have no two of a label
        return (lack_of_diversity(made, self.distances) * (now > 0)).sum()

    def _discriminator_losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        real, y = batch["a"], batch.get("label")
        level = self._levels(turn, real)
        fake, fake_y = turn.cache.pop("fake", (None, y))
        if fake is None:  # a further turn in the same step
            with torch.no_grad():
                fake = self._fake(turn, len(real), y)
        both, labels = torch.cat([real, fake]), None if y is None else torch.cat([y, fake_y])
        levels = None if level is None else torch.cat([level, level])
        real_logit, fake_logit = self._judge(turn, "both", both, labels, levels).chunk(2)
        terms = {"discriminator": whole(LOSSES[self.options.loss].discriminator(real_logit, fake_logit))}
        for name, items, item_y in (("r1", real, y), ("r2", fake, fake_y)):
            if name in turn.weights:
                terms[name] = self._penalty(turn, name, items, item_y, level)
        if "gradient_penalty" in turn.weights:
            mix, critic = turn.uniform("mix", len(real), device=real.device), self._critic(turn, "mix", level)
            terms["gradient_penalty"] = unit_slope(lambda x: whole(critic(x, y)), real, fake, mix)
        if "heldout" in batch:
            self._measure_gap(turn, batch, real_logit, fake_logit, level)
        return terms

    def _fake(self, turn: Turn, count: int, y: Tensor | None) -> Tensor:
        return self.generate(turn.normal("z", count, self.latent_dim, device=self.device), y)

    def _levels(self, turn: Turn, x: Tensor) -> Tensor | None:
        """The noise levels (B,) at which D sees items x (B, *space) in this turn."""
        return None if self.options.noise is None else self.options.noise.levels(turn, len(x), x.device)

    def _critic(self, turn: Turn, purpose: str, level: Tensor | None) -> Callable[..., Tensor]:
        """D as a function of items without noise, of which it sees noised ones."""
        if level is None:
            return self.discriminator
        options, noise = self.options.noise, lambda x: turn.normal("noise " + purpose, *x.shape, device=x.device)
        return lambda x, y: self.discriminator(options.seen(x, level, noise(x)), y)

    def _judge(self, turn: Turn, purpose: str, x: Tensor, y: Tensor | None, level: Tensor | None) -> Tensor:
        return judge(self._critic(turn, purpose, level), turn, purpose, x, y, self.augment, self.numbers["augment"])

    def _penalty(self, turn: Turn, name: str, x: Tensor, y: Tensor | None, level: Tensor | None) -> Tensor:
        return slope_penalty(
            self._critic(turn, name, level), turn, name, x, y, self.augment, self.numbers["augment"],
            self.spread if level is None else level.square(), self.options.difference,
        )  # fmt: skip

    def _logit(self, x: Tensor, y: Tensor | None) -> Tensor:
        """D's logits (B,), as it is used, of items as they are: where it expects noise, none at the least level."""
        if self.options.noise is None:
            return whole(self.discriminator(x, y))
        least = torch.full((len(x),), self.options.noise.least, device=x.device)
        return whole(self.discriminator(self.options.noise.seen(x, least, torch.zeros_like(x)), y))

    def wants_heldout(self, step: int) -> bool:
        return self.augment.mode == "adaptive" and len(self.modality.space) == 3 and step % self.augment.every == 0

    @torch.no_grad()
    def _measure_gap(
        self, turn: Turn, batch: dict[str, Tensor], real_logit: Tensor, fake_logit: Tensor, level: Tensor | None
    ) -> None:
        """How much of D's lead on training items is lost on held-out ones (Karras et al. 2020, eq. 1, r_v)."""
        heldout = self._judge(turn, "heldout", batch["heldout"], batch.get("heldout_label"), level)
        seen, unseen, fake = real_logit.mean(), heldout.mean(), fake_logit.mean()
        turn.cache["gap"] = (seen - unseen) / (seen - fake).clamp_min(1e-3)

    def after_step(self, step: int, turn_cache: dict[str, Any], batch_size: int) -> None:
        """Adaptive augmentation: more of it while D knows the training items by heart, less while it does not."""
        if "gap" not in turn_cache:
            return
        rate = 1 - self.augment.every * batch_size / (self.augment.images / 4)
        memory = max(0.5, rate)  # one batch says little: the gap is followed over a quarter of `images`
        gap = min(2.0, max(-2.0, float(turn_cache["gap"])))
        self.numbers["gap"] = memory * self.numbers.get("gap", 0.0) + (1 - memory) * gap
        move = self.augment.every * batch_size / self.augment.images
        move = move if self.numbers["gap"] > self.augment.target else -move
        self.numbers["augment"] = min(self.augment.most, max(0.0, self.numbers["augment"] + move))

    @property
    def chooses(self) -> bool:
        return self.options.loss in RATIOS

    @torch.no_grad()
    def chosen_codes(
        self, count: int, seed: int, labels: Tensor | None, temperature: float, truncation: float | None, tries: int
    ) -> Tensor:
        """`codes`, each chosen among `tries` with a chance proportional to what the discriminator takes for the ratio
        of the data's density to the samples' (sampling-importance-resampling, Grover et al. 2019, section 3; by the
        discriminator as Azadi et al. 2019, eq. 4). The chance is drawn by the Gumbel maximum.
        """
        best, chosen = torch.full((count,), -torch.inf), torch.zeros(count, self.latent_dim)
        for k in range(tries):
            codes = self.codes(count, seed_of(seed, "try", k), labels, temperature, truncation)
            judged = self._in_chunks(lambda z, y: self._logit(self.generate(z, y), y), labels, codes)
            u = uniform_rows(count, seed, "choice", k).clamp(1e-12, 1 - 1e-7)
            worth = torch.cat(list(judged)).cpu() - (-u.log()).log()
            better = worth > best if k else torch.ones(count, dtype=torch.bool)
            chosen[better], best[better] = codes[better], worth[better]
        return chosen

    @torch.no_grad()
    def score(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The probability (B,) that the discriminator gives items x (B, *space) of being real.

        A relativistic discriminator's logits have no origin of their own: there it is the mean logit of 500 samples of
        the same label, so that 0.5 is a typical sample's.
        """
        logits = torch.cat([self._logit(part, label) for _, part, label in chunks(x, y, 500)])
        if not LOSSES[self.options.loss].generator_sees_real:
            return torch.sigmoid(logits)
        if y is None:
            return torch.sigmoid(logits - self._mean_fake_logit(None))
        base = torch.stack([self._mean_fake_logit(k) for k in range(self.classes)])
        return torch.sigmoid(logits - base[y])

    @torch.no_grad()
    def diagnose(self, train: dict[str, Tensor], heldout: dict[str, Tensor], seed: int) -> dict[str, float]:
        """What the discriminator knows of items and of samples of the same labels; dead units of both networks."""
        y, seen = heldout.get("label"), Activity()
        noise = self.noise(len(heldout["a"]), seed_of(seed, "diagnosis")).to(self.device)
        logits: list[list[Tensor]] = [[], [], []]
        for start, unseen, label in chunks(heldout["a"], y):
            seen.again()
            with seen:
                fake = self.generate(noise[start : start + CHUNK], label)
                logits[1].append(self._logit(unseen, label))
            logits[2].append(self._logit(fake, label))
        logits[0] = [self._logit(part, label) for _, part, label in chunks(train["a"], train.get("label"))]
        return judged("discriminator", *map(torch.cat, logits)) | seen.numbers()

    def _mean_fake_logit(self, label: int | None, count: int = 500) -> Tensor:
        """The mean logit () of samples of one label."""
        labels = None if label is None else torch.full((count,), label)
        samples = torch.cat(list(self.items_of(self.noise(count, 0), labels)))
        return self._logit(samples, None if labels is None else labels.to(samples.device)).mean()

    @torch.enable_grad()
    def encode(
        self, x: Tensor, y: Tensor | None, seed: int, sampled: bool = False, steps: int = 300, starts: int = 200
    ) -> Tensor:
        """The noise z (B, Z) whose item is nearest to x (B, *space): inversion, since a GAN has no encoder.

        Adam from the best of `starts` random draws of each item's label.
        """
        if sampled:
            raise UsageError("A GAN's codes are found by search: there is no distribution to draw them from.")
        with torch.no_grad():
            z = self._nearest_start(x, y, seed, starts)
        z.requires_grad_(True)
        optimizer = torch.optim.Adam([z], lr=0.1, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            error = (self.generate(z, y) - x).square().flatten(1).sum(1) / self.spread
            stay = 1e-3 * z.square().mean(1)  # noise far out makes items the generator was never asked for
            optimizer.zero_grad()
            (error + stay).sum().backward()
            optimizer.step()
            schedule.step()
        return z.detach()

    def _nearest_start(self, x: Tensor, y: Tensor | None, seed: int, starts: int) -> Tensor:
        candidates = self.noise(starts, seed).to(x.device)
        best, found = torch.full((len(x),), torch.inf, device=x.device), torch.zeros(len(x), self.latent_dim)
        found = found.to(x.device)
        labels = [None] if y is None else [int(k) for k in y.unique()]
        for label in labels:
            rows = torch.arange(len(x), device=x.device) if label is None else (y == label).nonzero().squeeze(1)
            fixed = None if label is None else torch.full((starts,), label, device=x.device)
            items = self.generate(candidates, fixed)
            error, index = torch.cdist(x[rows].flatten(1), items.flatten(1)).min(1)
            better = error < best[rows]
            best[rows] = torch.where(better, error, best[rows])
            found[rows] = torch.where(better[:, None], candidates[index], found[rows])
        return found


def _views(x: Tensor) -> tuple[Tensor, ...]:
    """Items x (B, *space), and pictures once more with COARSE x COARSE pixels in one."""
    coarse = x.dim() == 4 and min(x.shape[2:]) >= COARSE
    return (x, avg_pool2d(x.float(), COARSE)) if coarse else (x,)
