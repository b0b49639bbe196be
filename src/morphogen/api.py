"""The verbs: train, evaluate, and reading items for a trained model. The command line is a thin coat over this file.

Order of a training: config → data → description (shape, classes) → networks → run folder → loop → final evaluation.
"""

from __future__ import annotations

import contextlib
import copy
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from morphogen.config import (
    SAFE_TO_CHANGE,
    Config,
    DataConfig,
    apply_settings,
    changed_keys,
    dump_yaml,
    near,
    read_yaml,
    validate,
)
from morphogen.data import BadItem, Dataset, open_source, prepare, split
from morphogen.data.audio import Clip
from morphogen.data.builtin import GRID_CENTERS, GRID_SIGMA, RING_CENTERS, RING_SIGMA
from morphogen.data.dataset import JOINED
from morphogen.data.images import parse_size
from morphogen.data.recordings import prepare_audio
from morphogen.data.sources import UNMATCHED, Source
from morphogen.data.text import packed, unpacked
from morphogen.errors import MorphogenError, UsageError
from morphogen.evaluation import (
    HeldoutScore,
    TranslationScore,
    conversion_scores,
    cycle_scores,
    evaluate_items,
    likelihood_of,
)
from morphogen.families import FAMILIES, Family
from morphogen.families.cycle_gan import CycleGAN
from morphogen.families.vae import VAE
from morphogen.health import cycle_warnings, sound_warnings
from morphogen.loop import (
    ENOUGH_FOR_FID,
    Display,
    Items,
    Silence,
    Trainer,
    modality_of,
    spaced,
    steps_for_minutes,
    translate_raw,
)
from morphogen.metrics.classifier import SIDE, train_classifier
from morphogen.metrics.extractors import SeenAs, choose_extractor
from morphogen.metrics.sound import Voices, heard_conversions, sound_scores, through_codec
from morphogen.metrics.toy import mixture_modes
from morphogen.modalities import Audio, Image
from morphogen.modalities.codes import codes_of
from morphogen.modalities.text import text_options
from morphogen.model import (
    Description,
    Model,
    build_family,
    load,
    save_model,
    start_from,
    weights_hash,
)
from morphogen.posthoc import candidates, top_codes
from morphogen.precision import choose
from morphogen.recipes import RECIPES
from morphogen.run import RunFolder, model_folder, read_json, write_json, write_text
from morphogen.texts import add_text, text_cycle, text_rows, train_codec, train_language_model
from morphogen.vocoding import loudest_of, ready_vocoder

NOISE = "builtin:noise"  # the second domain that is drawn anew at each step
FITTED = 30_000  # items whose codes a post-hoc prior is fitted to
MOST_HEARD = 300  # held-out recordings of a domain that are converted to be listened to
MOST_ATTRIBUTES = 1000  # values of a label of which the model learns where they lie


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

    def waves(self) -> np.ndarray:
        """The training windows of all domains, of recordings."""
        domains = [self] if self.other is None else [self, self.other]
        return np.concatenate([d.train.data for d in domains])

    def evaluation_label(self) -> str | None:
        """The attribute an in-domain classifier may learn, whether or not it conditions the model."""
        if self.paired:
            return self.label
        known = [name for name in (self.label, "label") if name in self.train.labels]
        return known[0] if known else None


@dataclass
class Run:
    """A finished training."""

    path: Path
    config: Config
    evaluation: dict[str, Any]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def model(self, networks: dict[str, nn.Module] | None = None) -> Model:
        """The best model of this run."""
        return load(self.path, networks)


def resolve_config(recipe: str, settings: Sequence[str] = (), **given: Any) -> Config:
    """The config of a recipe name or a YAML file with `settings` ('a.b=c') and the options of `train` put in.

    Raises UsageError for an unknown recipe, key or value.
    """
    if recipe in RECIPES:
        values = RECIPES[recipe]().model_dump(mode="json")
    elif recipe.endswith((".yaml", ".yml")):
        values = read_yaml(Path(recipe))
    else:
        raise UsageError(f"There is no recipe '{recipe}'; `morphogen recipes` lists them.{near(recipe, RECIPES)}")
    values = copy.deepcopy(values)
    for section in ("data", "train"):
        values[section] = values.get(section) or {}
        if not isinstance(values[section], dict):
            raise UsageError(f"The section '{section}' of {recipe} is no mapping of keys to values.")
    if given.get("data"):
        values["data"]["source"] = given["data"]
    if given.get("data_b"):
        values["data_b"] = (values.get("data_b") or {}) | {"source": given["data_b"]}
    lengths = {name: given[name] for name in ("steps", "minutes") if given.get(name) is not None}
    if len(lengths) > 1:
        raise UsageError("Give --steps or --minutes, not both.")
    asked = {s.partition("=")[0].strip() for s in settings} & {"train.steps", "train.minutes", "train.epochs"}
    if lengths or asked:
        values["train"] |= {"steps": None, "minutes": None, "epochs": None, **lengths}
    return validate(Config, apply_settings(values, list(settings)))


def load_data(config: Config) -> Data:
    """Read, fit and split the items that the config names; unreadable ones are listed in `.train.skipped`."""
    how, sound = config.data, config.modality == "audio"
    if config.codec is not None and how.length is None:  # text is brought to the codec's width
        space = load(config.codec).modality.item_space
        how = how.model_copy(update={"length": space[0]}) if len(space) == 1 else how
    data = _domain(how, config.train.seed, sound)
    data.codec = load_codec(config, data.train.item_shape)
    if config.family == "cycle_vae" and config.data_b is not None:
        return _joined(data, config)
    if config.data_b is not None and config.data_b.source != NOISE:
        data.other = _domain(config.data_b, config.train.seed, sound, data.train)
        data.paired = data.other.paired = True
    return data


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
        clip = None if like is None else clip_of(like)
        dataset = prepare_audio(
            source, clip=clip, rate=d.rate, seconds=d.seconds, channels=d.channels, max_bad=d.max_bad
        )  # fmt: skip
    elif source.space == "audio":
        raise UsageError(f"{d.source} holds recordings; use a recipe for audio, such as gan-audio.")
    else:
        dataset = prepare(
            source, size=parse_size(d.size), fit=d.fit, channels=d.channels, max_bad=d.max_bad, length=d.length
        )
    classes = _classes(dataset, d.label)
    if d.heldout:
        train = dataset
        heldout = _fitted(d.heldout, dataset, d.fit, d.label_pattern, minimum=8, unit=d.split)
        how = f"named by data.heldout: {d.heldout}"
        if d.label is not None:
            heldout = _of_known_classes(heldout, d.label, classes)
    else:
        train, heldout = split(dataset, d.heldout_fraction, seed, label=d.label)
        how = f"seeded split of {d.source}, {100 * d.heldout_fraction:g} % held out, seed {seed}"
    train.skipped = dataset.skipped + (heldout.skipped if d.heldout else [])
    return Data(train, heldout, d.label, classes, how)


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
        has = ", ".join(dataset.labels) or "none (use sub-folders, an IDX labels file or data.label_pattern)"
        raise UsageError(f"The data have no label '{label}'; they have {has}.{near(label, dataset.labels)}")
    classes = sorted({str(v) for v in dataset.labels[label]})
    if len(classes) < 2:
        raise UsageError(f"The label '{label}' has a single value, {classes}; leave data.label out.")
    return classes


def _of_known_classes(heldout: Dataset, label: str, classes: list[str]) -> Dataset:
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


def _fitted(
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


def describe(config: Config, data: Data, networks: dict[str, nn.Module] | None = None) -> Description:
    """What the model will be: the config's options and the data's shape and classes."""
    space = list(data.train.item_shape)
    modality = data.train.space
    if modality != config.modality:
        raise UsageError(f"{config.data.source} holds {modality}, but the recipe is for {config.modality} data.")
    options: dict[str, Any] = {}
    if data.codec is not None:
        codes = codes_of(data.codec, data.train.data[spaced(len(data.train), 5000)])
        modality, space = "codes", [codes.shape[1]]
        options = {"mean": codes.mean(0).tolist(), "std": np.maximum(codes.std(0), 1e-3).tolist()}
    elif modality == "points":
        options = {"mean": float(data.train.data.mean()), "scale": float(data.train.data.std()) or 1.0}
    elif modality == "audio":
        space, options = audio_options(config, data)
    elif modality == "text":
        options = options_of_text(config, data, config.data)
    counts, conditional = [], data.classes if data.other is None else []
    if conditional and data.label is not None:
        names, numbers = np.unique(np.asarray(data.train.labels[data.label], str), return_counts=True)
        counts = [int(dict(zip(names, numbers, strict=True))[c]) for c in data.classes]
    return Description(
        family=config.family, modality=modality, space=space, options=config.model, modality_options=options,
        label=data.label if conditional else None, classes=conditional, label_counts=counts,
        sample=config.sample.model_dump(mode="json"), own_networks=sorted(networks or {}),
        other=_other(config, data, space, options),
    )  # fmt: skip


def options_of_text(config: Config, data: Data, how: DataConfig) -> dict[str, Any]:
    """The settings of the text modality of one domain."""
    options = text_options(unpacked(data.train.data), unpacked(data.heldout.data), how.vocabulary, how.symbols)
    return options | ({"relaxed": True} if FAMILIES[config.family].relaxed else {})


def audio_options(config: Config, data: Data) -> tuple[list[int], dict[str, Any]]:
    """The space, and the settings of the modality, of recordings."""
    clip, net = clip_of(data.train), config.vocoder
    space = [clip.channels, clip.mels, clip.samples // clip.hop]
    options: dict[str, Any] = {"rate": clip.rate, "samples": clip.samples, "n_fft": clip.n_fft, "hop": clip.hop}
    if net.source is not None:
        return space, options | vocoder_of(net.source, space, options)
    options["vocoder"] = net.model_dump(include={"dim", "depth", "finer", "turning"})
    return space, options | {"loudest": loudest_of(Audio(tuple(space), **options), data.waves())}


def vocoder_of(run: str, space: list[int], options: dict[str, Any]) -> dict[str, Any]:
    """The settings of another model's vocoder; UsageError when it is for another kind of spectrogram."""
    theirs = read_json(model_folder(run) / "config.json")
    known = theirs["modality_options"]
    same = theirs["modality"] == "audio" and theirs["space"][:2] == space[:2]
    if not same or any(known[key] != options[key] for key in ("rate", "n_fft", "hop")):
        raise UsageError(f"The vocoder of {run} is for other sound; leave vocoder.source out.")
    return {key: known[key] for key in ("vocoder", "loudest")}


def _other(config: Config, data: Data, space: list[int], options: dict[str, Any]) -> dict[str, Any]:
    """What a description says of the second domain; empty where there is none. Of sound it is as the first."""
    if data.other is None:
        return {}
    if data.codec is not None:
        raise UsageError("A codec has one domain; leave codec or --data-b out.")
    if data.train.space == "points" or data.other.train.space == "points":
        raise UsageError("Two domains must both hold images; vectors have no translators.")
    if data.train.space != data.other.train.space:
        raise UsageError(f"Two domains must hold the same, not {data.train.space} and {data.other.train.space}.")
    if data.train.space == "audio":
        return {"modality": "audio", "space": space, "options": options}
    if data.train.space == "text":
        assert config.data_b is not None
        theirs = options_of_text(config, data.other, config.data_b)
        options["length"] = theirs["length"] = max(options["length"], theirs["length"])
        return {"modality": "text", "space": list(data.other.train.item_shape), "options": theirs}
    return {"modality": "image", "space": list(data.other.train.item_shape)}


def check_content(config: Config, data: Data) -> None:
    """UsageError where evaluate.content names no attribute of the data."""
    content, known = config.evaluate.content, data.train.labels
    if content is not None and content not in known:
        has = ", ".join(known) or "none"
        raise UsageError(f"evaluate.content is '{content}', but the items have {has}.{near(content, known)}")


def check_terms(config: Config, family: Family) -> None:
    """Every player needs settings and its first term; no other names may be there, and no augmentation that the family
    would not heed. UsageError names the fault."""
    if config.augment.mode not in family.augmentations:
        raise UsageError(f"This family heeds augment.mode={' or '.join(family.augmentations)} only; set that.")
    terms = [name for names in family.terms.values() for name in names]
    for what, given, known in (("player", config.players, family.players), ("term", config.terms, terms)):
        for name in given:
            if name not in known:
                raise UsageError(f"The family has no {what} '{name}'; it has {', '.join(known)}.{near(name, known)}")
    for player in family.players:
        if player not in config.players:
            raise UsageError(f"The config lacks players.{player}; give it a learning rate, players.{player}.lr.")
        if family.terms[player][0] not in config.terms:
            raise UsageError(
                f"The config lacks terms.{family.terms[player][0]}, without which {player} learns nothing."
            )


def train(
    recipe: str = "gan-image",
    data: str | None = None,
    data_b: str | None = None,
    *,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    steps: int | None = None,
    minutes: float | None = None,
    init: str | Path | None = None,
    networks: dict[str, nn.Module] | None = None,
    display: Display | None = None,
    command: str = "",
) -> Run:
    """Train a model into the run folder `out`, or go on with the training that is there.

    recipe: a name of `morphogen recipes` or a YAML file.  data: SRC (a folder, an IDX folder, .npy, builtin:NAME, …).
    data_b: SRC of the second domain, for recipes with two.
    settings: 'a.b=c' as with --set.  steps, minutes: how long.  init: a run whose weights to start from.
    networks: own modules by role, as {'generator': module}; their calls are those of `morphogen.nets.roles`.
    Raises UsageError for wrong options, MorphogenError for bad data or divergence, Stopped after Ctrl-C or SIGTERM.
    """
    display = display or Silence()
    config = resolve_config(recipe, settings, data=data, data_b=data_b, steps=steps, minutes=minutes)
    folder = RunFolder(out or Path("runs") / (config.recipe or Path(recipe).stem))
    going_on = folder.exists()
    if config.codec in RECIPES:
        config = train_codec(config, folder, train, display=display)
    if going_on:
        config = continued(config, folder)
    items = load_data(config)
    skipped = items.train.skipped + (items.other.train.skipped if items.other is not None else [])
    if skipped:
        display.note(f"{len(skipped)} unreadable items are left out; {folder.skipped} lists them")
    check_content(config, items)
    description = describe(config, items, networks)
    family = build_family(description, config.augment, networks, config.train.seed, items.codec)
    check_terms(config, family)
    precision = choose(config.train.precision)
    spent = 0.0
    if isinstance(family.modality, Audio):
        spent = ready_vocoder(
            family.modality, items.waves(), items.train.fingerprint(), config.vocoder, precision, config.train.seed,
            folder.path, display.note, None if going_on else config.train.minutes,
        )  # fmt: skip
    let_teach(config, family, items, display)
    if init is not None and not folder.steps_saved():
        copied, total = start_from(family, init)
        display.note(f"started from {init}: {copied} of {total} tensors fit")
    facts = data_facts(items)
    check_facts(folder, facts, going_on)
    extractors = extractors_for(config.evaluate.extractor, items, display, family)
    scorer: Any = HeldoutScore(extractors["a"], items.heldout.data)
    if items.other is not None:
        scorer = TranslationScore(scorer, HeldoutScore(extractors["b"], items.other.heldout.data))
    folder.create()
    folder.write_skipped(skipped)
    if config.train.tensorboard:
        display = tensorboard(display, folder)

    def save(best: Family, step: int, scores: dict[str, float]) -> None:
        description.training = provenance(config, items) | {
            "name": folder.path.name, "step": step, "scores": scores, "command": command, "precision": precision.why,
        }  # fmt: skip
        save_model(best, description, folder.model)

    def trainer(network_family: Family) -> Trainer:
        return Trainer(
            config, network_family, items.train, items.heldout, items.classes, folder, precision, scorer, save, display,
            None if (b := items.other) is None else (b.train, b.heldout, b.label, b.classes),
        )  # fmt: skip

    if config.train.steps is None:
        config.train.steps = decide_steps(config, len(items.train), lambda: trainer(copy.deepcopy(family)), spent)
        display.note(f"{config.train.steps} steps")
    write_text(folder.config, dump_yaml(config))
    write_json(folder.facts, facts)
    loop = trainer(family)
    if init is not None:  # again: what the family took from the data in between is learned state of that model
        start_from(family, init)
        loop.shown.load_state_dict(family.state_dict())
    if going_on and loop.resume():
        display.note(f"going on from step {loop.step} of {config.train.steps}")
    loop.fit()
    if config.evaluate.language_model:
        train_language_model(config, folder, train, display=display)
    evaluation = finish(folder, config, items, extractors, scorer, loop.seconds, networks, display)
    return Run(folder.path, config, evaluation, skipped)


def continued(config: Config, folder: RunFolder) -> Config:
    """The config to go on with; UsageError names a changed setting that would make it another run."""
    stored = validate(Config, read_yaml(folder.config))
    old, new = stored.model_dump(mode="json"), config.model_dump(mode="json")
    unsafe = [key for key in changed_keys(old, new) if key not in SAFE_TO_CHANGE]
    if unsafe:
        raise UsageError(
            f"{folder.path} was begun with another {unsafe[0]}; use another --out, or the settings of {folder.config}."
        )
    config.vocoder.steps = stored.vocoder.steps  # it is trained already
    same_length = (config.train.minutes, config.train.epochs) == (stored.train.minutes, stored.train.epochs)
    if config.train.steps is None and same_length:
        config.train.steps = stored.train.steps
    return config


def tensorboard(display: Display, folder: RunFolder) -> Display:
    """The display, with the curves written for TensorBoard as well."""
    try:
        from morphogen.progress import TensorBoardDisplay

        return TensorBoardDisplay(display, str(folder.path / "tensorboard"))
    except ImportError:
        raise UsageError("train.tensorboard needs the extra: pip install 'morphogen[track]'.") from None


def provenance(config: Config, data: Data) -> dict[str, Any]:
    """What a model says of its training, as far as it is known beforehand."""
    return {
        "recipe": config.recipe, "data": config.data.source, "split": data.split, "items": len(data.train),
        "heldout": len(data.heldout), "seed": config.train.seed, "steps": config.train.steps,
        "data_config": config.data.model_dump(mode="json"), "extractor": config.evaluate.extractor,
        "content": config.evaluate.content, "data_b": config.data_b and config.data_b.model_dump(mode="json"),
    }  # fmt: skip


def data_facts(data: Data) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    codec = {} if data.codec is None else {"codec": weights_hash(data.codec)}
    return codec | {
        "fingerprint": data.train.fingerprint(), "heldout_fingerprint": data.heldout.fingerprint(),
        "space": list(data.train.item_shape), "classes": data.classes,
        **({} if data.other is None else {"other": data_facts(data.other)}),
    }  # fmt: skip


def check_facts(folder: RunFolder, facts: dict[str, Any], going_on: bool) -> None:
    """Refuse to go on with data that are not those the run began with."""
    if going_on and folder.facts.exists() and read_json(folder.facts) != facts:
        raise MorphogenError(f"The data have changed since {folder.path} began; restore them or use another --out.")


def decide_steps(config: Config, items: int, trial: Callable[[], Trainer], spent: float = 0.0) -> int:
    """The number of steps: from minutes, less those spent already, by a short trial, else from epochs, else 10,000."""
    if config.train.minutes is not None:
        return steps_for_minutes(trial(), max(0.1 * config.train.minutes, config.train.minutes - spent))
    if config.train.epochs is not None:
        return max(1, round(config.train.epochs * items / config.train.batch_size))
    return 10_000


def listener(train: Dataset) -> Callable[[np.ndarray], np.ndarray] | None:
    """`pictures_of` for recordings whose model is not known."""
    if train.space != "audio":
        return None
    clip = clip_of(train)
    space, settings = (
        (clip.channels, clip.mels, clip.samples // clip.hop),
        (clip.rate, clip.samples, clip.n_fft, clip.hop),
    )
    return Audio(space, *settings, loudest_of(Audio(space, *settings), train.data)).stored


def pictures_of(modality: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    """What brings raw items to pictures, on which the features of sound are measured; None where they are some."""
    return modality.stored if isinstance(modality, Audio) else None


def seen_fingerprint(train: Dataset, see: Callable[[np.ndarray], np.ndarray] | None) -> str:
    """The name of training items as an extractor sees them."""
    if see is None:
        return train.fingerprint()
    return f"{train.fingerprint()}-{zlib.crc32(np.ascontiguousarray(see(train.data[:64])).data):08x}"


def extractor_for(
    name: str, data: Data, display: Display | None = None, see: Callable[[np.ndarray], np.ndarray] | None = None
) -> Any:
    """The feature extractor of the scores, named in every table. Its seed is fixed: scores of runs must compare.

    see: what brings raw items to pictures, where they are none.
    """
    label = data.evaluation_label()
    precision, begin = choose(), time.perf_counter()
    extractor = choose_extractor(
        name, see=see, train_items=data.train.data, train_labels=None if label is None else data.train.labels[label],
        heldout_items=data.heldout.data, heldout_labels=None if label is None else data.heldout.labels.get(label),
        fingerprint=seen_fingerprint(data.train, see), seed=0, autocast=precision.dtype != torch.float32,
        device=precision.device.type,
    )  # fmt: skip
    if display is not None:
        display.note(f"scores use {extractor.identity} ({time.perf_counter() - begin:.0f} s to make ready)")
    return extractor


def extractors_for(
    name: str, data: Data, display: Display | None = None, family: Family | None = None
) -> dict[str, Any]:
    """The feature extractors of the domains, {'a': …} or {'a': …, 'b': …}: each its own, but where the meaning of one
    domain is known and that of the other is not, both are seen by the classifier that knows."""
    domains = {"a": data} if data.other is None else {"a": data, "b": data.other}
    taught = [d for d in domains.values() if d.paired and d.label is not None]
    found, see = {}, pictures_of(family.modality) if family is not None else None
    for side, domain in domains.items():
        if name == "auto" and taught and domain.label is None:
            stretch = see or Image(taught[0].train.item_shape).stretched
            found[side] = SeenAs(teacher_of(taught[0], see), stretch)
        else:
            found[side] = extractor_for(name, domain, display, see)
    return found


def let_teach(config: Config, family: Family, data: Data, display: Display) -> None:
    """Train a classifier of the labelled one of two domains, and let it hold the meaning of translations."""
    wanted = any((term := config.terms.get(f"semantic_{side}")) is not None and term.weight for side in "ab")
    if not isinstance(family, CycleGAN) or data.other is None or not wanted:
        return
    for side, domain in (("a", data), ("b", data.other)):
        if domain.label is not None:
            begin = time.perf_counter()
            classifier = teacher_of(domain, pictures_of(family.modality))
            family.teach(side, classifier.net, SIDE)
            display.note(f"meaning is held by a {classifier.identity} ({time.perf_counter() - begin:.0f} s)")
            return


def teacher_of(domain: Data, see: Callable[[np.ndarray], np.ndarray] | None = None) -> Any:
    """A classifier of a domain's label that is to know its classes in another domain, too, of items that it is shown
    as `see` makes them."""
    precision, fingerprint, see = choose(), seen_fingerprint(domain.train, see), see or (lambda items: items)
    assert domain.label is not None
    return train_classifier(
        see(domain.train.data), np.asarray(domain.train.labels[domain.label], str), see(domain.heldout.data),
        np.asarray(domain.heldout.labels[domain.label], str), fingerprint=fingerprint, wide=True,
        autocast=precision.dtype != torch.float32, device=precision.device.type,
    )  # fmt: skip


def finish(
    folder: RunFolder, config: Config, data: Data, extractors: dict[str, Any], scorer: HeldoutScore, seconds: float,
    networks: dict[str, nn.Module] | None, display: Display,
) -> dict[str, Any]:  # fmt: skip
    """Choose the prior of a VAE's samples, then evaluate the best model in full, into RUN/evaluation.json."""
    if not (folder.model / "weights.safetensors").exists():
        raise MorphogenError(f"No evaluation of {folder.path} gave a finite score; lower the learning rates.")
    model, settings, priors = load(folder.path, networks), config.evaluate, None
    if isinstance(model.family, VAE):
        model, priors = choose_prior(model, data, scorer, config, display)
        model.save(folder.model)
    display.note("evaluating the best model")
    model.description.training["content"] = config.evaluate.content
    result = evaluate_model(
        model,
        data,
        extractors,
        settings.final_samples,
        likelihood=(settings.likelihood_items, settings.importance_samples),
        folder=folder.path,
    )
    if priors:
        result["priors"] = priors
    result["training"] = {"minutes": round(seconds / 60, 2), "steps": config.train.steps, "recipe": config.recipe}
    write_json(folder.evaluation, result)
    return result


def choose_prior(
    model: Model, data: Data, scorer: HeldoutScore, config: Config, display: Display
) -> tuple[Model, dict[str, dict[str, float]]]:
    """The model with the prior whose samples score best against held-out data, and the scores of all priors.

    Also learns where the labels' values lie among the codes, for `--attribute`.
    """
    family, device = model.family, model.family.device
    assert isinstance(family, VAE)
    label = data.label if model.classes else None
    train, heldout = (
        Items(d, label, model.classes, device, model.modality).take(spaced(len(d), FITTED))
        for d in (data.train, data.heldout)
    )
    train, heldout = (top_codes(family, raw, y, seed) for seed, (raw, y) in enumerate((train, heldout)))
    criterion = "fid" if len(data.heldout) >= ENOUGH_FOR_FID else "kid"
    scores, best = {}, (np.inf, "", {}, None)
    for name, options, prior in candidates(family, train, heldout, list(config.evaluate.samplers)):
        family.sampler = prior
        scores[name] = scorer(model.modality.raw(model.sample(config.evaluate.samples, config.train.seed)))
        display.note(f"samples of the prior '{name}': held-out {criterion.upper()} {scores[name][criterion]:.4g}")
        if scores[name][criterion] < best[0]:
            best = scores[name][criterion], name, options, prior
    _, chosen, options, family.sampler = best
    model.description.training["scores"] = model.description.training.get("scores", {}) | scores[chosen]
    model.description.training["prior"] = chosen
    model.description.options["sampler"] = options
    model.description.attributes = attributes(train[0], data, spaced(len(data.train), FITTED))
    return model, scores


def attributes(codes: torch.Tensor, data: Data, rows: np.ndarray) -> dict[str, list[float]]:
    """value of a label → mean code of the items that have it − mean code of the others, both of codes (N, Z)."""
    name = data.evaluation_label()
    values = [] if name is None else np.asarray(data.train.labels[name], str)[rows]
    known = sorted(set(values))
    if not 2 <= len(known) <= MOST_ATTRIBUTES:
        return {}
    return {v: (codes[values == v].mean(0) - codes[values != v].mean(0)).tolist() for v in known}


def evaluate_model(
    model: Model, data: Data, extractors: dict[str, Any], count: int, seed: int = 1,
    likelihood: tuple[int, int] = (1000, 100), display: Display | None = None, folder: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores of `count` samples of a model against held-out data, with the row of real data beside; of a VAE also the
    likelihood of `likelihood` = (items, importance samples of each); of two domains those of their translations."""
    if data.other is not None:
        result = evaluate_translations(model, {"a": data, "b": data.other}, extractors, count, seed)
        if isinstance(model.modality, Audio):
            result["heard"] = heard(model, data, seed)
        return result
    samples = model.modality.raw(model.sample(count, seed))
    result = evaluate_items(
        samples, data.train.data, data.heldout.data, extractors["a"], seed=seed, split=data.split,
        beside=through_codec(model.modality, data.train.data, count, seed),
    )  # fmt: skip
    add_modes(result, samples, data.train.spec)
    if isinstance(model.modality, Audio):
        result["sound"] = sound_scores(
            model.modality, samples, data.train.data, data.heldout.data, extractors["a"]
        )  # fmt: skip
        result["warnings"] = sound_warnings(result["sound"])
    if data.train.space == "text":
        add_text(result, model, data, count, seed, folder)
    if isinstance(model.family, VAE):
        items = Items(
            data.heldout, data.label if model.classes else None, model.classes, model.family.device, model.modality
        )
        raw, y = items.take(spaced(len(items), likelihood[0]))
        progress = None if display is None else display.note
        x = model.modality.encode(raw)
        result["likelihood"] = likelihood_of(model.family, x, y, likelihood[1], seed, progress)
        if model.family.converts and y is not None:
            result["conversions"] = conversion_scores(model.family, x, y, model.classes, extractors["a"], seed)
            if isinstance(model.modality, Audio):
                result["heard"] = heard(model, data, seed)
    return result


def heard(model: Model, data: Data, seed: int) -> dict[str, float]:
    """`heard_conversions` of held-out recordings, each to another domain, with what is said in them where
    `evaluate.content` names it."""
    content = model.description.training.get("content") or ""
    a, b = data, data.other

    def voices(train: bool) -> Voices:
        sets = [(d.train if train else d.heldout, name) for d, name in ((a, "a"), (b, "b")) if d is not None]
        rows = [spaced(len(s), len(s) if train else MOST_HEARD) for s, _ in sets]
        domains = [
            np.full(len(r), name) if b is not None else np.asarray(s.labels[a.label or JOINED], str)[r]
            for (s, name), r in zip(sets, rows, strict=True)
        ]
        known = all(content in s.labels for s, _ in sets)
        said = [np.asarray(s.labels[content], str)[r] for (s, _), r in zip(sets, rows, strict=True)] if known else None
        waves = [s.data[r] for (s, _), r in zip(sets, rows, strict=True)]
        return Voices(np.concatenate(waves), np.concatenate(domains), None if said is None else np.concatenate(said))

    heldout = voices(False)
    if b is not None:
        to = np.where(heldout.domains == "a", "b", "a")
    else:
        family: Any = model.family
        own = torch.tensor([model.classes.index(d) for d in heldout.domains], device=family.device)
        to = np.asarray(model.classes)[family.others(own, seed).cpu().numpy()]
    items, converted = model.modality.array(heldout.waves), np.empty_like(heldout.waves)
    for goal in np.unique(to):
        converted[to == goal] = model.modality.raw(model.translate(items[to == goal], str(goal), seed))
    precision = choose()
    return heard_conversions(
        model.modality, voices(True), heldout, converted, to,
        seen_fingerprint(data.train, model.modality.stored) + (b.train.fingerprint() if b is not None else ""),
        precision.dtype != torch.float32,
    )  # fmt: skip


def evaluate_translations(
    model: Model, domains: dict[str, Data], extractors: dict[str, Any], count: int, seed: int = 1
) -> dict[str, Any]:
    """Scores of the translations of held-out items in both directions, each against the held-out items of the domain
    that they were brought to, and how honest the cycle is. The result is that of a → b, with that of b → a under
    'back'."""
    results: dict[str, Any] = {}
    for here, to in (("a", "b"), ("b", "a")):
        source, there, features = domains[here], domains[to], extractors[to]
        raw = source.heldout.data[spaced(len(source.heldout), count)]
        stored = modality_of(model.family, here).stored(np.ascontiguousarray(raw))
        made = translate_raw(model.family, torch.from_numpy(stored), to)
        target = modality_of(model.family, to)
        beaten = {"not translated": target.stretched(raw)}  # what a translation must beat
        beaten |= through_codec(target, there.train.data, len(raw), seed)
        result = evaluate_items(
            made, there.train.data, there.heldout.data, features, seed=seed, split=there.split, beside=beaten
        )
        result["cycle"] = cycle_report(model.family, here, source, seed)
        result["warnings"] = cycle_warnings(result)
        results[to] = result
    results["b"]["back"] = results["a"]
    return results["b"]


def cycle_report(family: Any, side: str, domain: Data, seed: int) -> dict[str, float]:
    """`cycle_scores` of held-out items of one domain, and, where their labels are known, the share whose translation
    back is still seen as what they are."""
    rows = spaced(len(domain.heldout), 1000)
    modality, other = modality_of(family, side), modality_of(family, "b" if side == "a" else "a")
    raw = torch.from_numpy(modality.stored(np.ascontiguousarray(domain.heldout.data[rows])))
    if domain.train.space == "text":
        return text_cycle(family, side, modality.encode(raw), other)[0]
    scores, back = cycle_scores(family, side, modality.encode(raw), other, seed)
    if domain.label is not None:
        see = pictures_of(modality)
        teacher, see = teacher_of(domain, see), see or modality.stretched
        labels = np.asarray(domain.heldout.labels[domain.label], str)[rows]
        seen = np.asarray(teacher.classes)[teacher.probabilities(see(modality.decode(back))).argmax(1)]
        scores["label_kept_there_and_back"] = float((seen == labels).mean())
        there = translate_raw(family, raw, "b" if side == "a" else "a")
        seen = np.asarray(teacher.classes)[teacher.probabilities(see(there)).argmax(1)]
        scores["label_kept"] = float((seen == labels).mean())
    return scores


def add_modes(result: dict[str, Any], samples: np.ndarray, spec: str) -> None:
    """For the toy mixtures, whose truth is known: modes found, high-quality share, spread, reverse KL."""
    known = {"builtin:grid": (GRID_CENTERS, GRID_SIGMA), "builtin:ring": (RING_CENTERS, RING_SIGMA)}
    name = spec.partition("#")[0]
    if name in known:
        result["modes"] = mixture_modes(samples, *known[name])


def evaluate(
    run: str | Path | None = None, *, data: str | None = None, samples: str | None = None, heldout: str | None = None,
    extractor: str | None = None, count: int = 10_000, seed: int = 0, display: Display | None = None,
    networks: dict[str, nn.Module] | None = None, likelihood: tuple[int, int] = (1000, 100),
) -> dict[str, Any]:  # fmt: skip
    """Score a run, or anybody's samples (a folder or .npy), against held-out data.

    data: what the samples' model was trained on (a run knows its own).  heldout: by default a seeded split of it.
    likelihood: held-out items and importance samples of each, for the likelihood of a VAE.
    Returns the scores; `morphogen.evaluation.table` prints them. UsageError unless one of run, samples is given.
    """
    if (run is None) == (samples is None):
        raise UsageError("Give evaluate a run, or --samples with --data.")
    if run is not None:
        return _evaluate_run(load(run, networks), run, data, heldout, extractor, count, seed, likelihood, display)
    if data is None:
        raise UsageError("Give --data: what the model of these samples was trained on.")
    sounding = open_source(data).space == "audio"
    config = Config(modality="audio" if sounding else "image")
    items = load_data(_data_config(config, data, heldout, seed))
    assert samples is not None
    theirs = _fitted(samples, items.train, "crop")
    chosen = extractor_for(extractor or "auto", items, display, listener(items.train))
    result = evaluate_items(
        theirs.data, items.train.data, items.heldout.data, chosen, seed=seed, sample_count=count, split=items.split
    )
    add_modes(result, theirs.data, data)
    if theirs.space == "text":
        result["text"] = text_rows(theirs.data, items, count, seed)
    if theirs.skipped:
        result["notes"].append(f"{len(theirs.skipped)} samples could not be read and are left out")
    if theirs.space == "image":
        result["notes"] += _resized(samples, items.train.item_shape)
    return result


def _resized(samples: str, item_shape: tuple[int, ...]) -> list[str]:
    """A note when the first readable sample has another size than the data."""
    source = open_source(samples)
    for i in range(len(source)):
        with contextlib.suppress(BadItem):
            height, width = source.shape(i)[:2]
            if (height, width) == item_shape[1:]:
                return []
            sizes = f"{height}x{width} to the data's {item_shape[1]}x{item_shape[2]}"
            return [f"The samples were resized (the first from {sizes}), which changes what is measured"]
    return []


def _data_config(config: Config, data: str | None, heldout: str | None, seed: int) -> Config:
    config = config.model_copy(deep=True)
    config.data.source, config.data.heldout = data or config.data.source, heldout or config.data.heldout
    config.train.seed = seed
    return config


def _evaluate_run(
    model: Model, run: str | Path, data: str | None, heldout: str | None, extractor: str | None, count: int, seed: int,
    likelihood: tuple[int, int], display: Display | None,
) -> dict[str, Any]:  # fmt: skip
    training = model.description.training
    config = Config(family=model.description.family, data=training["data_config"], data_b=training.get("data_b"),
                    modality=model.modality.name)  # fmt: skip
    if data is not None and not same_source(data, config.data.source):
        config.data.heldout = None
    config = _data_config(config, data, heldout, training.get("seed", seed))
    space = model.modality.item_space
    if len(space) == 3:
        config.data.size, config.data.channels = f"{space[1]}x{space[2]}", space[0]  # type: ignore[assignment]
    elif isinstance(model.modality, Audio):
        config.data.rate, config.data.channels = model.modality.rate, space[0]  # type: ignore[assignment]
        config.data.seconds = model.modality.samples / model.modality.rate
    elif model.modality.suffix == ".txt":
        config.data.length = space[0]  # it bounds text; vectors do not heed it
    items = load_data(config)
    if model.classes and items.label is not None:
        items.heldout = _of_known_classes(items.heldout, items.label, model.classes)
    chosen = extractors_for(extractor or training.get("extractor", "auto"), items, display, model.family)
    folder = RunFolder(model_folder(run).parent)
    result = evaluate_model(model, items, chosen, count, likelihood=likelihood, display=display, folder=folder.path)
    if folder.evaluation.exists():
        result["training"] = read_json(folder.evaluation).get("training", {})
    return result


def same_source(one: str, other: str) -> bool:
    """Whether two SRC name the same, however their paths are spelled."""
    (a, _, select_a), (b, _, select_b) = one.partition("#"), other.partition("#")
    return select_a == select_b and Path(a).resolve() == Path(b).resolve()


def read_for(model: Model, spec: str, domain: str = "a", whole: bool = False) -> Dataset:
    """The items of SRC as the model takes them, in domain 'a' or 'b'; unreadable ones are in `.skipped`. Of a recording
    that is longer than a window the best one, or, `whole`, all that cover it."""
    config = model.description.training.get("data_config" if domain == "a" else "data_b") or {}
    modality, fit, pattern = modality_of(model.family, domain), config.get("fit", "crop"), config.get("label_pattern")
    found = _fitted(
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
    if name not in dataset.labels:
        if not needed:
            return None
        raise UsageError(f"The model is conditional on '{name}', which {dataset.spec} lacks; give --label.")
    return [str(v) for v in dataset.labels[name]]
