"""Sound.  Raw: int16 (B, C, T) waves.  Space: (C, M, F), mel spectrograms.  Tensors: float32 (B, C, M, F) in [-1, 1].

What is kept for training is the spectrogram in 256 levels (uint8), so that all that works on pictures works on it: the
way there is fixed, the way back is a trained network with an inverse-STFT head (`nets.vocoder`). How much of a sound
survives both ways is measured and shown beside every score: it is the ceiling of all that a model can make.

Shapes: C channels of sound · T samples · M mel bands, low ones first · F frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphogen.modalities.image import Image
from morphogen.nets.vocoder import FLOOR, Analysis, Vocoder

LOUDEST = 5.0  # log of mel magnitude that stands for 1, where the data do not say
RANGE = 9.0  # nats (78 dB) from there down to -1: fainter than that beside it is not heard
FADE = 0.004  # seconds at both ends in which a sound comes and goes, so that nothing clicks
GAP = 0.15  # seconds between sounds in one file
QUIET = 4  # of 256 levels: a frame that is nowhere above is silence
_BLOCK = 100


class Audio:
    """The sound modality for windows of one length.

    space: (C, M, F).  rate: Hz.  samples: T.  n_fft, hop: of the analysis.  loudest: log mel magnitude of level 1.
    vocoder: options of the network on the way back.
    """

    name = "audio"
    suffix = ".wav"

    def __init__(
        self, space: tuple[int, ...], rate: int, samples: int, n_fft: int, hop: int, loudest: float = LOUDEST,
        vocoder: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.space, self.rate, self.samples, self.loudest = tuple(space), rate, samples, loudest
        self.pictures = Image((1, space[0] * space[1], space[2]))  # for the eye: channels one above the other
        self.hop, self.quietest = hop, max(math.log(FLOOR), loudest - RANGE)
        self.analysis = Analysis(rate, n_fft, hop, space[1])
        self.vocoder = Vocoder(space[0], space[1], n_fft, hop, **(vocoder or {})).eval().requires_grad_(False)

    @property
    def item_space(self) -> tuple[int, ...]:
        """The shape of a raw item."""
        return (self.space[0], self.samples)

    def picture(self, wave: Tensor) -> Tensor:
        """Waves (B, C, T) in [-1, 1] → spectrograms (B, C, M, F), 0 to 255 and not yet rounded."""
        self.analysis.to(wave.device)
        return (self.analysis(wave) - self.quietest) * (255 / (self.loudest - self.quietest))

    @torch.no_grad()
    def stored(self, raw: np.ndarray) -> np.ndarray:
        """int16 (N, C, T) → uint8 (N, C, M, F)."""
        parts = [torch.from_numpy(np.asarray(raw[i : i + _BLOCK])) for i in range(0, len(raw), _BLOCK)]
        levels = [self.picture(part.float() / 32767).round().clamp(0, 255).to(torch.uint8) for part in parts]
        return torch.cat(levels).numpy()

    def encode(self, raw: Tensor) -> Tensor:
        """Spectrograms uint8 (B, C, M, F) → float32 in [-1, 1]."""
        return self.pictures.encode(raw)

    @torch.no_grad()
    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, C, M, F) in [-1, 1] → int16 (B, C, T): through the vocoder, with no click at the ends and no
        clipping; frames without sound are digital silence."""
        waves = [self._full(part) for part in x.float().clamp(-1, 1).split(_BLOCK)]
        return (torch.cat(waves) * 32767).round().to(torch.int16).cpu().numpy()

    def _full(self, x: Tensor) -> Tensor:
        """`wave` computed for a whole block: a sound must not depend on how many come with it."""
        padding = (0, 0) * (x.dim() - 1) + (0, _BLOCK - len(x))
        return self.wave(torch.nn.functional.pad(x, padding))[: len(x)]

    def wave(self, x: Tensor) -> Tensor:
        """float (B, C, M, F) in [-1, 1] → waves (B, C, T) in [-1, 1], as `decode` makes them."""
        self.vocoder.to(x.device)
        level = ((x + 1) * 127.5).round()
        sounding = (level.amax((1, 2)) > QUIET).float()[:, None]  # (B, 1, F)
        gate = torch.nn.functional.interpolate(sounding, scale_factor=self.hop, mode="linear")
        wave = self.vocoder(level / 127.5 - 1) * gate * self._fades(x.device)
        return wave / wave.abs().amax((1, 2), keepdim=True).clamp_min(1.0)

    def _fades(self, device: torch.device) -> Tensor:
        ramp = torch.arange(self.samples, device=device) / max(1, int(FADE * self.rate))
        return torch.minimum(ramp, ramp.flip(0)).clamp_max(1.0)

    def squash(self, x: Tensor) -> Tensor:
        """What a network's last layer goes through so that it can only give valid values: tanh."""
        return self.pictures.squash(x)

    def array(self, raw: np.ndarray) -> np.ndarray:
        """int16 (N, C, T) → the layout of .npy files: float32 (N, T) in [-1, 1], or (N, T, C) where C > 1."""
        wave = raw.astype(np.float32) / 32767
        return wave[:, 0] if raw.shape[1] == 1 else wave.transpose(0, 2, 1)

    def raw(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `array`."""
        wave = array[:, None] if array.ndim == 2 else array.transpose(0, 2, 1)
        return np.rint(np.clip(wave, -1, 1) * 32767).astype(np.int16)

    def save(self, item: np.ndarray, path: Path) -> None:
        """One int16 (C, T) item as a WAV file."""
        import soundfile

        soundfile.write(path, item.T, self.rate, subtype="PCM_16")

    def preview(self, raw: np.ndarray, path: Path, columns: int) -> None:
        """int16 (N, C, T) → one PNG of the spectrograms in rows, high tones on top, and one WAV beside it of one item
        after another."""
        self.pictures.preview(self._shown(raw), path, columns)
        self.sequence(raw[: 4 * columns], path.with_suffix(".wav"))

    def preview_pairs(self, above: np.ndarray, below: np.ndarray, path: Path, columns: int) -> None:
        """int16 (N, C, T) → rows of spectrograms and, under each row, of their counterparts; in the WAV each is
        followed by its own."""
        self.pictures.preview_pairs(self._shown(above), self._shown(below), path, columns)
        self.sequence(np.stack([above, below], 1)[:20].reshape(-1, *above.shape[1:]), path.with_suffix(".wav"))

    def stretched(self, raw: np.ndarray) -> np.ndarray:
        """Both domains have windows of one shape: the items themselves."""
        return raw

    def _shown(self, raw: np.ndarray) -> np.ndarray:
        """int16 (N, C, T) → pictures uint8 (N, 1, C·M, F) with high tones on top."""
        return self.stored(raw)[:, :, ::-1].reshape(len(raw), *self.pictures.space)

    def sequence(self, raw: Sequence[np.ndarray] | np.ndarray, path: Path) -> None:
        """Waves int16 (C, T), of any lengths, → one WAV with a short pause after each."""
        pause = np.zeros((self.space[0], int(GAP * self.rate)), np.int16)
        self.save(np.concatenate([part for wave in raw for part in (wave, pause)], axis=1), path)

    def animate(self, raw: np.ndarray, path: Path, milliseconds: int = 60) -> None:
        """int16 (N, C, T) → a GIF of the spectrograms and, beside it, a WAV of the same sequence to listen to."""
        self.pictures.animate(self._shown(raw), path, milliseconds)
        self.sequence(raw, path.with_suffix(".wav"))
