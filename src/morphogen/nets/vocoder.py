"""From sound to its mel spectrogram, which is fixed, and back, which is learned: a network with an inverse-STFT head.

    Analysis     wave (B, C, T) → log mel magnitude (B, C, M, F)
    Vocoder      picture (B, C, M, F) in [-1, 1] → wave (B, C, T)

Shapes: B batch · C channels of sound · T samples · M mel bands · F = T / hop frames · N n_fft.
Everything in the vocoder is a convolution, a product or a sum, so that it exports.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 1e-4  # mel magnitudes below are silence: under the rounding noise of 16 bits


def mel_filters(rate: int, n_fft: int, mels: int, lowest: float = 40.0) -> Tensor:
    """(M, N/2 + 1): triangles evenly spaced on the mel scale 2595 log10(1 + f/700) (O'Shaughnessy 1987), from
    `lowest` Hz to rate/2; none is narrower than a bin of the transform."""
    low, high = 2595 * np.log10(1 + np.array([lowest, rate / 2]) / 700)
    centers = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)
    width = rate / n_fft
    below = np.maximum(centers[1:-1] - centers[:-2], width)[:, None]
    above = np.maximum(centers[2:] - centers[1:-1], width)[:, None]
    away = bins[None] - centers[1:-1, None]
    return torch.from_numpy(np.clip(1 - np.maximum(-away / below, away / above), 0, None)).float()


class Analysis(nn.Module):
    """The spectrogram that all networks work on: frames centred in their hop, so that T samples make T / hop frames."""

    def __init__(self, rate: int, n_fft: int, hop: int, mels: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(rate, n_fft, mels), persistent=False)
        self.window: Tensor
        self.filters: Tensor

    def forward(self, wave: Tensor) -> Tensor:
        """Wave (B, C, T) in [-1, 1] → natural log of mel magnitude (B, C, M, F), at least log FLOOR."""
        side = (self.n_fft - self.hop) // 2
        flat = F.pad(wave.flatten(0, 1), (side, self.n_fft - self.hop - side))
        bins = torch.stft(flat, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        magnitude = torch.view_as_real(bins).square().sum(-1).clamp_min(1e-12).sqrt()
        return (self.filters @ magnitude).clamp_min(FLOOR).log().unflatten(0, wave.shape[:2])


class InverseSTFT(nn.Module):
    """Magnitudes and phases (B, F, N + 2) → wave (B, F·hop): inverse transform, window and overlap-add as one product
    with a fixed matrix and N / hop shifted sums (Griffin & Lim 1984, eq. 6, without iteration)."""

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        k, t = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None], torch.arange(n_fft, dtype=torch.float64)
        angle, twice = 2 * math.pi * k * t / n_fft, torch.full((n_fft // 2 + 1, 1), 2.0, dtype=torch.float64)
        twice[0] = twice[-1] = 1
        window = torch.hann_window(n_fft, dtype=torch.float64)
        basis = torch.cat([twice * angle.cos(), -twice * angle.sin()]) / n_fft * window
        overlap = window.square().view(-1, hop).sum(0).repeat(n_fft // hop)  # what the windows add up to
        self.register_buffer("basis", (basis / overlap).float(), persistent=False)
        self.basis: Tensor

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Real and imaginary parts (B, F, N/2 + 1) each → (B, F·hop)."""
        frames = torch.cat([real, imaginary], -1) @ self.basis  # (B, F, N)
        parts = self.n_fft // self.hop
        pieces = frames.unflatten(2, (parts, self.hop))  # piece k of frame f belongs at hop f + k
        wide = torch.stack([F.pad(pieces[:, :, k], (0, 0, k, parts - 1 - k)) for k in range(parts)]).sum(0)
        start = (self.n_fft - self.hop) // 2
        return wide.flatten(1)[:, start : start + frames.shape[1] * self.hop]


class FrameBlock(nn.Module):
    """ConvNeXt on frames (B, 1, F, D): each channel's own convolution along time, then a dense pair beside a shortcut
    (Liu et al. 2022; for sound, Siuzdak 2024)."""

    def __init__(self, dim: int, scale: float, kernel: int = 7):
        super().__init__()
        self.along = nn.Conv2d(dim, dim, (1, kernel), padding=(0, kernel // 2), groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.wide, self.narrow = nn.Linear(dim, 3 * dim), nn.Linear(3 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, 1, F) channels_last → the same."""
        h = self.norm(self.along(x).permute(0, 2, 3, 1))
        h = self.scale * self.narrow(F.gelu(self.wide(h), approximate="tanh"))
        return x + h.permute(0, 3, 1, 2)


class Vocoder(nn.Module):
    """Frames of a mel picture → frames of a finer STFT → wave.

    dim: channels; depth: blocks; finer: STFT frames made of each mel frame.
    turning: the head also says how fast each bin's phase turns, and the turns are added up over time, as a phase
    vocoder does (Flanagan & Golden 1966). Convolutions alone make equal frames of equal frames, and steady tones are
    such only where they fit into a hop; speech, which is never steady, is learned sooner without (RESULTS.md).
    """

    def __init__(self, channels: int, mels: int, n_fft: int, hop: int, *, dim: int = 128, depth: int = 4,
                 finer: int = 2, turning: bool = False):  # fmt: skip
        super().__init__()
        self.channels, self.finer, self.bins, self.parts = channels, finer, n_fft // 2 + 1, 4 if turning else 3
        self.first = nn.Conv2d(channels * mels, dim, (1, 7), padding=(0, 3))
        self.blocks = nn.Sequential(*(FrameBlock(dim, 1 / depth) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, channels * finer * self.parts * self.bins)
        self.inverse = InverseSTFT(n_fft, hop // finer)
        turn = math.pi * torch.arange(self.bins) * (hop // finer) / (n_fft // 2)  # of a bin's own frequency in a hop
        self.register_buffer("turn", turn, persistent=False)
        self.turn: Tensor

    def forward(self, picture: Tensor) -> Tensor:
        """(B, C, M, F) in [-1, 1] → (B, C, F·hop)."""
        b, c, m, f = picture.shape
        x = picture.reshape(b, c * m, 1, f).contiguous(memory_format=torch.channels_last)
        h = self.norm(self.blocks(self.first(x)).permute(0, 2, 3, 1))[:, 0]  # (B, F, D)
        with torch.autocast(h.device.type, enabled=False):
            out = self.head(h.float()).view(b, f, c, self.finer, self.parts, self.bins).permute(4, 0, 2, 1, 3, 5)
            size, real, imaginary, *faster = out.flatten(1, 2).flatten(2, 3)  # each (B·C, F·finer, N/2 + 1)
            size = size.clamp_max(6.0).exp() / torch.sqrt(real.square() + imaginary.square() + 1e-8)
            if faster:
                angle = torch.cumsum(self.turn + faster[0], dim=1)
                cos, sin = angle.cos(), angle.sin()
                real, imaginary = real * cos - imaginary * sin, real * sin + imaginary * cos
            return self.inverse(size * real, size * imaginary).view(b, c, -1)
