"""Built-in sources: known data that needs no download, each drawn by a fixed seed.

N items · H,W,C pixels · D coordinates of a point · K modes of a mixture · T samples
"""

from collections.abc import Callable

import numpy as np

Built = tuple[np.ndarray, dict[str, list[str]]]  # items, and per attribute one string an item

# The two mixtures on which mode collapse is measured (VEEGAN, arXiv:1705.07761; PacGAN, arXiv:1712.04086).
RING_CENTERS = np.array([(np.cos(a), np.sin(a)) for a in 2 * np.pi * np.arange(8) / 8])  # (8, 2)
RING_SIGMA = 0.01
GRID_CENTERS = np.array([(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)], dtype=np.float64)  # (25, 2)
GRID_SIGMA = 0.05
_POINTS, _NOISE_ITEMS, _NOISE_SIZE = 50_000, 10_000, 64
SOUNDING = {"tones": 8000}  # built-in sources that are sounds, and their rate in Hz
_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
NOTES = [(f"{k:02d} {name}", 440 * 2 ** ((k - 9) / 12)) for k, name in enumerate(_NAMES)]  # name, Hz
TIMBRES = ("sine", "reed", "string", "bell")
_TONES = 1200


def digits() -> Built:
    """scikit-learn's handwritten digits: uint8 (1797, 8, 8, 1), levels 0..16 spread over 0..255; attribute label."""
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 8, 8, 1), {"label": np.asarray(labels).astype(str).tolist()}


def ring() -> Built:
    """8 Gaussians on the unit circle, σ = 0.01: float32 (50000, 2); attribute label is the mode 0..7."""
    return _mixture(RING_CENTERS, RING_SIGMA, seed=8)


def grid() -> Built:
    """25 Gaussians on {-4, -2, 0, 2, 4}², σ = 0.05: float32 (50000, 2); attribute label is the mode 0..24."""
    return _mixture(GRID_CENTERS, GRID_SIGMA, seed=25)


def noise() -> Built:
    """Standard normal: float32 (10000, 64), no attribute."""
    return np.random.default_rng(64).standard_normal((_NOISE_ITEMS, _NOISE_SIZE), dtype=np.float32), {}


def _mixture(centers: np.ndarray, sigma: float, seed: int) -> Built:
    rng = np.random.default_rng(seed)
    modes = rng.integers(len(centers), size=_POINTS)
    points = centers[modes] + sigma * rng.standard_normal((_POINTS, centers.shape[1]))
    return points.astype(np.float32), {"label": modes.astype(str).tolist()}


def tones() -> Built:
    """Synthesised notes: float32 (1200, 4096) at 8 kHz, half a second each; attributes note (the twelve of the octave
    from middle C) and timbre (sine, reed, string, bell), with their own loudness, attack, decay and noise."""
    rng, t = np.random.default_rng(12), np.arange(4096) / SOUNDING["tones"]
    waves, notes, timbres = [], [], []
    for i in range(_TONES):
        note, timbre = i % len(NOTES), TIMBRES[(i // len(NOTES)) % len(TIMBRES)]
        pitch = NOTES[note][1] * 2 ** (rng.uniform(-5, 5) / 1200)  # five cents up or down
        orders = np.arange(1, int(3600 / pitch) + 1)
        strength = {
            "sine": (orders == 1) * 1.0, "reed": (orders % 2) / orders, "string": 1 / orders**1.2,
            "bell": np.exp(-0.4 * (orders - 1)),
        }[timbre]  # fmt: skip
        fading = orders[:, None] * {"bell": 3.0, "string": 1.0}.get(timbre, 0.0) * rng.uniform(0.5, 1.5)
        phases = rng.uniform(0, 2 * np.pi, len(orders))[:, None]
        wave = (strength[:, None] * np.exp(-fading * t) * np.sin(2 * np.pi * pitch * orders[:, None] * t + phases)).sum(
            0
        )
        attack, length = rng.uniform(0.005, 0.04), rng.uniform(0.35, 0.45)
        shape = np.minimum(1, t / attack) * np.clip((length - t) / 0.05, 0, 1)
        wave = wave / np.abs(wave).max() * shape + 1e-4 * rng.standard_normal(len(t))
        waves.append(rng.uniform(0.3, 0.9) * wave)
        notes.append(NOTES[note][0])
        timbres.append(timbre)
    return np.stack(waves).astype(np.float32), {"note": notes, "timbre": timbres}


BUILTINS: dict[str, Callable[[], Built]] = {
    "digits": digits, "grid": grid, "noise": noise, "ring": ring, "tones": tones,
}  # fmt: skip
