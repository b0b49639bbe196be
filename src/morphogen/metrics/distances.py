"""Distances between two sets of features: pure functions from arrays to numbers.

Shapes:  N, M number of items · d features · r = min(N, d) rank of a covariance factor
Every function takes finite arrays (N, d), (M, d), works in float64 and raises `MorphogenError` where it cannot.
`METRICS` names the ones an evaluation reports: each is called as metric(samples, reference, seed) -> {name: number}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from morphogen.errors import MorphogenError


class Gaussian(NamedTuple):
    """Mean (d,) and a factor (r, d) of the covariance: Σ = factorᵀ factor."""

    mean: np.ndarray
    factor: np.ndarray


def gaussian(features: np.ndarray) -> Gaussian:
    """The Gaussian with the mean and the unbiased covariance of features (N, d), N ≥ 2.

    The factor is the R of a QR decomposition of the centred rows, so no square root of a rounded covariance is
    ever taken; with fewer items than features it simply has fewer rows.
    """
    x = _checked(features, at_least=2)
    mean = x.mean(axis=0)
    return Gaussian(mean, np.linalg.qr(x - mean, mode="r") / np.sqrt(len(x) - 1))


def frechet_between(p: Gaussian, q: Gaussian) -> float:
    """‖m − m_w‖² + Tr(C + C_w − 2 (C C_w)^½), the squared distance, ≥ 0: Heusel et al. 2017 (1706.08500), eq. 6.

    With C = AᵀA and C_w = BᵀB the eigenvalues of C C_w are the squared singular values of A Bᵀ, so the trace of the
    root is their sum: symmetric in p and q, and never complex.
    """
    _same_width(p.factor, q.factor)
    root = np.linalg.svd(p.factor @ q.factor.T, compute_uv=False).sum()
    shift = ((p.mean - q.mean) ** 2).sum()
    return max(0.0, float(shift + (p.factor**2).sum() + (q.factor**2).sum() - 2 * root))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance (FID when the features are Inception's) between Gaussians fitted to a (N, d), b (M, d)."""
    return frechet_between(gaussian(a), gaussian(b))


def frechet_error(a: np.ndarray, b: np.ndarray, repeats: int = 5, seed: int = 0) -> float:
    """Standard error of `frechet_distance(a, b)`, from random halves of both sets (each of at least 4 items).

    Each repeat cuts both sets in two; the halves give two independent distances f₁, f₂ with equal bias. A half has
    twice the variance of the whole, and E(f₁ − f₂)² is twice that of a half, so the error is √mean((f₁ − f₂)²) / 2.
    """
    a, b = _checked(a, at_least=4), _checked(b, at_least=4)
    rng = np.random.default_rng(seed)
    gaps = []
    for _ in range(repeats):
        a_halves, b_halves = _halves(a, rng), _halves(b, rng)
        first, second = (frechet_distance(x, y) for x, y in zip(a_halves, b_halves, strict=True))
        gaps.append(first - second)
    return float(np.sqrt(np.mean(np.square(gaps))) / 2)


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased MMD² with k(x, y) = (xᵀy / d + 1)³: Bińkowski et al. 2018 (1801.01401), eq. 4. May be below 0."""
    a, b = _checked(a, at_least=2), _checked(b, at_least=2)
    _same_width(a, b)
    n, m, d = len(a), len(b), a.shape[1]
    k_aa, k_bb, k_ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within_a = (k_aa.sum() - np.trace(k_aa)) / (n * (n - 1))
    within_b = (k_bb.sum() - np.trace(k_bb)) / (m * (m - 1))
    return float(within_a + within_b - 2 * k_ab.mean())


def kernel_distance(
    a: np.ndarray, b: np.ndarray, subset_size: int = 1000, subsets: int = 50, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (KID) between a (N, d) and b (M, d): mean over random subsets, and its standard error.

    Subsets are drawn without replacement and hold at most half of the smaller set (of at least 4 items), so that they
    differ. They overlap, so sd/√subsets would be far too small: the error is the delete-d jackknife (Shao & Wu 1989),
    sd·√(s / (n − s)) with n the smaller set and s the subset's size, joined with the error of a finite number of draws.
    """
    a, b = _checked(a, at_least=4), _checked(b, at_least=4)
    n = min(len(a), len(b))
    size = min(subset_size, n // 2)
    rng = np.random.default_rng(seed)
    values = [squared_mmd(a[rng.permutation(len(a))[:size]], b[rng.permutation(len(b))[:size]]) for _ in range(subsets)]
    variance = float(np.var(values, ddof=1))
    return float(np.mean(values)), float(np.sqrt(variance * (size / (n - size) + 1 / subsets)))


def precision_recall_density_coverage(
    real: np.ndarray, fake: np.ndarray, k: int = 5, limit: int = 5000, seed: int = 0
) -> dict[str, float]:
    """How far the fakes lie among the real items and the other way round, by balls that reach to the k-th neighbour.

    Precision and recall: Kynkäänniemi et al. 2019 (1904.06991), eq. 1-3. Density and coverage: Naeem et al. 2020
    (2002.09797), eq. 4-5. All but density (≥ 0, about 1 for real data) lie in [0, 1]. Sets above `limit` items are
    reduced to a seeded draw, never to their first rows: sources may be ordered by class. Needs more than k items.
    Each is a mean over one of the sets; its `_error` is the standard error of that, the other set taken as given.
    """
    real, fake = _checked(real, at_least=k + 1), _checked(fake, at_least=k + 1)
    _same_width(real, fake)
    rng = np.random.default_rng(seed)
    centre = real.mean(axis=0)  # nearer to the origin, distances by matrix products lose fewer digits
    x, y = (torch.from_numpy(draw(items, limit, rng) - centre) for items in (real, fake))
    real_radius, fake_radius = _radii(x, k), _radii(y, k)
    inside_real = torch.zeros(len(y), dtype=torch.long)  # in how many real balls does each fake lie?
    recalled, covered = [], []
    for rows, radius in zip(x.split(1024), real_radius.split(1024), strict=True):
        distance = torch.cdist(rows, y)
        in_ball = distance <= radius[:, None]
        inside_real += in_ball.sum(0)
        covered.append(in_ball.any(1))
        recalled.append((distance <= fake_radius[None, :]).any(1))
    each = {
        "precision": inside_real > 0,
        "recall": torch.cat(recalled),
        "density": inside_real / k,
        "coverage": torch.cat(covered),
    }
    found = {}
    for name, values in each.items():
        found[name], found[f"{name}_error"] = mean_and_error(values.double().numpy())
    return found


def variety(samples: np.ndarray, real: np.ndarray, most: int = 500) -> dict[str, float]:
    """How varied samples (N, d) are, beside real items (M, d): below 1 they are poorer.

    variety/spread    their standard deviation about their mean, relative to that of the real items
    variety/distinct  the median distance of a sample to the nearest other one, relative to that of as many real items;
                      left out where real items repeat themselves
    """
    x, y = _checked(samples, at_least=2), _checked(real, at_least=2)
    found = {"variety/spread": float(np.sqrt(x.var(axis=0).sum() / max(float(y.var(axis=0).sum()), 1e-12)))}
    count = min(len(x), len(y), most)
    own, others = (np.median(_to_nearest(draw(items, count, np.random.default_rng(0)))) for items in (x, y))
    apart = others > 1e-3 * np.sqrt(y.var(axis=0).sum())  # and not only by rounding
    return found | ({"variety/distinct": float(own / others)} if apart else {})


def _to_nearest(x: np.ndarray) -> np.ndarray:
    """Distance (N,) of every row of x (N, d) to the nearest other row."""
    return _radii(torch.from_numpy(x - x.mean(axis=0)), 1).numpy()


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of values (N,) and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def draw(items: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the items (N, …) drawn without replacement, or all of them in order where there are no more."""
    return items if len(items) <= count else items[np.sort(rng.permutation(len(items))[:count])]


def ratio_and_error(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """mean(above) / mean(below) of paired values (N,), and its standard error by the delta method."""
    ratio, scale = float(np.mean(above) / max(np.mean(below), 1e-8)), max(float(np.mean(below)), 1e-8)
    return ratio, mean_and_error(np.asarray(above) - ratio * np.asarray(below))[1] / scale


def _radii(x: torch.Tensor, k: int) -> torch.Tensor:
    """Distance (N,) of every row of x (N, d) to its k-th nearest other row."""
    return torch.cat([torch.cdist(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(1024)])


def _halves(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(len(x))
    middle = len(x) // 2
    return x[order[:middle]], x[order[middle : 2 * middle]]


def _checked(features: np.ndarray, at_least: int) -> np.ndarray:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2:
        raise MorphogenError(f"Features must have shape (items, features), not {x.shape}; flatten each item first.")
    if len(x) < at_least:
        raise MorphogenError(f"This metric needs at least {at_least} items but got {len(x)}; give it more.")
    if not np.isfinite(x).all():
        raise MorphogenError("Some features are not finite; look for NaN or infinity in the items being compared.")
    return x


def _same_width(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise MorphogenError(
            f"The two sets have {a.shape[1]} and {b.shape[1]} features; extract both with the same extractor."
        )


def _fid(samples: np.ndarray, reference: np.ndarray, seed: int) -> dict[str, float]:
    return {"fid": frechet_distance(samples, reference), "fid_error": frechet_error(samples, reference, seed=seed)}


def _kid(samples: np.ndarray, reference: np.ndarray, seed: int) -> dict[str, float]:
    return dict(zip(("kid", "kid_error"), kernel_distance(samples, reference, seed=seed), strict=True))


def _prdc(samples: np.ndarray, reference: np.ndarray, seed: int) -> dict[str, float]:
    return precision_recall_density_coverage(reference, samples, seed=seed)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], dict[str, float]]] = {
    "frechet": _fid,
    "kernel": _kid,
    "neighbours": _prdc,
}
