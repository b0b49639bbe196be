"""Distances between waves by their spectrograms: what the ear compares, phases aside.

Shapes: B batch · T samples · F frames · N n_fft.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAINT = 1e-5  # of magnitude, added before a logarithm: below it is silence


def magnitudes(wave: Tensor, n_fft: int) -> Tensor:
    """Wave (B, T) → (B, N/2 + 1, F), frames a quarter of their length apart."""
    window = torch.hann_window(n_fft, device=wave.device)
    bins = torch.stft(wave, n_fft, n_fft // 4, window=window, return_complex=True)
    return torch.view_as_real(bins).square().sum(-1).clamp_min(FAINT**2).sqrt()


def multi_resolution_distance(made: Tensor, wanted: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Mean over transforms of `lengths` of spectral convergence and half the mean |log ratio| of magnitudes () between
    waves (B, T) (Yamamoto et al. 2020, eqs. 4 to 6)."""
    found = []
    for n_fft in lengths:
        a, b = magnitudes(made, n_fft), magnitudes(wanted, n_fft)
        convergence = (a - b).square().sum().sqrt() / b.square().sum().sqrt().clamp_min(FAINT)
        found.append(convergence + 0.5 * (a.log() - b.log()).abs().mean())
    return torch.stack(found).mean()
