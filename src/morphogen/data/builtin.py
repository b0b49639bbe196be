"""Built-in sources: known data that needs no download, each drawn by a fixed seed.

N items · H,W,C pixels · D coordinates of a point · K modes of a mixture
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


BUILTINS: dict[str, Callable[[], Built]] = {"digits": digits, "grid": grid, "noise": noise, "ring": ring}
