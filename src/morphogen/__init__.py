"""Morphogen trains deep generative models on your own data, measures honestly what came out, and puts it to use.

    import morphogen
    run = morphogen.train("gan-image", data="photos/", out="runs/photos", minutes=10)
    images = morphogen.load("runs/photos").sample(64, seed=1)      # uint8 (64, H, W, C)

Everything is imported on first use, so that `import morphogen` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "train": "morphogen.api",
    "evaluate": "morphogen.assessment",
    "load": "morphogen.model",
    "Model": "morphogen.model",
    "RECIPES": "morphogen.recipes",
    "open_source": "morphogen.data",
    "MorphogenError": "morphogen.errors",
    "UsageError": "morphogen.errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'morphogen' has no attribute '{name}'")
