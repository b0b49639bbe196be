"""Are notes learned in three minutes recognisable? gan-audio and vae-audio on builtin:tones, given the note.

    python bench/tones.py          alone on the machine; writes bench/tones.json

The pitch of each of 600 samples is the lag at which the loudest fifth of a second is most like itself; counted are
those within 50 cents of the note asked for. Real notes all are.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from morphogen.data import open_source
from morphogen.data.builtin import NOTES, SOUNDING

ROOT = Path(__file__).resolve().parents[1]
RATE, LOUDEST, FINER = SOUNDING["tones"], 1600, 8
LAGS = range(FINER * RATE // 540, FINER * RATE // 240)  # from below the lowest note to above the highest


def pitch_of(wave: np.ndarray) -> float:
    """Hz of a wave (T,), by autocorrelation at lags of an eighth of a sample."""
    start = int(np.argmax(np.convolve(wave**2, np.ones(LOUDEST), "valid")))
    power = np.abs(np.fft.rfft(wave[start : start + LOUDEST] * np.hanning(LOUDEST), 2**14)) ** 2
    alike = np.fft.irfft(np.pad(power, (0, FINER * 2**13 + 1 - len(power))))
    return FINER * RATE / LAGS[int(np.argmax(alike[LAGS.start : LAGS.stop]))]


def within(waves: np.ndarray, cents: float = 50) -> float:
    """Share of waves (N, T), row i meant to be note i mod 12, whose pitch is right."""
    off = [1200 * math.log2(pitch_of(w.astype(float)) / NOTES[i % len(NOTES)][1]) for i, w in enumerate(waves)]
    return float((np.abs(off) < cents).mean())


def main() -> None:
    real = open_source("builtin:tones").array()
    assert real is not None
    result = {"real": within(real)}
    for recipe in ("gan-audio", "vae-audio"):
        run, made = ROOT / "runs" / f"tones-{recipe}", ROOT / "runs" / f"tones-{recipe}.npy"
        shutil.rmtree(run, ignore_errors=True)
        morphogen = [sys.executable, "-m", "morphogen"]
        train = ["train", recipe, "--data", "builtin:tones", "--set", "data.label=note", "--minutes", "3"]
        train += ["--set", "vocoder.turning=true"]
        subprocess.run([*morphogen, *train, "--out", str(run)], check=True)
        subprocess.run([*morphogen, "sample", str(run), "-n", "600", "--label", "all", "--out", str(made)], check=True)
        result[recipe] = within(np.load(made))
    (Path(__file__).parent / "tones.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
