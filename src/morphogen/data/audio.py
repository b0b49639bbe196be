"""One recording → windows of a chosen rate, length and number of channels.

T samples · C channels · waves are float32 (C, T) in [-1, 1] until they are stored as int16
"""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from morphogen.data.images import BadItem
from morphogen.errors import UsageError

SOUNDS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
PEAK = 0.95  # every recording is brought to this peak
SILENT = 1e-4  # of full scale: below this peak there is nothing to hear
SHORTEST = 0.02  # seconds: less is no recording
MOST_RATE, MOST_FRAMES, HELD = 48_000, 128, 0.99  # the default window holds so many of the recordings whole
PAUSE = 0.1  # of the typical loudness: a spot this quiet is a pause


@dataclass(frozen=True)
class Clip:
    """What recordings are brought to: windows of `samples` at `rate` Hz with `channels`."""

    rate: int
    samples: int
    channels: int = 1

    @property
    def n_fft(self) -> int:
        """Length of a transform's window: the power of two nearest to 32 ms."""
        return 2 ** max(5, round(math.log2(0.032 * self.rate)))

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.n_fft // 2

    @property
    def mels(self) -> int:
        """Mel bands."""
        return 64 if self.rate <= 16_000 else 96


@dataclass(frozen=True)
class Span:
    """Where a window lies in its recording: from sample `start` (negative where silence was put before) of `length`
    samples at the window's rate; gain: what the recording was multiplied with."""

    recording: int
    start: int
    length: int
    gain: float


def read_audio(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """A sound file of any kind that libsndfile knows → (float32 (T, C), rate in Hz). Raises BadItem."""
    import soundfile

    _check_file(path)
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise BadItem(_reason(path), str(path)) from error
    if not np.isfinite(wave).all():
        raise BadItem("values that are not finite numbers", str(path))
    if len(wave) < SHORTEST * rate:
        raise BadItem("shorter than 20 ms", str(path))
    if np.abs(wave).max() < SILENT:
        raise BadItem("silent", str(path))
    return wave, rate


def audio_shape(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """(samples, channels, rate) from the header alone. Raises BadItem."""
    import soundfile

    _check_file(path)
    try:
        found = soundfile.info(path)
    except (RuntimeError, OSError, ValueError) as error:
        raise BadItem(_reason(path), str(path)) from error
    return found.frames, found.channels, found.samplerate


def _check_file(path: str | os.PathLike[str]) -> None:
    if not os.path.isfile(path):
        raise BadItem("not a regular file" if os.path.exists(path) else "file not found", str(path))
    if not os.access(path, os.R_OK):
        raise BadItem("no permission to read it", str(path))
    if os.path.getsize(path) == 0:
        raise BadItem("empty file", str(path))


def _reason(path: str | os.PathLike[str]) -> str:
    known = os.path.splitext(path)[1].lower() in SOUNDS
    return "damaged" if known else "not audio"


def plan_clip(
    shapes: Sequence[tuple[int, int, int]], rate: int | None, seconds: float | None, channels: int | None
) -> Clip:
    """The window for recordings of (samples, channels, rate), where the user leaves it open: the commonest rate, mono,
    and a length that holds 99 % of them whole, but at most 128 frames. UsageError for a window below 8 frames, or for
    more than two channels."""
    if channels not in (None, 1, 2):
        raise UsageError(f"data.channels is {channels} but must be 1 or 2 for sound")
    rate = rate or min(MOST_RATE, Counter(shape[2] for shape in shapes).most_common(1)[0][0])
    clip = Clip(rate, 0, channels or 1)
    if seconds is None:
        frames = float(np.quantile([t / r for t, _, r in shapes], HELD)) * rate / clip.hop
        frames = min(MOST_FRAMES, max(16, 8 * math.ceil(frames / 8)))
    else:
        frames = round(seconds * rate / clip.hop)
    if frames < 8:
        raise UsageError(f"data.seconds is {seconds} but must be at least {8 * clip.hop / rate:.3g} at {rate} Hz")
    return Clip(rate, frames * clip.hop, clip.channels)


def fit_audio(wave: np.ndarray, rate: int, clip: Clip) -> tuple[np.ndarray, float]:
    """float32 (T, C) of any rate → (float32 (C, T') of the clip's rate and channels with peak `PEAK`, the gain)."""
    from scipy.signal import resample_poly

    if wave.shape[1] != clip.channels:
        wave = wave.mean(1, keepdims=True) if clip.channels == 1 else np.repeat(wave[:, :1], clip.channels, 1)
        if np.abs(wave).max() < SILENT:
            raise BadItem("silent once its channels are mixed")
    if rate != clip.rate:
        common = math.gcd(rate, clip.rate)
        wave = resample_poly(wave, clip.rate // common, rate // common, axis=0).astype(np.float32)
    gain = PEAK / max(float(np.abs(wave).max()), SILENT)
    return np.ascontiguousarray(wave.T) * gain, gain


def cut(wave: np.ndarray, samples: int) -> list[tuple[int, int]]:
    """The pieces (start, stop) of a wave (C, T) that training windows are made of; none is longer than `samples`.

    A wave a little too long gives its loudest part; a longer one is cut in pauses, where there are any in the second
    half of a window, and pieces without sound are left out.
    """
    total = wave.shape[1]
    if total <= samples:
        return [(0, total)]
    power = np.cumsum(np.concatenate([[0.0], np.square(wave, dtype=np.float64).sum(0)]))
    if total <= 1.5 * samples:
        start = int(np.argmax(power[samples:] - power[:-samples]))
        return [(start, start + samples)]
    near = max(1, samples // 32)
    loudness = (power[near:] - power[:-near]) / near  # at t: of the samples t … t + near
    typical, pieces, start = float(np.median(loudness)), [], 0
    while total - start > samples:
        lowest = start + samples // 2
        quietest = lowest + int(np.argmin(loudness[lowest : start + samples - near]))
        pause = loudness[quietest] < PAUSE**2 * typical
        pieces.append((start, quietest + near // 2 if pause else start + samples))
        start = pieces[-1][1]
    pieces.append((start, total))
    sound = lambda a, b: (power[b] - power[a]) / (b - a) > 1e-3 * power[-1] / total
    return [(a, b) for a, b in pieces if b - a > samples // 8 and sound(a, b)] or [pieces[0]]


def windows(wave: np.ndarray, samples: int) -> list[tuple[int, int]]:
    """The pieces (start, stop) that cover all of a wave (C, T), overlapping by half, for a model to work on."""
    total = wave.shape[1]
    if total <= samples:
        return [(0, total)]
    starts = [*range(0, total - samples, samples // 2), total - samples]
    return [(start, start + samples) for start in starts]


def padded(wave: np.ndarray, piece: tuple[int, int], samples: int) -> tuple[np.ndarray, int]:
    """A piece of a wave (C, T) with silence put equally on both sides → (int16 (C, samples), the window's start)."""
    start, stop = piece
    before = (samples - (stop - start)) // 2
    window = np.zeros((wave.shape[0], samples), np.int16)
    window[:, before : before + stop - start] = np.rint(wave[:, start:stop] * 32767).clip(-32768, 32767)
    return window, start - before


def joined(windows: Sequence[np.ndarray], spans: Sequence[Span]) -> np.ndarray:
    """The windows float32 (C, T) of one recording, which overlap, → (C, length), each fading into the next, as loud as
    the recording was."""
    length, samples = spans[0].length, windows[0].shape[1]
    total, weight = np.zeros((windows[0].shape[0], length)), np.zeros(length)
    ramp = np.minimum(np.arange(samples) + 1, samples - np.arange(samples)) / (samples // 2)
    for window, span in zip(windows, spans, strict=True):
        here = slice(max(0, span.start), min(length, span.start + samples))
        there = slice(here.start - span.start, here.stop - span.start)
        total[:, here] += window[:, there] * ramp[there]
        weight[here] += ramp[there]
    wave = total / np.maximum(weight, 1e-8) / spans[0].gain
    return (wave * min(1.0, 0.999 / max(1e-8, np.abs(wave).max()))).astype(np.float32)
