"""Feature extractors: raw items in, rows of features out. Distances are only as meaningful as these features.

Shapes:  N items · C, H, W image · D coordinates of a point · d features
Items are uint8 (N, C, H, W) for images and float (N, D) for points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from morphogen.errors import UsageError
from morphogen.metrics.classifier import ClassifierFeatures, train_classifier
from morphogen.metrics.images import batched, digest, shrink, to_unit
from morphogen.metrics.pretrained import Dinov2Features, InceptionFeatures
from morphogen.metrics.text import NgramFeatures


class Extractor(Protocol):
    """What every extractor answers. `identity` (name and hash of the weights) goes into the tables: numbers compare
    only where it is equal. `resize` says in words what happens to the items first. Extractors that also classify
    (`Classifier`) add `classes` and `probabilities`."""

    name: str
    identity: str
    resize: str

    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, d)."""
        ...


class PointFeatures:
    """Points and what waves of four lengths see of them: 32 random Fourier features each (Rahimi & Recht 2007).

    The coordinates alone would give FID the mean and covariance of the whole cloud, which a cloud without its modes
    can share. The waves are fixed by seed; their lengths are 1, 1/4, 1/16 and 1/64 of the training data's deviation.
    """

    name = "points"
    resize = "none"
    LENGTHS = (1.0, 1 / 4, 1 / 16, 1 / 64)

    def __init__(self, train_items: np.ndarray, seed: int = 0):
        rng = np.random.default_rng(seed)
        width = int(np.prod(train_items.shape[1:]))
        self.scale = float(train_items.std()) or 1.0
        waves = [rng.standard_normal((width, 32)) / length for length in self.LENGTHS]
        self.waves = np.concatenate(waves, axis=1).astype(np.float32)
        self.phases = rng.uniform(0, 2 * np.pi, self.waves.shape[1]).astype(np.float32)
        self.identity = f"points and {len(self.phases)} Fourier features, unit {self.scale:.4g}"

    def features(self, items: np.ndarray) -> np.ndarray:
        x = np.asarray(items, dtype=np.float32).reshape(len(items), -1) / self.scale
        return np.concatenate([x, np.sqrt(2) * np.cos(x @ self.waves + self.phases)], axis=1)


class RandomFeatures:
    """256 features of a fixed, untrained stack of convolutions: sees texture and layout, knows no meaning.

    Works for any number of channels and any size from 4x4. Three depths of 3x3 He-initialised convolutions with |·|,
    halving the size between them: mean and deviation over the image at the first two, a 2x2 layout at the third.
    """

    name = "random"
    resize = "images above 64 pixels reduced to 64 by area averaging, aspect kept"
    WIDTHS = (24, 40, 32)

    def __init__(self, seed: int = 0, device: str = "cpu"):
        self.seed, self.device = seed, device
        weights = {str(depth): weight for depth, weight in enumerate(self._weights(3))}
        self.identity = f"random convolutions, seed {seed}, {digest(weights)}"

    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, 256) from uint8 (N, C, H, W)."""
        return batched(self._forward, items, self.device)

    def _weights(self, channels: int) -> list[Tensor]:
        weights = []
        for depth, width in enumerate(self.WIDTHS):
            generator = torch.Generator().manual_seed(self.seed * len(self.WIDTHS) + depth)
            weight = torch.randn(width, channels, 3, 3, generator=generator)
            weights.append((weight * (2 / (9 * channels)) ** 0.5).to(self.device))
            channels = width
        return weights

    def _forward(self, x: Tensor) -> Tensor:
        first, second, third = self._weights(x.shape[1])
        x = to_unit(shrink(x, 64))
        x = _convolve(x, first)
        pooled = [x.mean((2, 3)), x.std((2, 3), correction=0)]
        x = _convolve(F.avg_pool2d(x, 2), second)
        pooled += [x.mean((2, 3)), x.std((2, 3), correction=0)]
        x = _convolve(F.avg_pool2d(x, 2), third)
        return torch.cat([*pooled, F.adaptive_avg_pool2d(x, 2).flatten(1)], dim=1)


class SeenAs:
    """Another extractor, shown items brought to the size and channels that it knows.

    stretch: uint8 (N, C, H, W) of any space → the space that it knows.
    """

    def __init__(
        self, extractor: Extractor, stretch: Callable[[np.ndarray], np.ndarray],
        how: str = "brought to the other domain's size", whose: str = " of the other domain",
    ):  # fmt: skip
        self.extractor, self.stretch = extractor, stretch
        self.name, self.identity = extractor.name, extractor.identity + whose
        self.resize = f"{how}, then {extractor.resize}"

    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, d) from uint8 (N, C, H, W)."""
        return self.extractor.features(self.stretch(items))


def seen_as_pictures(extractor: Extractor, see: Callable[[np.ndarray], np.ndarray]) -> Extractor:
    """The extractor for items that `see` makes pictures of; a classifier stays one."""
    if isinstance(extractor, ClassifierFeatures):
        extractor.see = see
        return extractor
    return SeenAs(extractor, see, "seen as a spectrogram", "")


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight).abs()


def choose_extractor(
    name: str,
    *,
    train_items: np.ndarray,
    train_labels: np.ndarray | None,
    heldout_items: np.ndarray,
    heldout_labels: np.ndarray | None,
    fingerprint: str,
    seed: int = 0,
    autocast: bool = False,
    device: str = "cpu",
    see: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Extractor:
    """The extractor that `name` asks for: auto, points, random, classifier, inception:PATH or dinov2:PATH.

    "auto" takes Fourier features for points, n-grams for text, a classifier where 2 to 1000 labels have 20 training
    items each on average, and random features otherwise. `see` brings raw items to pictures, where they are none.
    `fingerprint` names the training data in the classifier's cache. `UsageError` for an unknown name or a classifier
    without labels; `MorphogenError` for a weights file that does not fit.
    """
    kind, _, path = name.partition(":")
    if see is not None:
        chosen = choose_extractor(
            name, train_items=see(train_items), train_labels=train_labels, heldout_items=see(heldout_items),
            heldout_labels=heldout_labels, fingerprint=fingerprint, seed=seed, autocast=autocast, device=device,
        )  # fmt: skip
        return seen_as_pictures(chosen, see)
    if kind == "auto":
        kind = _automatic(train_items, train_labels)
    if kind in ("inception", "dinov2"):
        if not path:
            raise UsageError(f"'{kind}' needs its weights: write {kind}:PATH with the path of a safetensors file.")
        return (InceptionFeatures if kind == "inception" else Dinov2Features)(path, device=device)
    if kind == "classifier":
        if train_labels is None or heldout_labels is None:
            raise UsageError("The classifier needs labels: put the items into one sub-folder per class, or use random.")
        return train_classifier(
            train_items, train_labels, heldout_items, heldout_labels,
            fingerprint=fingerprint, seed=seed, autocast=autocast, device=device,
        )  # fmt: skip
    if kind == "random":
        return RandomFeatures(seed, device)
    if kind == "ngrams":
        return NgramFeatures()
    if kind == "points":
        return PointFeatures(train_items, seed)
    raise UsageError(
        f"Unknown extractor '{name}'; use auto, points, random, classifier, inception:PATH or dinov2:PATH."
    )


def _automatic(items: np.ndarray, labels: np.ndarray | None) -> str:
    if items.ndim == 2 and items.dtype == np.uint8:
        return "ngrams"
    if items.ndim == 2 and np.issubdtype(items.dtype, np.floating):
        return "points"
    classes = 0 if labels is None else len(np.unique(labels))
    return "classifier" if 2 <= classes <= 1000 and len(items) >= 20 * classes else "random"


__all__ = [
    "ClassifierFeatures",
    "Dinov2Features",
    "Extractor",
    "InceptionFeatures",
    "PointFeatures",
    "RandomFeatures",
    "SeenAs",
    "choose_extractor",
    "train_classifier",
]
