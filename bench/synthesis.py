"""How much faster than real time sound is made: generator and vocoder, one sound at a time, weights untrained.

    python bench/synthesis.py          alone on the machine; writes bench/synthesis.json

At 8 kHz with the recipe's own networks, at 44.1 kHz with the larger preset below.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch

from morphogen.data.audio import Clip
from morphogen.model import Description, build_family
from morphogen.precision import choose
from morphogen.recipes import RECIPES

PRESETS = {
    "8 kHz": (Clip(8000, 8192), {"dim": 128, "depth": 4}, {}),
    "44.1 kHz, larger": (Clip(44_100, 65_536), {"dim": 256, "depth": 8}, {"width": 64, "most": 512}),
}
ROUNDS = 30


def rate_of(clip: Clip, vocoder: dict, generator: dict) -> float:
    """Seconds of sound made in a second."""
    space, recipe = [clip.channels, clip.mels, clip.samples // clip.hop], RECIPES["gan-audio"]()
    settings = {"rate": clip.rate, "samples": clip.samples, "n_fft": clip.n_fft, "hop": clip.hop, "vocoder": vocoder}
    options = recipe.model | {"generator": {**recipe.model["generator"], **generator}}
    family = build_family(Description("gan", "audio", space, options, modality_options=settings))
    family = choose("float32").place(family).eval().requires_grad_(False)
    took = []
    with torch.inference_mode():
        for k in range(ROUNDS):
            begin = time.perf_counter()
            family.modality.wave(family.generate(family.noise(1, k), None))
            took.append(time.perf_counter() - begin)
    return clip.samples / clip.rate / statistics.median(took[3:])


def main() -> None:
    result = {name: round(rate_of(*preset), 1) for name, preset in PRESETS.items()} | {"cores": torch.get_num_threads()}
    (Path(__file__).parent / "synthesis.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
