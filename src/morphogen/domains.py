"""The data of a training: every domain read, fitted to one shape, split, and the labels that condition the model.

Also items for a model that is trained already, brought to the shape it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.config import (
    Config,
    DataConfig,
    near,
)
from morphogen.data import Dataset, open_source, prepare, split
from morphogen.data.audio import Clip, plan_clip
from morphogen.data.dataset import JOINED, TOGETHER
from morphogen.data.images import parse_size
from morphogen.data.recordings import prepare_audio
from morphogen.data.sources import UNMATCHED, Source
from morphogen.data.text import packed, unpacked
from morphogen.errors import UsageError
from morphogen.loop import (
    modality_of,
)
from morphogen.model import (
    Model,
    load,
)

NOISE = "builtin:noise"  # the second domain that is drawn anew at each step
LEARNABLE = 100  # items of a value from which a classifier can learn it, where the user says nothing


@dataclass
class Data:
    """What a training draws on: the training and the held-out items, the labels that condition the model, the model in
    whose latent space another one works, and the second domain."""

    train: Dataset
    heldout: Dataset
    label: str | None
    classes: list[str]
    split: str
    codec: Model | None = None
    other: Data | None = None
    paired: bool = False  # one of two domains: what the items are is known only where the user says so
    content: str | None = None  # the attribute that says what the items hold, where the user names one

    def domains(self) -> dict[str, Data]:
        """The domains by name: one, or two."""
        return {"a": self} if self.other is None else {"a": self, "b": self.other}

    def waves(self) -> np.ndarray:
        """The training windows of all domains, of recordings."""
        return np.concatenate([d.train.data for d in self.domains().values()])

    def evaluation_label(self) -> str | None:
        """The attribute an in-domain classifier may learn, whether or not it conditions the model: the model's own, or
        `evaluate.content`, or that of the sub-folders, or the finest with `LEARNABLE` training items of each value."""
        if self.paired:
            return self.label
        known = [name for name in (self.label, self.content, "label") if name in self.train.labels]
        return known[0] if known else self._finest()

    def _finest(self) -> str | None:
        """The attribute with the most values, of those of which every value has items enough to be learned."""
        counts = {name: np.unique(np.asarray(v, str), return_counts=True)[1] for name, v in self.train.labels.items()}
        fit = {name: len(n) for name, n in counts.items() if len(n) > 1 and n.min() >= LEARNABLE}
        return max(fit, key=lambda name: (fit[name], name)) if fit else None


def load_data(config: Config) -> Data:
    """Read, fit and split the items that the config names; unreadable ones are listed in `.train.skipped`."""
    how, sound = config.data, config.modality == "audio"
    if config.codec is not None and how.length is None:  # text is brought to the codec's width
        space = load(config.codec).modality.item_space
        how = how.model_copy(update={"length": space[0]}) if len(space) == 1 else how
    data = _domain(how, config.train.seed, sound)
    data.codec, data.content = load_codec(config, data.train.item_shape), config.evaluate.content
    if config.family == "cycle_vae" and config.data_b is not None:
        data = _joined(data, config)
    elif config.data_b is not None and config.data_b.source != NOISE:
        data.other = _domain(config.data_b, config.train.seed, sound, data.train)
        data.paired = data.other.paired = True
    for domain in data.domains().values():
        domain.train, domain.heldout = (_with_content(d, config) for d in (domain.train, domain.heldout))
    return data


def _with_content(dataset: Dataset, config: Config) -> Dataset:
    """The items with `evaluate.content`, where it joins attributes. Only measured by, it makes them no other data."""
    known = dataset.with_label(config.evaluate.content)
    if known is not dataset:
        known._fingerprint = dataset.fingerprint()
    return known


def _joined(a: Data, config: Config) -> Data:
    """Two sources as one data set whose label `domain` is 'a' or 'b'; the second is fitted to the first's shape."""
    assert config.data_b is not None
    if config.data.label is not None or config.data_b.label is not None:
        raise UsageError("The domains are data.label's values, or the two sources: give data.label or --data-b.")
    if a.codec is not None:
        raise UsageError("A codec has one domain; leave codec or --data-b out.")
    space = a.train.item_shape
    if a.train.space == "text":
        return _joined_texts(a, config)
    same = {"size": f"{space[1]}x{space[2]}", "channels": space[0]} if len(space) == 3 else {}
    like = a.train if a.train.space == "audio" else None
    b = _domain(config.data_b.model_copy(update=same), config.train.seed, like is not None, like)
    if b.train.item_shape != space:
        raise UsageError(f"The two sources differ in kind: items of shape {space} and {b.train.item_shape}.")
    return Data(a.train.joined(b.train), a.heldout.joined(b.heldout), JOINED, ["a", "b"], f"{a.split}; {b.split}")


def _joined_texts(a: Data, config: Config) -> Data:
    """`_joined` for two texts: the shorter rows are made as wide as the others."""
    assert config.data_b is not None
    b = _domain(config.data_b, config.train.seed)
    if b.train.space != "text":
        raise UsageError(f"The two sources differ in kind: text, and {b.train.space}.")
    width = max(a.train.item_shape[0], b.train.item_shape[0])
    for part in (a.train, a.heldout, b.train, b.heldout):
        part.data = packed(unpacked(part.data), width)
    return Data(a.train.joined(b.train), a.heldout.joined(b.heldout), JOINED, ["a", "b"], f"{a.split}; {b.split}")


def _domain(d: DataConfig, seed: int, sound: bool = False, like: Dataset | None = None) -> Data:
    """The items of one domain; sound: recordings, brought to windows `like` those of another data set, if any."""
    source = open_source(d.source, label_pattern=d.label_pattern, split=d.split)
    if sound:
        clip = None if like is None else _same_windows(d, clip_of(like))
        dataset = prepare_audio(
            source, clip=clip, rate=d.rate, seconds=d.seconds, channels=d.channels, max_bad=d.max_bad
        )  # fmt: skip
    elif source.space == "audio":
        raise UsageError(f"{d.source} holds recordings; use a recipe for audio, such as gan-audio.")
    else:
        dataset = prepare(
            source, size=parse_size(d.size), fit=d.fit, channels=d.channels, max_bad=d.max_bad, length=d.length
        )
    dataset = dataset.with_label(d.label)
    classes = _classes(dataset, d.label)
    if d.heldout:
        train = dataset
        heldout = read_like(d.heldout, dataset, d.fit, d.label_pattern, minimum=8, unit=d.split).with_label(d.label)
        how = f"named by data.heldout: {d.heldout}"
        if d.label is not None:
            heldout = of_known_classes(heldout, d.label, classes)
    else:
        train, heldout = split(dataset, d.heldout_fraction, seed, label=d.label)
        how = f"seeded split of {d.source}, {100 * d.heldout_fraction:g} % held out, seed {seed}"
    train.skipped = dataset.skipped + (heldout.skipped if d.heldout else [])
    return Data(train, heldout, d.label, classes, how)


def _same_windows(d: DataConfig, clip: Clip) -> Clip:
    """The windows of the first domain, which are the second's, too; UsageError where its settings say otherwise."""
    other = plan_clip([(clip.samples, clip.channels, clip.rate)], d.rate or clip.rate, d.seconds, d.channels)
    differs = {"rate": d.rate and other.rate != clip.rate, "seconds": d.seconds and other.samples != clip.samples,
               "channels": d.channels and other.channels != clip.channels}  # fmt: skip
    for key in (key for key, yes in differs.items() if yes):
        raise UsageError(
            f"Both data sets become windows of one rate, length and number of channels: leave data_b.{key} out, and "
            f"data.{key} holds for both."
        )
    return clip


def load_codec(config: Config, item_shape: tuple[int, ...]) -> Model | None:
    """The trained model that `codec` names; UsageError when it cannot stand between these items and another family."""
    if config.codec is None:
        return None
    codec = load(config.codec)
    if codec.description.family != "vae" or codec.classes:
        raise UsageError(f"codec: {config.codec} must be a VAE without labels; train one without data.label.")
    if codec.modality.item_space != item_shape:
        raise UsageError(f"codec: {config.codec} takes items of shape {codec.modality.item_space}, not {item_shape}.")
    return codec


def _classes(dataset: Dataset, label: str | None) -> list[str]:
    """The sorted values of the conditioning label; empty where none was asked for."""
    if label is None:
        return []
    if label not in dataset.labels:
        label = next((part for part in label.split(TOGETHER) if part not in dataset.labels), label)
        has = ", ".join(dataset.labels) or "none (use sub-folders, an IDX labels file or data.label_pattern)"
        raise UsageError(f"The data have no label '{label}'; they have {has}.{near(label, dataset.labels)}")
    classes = sorted({str(v) for v in dataset.labels[label]})
    if len(classes) < 2:
        raise UsageError(f"The label '{label}' has a single value, {classes}; leave data.label out.")
    return classes


def of_known_classes(heldout: Dataset, label: str, classes: list[str]) -> Dataset:
    if label not in heldout.labels:
        raise UsageError(f"The held-out data {heldout.spec} have no label '{label}'; name others, or leave it out.")
    known = np.flatnonzero(np.isin(np.asarray(heldout.labels[label], str), classes))
    if len(known) < 8:
        raise UsageError(f"The held-out data {heldout.spec} have too few items of the labels that are trained on.")
    return heldout.subset(known) if len(known) < len(heldout) else heldout


def clip_of(like: Any) -> Clip:
    """The windows of a data set of recordings, or of a sound modality."""
    shape = like.item_shape if isinstance(like, Dataset) else like.item_space
    return Clip(like.rate, shape[1], shape[0])


def open_for_use(spec: str, pattern: str | None, unit: str) -> Source:
    """A source for a trained model: names need not follow the pattern that the training's labels came from."""
    try:
        source = open_source(spec, label_pattern=pattern, split=unit)
    except UsageError as error:
        if pattern is None or "label_pattern" not in str(error):
            raise
        return open_source(spec, split=unit)
    source.bad = {row: why for row, why in source.bad.items() if why != UNMATCHED}
    return source


def read_like(
    spec: str, like: Any, fit: str, pattern: str | None = None, minimum: int = 1, strict: bool = True,
    whole: bool = False, unit: str = "line",
) -> Dataset:  # fmt: skip
    """The items of another source, brought to the shape of those that a modality takes, or of training data.

    whole: of recordings all windows that cover them, not those that training would choose.  unit: `data.split`.
    """
    source = open_source(spec, label_pattern=pattern, split=unit) if strict else open_for_use(spec, pattern, unit)
    item_shape = like.item_shape if isinstance(like, Dataset) else like.item_space
    if len(item_shape) == 2:
        return prepare_audio(source, clip=clip_of(like), minimum=minimum, strict=strict, whole=whole)
    if len(item_shape) == 1 and source.space == "text":
        return prepare(source, minimum=minimum, strict=strict, length=item_shape[0])
    if len(item_shape) == 1:
        return prepare(source, minimum=minimum, strict=strict)
    return prepare(
        source, size=(item_shape[1], item_shape[2]), channels=item_shape[0], fit=fit, minimum=minimum, strict=strict
    )


def same_source(one: str, other: str) -> bool:
    """Whether two SRC name the same, however their paths are spelled."""
    (a, _, select_a), (b, _, select_b) = one.partition("#"), other.partition("#")
    return select_a == select_b and Path(a).resolve() == Path(b).resolve()


def read_for(model: Model, spec: str, domain: str = "a", whole: bool = False) -> Dataset:
    """The items of SRC as the model takes them, in domain 'a' or 'b'; unreadable ones are in `.skipped`. Of a recording
    that is longer than a window the best one, or, `whole`, all that cover it."""
    config = model.description.training.get("data_config" if domain == "a" else "data_b") or {}
    modality, fit, pattern = modality_of(model.family, domain), config.get("fit", "crop"), config.get("label_pattern")
    found = read_like(
        spec, modality, fit, pattern, strict=False, whole=whole, unit=config.get("split", "line")
    )  # fmt: skip
    if whole or not found.spans:
        return found
    first = {span.recording: row for row, span in reversed(list(enumerate(found.spans)))}
    return found.subset(sorted(first.values()))


def names_of(model: Model, spec: str) -> list[str]:
    """The names of all items of SRC in their order, unreadable ones too."""
    config = model.description.training.get("data_config", {})
    return open_for_use(spec, config.get("label_pattern"), config.get("split", "line")).names


def labels_for(
    model: Model, dataset: Dataset, label: str | None, needed: bool = True
) -> str | list[str] | None:  # fmt: skip
    """The labels to condition on for each item: the one given, or those the source carries; None where neither is
    there and they are not needed."""
    if label is not None or not model.classes:
        return label
    name = model.description.label
    dataset = dataset.with_label(name)
    if name not in dataset.labels:
        if not needed:
            return None
        raise UsageError(f"The model is conditional on '{name}', which {dataset.spec} lacks; give --label.")
    return [str(v) for v in dataset.labels[name]]
