"""Judging samples of a known 2-d mixture of equal round Gaussians (`builtin:grid`, `builtin:ring`).

Shapes:  N samples · K modes · points (N, 2), centres (K, 2)
"""

from __future__ import annotations

import numpy as np

from morphogen.errors import MorphogenError

RADIUS = 3.0  # in σ: a sample this near to a centre is of high quality (VEEGAN 1705.07761, PacGAN 1712.04086)


def mixture_modes(samples: np.ndarray, centers: np.ndarray, sigma: float) -> dict[str, float]:
    """How many modes the samples (N, 2) reach, how well and how evenly; centers (K, 2) are further than 6σ apart.

    modes               modes with at least one high-quality sample (within 3σ of that, its nearest, centre)
    high_quality_share  share of high-quality samples; 1 − exp(−4.5) = 0.9889 for the true mixture
    smallest_share      smallest share of the high-quality samples that any mode has; about 1/K when all is well
    spread              width of the modes in units of σ, corrected for the cut at 3σ: 1 for the true mixture,
                        0 when they collapse to points (or no mode has two samples)
    reverse_kl          KL(share of high-quality samples per mode ‖ uniform) in nats: 0 when even, log K at worst
    """
    samples, centers = np.asarray(samples, dtype=np.float64), np.asarray(centers, dtype=np.float64)
    if samples.ndim != 2 or samples.shape[1:] != (2,) or len(samples) == 0 or not np.isfinite(samples).all():
        raise MorphogenError(f"Mixture samples must be finite points of shape (N, 2), not {samples.shape}.")
    distance = np.linalg.norm(samples[:, None] - centers[None], axis=-1)  # (N, K)
    nearest, good = distance.argmin(axis=1), distance.min(axis=1) <= RADIUS * sigma
    counts = np.bincount(nearest[good], minlength=len(centers))
    widths = [_width(samples[good & (nearest == mode)]) for mode in np.flatnonzero(counts >= 2)]
    spread = np.mean(widths) / (sigma * np.sqrt(truncated_variance(RADIUS))) if widths else 0.0
    shares = counts / max(1, counts.sum())
    return {
        "modes": int((counts > 0).sum()),
        "high_quality_share": float(good.mean()),
        "smallest_share": float(shares.min()),
        "spread": float(spread),
        "reverse_kl": _kl_to_uniform(shares) if counts.any() else float(np.log(len(centers))),
    }


def truncated_variance(radius: float) -> float:
    """Variance of one coordinate of a standard 2-d Gaussian given that it lies within `radius` of its centre.

    u = ‖x‖²/2 is exponential, and each coordinate's variance is E[u | u ≤ c] = 1 − c / (eᶜ − 1) with c = radius²/2.
    """
    c = radius**2 / 2
    return float(1 - c / np.expm1(c))


def _width(points: np.ndarray) -> float:
    """Root of the mean variance of both coordinates of (n, 2) points around their own mean."""
    return float(np.sqrt(points.var(axis=0, ddof=1).mean()))


def _kl_to_uniform(shares: np.ndarray) -> float:
    present = shares[shares > 0]
    return float((present * np.log(present * len(shares))).sum())
