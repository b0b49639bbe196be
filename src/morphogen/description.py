"""What a model will be: the options of its config and what its data say of their shape, classes and scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from morphogen.config import (
    Config,
    DataConfig,
)
from morphogen.data.text import unpacked
from morphogen.domains import Data, clip_of
from morphogen.errors import UsageError
from morphogen.families import FAMILIES
from morphogen.loop import (
    spaced,
)
from morphogen.modalities import Audio
from morphogen.modalities.codes import codes_of
from morphogen.modalities.text import text_options
from morphogen.model import (
    Description,
)
from morphogen.run import model_folder, read_json
from morphogen.vocoding import loudest_of


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
    numbered = config.model.get("likelihood") == "autoregressive"  # it asks for the symbols themselves
    return options | ({"relaxed": True} if FAMILIES[config.family].relaxed and not numbered else {})


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
