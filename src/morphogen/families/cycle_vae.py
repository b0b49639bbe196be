"""Cycle VAE: encoder and decoder joined in a loop; what the decoder makes is encoded again.

    one data set     x ─ encoder ─▶ z₁ ─ decoder ─▶ x₁ ─ encoder ─▶ z₂ ─ decoder ─▶ x₂ …     every xₙ explains x
    many domains     x ─ encoder ─▶ z ─ decoder(d′) ─▶ y ─ encoder ─▶ z′ ─ decoder(d) ─▶ x₁     x₁ explains x again

The domain is the label: the encoder does not see it, the decoder is told it. So the code says what the item is apart
from its domain, and an item is converted by decoding its code in another (Tobing et al. 2019). A critic may judge the
converted items, which the likelihood never sees, and a probe may hunt for the domain in the code. From text y only the
way back learns, as in back-translation (Lample et al. 2018, section 2.3); and where no gradient at all passes through a
sample (text written token after token), there is no critic either.

Shapes: B batch · Z latent_dim · space (C, *S) · K domains (0: one data set)
With one data set, N = 1 and without the further terms this is exactly the VAE.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.config import AugmentConfig
from morphogen.errors import UsageError
from morphogen.families.augment import augment
from morphogen.families.base import Turn, apart, chunks, seed_of
from morphogen.families.critic import (
    fixed,
    whole,
)
from morphogen.families.diagnosis import judged, unlike
from morphogen.families.vae import VAE, Explanation, VAEOptions
from morphogen.nets import ENCODERS, GUESSES, PATCH_CRITICS, PRIORS, build_network
from morphogen.nets.whitening import MOST, WhitenedEncoder
from morphogen.objectives.categorical import Categorical

PROBED = 1024  # codes that the probe learns from at once
NAMED = 0.5  # the share of items that each kind of augmentation changes before their domain is guessed
DOUBT = 0.1  # the share that the probe is taught to leave to all domains alike: a sure one would drive codes apart


class CycleVAEOptions(VAEOptions):
    """The `model` section of a cycle VAE's config."""

    cycles: int | None = Field(
        default=None, ge=1, description="how often an item is encoded, by default 2, or, between domains, goes round, 1"
    )
    critic: dict[str, Any] = Field(  # type: ignore[assignment]
        default_factory=dict, description="kind and options; it judges converted items"
    )
    probe: dict[str, Any] | None = Field(
        default_factory=dict, description="kind and options; it looks for the domain in codes; null for none"
    )
    guess: dict[str, Any] | None = Field(
        default=None, description="kind and options of a network that tells an item's domain; with it the code is"
        " whitened domain by domain; null for none",
    )  # fmt: skip
    flow: dict[str, Any] = Field(
        default_factory=dict, description="what brings the codes of each domain to normal noise, where `guess` is set"
        " and they are of few variables; fitted at the end",
    )  # fmt: skip
    pool: int = Field(default=4096, ge=1, description="last codes kept for the probe, which learns from many at once")


class CycleVAE(VAE):
    """Terms of the autoencoder, beside the VAE's: 'cycle' = −log p(x | what came round), 'cycle_kl' of the codes on the
    way, 'consistency' = KL(posterior of what came round ‖ that of the item), 'codes' = −log q(z | decoded z) for z of
    the prior, which teaches the encoder only; between domains also 'adversarial' (converted items fool the critic),
    'blind' (the probe sees every domain as likely) and 'guess' = −log of the chance that the network by whose guess
    the code is whitened gives the item's domain (see `nets.whitening`), and 'domain' = −log of the chance that it gives
    converted items theirs. Of the discriminator: 'critic', 'r1', 'r2'; of
    the probe: 'probe'.
    The probe is a player of its own because it must be let learn several times a step (`players.probe.repeats`): one
    that lags behind the encoder misses what a patient one finds in the code afterwards.
    """

    Options = CycleVAEOptions
    terms = {  # noqa: RUF012
        "autoencoder": (
            *VAE.terms["autoencoder"], "cycle", "cycle_kl", "consistency", "codes", "adversarial", "blind", "guess",
            "domain",
        ),
        "discriminator": ("critic", "r1", "r2"),
        "probe": ("probe",),
    }  # fmt: skip
    players = {**VAE.players, "discriminator": ("critic",), "probe": ("probe",)}  # noqa: RUF012
    for_training = ("critic", "probe", "pool_codes", "pool_labels")
    augmentations = ("off", "fixed")
    blind = True
    relaxed = True
    critic: Any
    probe: Any
    options: CycleVAEOptions

    def __init__(
        self,
        modality: Any,
        options: CycleVAEOptions,
        classes: int = 0,
        augment: AugmentConfig | None = None,
        networks: dict[str, nn.Module] | None = None,
    ):
        super().__init__(modality, options, classes, augment, networks)
        own, space = networks or {}, modality.space
        if self.ladder and classes:
            raise UsageError(
                "A ladder's lower codes depend on the domain; between domains set another kind of decoder."
            )
        self.guesses = options.guess is not None and bool(classes)
        if self.guesses:
            self.needed = ("guess",)  # type: ignore[misc]
            self.encoder = self._whitened(self.encoder, "encoder" in own)
        self.flow: Any = self._flow(options.flow) if self.guesses and options.flow else None
        self.cycles = options.cycles or (1 if classes else 2)
        self.converts = bool(classes)  # type: ignore[misc]
        self.criterion = "converted_fid" if classes else "nelbo"  # type: ignore[misc]
        judged, probed = self._judges(bool(classes))
        self.numbers = {"augment": self.augment.start}
        if classes:
            self.numbers["pooled"] = 0
            if judged:
                self.critic = own.get("critic") or build_network(
                    PATCH_CRITICS, {"kind": "conv", **options.critic}, space=space, classes=classes
                )
            if probed:
                probe = {"kind": "dense", **(options.probe or {})}
                self.probe = own.get("probe") or build_network(ENCODERS, probe, space=(self.top_dim,), outputs=classes)
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("pool_codes", torch.zeros(options.pool if probed else 0, self.top_dim))
        self.register_buffer("pool_labels", torch.zeros(options.pool if probed else 0, dtype=torch.long))
        self.spread: Tensor
        self.pool_codes: Tensor
        self.pool_labels: Tensor

    def _add_critic(self, own: dict[str, nn.Module]) -> None:
        """That of converted items comes with the domains."""

    def _whitened(self, encoder: nn.Module, users: bool) -> WhitenedEncoder:
        """The encoder, its code whitened. UsageError for the user's own: what holds it is left as it is at the start,
        so that the guess would not begin by the seed."""
        if users:
            raise UsageError("model.guess whitens codes of built-in encoders only: with yours set model.guess=null.")
        options: dict[str, Any] = {"kind": "conv", **(self.options.guess or {})}
        guess = build_network(GUESSES, options, space=self.modality.space, outputs=self.classes)
        return WhitenedEncoder(encoder, guess, self.options.latent_dim, self.classes)

    def _flow(self, options: dict[str, Any]) -> nn.Module:
        space, size = self.modality.space, self.options.latent_dim
        return build_network(PRIORS, {**options, "kind": "flow"}, space=space, latent_dim=size, classes=self.classes)

    @property
    def wants_flow(self) -> bool:
        return self.guesses and self.top_dim <= MOST

    def _judges(self, domains: bool) -> tuple[bool, bool]:
        """Whether there are a critic and a probe: both between domains only, and a critic where gradients pass through
        what is made. Players and terms that are not there are struck out."""
        judged = domains and getattr(self.density, "carries_gradient", True)
        probed = domains and self.options.probe is not None
        judges = {"discriminator": ("critic",) if judged else (), "probe": ("probe",) if probed else ()}
        self.players = {**VAE.players, **judges}  # type: ignore[misc]
        if domains:
            without = {*(() if judged else ("codes", "adversarial")), *(() if probed else ("blind",))}
            terms = {player: names if self.players[player] else () for player, names in self.terms.items()}
            terms["autoencoder"] = tuple(name for name in terms["autoencoder"] if name not in without)
            self.terms = terms  # type: ignore[misc]
        return judged, probed

    # ---- learning -------------------------------------------------------------------------------------------------

    def losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if turn.player == "discriminator":
            return self._critic_losses(turn, batch)
        if turn.player == "probe":
            return self._probe_losses(turn, batch)
        terms, (x, encoded, found) = self.bound(turn, batch)
        y, wanted = batch.get("label"), turn.weights.keys()
        made: list[tuple[Tensor, Tensor | None]] = []  # what the critic judges: converted items, and drawn ones
        if {"cycle", "cycle_kl", "consistency", "adversarial", "domain"} & wanted:
            found = found or self.explain(encoded, y, turn.normal("z", len(x), self.latent_dim, device=x.device))
            made += self._go_round(turn, x, y, encoded, found, terms)[:1]
        if "codes" in wanted:
            z, domain = self._drawn(turn, len(x))
            with torch.set_grad_enabled("adversarial" in wanted and bool(self.classes)):
                made.append((self.generate(z, domain), domain))
            again = self.top(self.encoder(made[-1][0].detach(), None))
            terms["codes"] = -again.log_prob(z[:, : self.top_dim]).sum(1)
        if self.classes and made:
            fake, fake_y = self._halves(made)
            turn.cache["fake"] = fake.detach(), fake_y
            if "adversarial" in wanted:
                terms["adversarial"] = self._adversarial(turn, x, y, fake, fake_y)
        if self.classes and "blind" in wanted:
            terms["blind"] = -self.probe(self.top(encoded).mean, None).log_softmax(1).mean(1)
        if self.guesses and "domain" in wanted:
            terms["domain"] = self._named(turn, *made[0])
        if self.guesses and "guess" in wanted and y is not None:
            seen = augment(x, self.augment.policy, NAMED, turn.generator("guess", x.device))
            terms["guess"] = F.cross_entropy(self.encoder.guess(seen, None).float(), y, reduction="none")
        return terms

    def _go_round(
        self, turn: Turn, x: Tensor, y: Tensor | None, encoded: Any, found: Explanation, terms: dict[str, Tensor]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Lap after lap: 'cycle', 'cycle_kl' and 'consistency' (B,) are sums over all of them. Between domains, returns
        each lap's converted items (B, *space) and their domains (B,)."""
        errors, kls, distances, made = [], [], [], []

        def explain(name: str, encoded: Any) -> Explanation:
            one = self.explain(encoded, y, turn.normal(name, len(x), self.latent_dim, device=x.device))
            errors.append(-self.likelihood(one.output).log_prob(x))
            kls.append(one.kl.sum(1))
            return one

        for n in range(self.cycles if self.classes else self.cycles - 1):
            posterior, again = self.top(encoded), None
            if self.classes:
                domain = self._other_domain(turn, y, n)
                made.append((self.generate(found.code, domain), domain))
                encoded = self.encoder(self._passed_on(made[-1][0]), None)
                again = self.top(encoded)
                found = explain(f"z' {n}", encoded)
            if not self.classes or n + 1 < self.cycles:
                encoded = self.encoder(self.likelihood(found.output).mode(), None)
                again = again or self.top(encoded)
                found = explain(f"z {n + 1}", encoded)
            assert again is not None
            distances.append(again.kl(posterior).sum(1))
        if errors:
            terms |= {"cycle": sum(errors), "cycle_kl": sum(kls), "consistency": sum(distances)}  # type: ignore[dict-item]
        return made

    def _named(self, turn: Turn, made: Tensor, domain: Tensor | None) -> Tensor:
        """−log of the chance (B,) that the network of the guess, which does not learn from it, gives converted items
        (B, *space) the domain that was wanted (Choi et al. 2018, eq. 3)."""
        seen = augment(made, self.augment.policy, NAMED, turn.generator("domain", made.device))
        assert domain is not None
        return F.cross_entropy(fixed(self.encoder.guess)(seen, None).float(), domain, reduction="none")

    def _passed_on(self, made: Tensor) -> Tensor:
        """A converted item (B, *space) as it is encoded again. What text was drawn from does not learn from the way
        back: the slope of a drawn symbol is a guess, and so steep there that it drowns what the critic says."""
        return made.detach() if self.density is Categorical else made

    def _other_domain(self, turn: Turn, y: Tensor | None, n: int) -> Tensor:
        """For each item a domain (B,) that is not its own, at random."""
        assert y is not None
        step = (turn.uniform(f"domain {n}", len(y), device=y.device) * (self.classes - 1)).long()
        return (y + 1 + step.clamp_max(self.classes - 2)) % self.classes

    @torch.no_grad()
    def _drawn(self, turn: Turn, count: int) -> tuple[Tensor, Tensor | None]:
        """Codes (B, Z) of the prior, and random domains (B,) for them."""
        noise = turn.normal("codes", count, self.latent_dim, device=self.device)
        pick = turn.uniform("pick", count, device=self.device)
        y = (turn.uniform("any domain", count, device=self.device) * self.classes).long() if self.classes else None
        top = self.prior.draw(noise[:, : self.top_dim], pick, y, self._top_of)
        return torch.cat([top, noise[:, self.top_dim :]], 1), y

    @staticmethod
    def _halves(made: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
        """One batch (B, *space) and its domains (B,) out of an equal share of each of `made`."""
        share = len(made[0][0]) // len(made)
        cut = [0, share, None] if len(made) == 2 else [0, None]
        parts = [(x[i:j], y[i:j]) for (x, y), i, j in zip(made, cut, cut[1:], strict=False) if y is not None]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def _critic_losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        y, x = batch["label"], self._observed(turn, batch)
        fake, fake_y = turn.cache.pop("fake", (None, y))
        if fake is None:  # a further turn in the same step
            fake_y = self._other_domain(turn, y, 0)
            with torch.no_grad():
                fake = self.generate(self.explain(self.encoder(x, None), y, None).code, fake_y)
        return self._learned(turn, (x, y), (fake, fake_y))

    def _probe_losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            mean = self.top(self.encoder(self._observed(turn, batch), None)).mean
        codes, labels = self._pooled(turn, mean, batch["label"])
        return {"probe": F.cross_entropy(self.probe(codes, None), labels, label_smoothing=DOUBT)}

    def _observed(self, turn: Turn, batch: dict[str, Tensor]) -> Tensor:
        """The batch's items (B, *space) as the encoder sees them."""
        return self.observe(batch["a"], turn.generator("binarize", batch["a"].device))

    def _pooled(self, turn: Turn, codes: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """`PROBED` of the last codes and their labels, after the new codes (B, Z) have taken the oldest ones' places:
        a probe that sees one batch at a time lags behind what a patient one would find."""
        size, before = len(self.pool_codes), int(self.numbers["pooled"])
        codes, y = codes[-size:], y[-size:]
        place = (before + torch.arange(len(codes), device=codes.device)) % size
        self.pool_codes[place], self.pool_labels[place] = codes, y
        self.numbers["pooled"] = before + len(codes)
        filled = min(size, before + len(codes))
        drawn = (turn.uniform("pool", PROBED, device=codes.device) * filled).long().clamp_max(filled - 1)
        return self.pool_codes[drawn], self.pool_labels[drawn]

    # ---- use ------------------------------------------------------------------------------------------------------

    def content(self, z: Tensor, x: Tensor) -> Tensor:
        """With the flow, the noise that it makes of codes z (B, Z) as those of the domains that items x seem to be of:
        in every domain it is spread alike, so it does not tell which one it was."""
        return z if self.flow is None else self.flow.to_noise(z, self.encoder.guess(x, None).argmax(1))[0]

    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        return super().generate(z if self.flow is None else self.flow.to_code(z, y), y)

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None) -> Tensor:
        return super().draw(noise, pick, y) if self.flow is None else noise

    def convert(self, x: Tensor, to: Tensor) -> Tensor:
        """Items (B, *space) in the domains of numbers `to` (B,)."""
        if not self.classes:
            raise UsageError("This model has one domain and cannot translate; train one with --set data.label=label.")
        return self.generate(self.encode(x, None, 0), to)

    def others(self, y: Tensor, seed: int) -> Tensor:
        """For each item a domain (N,) that is not its own, drawn by seed."""
        generator = torch.Generator().manual_seed(seed_of(seed, "other domain"))
        return (y + torch.randint(1, self.classes, (len(y),), generator=generator).to(y.device)) % self.classes

    @torch.no_grad()
    def converted(self, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """Items x (N, *space) of domains y (N,), each in another domain, drawn by seed."""
        to = self.others(y, seed)
        return torch.cat([self.convert(part, goal) for _, part, goal in chunks(x, to) if goal is not None])

    @torch.no_grad()
    def measure(self, x: Tensor, y: Tensor | None, seed: int) -> dict[str, float]:
        """The VAE's scores, and how far x₁ is from x in items that have gone round once, by posterior means."""
        back = [self._once_round(part, label) for _, part, label in chunks(x, y)]
        return super().measure(x, y, seed) | {"cycle": float(apart(torch.cat(back), x).mean())}

    @torch.no_grad()
    def diagnose(self, train: dict[str, Tensor], heldout: dict[str, Tensor], seed: int) -> dict[str, float]:
        """The VAE's numbers; between domains also how much a conversion differs from the item in its own domain
        (`changed`, see `diagnosis.unlike`), and what the critic knows of items and of conversions."""
        found = super().diagnose(train, heldout, seed)
        x, y = heldout["a"], heldout.get("label")
        if not self.classes or y is None:
            return found
        to = self.others(y, seed)
        made = self.converted(x, y, seed)
        same = torch.cat([self.convert(part, own) for _, part, own in chunks(x, y) if own is not None])
        if same.is_floating_point():
            found["changed"] = unlike(same, made)
        if "critic" in self.players["discriminator"]:
            sets = (train["a"], train["label"]), (x, y), (made, to)
            logits = [torch.cat([whole(self.critic(p, own)) for _, p, own in chunks(*pair)]) for pair in sets]
            found |= judged("critic", *logits)
        return found

    def _once_round(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Items (B, *space) converted to the next domain and back, or, of one data set, reconstructed twice."""
        there = None if y is None else (y + 1) % self.classes
        return self.generate(self.encode(self.generate(self.encode(x, y, 0), there), y, 0), y)
