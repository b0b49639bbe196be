"""A trained model and its folder: sample, reconstruct, encode, interpolate, score.

    model/config.json          what it is: family, options, shape, classes, how it was trained
    model/weights.safetensors  tensors only: no time, path or config
    model/vocoder.safetensors  of sound: the network from spectrograms to waves
    model/README.md            the model card

Shapes: N items · raw images uint8 (N, C, H, W) · arrays as in .npy files: (N, H, W) grey, (N, H, W, C) otherwise.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphogen import __version__
from morphogen.config import AugmentConfig, SampleConfig, near, validate
from morphogen.data.dataset import TOGETHER
from morphogen.errors import MorphogenError, UsageError
from morphogen.families import FAMILIES, Family
from morphogen.families.base import chunks, seed_of
from morphogen.loop import frequent_labels, modality_of, sample_raw, translate_raw
from morphogen.modalities import MODALITIES, Audio, Codes
from morphogen.nets import initialise
from morphogen.precision import choose
from morphogen.run import load_tensors, model_folder, new_folder, read_json, save_tensors
from morphogen.vocoding import VOCODER


@dataclass
class Description:
    """What model/config.json holds: enough to build the networks and to say where they come from.

    classes: names of the labels, in the order of their numbers.  label_counts: how often each occurred in training.
    own_networks: roles that were played by the user's own modules, to be handed to `load` again.
    other: modality and space of a second domain; empty where there is none, or it is noise.
    attributes: value of a label → how far and where the top codes of its items lie from those of all others.
    """

    family: str
    modality: str
    space: list[int]
    options: dict[str, Any]
    modality_options: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    classes: list[str] = field(default_factory=list)
    label_counts: list[int] = field(default_factory=list)
    sample: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, list[float]] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    own_networks: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    version: str = __version__


def build_family(
    description: Description, augment: AugmentConfig | None = None, networks: dict[str, nn.Module] | None = None,
    seed: int = 0, codec: Model | None = None,
) -> Family:  # fmt: skip
    """The family of a description, freshly initialised by seed; the user's own networks keep their weights.

    codec: the model in whose latent space it works, where the description says so.
    """
    if description.family not in FAMILIES:
        hint = near(description.family, FAMILIES)
        raise UsageError(f"There is no family '{description.family}'; there are {', '.join(FAMILIES)}.{hint}")
    cls: Any = FAMILIES[description.family]
    options = validate(cls.Options, description.options, "model.")
    space, settings = tuple(description.space), description.modality_options
    modality = Codes(space, codec, **settings) if codec else MODALITIES[description.modality](space, **settings)
    other, more = description.other, {}
    if other:
        if cls.translate is Family.translate:
            raise UsageError(f"A {description.family} has one domain; leave --data-b out, or use a cycle recipe.")
        more = {"other": MODALITIES[other["modality"]](tuple(other["space"]), **other.get("options", {}))}
        if isinstance(modality, Audio):  # one network makes the sound of both domains
            more["other"].vocoder = modality.vocoder
    family = cls(modality, options, len(description.classes), augment, networks, **more)
    roles = {name for names in family.players.values() for name in names}
    for name in networks or {}:
        if name not in roles:
            raise UsageError(f"A {description.family} has no network '{name}'; it has {', '.join(sorted(roles))}.")
    for name, module in family.named_children():
        if name not in (networks or {}):
            initialise(module, seed, name)
    return family


class Model:
    """A trained model. Calls take and give arrays as they lie in .npy files, whatever the device."""

    def __init__(self, family: Family, description: Description):
        self.family, self.description = family.eval().requires_grad_(False), description
        self.modality = family.modality

    @property
    def classes(self) -> list[str]:
        """Names of the labels the model is conditioned on; empty when there are none."""
        return self.description.classes

    def labels(
        self, label: str | list[str] | None, count: int, seed: int = 0, loose: bool = False
    ) -> Tensor | None:  # fmt: skip
        """Class numbers (count,): one label for all, 'all' for a cycle, a list, or None for training frequencies.

        Where the label joins several attributes ('digit+speaker'), 'all' is a cycle of the first one's values, and,
        if `loose`, one value may stand for the label ('7'): what is not said is drawn with the training frequencies.
        """
        if not self.classes:
            if label is not None:
                raise UsageError("This model knows no labels; train one with --set data.label=label.")
            return None
        counts = self.description.label_counts
        if label is None:
            return frequent_labels(counts, count, seed)
        if label == "all":
            first = [values[0] for values in self._values()]
            fitting = {value: [k for k, own in enumerate(first) if own == value] for value in sorted(set(first))}
            names = [list(fitting)[k % len(fitting)] for k in range(count)]
        else:
            names = [str(name) for name in label] if isinstance(label, list | np.ndarray) else [str(label)] * count
            fitting = {name: self._fitting(name, loose) for name in dict.fromkeys(names)}
        if len(names) != count:
            raise UsageError(f"{len(names)} labels were given for {count} items.")
        numbers, rows = torch.zeros(count, dtype=torch.long), np.asarray(names, str)
        for name, those in fitting.items():
            here = np.flatnonzero(rows == name)
            only = [n if k in those else 0 for k, n in enumerate(counts)] if len(those) > 1 else []
            numbers[here] = frequent_labels(only, count, seed_of(seed, name))[here] if only else those[0]
        return numbers

    def _values(self) -> list[list[str]]:
        """The values of each label: several where it joins so many attributes."""
        joined = len((self.description.label or "").split(TOGETHER))
        values = [name.split(TOGETHER) for name in self.classes]
        return values if all(len(v) == joined for v in values) else [[name] for name in self.classes]

    def _fitting(self, name: str, loose: bool) -> list[int]:
        """The numbers of the labels that `name` may mean; UsageError where there is none, or its attribute is open."""
        if name in self.classes:
            return [self.classes.index(name)]
        places = [v.index(name) if loose and name in v else None for v in self._values()]
        known = {place for place in places if place is not None}
        if len(known) > 1:
            raise UsageError(
                f"'{name}' is a value of several attributes; give a whole label, such as {self.classes[0]}."
            )
        if not known:
            listed = ", ".join(self.classes[:20])
            raise UsageError(f"The model has no label '{name}'; it has {listed}.{near(name, self.classes)}")
        return [k for k, place in enumerate(places) if place is not None]

    def sample(
        self, count: int = 64, seed: int = 0, label: str | list[str] | None = None, temperature: float | None = None,
        truncation: float | None = None, top_p: float | None = None, tries: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """`count` new items, a function of seed alone; item i is the same for every count.

        label: see `labels`.  temperature: factor on the noise; of a text, temperature of its symbols.  truncation:
        noise beyond it is drawn anew.  top_p: see `Autoregressive.sample`.  tries: how many a GAN's sample is
        chosen among, see `Family.chosen_codes`. Where one is not given, what is stored with the model holds.
        """
        warm = "symbols" if self.modality.suffix == ".txt" and self.modality.name != "points" else "temperature"
        given = {warm: temperature, "truncation": truncation, "top_p": top_p, "tries": tries}
        stored = self.description.sample | {key: value for key, value in given.items() if value is not None}
        how = validate(SampleConfig, stored, "sample.")
        labels = self.labels(label, count, seed, loose=True)
        raw = sample_raw(
            self.family, self.modality, count, seed, labels,
            how.temperature, how.truncation, (how.symbols, how.top_p, how.grain), how.tries,
        )  # fmt: skip
        return self.modality.array(raw)

    def encode(
        self, items: np.ndarray, label: str | list[str] | None = None, seed: int = 0, sampled: bool = False
    ) -> np.ndarray:
        """Latent codes float32 (N, latent_dim) of items (N, …): the posterior's means, or, `sampled`, a draw of each.

        A GAN has no encoder: its codes are found by search. An encoder that does not see the domain needs no label.
        """
        y, parts = None if self.domains else self._given_labels(label, len(items)), []
        for i, part, its in chunks(items, y):
            parts.append(self.family.encode(self.tensor(part), its, seed_of(seed, i) if i else seed, sampled))
        return torch.cat(parts).cpu().numpy()

    def decode(self, codes: np.ndarray, label: str | list[str] | None = None) -> np.ndarray:
        """Items of latent codes (N, latent_dim)."""
        y = self._given_labels(label, len(codes))
        parts = self.family.items_of(torch.from_numpy(np.asarray(codes, np.float32)), None if y is None else y.cpu())
        return self.modality.array(np.concatenate([self.modality.decode(x) for x in parts]))

    def reconstruct(
        self, items: np.ndarray, label: str | list[str] | None = None, seed: int = 0,
        attributes: dict[str, float] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """What the model makes of the codes of items: as near to them as it can come.

        attributes: how far to move the codes towards the items of a label's value, 1 being the whole way between the
        mean codes of those that have it and those that do not.
        """
        return self.decode(self.moved(self.encode(items, label, seed), attributes or {}), label)

    def moved(self, codes: np.ndarray, attributes: dict[str, float]) -> np.ndarray:
        """Codes (N, latent_dim) moved along attribute vectors; UsageError where one is not known."""
        codes, known = codes.copy(), self.description.attributes
        for name, amount in attributes.items():
            if name not in known:
                has = ", ".join(list(known)[:20]) or "none: it is no VAE, had no labels, or its code holds none"
                raise UsageError(f"The model has no attribute '{name}'; it has {has}.{near(name, known)}")
            vector = np.asarray(known[name], np.float32)
            codes[:, : len(vector)] += amount * vector
        return codes

    def interpolate(
        self, frames: int = 60, seed: int = 0, ends: np.ndarray | None = None, label: str | None = None, stops: int = 5,
        linear: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """`frames` items on the way between latent codes `ends` (2, latent_dim), both included, or, without ends, on a
        round through `stops` random codes that closes. label: of all frames; by default the first.

        The way follows the sphere, since noise halfway keeps its length so; `linear` goes straight.
        """
        if self.domains and ends is not None and label is None:
            raise UsageError("Codes have no domain: give the label of the frames, --label.")
        label = label or (self.classes[0] if self.classes else None)
        if label is not None and self.classes:  # one label for the whole way
            label = self.classes[int(self.labels(label, 1, seed, loose=True)[0])]  # pyright: ignore[reportOptionalSubscript]
        if ends is None:
            stations = self.family.codes(stops, seed_of(seed, "interpolate"), self.labels(label, stops)).numpy()
            stations = np.concatenate([stations, stations[:1]])
        else:
            stations = np.asarray(ends, np.float32)
        return self.decode(along(stations, frames, ends is None, linear), label)

    def translate(self, items: np.ndarray, to: str = "b", seed: int = 0) -> np.ndarray:
        """Items (N, …) of one domain in another: `to` 'a' or 'b', or, where the domains are labels, one of these.

        seed: which of several outputs, for models that were trained with model.style_dim; others have one.
        UsageError for a model of one domain.
        """
        if self.domains:
            return self._converted(items, to)
        if to not in ("a", "b"):
            raise UsageError(f"The model's domains are a and b, not '{to}'.")
        source = modality_of(self.family, "a" if to == "b" else "b")
        if source is None or self.family.other is None:
            raise UsageError("This model has one domain and cannot translate.")
        raw = raw_items(items, source)
        stored = torch.from_numpy(source.stored(raw))
        return modality_of(self.family, to).array(translate_raw(self.family, stored, to, seed))

    @property
    def domains(self) -> list[str]:
        """The labels that are domains of a model which converts between them; empty for others."""
        return self.classes if self.family.converts else []

    def domain_codes(self, labels: str | list[str] | None, count: int) -> dict[str, np.ndarray]:
        """{'domain': the decoder's code (N, E) of each of `count` items' label, 'domain_label': the labels}; empty
        without labels.

        E is what the decoder's embedding holds: with the content code beside it, it is all that the decoder sees.
        """
        y = None if labels is None else self.labels(labels, count)
        if y is None:
            return {}
        decoder: Any = self.family.decoder
        if "decoder" in self.description.own_networks:
            raise UsageError("The domain's code of a decoder of your own is not known: write the content to FILE.npy.")
        codes = decoder.noise.embedding(y.to(self.family.device)).cpu().numpy()
        return {"domain": codes, "domain_label": np.asarray(self.classes)[y.numpy()]}

    def _converted(self, items: np.ndarray, to: str) -> np.ndarray:
        family: Any = self.family
        ways = (
            family.convert(self.tensor(part), y.to(family.device))
            for _, part, y in chunks(items, self.labels(to, len(items)))
            if y is not None
        )
        return self.modality.array(np.concatenate([self.modality.decode(x) for x in ways]))

    def translator(self, source: str, to: str) -> nn.Module:
        """The network from domain `source` to `to` alone, tensors (B, *space) to the same: a plain module.

        With model.style_dim it wants the style's numbers as further channels of its input.
        """
        if {source, to} != {"a", "b"} or self.family.other is None:
            raise UsageError("translator('a', 'b') and ('b', 'a') are there for models of two data sets.")
        network: Any = getattr(self.family, f"to_{to}")
        return nn.Sequential(network, Squash(modality_of(self.family, to)))

    def score(self, items: np.ndarray, label: str | list[str] | None = None) -> np.ndarray:
        """How well each item (N,) fits the training data: a GAN's probability of being real, 0.5 for its samples; a
        VAE's bound on the log-likelihood, in nats; a cycle GAN's logit."""
        x = self.tensor(items)
        y = self._given_labels(label, len(x))
        return self.family.score(x, y).cpu().numpy()

    def tensor(self, items: np.ndarray) -> Tensor:
        """Items in .npy layout → the family's tensors (N, *space); UsageError when their shape is another."""
        raw = raw_items(items, self.modality)
        return self.modality.encode(torch.from_numpy(self.modality.stored(raw)).to(self.family.device))

    def _given_labels(self, label: str | list[str] | None, count: int) -> Tensor | None:
        if self.classes and label is None:
            raise UsageError("This model is conditional: give a label, or data whose labels are known.")
        y = self.labels(label, count) if self.classes else None
        return None if y is None else y.to(self.family.device)

    def save(self, folder: str | Path) -> None:
        """Write the three files of a model folder, all or nothing."""
        save_model(self.family, self.description, Path(folder))


def raw_items(items: np.ndarray, modality: Any) -> np.ndarray:
    """Items in .npy layout → raw items (N, *item_space) of a modality; UsageError when their shape is another."""
    raw = np.require(modality.raw(items), requirements=["C", "W"])  # torch wants to own what it wraps
    if tuple(raw.shape[1:]) != modality.item_space:
        raise UsageError(f"The model takes items of shape {modality.item_space}, not {tuple(raw.shape[1:])}.")
    return raw


class Squash(nn.Module):
    """A modality's squash as a module."""

    def __init__(self, modality: Any):
        super().__init__()
        self.modality = modality

    def forward(self, x: Tensor) -> Tensor:
        return self.modality.squash(x)


def along(stations: np.ndarray, count: int, closed: bool, linear: bool = False) -> np.ndarray:
    """`count` points evenly on the way through stations (S, Z); a closed way stops short of its end, its beginning."""
    between = lerp if linear else slerp
    ways = np.linspace(0, len(stations) - 1, count, endpoint=not closed)
    legs = np.minimum(ways.astype(int), len(stations) - 2)
    return np.stack([between(stations[k], stations[k + 1], t - k) for k, t in zip(legs, ways, strict=True)])


def lerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at share t of the straight way from a to b, both (Z,)."""
    return ((1 - t) * a + t * b).astype(np.float32)


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at share t of the way from a to b, both (Z,), along the sphere: noise halfway keeps its length."""
    cosine = np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12), -1, 1)
    angle = np.arccos(cosine)
    if angle < 1e-4:
        return lerp(a, b, t)
    return ((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)).astype(np.float32)


def save_model(family: Family, description: Description, folder: Path) -> None:
    """Write model/ with config.json, weights.safetensors and the card; OSError when the disk is full."""
    with new_folder(folder) as part:
        tensors = {k: v for k, v in family.state_dict().items() if not family.only_trains(k)}
        save_tensors(tensors, part / "weights.safetensors")
        (part / "config.json").write_text(
            json.dumps(description.__dict__, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (part / "README.md").write_text(card(description, family), encoding="utf-8")
        if isinstance(family.modality, Codes):
            family.modality.codec.save(part / "codec")
        if isinstance(family.modality, Audio):
            save_tensors(family.modality.vocoder.state_dict(), part / VOCODER)


def load(path: str | Path, networks: dict[str, nn.Module] | None = None) -> Model:
    """The model of a run folder, a model/ folder or zoo/NAME.

    networks: the user's own modules, by role, if the model was trained with any.
    Raises UsageError when there is no model, MorphogenError when its files are damaged.
    """
    folder = model_folder(path)
    try:
        description = Description(**read_json(folder / "config.json"))
    except TypeError as error:
        raise MorphogenError(f"{folder / 'config.json'} is not a model of this version: {error}.") from None
    for name in description.own_networks:
        if name not in (networks or {}):
            raise UsageError(f"The model's {name} is its maker's own module: load(path, networks={{'{name}': …}}).")
    codec = load(folder / "codec") if (folder / "codec").exists() else None
    family = build_family(description, networks=networks, codec=codec)
    try:
        fresh = {k: v for k, v in family.state_dict().items() if family.only_trains(k)}
        family.load_state_dict(load_tensors(folder / "weights.safetensors") | fresh)
    except RuntimeError as error:
        raise MorphogenError(f"{folder} is damaged: {str(error).splitlines()[-1].strip()}") from None
    if isinstance(family.modality, Audio):
        family.modality.vocoder.load_state_dict(load_tensors(folder / VOCODER))
    precision = choose("float32")  # samples and scores are measured in full precision
    return Model(precision.place(family), description)


def weights_hash(model: Model) -> str:
    """A short hash of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.family.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def start_from(family: Family, path: str | Path) -> tuple[int, int]:
    """Copy another model's weights wherever name and shape agree; returns (tensors copied, tensors in all)."""
    there = load_tensors(model_folder(path) / "weights.safetensors")
    here = family.state_dict()
    fits = {k: v for k, v in there.items() if k in here and here[k].shape == v.shape}
    matrices = [k for k, parameter in family.named_parameters() if parameter.dim() > 1]
    if not any(k in fits for k in matrices):
        raise UsageError(f"No weight of {path} fits this model; --init needs the same kind of networks.")
    family.load_state_dict(fits, strict=False)
    return len(fits), len(here)


def card(description: Description, family: Family) -> str:
    """The model card, in Markdown."""
    d, t = description, description.training
    size = " x ".join(map(str, d.space))
    parameters = {}
    for name, module in family.named_children():
        if not family.only_trains(name):
            kept = lambda named, name=name: sum(w.numel() for k, w in named if not family.only_trains(f"{name}.{k}"))
            parameters[name] = kept(module.named_parameters()) or kept(module.named_buffers())  # a mixture is buffers
    networks = "\n".join(f"| {name} | {count:,} |" for name, count in parameters.items())
    labels = f"conditioned on `{d.label}`: {', '.join(d.classes[:30])}" if d.classes else "unconditional"
    told = {k: v for k, v in t.get("scores", {}).items() if not k.startswith("kl/")}  # a number a unit fills pages
    scores = "\n".join(f"| {name} | {value:.4g} |" for name, value in told.items())
    return f"""# {t.get("name", "A Morphogen model")}

A {d.family} for {d.modality} of shape {size}, {labels}. Made by Morphogen {d.version}.

Trained on `{t.get("data", "?")}`: {t.get("items", "?")} items, {t.get("heldout", "?")} held out.{_second(t)}
Seed {t.get("seed", "?")}; best by held-out score, of step {t.get("step", "?")} of {t.get("steps", "?")}.

    {t.get("command") or "made through the Python API"}

Use it: {_use(family)} in Python.

| network | parameters |
|---|---|
{networks}

| held-out score when chosen | |
|---|---|
{scores}

What it makes resembles its training data, with their gaps and biases; it has no other knowledge.
"""


def _use(family: Family) -> str:
    """The command, and the call, that a model is for."""
    if family.other is not None:
        return "`morphogen translate FOLDER SRC --to b --out made`, or `morphogen.load(FOLDER).translate(items, 'b')`"
    return "`morphogen sample FOLDER -n 64 --out samples`, or `morphogen.load(FOLDER).sample(64)`"


def _second(training: dict[str, Any]) -> str:
    """What the card says of a second source, and of labels that hold the meaning between two."""
    b, a = training.get("data_b") or {}, training.get("data_config") or {}
    if not b or b["source"] == "builtin:noise":
        return ""
    taught = [side for side, config in (("a", a), ("b", b)) if config.get("label")]
    meaning = f" Labels of domain {taught[0]} hold the meaning; no others were read." if taught else ""
    return f"\nSecond source, domain b: `{b['source']}`.{meaning}"
