"""Whose features judge which domain: the extractors of the scores, and the classifiers that know its labels."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from morphogen.data import Dataset
from morphogen.data.text import unpacked
from morphogen.domains import Data, clip_of
from morphogen.families import Family
from morphogen.loop import (
    Display,
)
from morphogen.metrics.classifier import SIDE, train_classifier
from morphogen.metrics.extractors import ClassifierFeatures, SeenAs, choose_extractor
from morphogen.modalities import Audio, Image, Points, Text
from morphogen.modalities.text import text_options
from morphogen.precision import choose
from morphogen.vocoding import loudest_of


def plain_modality(train: Dataset) -> Any:
    """What shows items, and brings sound to pictures, where no model is known."""
    if train.space == "image":
        return Image(train.item_shape)
    if train.space == "text":
        return Text(train.item_shape, **text_options(unpacked(train.data[:1000]), [], "character"))
    if train.space != "audio":
        return Points(train.item_shape, float(train.data.mean()), float(train.data.std()) or 1.0)
    clip = clip_of(train)
    space, settings = (
        (clip.channels, clip.mels, clip.samples // clip.hop),
        (clip.rate, clip.samples, clip.n_fft, clip.hop),
    )
    return Audio(space, *settings, loudest_of(Audio(space, *settings), train.data))


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
    if isinstance(extractor, ClassifierFeatures) and label is not None:
        extractor.identity = f"{extractor.identity[:-1]}, of '{label}')"
    if display is not None:
        display.note(f"scores use {extractor.identity} ({time.perf_counter() - begin:.0f} s to make ready)")
    return extractor


def extractors_for(
    name: str, data: Data, display: Display | None = None, family: Family | None = None
) -> dict[str, Any]:
    """The feature extractors of the domains, {'a': …} or {'a': …, 'b': …}: each its own, but where the meaning of one
    domain is known and that of the other is not, both are seen by the classifier that knows."""
    domains = data.domains()
    taught = [d for d in domains.values() if d.paired and d.label is not None]
    found, see = {}, pictures_of(family.modality) if family is not None else None
    for side, domain in domains.items():
        if name == "auto" and taught and domain.label is None:
            stretch = see or Image(taught[0].train.item_shape).stretched
            found[side] = SeenAs(teacher_of(taught[0], see, label=str(taught[0].label), wide=True), stretch)
        else:
            found[side] = extractor_for(name, domain, display, see)
    return found


def teacher_of(
    domain: Data, see: Callable[[np.ndarray], np.ndarray] | None = None, *, label: str, seed: int = 0,
    wide: bool = False, side: int = SIDE,
) -> ClassifierFeatures:  # fmt: skip
    """A classifier of a domain's label for a network to learn from, of items that it is shown as `see` makes them.

    wide: it is to know its classes in another domain, too.  seed: another one than 0, that of the scores' classifier,
    where a network must not learn what the scores ask.  side: the largest, in pixels, of the images that it sees.
    """
    precision, fingerprint, see = choose(), seen_fingerprint(domain.train, see), see or (lambda items: items)
    train, heldout = domain.train, domain.heldout
    return train_classifier(
        see(train.data), np.asarray(train.labels[label], str), see(heldout.data),
        np.asarray(heldout.labels[label], str), fingerprint=fingerprint, seed=seed, wide=wide, side=side,
        autocast=precision.dtype != torch.float32, device=precision.device.type,
    )  # fmt: skip
