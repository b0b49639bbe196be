"""A run's whole configuration: typed, validated, written to RUN/config.yaml.

An unknown key is an error that suggests the near one. Nothing here imports torch, so the command line stays quick.
Every section forbids extra keys; `apply_settings` understands `--set a.b=c`, where c is read as YAML.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from morphogen.errors import UsageError


class Section(BaseModel):
    """A part of the configuration; keys it does not know are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class DataConfig(Section):
    """Where the items come from and how they are fitted to one shape."""

    source: str = Field(
        default="builtin:digits", description="builtin:NAME, folder, IDX folder, .npy or .npz, then #SELECT"
    )
    size: str | None = Field(
        default=None, description="'64' or HEIGHTxWIDTH; by default what fits the median, at most 128"
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        default="crop", description="how an image of another shape is fitted"
    )
    channels: Literal[1, 2, 3, 4] | None = Field(
        default=None, description="1 grey, 3 colour, 4 with alpha, by default 1 or 3; of sound 1 (default) or 2"
    )
    rate: int | None = Field(default=None, ge=1000, description="of recordings, in Hz; by default the commonest")
    seconds: float | None = Field(
        default=None,
        gt=0,
        description="of a recording in one window; by default what holds 99 % of them, at most 128 frames",
    )
    split: Literal["line", "paragraph", "window"] = Field(default="line", description="what is an item of a text")
    vocabulary: Literal["auto", "character", "bpe", "word"] = Field(
        default="auto", description="what text is cut into: characters, byte-level BPE or words; by default by size"
    )
    symbols: int | None = Field(default=None, ge=1, description="largest number of a vocabulary's entries")
    length: int | None = Field(default=None, ge=1, description="bytes of the longest text; longer ones are left out")
    label: str | None = Field(default=None, description="the attribute that conditions the model")
    label_pattern: str | None = Field(
        default=None, description="attributes out of file names: '{digit}_{speaker}_{take}'"
    )
    heldout: str | None = Field(default=None, description="SRC of a held-out set; by default a seeded split of source")
    heldout_fraction: float = Field(default=0.1, gt=0, le=0.5, description="share held out when no set is named")
    max_bad: float = Field(
        default=0.1, ge=0, le=1, description="training stops when a larger share of the items is unreadable"
    )

    @field_validator("size", mode="before")
    @classmethod
    def _size_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # YAML reads `64` as a number


class TermConfig(Section):
    """One named loss: how much it counts, and when."""

    weight: float = Field(default=1.0, description="factor of the term in its player's loss; 0 switches it off")
    every: int = Field(default=1, ge=1, description="computed at every n-th step only, then with n times the weight")
    start: int = Field(default=0, ge=0, description="no weight before this step, where the warmup begins")
    warmup: int = Field(default=0, ge=0, description="the weight rises linearly from 0 during this many steps")
    cycle: int | None = Field(
        default=None, ge=2, description="every so many steps the weight rises anew, in half of them"
    )
    until: int | None = Field(default=None, ge=0, description="no weight from this step on")
    final: float | None = Field(default=None, gt=0, description="the weight goes to this, by equal factors a step")


Beta = Annotated[float, Field(ge=0, lt=1)]


class PlayerConfig(Section):
    """How one player learns."""

    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[Beta, Beta] = (0.0, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)
    repeats: int = Field(default=1, ge=1, description="turns it takes in a step")
    every: int = Field(default=1, ge=1, description="it plays at every n-th step only")
    clip: float | None = Field(default=None, gt=0, description="largest norm of its gradient")


Kind = Literal["translation", "cutout", "color", "flip", "gain", "shift", "stretch", "noise", "masks"]


class AugmentConfig(Section):
    """What the discriminator sees of real and generated items alike (DiffAugment, ADA); where it is fixed, what a VAE
    learns from, and its critic does not see."""

    mode: Literal["off", "fixed", "adaptive"] = "adaptive"
    policy: list[Kind] = ["translation", "cutout", "color"]
    probability: float = Field(
        default=0.0, ge=0, le=1, description="of each kind for each item; the first value if adaptive"
    )
    target: float = Field(
        default=0.2, description="adaptive: the gap of D between training and held-out items to allow"
    )
    every: int = Field(default=16, ge=1, description="adaptive: the gap is measured every n-th step")
    images: int = Field(
        default=100_000, ge=1, description="adaptive: images in which the probability can go from 0 to 1"
    )
    most: float = Field(default=0.8, ge=0, le=1, description="adaptive: the largest probability")

    @property
    def start(self) -> float:
        """The probability that training begins with."""
        return 0.0 if self.mode == "off" else self.probability

    @model_validator(mode="after")
    def _fixed_means_always(self) -> AugmentConfig:
        if self.mode == "fixed" and "probability" not in self.model_fields_set:
            self.probability = 1.0
        return self


class TrainConfig(Section):
    """The loop: how long, how large, how often."""

    seed: int = Field(default=0, ge=0)
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0, description="used when no steps are given")
    minutes: float | None = Field(default=None, gt=0, description="used when no steps are given: speed is measured")
    batch_size: int = Field(default=64, ge=1)
    schedule: Literal["constant", "cosine", "linear"] = Field(default="cosine", description="of the learning rates")
    warmup: int = Field(default=0, ge=0, description="steps in which the learning rates rise from 0")
    decay_from: float = Field(default=0.0, ge=0, lt=1, description="share of the steps after which the decay begins")
    ema: float = Field(
        default=0.02, ge=0, lt=1, description="half-life of the weights' average, a share of the steps so far"
    )
    ema_most: float = Field(default=2000, gt=0, description="longest half-life of that average, in steps")
    checkpoint_every: int | None = Field(default=None, ge=1, description="steps; by default a twentieth of the run")
    evaluate_every: int | None = Field(default=None, ge=1, description="steps; by default a twentieth of the run")
    keep: int = Field(default=2, ge=1, description="checkpoints kept")
    log_every: int = Field(default=20, ge=1, description="steps between lines of metrics.jsonl")
    explode: float = Field(
        default=100.0, gt=1, description="an update is skipped when its norm is this many times the usual"
    )
    patience: int = Field(default=20, ge=1, description="skipped updates in a row before going back to a checkpoint")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    tensorboard: bool = Field(
        default=False, description="curves for TensorBoard (the `track` extra) in RUN/tensorboard"
    )


class EvaluateConfig(Section):
    """The held-out score that picks the best model, and the final evaluation."""

    extractor: str = Field(default="auto", description="auto, random, classifier, inception:FILE or dinov2:FILE")
    samples: int = Field(default=2000, ge=16, description="samples scored during training")
    final_samples: int = Field(default=10_000, ge=16, description="samples scored at the end")
    content: str | None = Field(
        default=None,
        description="the attribute that says what an item holds: measured (conversions of sound must keep"
        " it; the scores' classifier learns it where no label conditions the model), and not trained on",
    )
    likelihood_items: int = Field(default=1000, ge=2, description="held-out items whose likelihood is estimated")
    importance_samples: int = Field(default=100, ge=1, description="samples of each for that estimate")
    language_model: bool = Field(
        default=False, description="of a text VAE: train its decoder without z as well, for the rows beside"
    )
    samplers: list[Literal["gmm", "flow", "kernels", "local"]] = Field(
        default=["gmm", "flow"],
        description="priors fitted to a VAE's codes at the end; the best by held-out score samples. 'kernels' and"
        " 'local' hold the codes of training items, so whoever has the model has these; those found to copy"
        " come last",
    )
    report: bool = Field(default=True, description="write RUN/report.html at the end")


class VocoderConfig(Section):
    """The network that turns spectrograms into sound, trained before the model on the same recordings."""

    source: str | None = Field(default=None, description="RUN whose vocoder to take, such as one of more speakers")
    steps: int = Field(default=4000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    dim: int = Field(default=128, ge=8, description="channels")
    depth: int = Field(default=4, ge=1, description="blocks")
    finer: Literal[1, 2, 4] = Field(default=2, description="STFT frames made of each frame of the spectrogram")
    turning: bool = Field(
        default=False, description="phases turn on from frame to frame: for steady tones, as in music"
    )


class SampleConfig(Section):
    """Stored with the model: what `sample` does without options."""

    temperature: float = Field(default=1.0, gt=0, description="factor on the noise")
    truncation: float | None = Field(default=None, gt=0, description="noise beyond this is drawn anew")
    tries: int = Field(default=1, ge=1, description="of a GAN: how many a sample is chosen among by the discriminator")
    symbols: float = Field(default=1.0, gt=0, description="temperature of the symbols of a text")
    top_p: float = Field(default=1.0, gt=0, le=1, description="of a text: only the likeliest symbols of so much mass")
    grain: float = Field(
        default=0.0, ge=0, le=1, description="of a VAE: how much noise samples show, from none (the likelihood's mode)"
        " to all: of a density of one scale as its errors were, else the likelihood's own",
    )  # fmt: skip


class Config(Section):
    """Everything a run needs besides the data themselves."""

    recipe: str = ""
    family: str = "gan"
    modality: str = "image"
    codec: str | None = Field(
        default=None, description="RUN of a VAE in whose latent space this model works, or a recipe: trained first"
    )
    codec_settings: dict[str, Any] = Field(default_factory=dict, description="keys for a codec that is trained first")
    data: DataConfig = DataConfig()
    data_b: DataConfig | None = Field(default=None, description="the second domain; builtin:noise for fresh noise")
    model: dict[str, Any] = Field(default_factory=dict, description="the family's own options")
    terms: dict[str, TermConfig] = {}
    players: dict[str, PlayerConfig] = {}
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    vocoder: VocoderConfig = VocoderConfig()
    sample: SampleConfig = SampleConfig()


def near(word: str, words: Any) -> str:
    """' Did you mean X?' for the closest of `words`, or ''."""
    close = difflib.get_close_matches(word, [str(w) for w in words], n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def validate(cls: type[BaseModel], values: dict[str, Any], prefix: str = "") -> Any:
    """An instance of `cls` out of plain values; the first problem becomes a UsageError that names the key."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(p) for p in first["loc"]]
        key = prefix + ".".join(path)
        if first["type"] == "extra_forbidden":
            known = _known_keys(cls, path[:-1])
            raise UsageError(f"The config has no key '{key}'.{near(path[-1], known)}") from None
        got = first.get("input")
        raise UsageError(f"The config key '{key}' does not accept {got!r}: {first['msg'].lower()}.") from None


def _known_keys(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = cls.model_fields.get(part)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        nested = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if nested:
            cls = nested[0]
    return list(cls.model_fields)


def apply_settings(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """`values` with every 'a.b=c' of `settings` put in; UsageError where one is not of that form."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, as in --set train.batch_size=64, not '{setting}'.")
        *parents, last = key.strip().split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UsageError(f"The config key '{key}' goes below '{parent}', which is a plain value.")
        try:
            node[last] = number_or(parse_yaml(text))
        except yaml.YAMLError:
            node[last] = text
    return values


class Loader(yaml.SafeLoader):
    """YAML in which only true and false are booleans: `augment.mode=off` means the word."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; yaml.YAMLError when it is none."""
    return yaml.load(text, Loader)  # a SafeLoader


def number_or(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() else value
        except ValueError:
            return value
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; UsageError when it cannot be read or is none."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"The config file {path} cannot be read: {str(error).splitlines()[0]}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"The config file {path} holds no mapping of keys to values.")
    return _numbers(values)


def _numbers(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _numbers(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_numbers(v) for v in node]
    return number_or(node)


def dump_yaml(config: Config) -> str:
    """The config as YAML, every key spelled out, in the order of this file."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


SAFE_TO_CHANGE = {
    "train.steps", "train.epochs", "train.minutes", "train.checkpoint_every", "train.evaluate_every", "train.keep",
    "train.log_every", "train.tensorboard", "evaluate.final_samples", "evaluate.likelihood_items",
    "evaluate.importance_samples", "evaluate.samplers", "evaluate.content", "evaluate.language_model",
    "evaluate.report",
    "vocoder.steps", "sample.temperature", "sample.truncation", "sample.symbols", "sample.top_p",
    "sample.grain", "sample.tries",
}  # fmt: skip


def changed_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the leaves in which two dumped configs differ."""
    keys: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += changed_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            keys.append(prefix + key)
    return keys
