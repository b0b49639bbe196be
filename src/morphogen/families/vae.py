"""VAE: an encoder turns items into random variables of few dimensions, a decoder turns those back; both learn
together, by the likelihood bound.

Shapes: B batch · Z latent_dim · space (C, *S) · K classes (0: none) · U units of the KL · P likelihood channels
An autoencoder without the random part is the same family with `posterior: point`.

A critic may sharpen what the decoder makes (RAVE, Caillon & Esling 2021, its second phase): from a step on the encoder
rests, and the decoder learns besides that the critic takes its samples, of training items' codes that are moved along
those of items alike, for real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from morphogen.config import AugmentConfig, near
from morphogen.errors import UsageError
from morphogen.families.augment import augment
from morphogen.families.base import CHUNK, Family, Turn, chunks, rows_of_noise, seed_of
from morphogen.families.critic import (
    WITHOUT_SLOPE,
    CriticOptions,
    critic_terms,
    fooling,
    judge,
    spread_of,
    whole,
)
from morphogen.families.diagnosis import Activity, judged
from morphogen.nets import DECODERS, DISCRIMINATORS, ENCODERS, PRIORS, build_network
from morphogen.nets.ladder import LadderDecoder, Posterior
from morphogen.nets.priors import LastCodes
from morphogen.nets.text import SilentEncoder
from morphogen.nets.texture import Texture
from morphogen.objectives.categorical import Autoregressive, Categorical
from morphogen.objectives.likelihoods import LIKELIHOODS, Density, Drawable
from morphogen.objectives.variational import (
    Normal,
    active_units,
    doubly_reparameterized,
    importance_bound,
    kl_term,
    mutual_information,
    streamed_bound,
)

FOLLOW = 0.02  # how fast the stored scale follows that of the batches


class VAEOptions(CriticOptions):
    """The `model` section of a VAE's config."""

    latent_dim: int = Field(default=32, ge=1, description="of the only, or the top, latent layer")
    penalty: Literal["exact", "difference"] = "difference"
    known_losses: ClassVar[tuple[str, ...]] = WITHOUT_SLOPE
    likelihood: str = Field(default="gaussian", description=", ".join(LIKELIHOODS))
    components: int = Field(default=1, ge=1, description="logistics in the mixture, for the likelihood 'logistic'")
    scale: float | None = Field(default=None, gt=0, description="of gaussian and laplace; by default the optimal one")
    binarize: bool = Field(default=False, description="draw black-or-white items from the grey ones, anew at each step")
    posterior: Literal["normal", "point"] = Field(default="normal", description="'point': an autoencoder")
    free_bits: float = Field(
        default=0.0, ge=0, description="nats of KL that a unit has free; a trained prior has one unit"
    )
    target_kl: float | None = Field(default=None, ge=0, description="nats the KL is held at, in place of pressing it")
    chosen_by: Literal["nelbo", "reconstruction"] = Field(
        default="nelbo",
        description="held-out score that chooses the best model; a codec wants its reconstruction;"
        " with a critic the FID of samples does",
    )
    importance_samples: int = Field(default=8, ge=1, description="samples of the term 'iwae'")
    dreg: bool = Field(default=False, description="the term 'iwae' with the doubly reparameterised gradient")
    encoder: dict[str, Any] = Field(default_factory=dict, description="kind and its options")
    decoder: dict[str, Any] = Field(default_factory=dict, description="kind and its options")
    prior: dict[str, Any] = Field(default_factory=dict, description="trained along: normal, mixture, vamp or flow")
    sampler: dict[str, Any] = Field(default_factory=dict, description="the prior that samples are drawn from, where"
                                    " another than the trained one was fitted and chosen at the end")  # fmt: skip
    critic: dict[str, Any] | None = Field(
        default=None, description="kind and options; it judges samples of moved codes, in the steps in which the term"
        " 'adversarial' counts; there the encoder rests. null for none",
    )  # fmt: skip
    pool: int = Field(default=2048, ge=2, description="last codes kept, of which some are moved for the critic")
    width: float = Field(default=0.9, gt=0, description="how far, as that of the sampler 'local'")
    texture: bool = Field(
        default=False, description="whether the grain of samples is that which was measured at the end"
    )

    @field_validator("likelihood")
    @classmethod
    def _known_likelihood(cls, name: str) -> str:
        if name not in LIKELIHOODS:
            raise ValueError(f"there is no such likelihood, only {', '.join(LIKELIHOODS)}")
        return name


@dataclass
class Explanation:
    """One way through the latent layers that the posterior has chosen for items.

    code (B, Z) as `generate` takes it · kl (B, U), closed form where there is one, else this sample's ·
    log_ratio (B,) = log q(z|x) − log p(z) · output (B, P, *S) of the decoder
    """

    code: Tensor
    kl: Tensor
    log_ratio: Tensor
    output: Tensor


class VAE(Family):
    """Terms of the autoencoder: 'reconstruction' = −log p(x|z), 'kl', whose weight is β; or 'iwae' in place of both.

    −ELBO = reconstruction + kl with weights 1 (Kingma & Welling 2014, eq. 3). With `critic` also 'adversarial' (items
    of moved codes fool it), and of the discriminator 'critic', 'r1', 'r2'.
    """

    Options = VAEOptions
    players = {"autoencoder": ("encoder", "decoder", "prior")}  # noqa: RUF012
    terms = {"autoencoder": ("reconstruction", "kl", "iwae")}  # noqa: RUF012
    for_training = ("critic", "last")
    averaged = ("encoder", "decoder", "prior")
    criterion = "nelbo"
    augmentations = ("off", "fixed")
    blind: ClassVar[bool] = False  # whether encoder and prior do not see the label

    def __init__(
        self,
        modality: Any,
        options: VAEOptions,
        classes: int = 0,
        augment: AugmentConfig | None = None,
        networks: dict[str, nn.Module] | None = None,
    ):
        super().__init__(modality, options, classes, augment)
        own, space, top = networks or {}, modality.space, options.latent_dim
        self.criterion = options.chosen_by  # type: ignore[misc]
        self.density = LIKELIHOODS[options.likelihood]
        _check_kinds(options, len(space))
        self.code_classes = 0 if self.blind else classes
        wide = (self.density.outputs(space[0], options.components), *space[1:])
        outputs = top if options.posterior == "point" else 2 * top
        self.encoder = own.get("encoder") or build_network(
            ENCODERS, options.encoder, space=space, outputs=outputs, classes=self.code_classes
        )
        self.decoder = own.get("decoder") or build_network(
            DECODERS, options.decoder, space=wide, latent_dim=top, classes=classes
        )
        self.prior: Any = own.get("prior") or self._prior(options.prior)
        self.sampler = self._prior(options.sampler) if options.sampler else None
        self.texture = Texture(space[0]) if options.texture and self.has_texture else None
        self.top_dim = top
        self.latent_dim = self.ladder.latent_dim if self.ladder else top
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor
        self.critic: Any = None
        self.last: LastCodes | None = None
        self._add_critic(own)

    def _add_critic(self, own: dict[str, nn.Module]) -> None:
        """The critic of samples, where there is to be one, its player and its terms."""
        options, space = self.options, self.modality.space
        if options.critic is None:
            return
        _check_critic(options, self.density)
        self.critic = own.get("critic") or build_network(
            DISCRIMINATORS, {"kind": "conv", **options.critic}, space=space, classes=self.classes
        )
        self.last = LastCodes(self.top_dim, space, self.code_classes, kernels=options.pool, width=options.width)
        self.numbers |= {"pooled": 0, "augment": 0.0}  # the critic sees items as they are
        self.needed = ("adversarial",)  # type: ignore[misc]
        self.players = {**self.players, "discriminator": ("critic",)}  # type: ignore[misc]
        autoencoder = (*self.terms["autoencoder"], "adversarial")
        self.terms = {"autoencoder": autoencoder, "discriminator": ("critic", "r1", "r2")}  # type: ignore[misc]
        self.criterion = "fid"  # type: ignore[misc]  # what the critic mends, the bound does not see
        self.register_buffer("spread", torch.ones(()))
        self.spread: Tensor

    def _prior(self, options: dict[str, Any]) -> Any:
        options = {"kind": "normal", **options}
        return build_network(
            PRIORS, options, space=self.modality.space, latent_dim=self.options.latent_dim, classes=self.code_classes
        )

    @property
    def ladder(self) -> LadderDecoder | None:
        """The decoder, where it is one of several latent layers."""
        return self.decoder if isinstance(self.decoder, LadderDecoder) else None

    @property
    def wants_flow(self) -> bool:
        """Whether at the end a flow is to make the codes of each domain normal noise."""
        return False

    @torch.no_grad()
    def prepare(self, x: Tensor, b: Tensor | None = None) -> None:
        self.scale.copy_(x.float().std() if self.options.scale is None else torch.tensor(self.options.scale))
        self.prior.prepare(x)
        if self.critic is not None:
            self.spread.copy_(spread_of(x.float()))

    # ---- from items to codes and back -----------------------------------------------------------------------------

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The items (B, *space) that the likelihood is asked about: with `binarize`, black or white with the
        probabilities that the grey levels give (Burda et al. 2016), else as they are."""
        if not self.options.binarize:
            return x
        u = torch.rand(x.shape, generator=generator, device=x.device)
        return (u < (x + 1) / 2).to(x.dtype) * 2 - 1

    def top(self, encoded: Any) -> Normal:
        """The posterior (B, Z) of the top layer, or the point, in what the encoder gave."""
        out = encoded[0] if isinstance(encoded, tuple) else encoded
        if self.options.posterior == "point":
            return Normal(out.float(), torch.zeros_like(out, dtype=torch.float32))
        return Normal.of(out)

    def explain(self, encoded: Any, y: Tensor | None, noise: Tensor | None, detached: bool = False) -> Explanation:
        """Go down from the top posterior to the decoder's output: with noise (B, Z) a sample, without it the means.

        detached: log_ratio sees the posterior's parameters as constants, as DReG wants.
        """
        q = self.top(encoded)
        point = self.options.posterior == "point"
        z = q.mean if noise is None or point else q.rsample(noise[:, : self.top_dim])
        if point:  # what is left of the KL when the variance is fixed (Ghosh et al. 2020, eq. 4)
            kl = [0.5 * z.square()]
            ratio = torch.zeros(len(z), device=z.device)
        else:
            fixed = Normal(q.mean.detach(), q.log_std.detach()) if detached else q
            ratio = fixed.log_prob(z).sum(1) - self.prior.log_prob(z, y, self._top_of)
            kl = [q.kl(Normal.standard(q.mean)) if self.prior.closed else ratio[:, None]]
        if not self.ladder:
            return Explanation(z, torch.cat(kl, 1), ratio, self.decoder(z, y).float())
        if kl[0].shape[1] > 1:
            kl = [kl[0].sum(1, keepdim=True)]  # in a ladder a layer is a unit
        code, ratios, features = [z], [ratio], encoded[1]
        below = None if noise is None else self.ladder.below(noise)

        def visit(k: int, prior: Normal, posterior: Posterior) -> Tensor:
            q_k = posterior(features)
            z_k = q_k.mean if below is None else q_k.rsample(below[k])
            kl.append(q_k.kl(prior).flatten(1).sum(1, keepdim=True))
            ratios.append((q_k.log_prob(z_k) - prior.log_prob(z_k)).flatten(1).sum(1))
            code.append(((z_k - prior.mean) / prior.log_std.exp()).flatten(1))
            return z_k

        output = self.ladder(z, y, visit).float()
        return Explanation(torch.cat(code, 1), torch.cat(kl, 1), torch.stack(ratios).sum(0), output)

    def _top_of(self, x: Tensor, y: Tensor | None) -> Normal:
        return self.top(self.encoder(x, y))

    def likelihood(self, output: Tensor, x: Tensor | None = None) -> Any:
        """p(x|z) of a decoder's output (B, P, *S), by the decoder's own `likelihood` where it has one.

        While training, with the items x (B, *space), the densities take their optimal scale and the stored one follows.
        """
        decoder: Any = self.decoder
        if hasattr(decoder, "likelihood"):
            return decoder.likelihood(output.float())
        extra = {"components": self.options.components} if self.options.likelihood == "logistic" else {}
        p = self.density(output.float(), self.modality.squash, self.scale, **extra)
        if x is not None and isinstance(p, Density) and self.options.scale is None:
            p.scale = p.optimal_scale(x)
            self.scale.lerp_(p.scale, FOLLOW)
        return p

    # ---- learning -------------------------------------------------------------------------------------------------

    def losses(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if turn.player == "discriminator":
            x, y = batch["a"], batch.get("label")
            fake = turn.cache.pop("fake", None)
            if fake is None:  # a further turn in the same step
                with torch.no_grad():
                    fake = self._moved(turn, len(x), y), y
            return self._learned(turn, (x, y), fake)
        terms = self.bound(turn, self._varied(turn, batch))[0]
        if self._sharpens(turn):
            x, y = batch["a"], batch.get("label")
            self._keep(turn, x, y)
            fake = self._moved(turn, len(x), y)
            turn.cache["fake"] = fake.detach(), y
            terms["adversarial"] = self._adversarial(turn, x, y, fake, y)
        return terms

    def _sharpens(self, turn: Turn) -> bool:
        """Whether the critic has a say in this turn, and the encoder rests."""
        return self.last is not None and "adversarial" in turn.weights

    @torch.no_grad()
    def _keep(self, turn: Turn, x: Tensor, y: Tensor | None) -> None:
        """Put the codes of items x (B, *space), as they are, in the places of the oldest ones."""
        assert self.last is not None
        z = self.top(self.encoder(self.observe(x, turn.generator("kept", x.device)), y))
        codes = z.rsample(turn.normal("kept", len(x), self.top_dim, device=x.device))
        self.numbers["pooled"] = self.last.keep(codes, y, x, int(self.numbers["pooled"]))

    def _moved(self, turn: Turn, count: int, y: Tensor | None) -> Tensor:
        """Samples (count, *space) of labels y (count,) for the critic: of codes near the last ones."""
        noise = turn.normal("moved", count, self.latent_dim, device=self.device)
        return self.generate(self.draw(noise, turn.uniform("moved", count, device=self.device), y), y)

    def _adversarial(self, turn: Turn, x: Tensor, y: Tensor | None, fake: Tensor, fake_y: Tensor | None) -> Tensor:
        judge_real = lambda: self._judge(turn, "real", x, y)
        return whole(fooling(self.options.loss, judge_real, lambda: self._judge(turn, "fake", fake, fake_y)))

    def _judge(self, turn: Turn, purpose: str, x: Tensor, y: Tensor | None) -> Tensor:
        return judge(self.critic, turn, purpose, x, y, self.augment, self.numbers["augment"])

    def _learned(
        self, turn: Turn, real: tuple[Tensor, Tensor | None], fake: tuple[Tensor, Tensor | None]
    ) -> dict[str, Tensor]:
        chance = self.numbers["augment"]
        return critic_terms(self.critic, turn, real, fake, self.options, self.augment, chance, self.spread)

    def _varied(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with its items changed by `augment.policy`, each kind with the chance `augment.probability`."""
        x = batch["a"]
        if self.augment.mode != "fixed" or x.dim() != 4:
            return batch
        x = augment(x, self.augment.policy, self.augment.start, turn.generator("augment", self.device))
        return {**batch, "a": x.clamp(-1, 1)}

    def bound(
        self, turn: Turn, batch: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Any, Explanation | None]]:
        """The terms, and what they were made of: the items observed, what the encoder gave, one explanation."""
        x, y = batch["a"], batch.get("label")
        x = self.observe(x, turn.generator("binarize", x.device))
        with torch.set_grad_enabled(not self._sharpens(turn)):
            encoded = self.encoder(x, y)
        terms, found = {}, None
        if {"reconstruction", "kl"} & turn.weights.keys():
            found = self.explain(encoded, y, turn.normal("z", len(x), self.latent_dim, device=x.device))
            terms["reconstruction"] = -self.likelihood(found.output, x).log_prob(x)
            terms["kl"] = kl_term(found.kl, self.options.free_bits, self.options.target_kl)
        if "iwae" in turn.weights:
            terms["iwae"] = self._importance_term(turn, encoded, x, y)
        return terms, (x, encoded, found)

    def _importance_term(self, turn: Turn, encoded: Any, x: Tensor, y: Tensor | None) -> Tensor:
        """−(the importance-weighted bound) (B,) with K samples of each item.

        An optimal scale is here that of the samples as they come, not as they are weighted.
        """
        count = self.options.importance_samples
        noise = turn.normal("iwae", count * len(x), self.latent_dim, device=x.device)
        found = self.explain(_repeated(encoded, count), _repeated(y, count), noise, detached=self.options.dreg)
        many = _repeated(x, count)
        weights = (self.likelihood(found.output, many).log_prob(many) - found.log_ratio).view(len(x), count)
        return -(doubly_reparameterized(weights, found.code) if self.options.dreg else importance_bound(weights))

    # ---- use ------------------------------------------------------------------------------------------------------

    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        p = self.likelihood(self.decoder(z, y))
        if isinstance(p, Categorical) and p.logits.requires_grad:
            return p.relax()  # while it learns: see there
        if self.drawing is None:
            return p.mode()
        temperature, top_p, grain = self.drawing
        if isinstance(p, Autoregressive):
            return p.sample(rows_of_noise(z, p.decoder.places), temperature, top_p)
        if not grain or not isinstance(p, Drawable):
            return p.mode()
        mode = p.mode()
        if self.texture is None:
            return p.grainy(rows_of_noise(z, mode[0].numel()).view_as(mode), grain)
        return (mode + grain * self.texture(mode, rows_of_noise(z, self.texture.numbers(mode)))).clamp(-1, 1)

    @property
    def has_texture(self) -> bool:
        """Whether what its means leave out can be measured: of pictures, by a density of one scale."""
        own = hasattr(self.decoder, "likelihood")
        return issubclass(self.density, Density) and len(self.modality.space) == 3 and not own

    @torch.no_grad()
    def learn_texture(self, x: Tensor, y: Tensor | None, seed: int) -> None:
        """Measure what the decoder's means leave out of items x (N, *space), by one random code of each."""
        means, seen = [], []
        for start, part, label in chunks(x, y):
            part = self._seen(part, seed_of(seed, start))
            noise = self.noise(len(part), seed_of(seed, start)).to(x.device)
            means.append(self.likelihood(self.explain(self.encoder(part, label), label, noise).output).mode())
            seen.append(part.float())
        self.texture = Texture(x.shape[1]).to(x.device)
        self.texture.learn(torch.cat(means), torch.cat(seen))

    def draw(self, noise: Tensor, pick: Tensor, y: Tensor | None) -> Tensor:
        last = self.last if self.last is not None and self.numbers["pooled"] else None
        prior: Any = self.sampler or last or self.prior  # the last codes while the critic teaches
        top = prior.draw(noise[:, : self.top_dim], pick, y, self._top_of)
        return torch.cat([top, noise[:, self.top_dim :]], dim=1)

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None, seed: int, sampled: bool = False) -> Tensor:
        """The posterior's means (B, Z), or, `sampled`, one draw of each: rows are a function of (seed, row)."""
        noise = self.noise(len(x), seed).to(x.device) if sampled else None
        encoded = self.encoder(self._seen(x, seed), y)
        if self.ladder:
            return self.explain(encoded, y, noise).code
        q = self.top(encoded)
        return self.content(q.mean if noise is None or self.options.posterior == "point" else q.rsample(noise), x)

    def content(self, z: Tensor, x: Tensor) -> Tensor:
        """What `encode` gives for the top codes z (B, Z) of items x (B, *space), and `generate` takes back."""
        return z

    def _seen(self, x: Tensor, seed: int) -> Tensor:
        """`observe` with randomness that is a function of the seed alone."""
        return self.observe(x, torch.Generator(x.device).manual_seed(seed_of(seed, "binarize")))

    @torch.no_grad()
    def score(self, x: Tensor, y: Tensor | None, samples: int = 16) -> Tensor:
        """The likelihood bound (B,) in nats, of `samples` importance samples: low for anomalies."""
        return torch.cat([-nll for nll in self.nll(x, y, samples)])

    @torch.no_grad()
    def nll(self, x: Tensor, y: Tensor | None, samples: int = 500, seed: int = 0, rows: int = 200) -> Iterator[Tensor]:
        """−log p(x) in nats by importance sampling (Burda et al. 2016, eq. 8): a chunk of items (≤ CHUNK,) at a time.

        Items are encoded once; their samples are decoded in passes of about `rows` rows, which a processor's
        cache can hold.
        """
        self._need_density()
        for start, part, label in chunks(x, y):
            part = self._seen(part, seed_of(seed, start))
            encoded = self.encoder(part, label)
            yield -streamed_bound(self._log_weights(part, label, encoded, samples, seed_of(seed, "nll", start), rows))

    def _log_weights(
        self, x: Tensor, y: Tensor | None, encoded: Any, samples: int, seed: int, rows: int
    ) -> Iterator[Tensor]:
        """log w (B, k) of the items' samples, k at a time."""
        generator, at_once = torch.Generator(x.device).manual_seed(seed), max(1, rows // CHUNK)
        for done in range(0, samples, at_once):
            k = min(at_once, samples - done)  # drawn for a whole chunk, so that an item's score is its own
            noise = torch.randn(CHUNK, k, self.latent_dim, generator=generator, device=x.device)[: len(x)].flatten(0, 1)
            found, many = self.explain(_repeated(encoded, k), _repeated(y, k), noise), _repeated(x, k)
            yield (self.likelihood(found.output).log_prob(many) - found.log_ratio).view(len(x), k)

    def _need_density(self) -> None:
        if self.options.posterior == "point":
            raise UsageError("An autoencoder with point codes has no likelihood bound; set model.posterior=normal.")

    @torch.no_grad()
    def measure(self, x: Tensor, y: Tensor | None, seed: int) -> dict[str, float]:
        """Of items x (N, *space), by one sample each: nelbo = reconstruction + kl in nats, each with its standard
        error, active units, mutual information (of a ladder's top layer only); the KL by unit as 'kl/0', 'kl/1', …"""
        found, posteriors, tops, reconstruction, apart = [], [], [], [], []
        for start, part, label in chunks(x, y):
            part = self._seen(part, seed_of(seed, start))
            encoded = self.encoder(part, label)
            noise = self.noise(len(part), seed_of(seed, start)).to(x.device)
            one = self.explain(encoded, label, noise)
            found.append(one.kl.mean(0) * len(part))
            apart.append(one.kl.sum(1))
            reconstruction.append(-self.likelihood(one.output).log_prob(part))
            posteriors.append(self.explain(encoded, label, None).code if self.ladder else self.top(encoded).mean)
            tops.append((self.top(encoded), one.code[:, : self.top_dim]))
        units = torch.stack(found).sum(0) / len(x)
        error, kl = float(torch.cat(reconstruction).mean()), float(units.sum())
        point = self.options.posterior == "point"
        scores = {"nelbo": error if point else error + kl, "reconstruction": error, "kl": 0.0 if point else kl}
        each = {"reconstruction": torch.cat(reconstruction), "kl": torch.cat(apart) * (not point)}
        each["nelbo"] = each["reconstruction"] + each["kl"]
        scores |= {f"{name}_error": float(v.std(correction=0)) / len(x) ** 0.5 for name, v in each.items()}
        scores["active_units"] = float(active_units(torch.cat(posteriors)))
        if not point and not isinstance(self.encoder, SilentEncoder):
            q = Normal(torch.cat([t.mean for t, _ in tops]), torch.cat([t.log_std for t, _ in tops]))
            name = "top_mutual_information" if self.ladder else "mutual_information"
            scores[name] = mutual_information(q, torch.cat([z for _, z in tops]))
        if len(units) > 1:
            scores |= {f"kl/{k}": float(v) for k, v in enumerate(units)}
        return scores

    @torch.no_grad()
    def diagnose(self, train: dict[str, Tensor], heldout: dict[str, Tensor], seed: int) -> dict[str, float]:
        """The bound of training items, and what the codes are worth on held-out ones:

        train_nelbo  the bound of training items, to be compared with its own course
        by_code      nats by which the decoder explains items better with their own codes than with others'
        prior_gap    mean over the units of W₂² between codes of items and of the prior, less that of two draws of the
                     prior; of the top layer, in units of the prior's variance
        """
        x, y, seen = heldout["a"], heldout.get("label"), Activity()
        better, codes = [], []
        for start, part, label in chunks(x, y):
            part = self._seen(part, seed_of(seed, start))
            seen.again()
            with seen:
                one = self.explain(
                    self.encoder(part, label), label, self.noise(len(part), seed_of(seed, start)).to(x.device)
                )
            other = self.decoder(one.code.roll(len(part) // 2, 0), label)
            better.append(self.likelihood(one.output).log_prob(part) - self.likelihood(other).log_prob(part))
            codes.append(self.content(one.code[:, : self.top_dim], part))
        found = seen.numbers()
        if self.options.posterior == "point" or isinstance(self.encoder, SilentEncoder):
            return found  # there is no bound, or no code
        if self.last is not None and self.numbers["pooled"]:
            found |= self._judgements(train, heldout, seed)
        found["train_nelbo"] = self.measure(train["a"], train.get("label"), seed)["nelbo"]
        found["by_code"] = float(torch.cat(better).mean())
        drawn = [self.codes(len(x), seed_of(seed, k), y)[:, : self.top_dim] for k in ("one", "two")]
        gap = [_transport(z, drawn[0]) / drawn[0].var().clamp_min(1e-8) for z in (torch.cat(codes).cpu(), drawn[1])]
        return found | {"prior_gap": float(gap[0] - gap[1])}

    def _judgements(self, train: dict[str, Tensor], heldout: dict[str, Tensor], seed: int) -> dict[str, float]:
        """What the critic knows of training items, of held-out ones, and of samples with their labels."""
        x, y = heldout["a"], heldout.get("label")
        made = torch.cat(list(self.items_of(self.codes(len(x), seed, y), y)))
        sets = (train["a"], train.get("label")), (x, y), (made, y)
        return judged("critic", *(torch.cat([whole(self.critic(p, k)) for _, p, k in chunks(*s)]) for s in sets))


def _transport(z: Tensor, other: Tensor) -> Tensor:
    """Mean over the units of W₂² between the marginals of two sets of codes (N, Z)."""
    return (z.sort(0).values - other.sort(0).values).square().mean()


def _check_critic(options: VAEOptions, density: Any) -> None:
    """UsageError for what a critic of samples cannot go with."""
    if not getattr(density, "carries_gradient", True):
        raise UsageError("Through text no gradient passes to the decoder: set model.critic=null.")
    if options.prior.get("kind") == "vamp":
        raise UsageError("A Vamp prior teaches the encoder, which rests under a critic: set another model.prior.kind.")
    if options.posterior == "point" or options.decoder.get("kind") == "ladder" or options.latent_dim < 2:
        raise UsageError(
            "A critic moves codes of one random latent layer of two variables or more: with a ladder, or point codes, "
            "set model.critic=null."
        )


def _check_kinds(options: VAEOptions, rank: int) -> None:
    """UsageError for options that do not go together, or not with a space of `rank` numbers."""
    if rank not in LIKELIHOODS[options.likelihood].ranks:
        fitting = " or ".join(name for name, density in LIKELIHOODS.items() if rank in density.ranks)
        raise UsageError(
            f"The likelihood '{options.likelihood}' is not for data of this kind; set model.likelihood={fitting}."
        )
    if (options.likelihood == "autoregressive") != (options.decoder.get("kind") == "gru"):
        raise UsageError("The likelihood 'autoregressive' is that of a decoder of kind 'gru'; set both, or neither.")
    if options.target_kl is not None and options.free_bits:
        raise UsageError("model.target_kl and model.free_bits both steer the KL; set one of them.")
    if options.posterior == "point" and options.prior.get("kind", "normal") != "normal":
        raise UsageError("With model.posterior=point no prior is trained along; leave model.prior out.")
    kinds = [options.encoder.get("kind", "conv"), options.decoder.get("kind", "conv")]
    if kinds.count("ladder") == 1:
        raise UsageError("A ladder has two halves: set model.encoder.kind=ladder and model.decoder.kind=ladder.")
    if kinds == ["ladder", "ladder"]:
        halves = [{"width": 32, "most": 64} | half for half in (options.encoder, options.decoder)]
        if any(halves[0][key] != halves[1][key] for key in ("width", "most")):
            raise UsageError("The halves of a ladder meet at every size: give both the same width and most.")
    if options.dreg and "ladder" in kinds:
        raise UsageError("model.dreg works on one latent layer, not on a ladder; leave it out.")
    if options.posterior == "point" and "ladder" in kinds:
        raise UsageError("An autoencoder with point codes has one latent layer; set another kind than ladder.")
    kind = options.prior.get("kind", "normal")
    trained = [name for name in PRIORS if name not in ("gmm", "kernels", "local")]  # those are fitted afterwards
    if kind not in trained:
        raise UsageError(
            f"No prior '{kind}' is trained with a VAE; there are {', '.join(trained)}.{near(kind, trained)}"
        )


def _repeated(value: Any, times: int) -> Any:
    """Every row `times` times, through tuples and lists; None stays None."""
    if isinstance(value, tuple | list):
        return type(value)(_repeated(v, times) for v in value)
    return None if value is None else value.repeat_interleave(times, 0)
