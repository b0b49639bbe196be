"""Training the network that turns spectrograms back into sound, before the family's own training.

The result depends on the recordings and the settings alone; it is kept in the cache and in the run folder.

Shapes: N windows · C channels · T samples · F frames.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from morphogen.config import VocoderConfig
from morphogen.data.dataset import cache_folder
from morphogen.modalities.audio import Audio
from morphogen.nets import initialise
from morphogen.objectives.spectral import multi_resolution_distance
from morphogen.precision import Precision
from morphogen.run import load_tensors, model_folder, save_tensors

MEL = 1.0  # weight of the mean |difference| of log mel magnitudes, in nats
VOCODER = "vocoder.safetensors"  # in a model's folder
VERSION = 3  # part of the cache's key; raise it when the training changes
FRAMES = 32  # of a training window
SHARE, TRIAL = 0.25, 20  # of the minutes; steps of a trial
WARMUP = 0.1  # share of the steps in which the learning rate rises


def loudest_of(modality: Audio, waves: np.ndarray) -> float:
    """The log mel magnitude of level 1: a little above the loudest in waves int16 (N, C, T)."""
    some = torch.from_numpy(np.ascontiguousarray(waves[:: max(1, len(waves) // 500)])).float() / 32767
    return round(float(modality.analysis(some).max()) + 0.25, 2)


def ready_vocoder(
    modality: Audio, waves: np.ndarray, fingerprint: str, settings: VocoderConfig, precision: Precision, seed: int,
    folder: Path, note: Callable[[str], None], minutes: float | None = None,
) -> float:  # fmt: skip
    """Give the modality its trained vocoder: that of `settings.source`, or the one of these recordings and settings
    that the run's folder or the cache holds, or a newly trained one; and keep it there. Returns the minutes it took.

    minutes: of a training that begins; the vocoder may take a quarter, and its steps are set to that.
    """
    begin = time.perf_counter()
    if settings.source is not None:
        modality.vocoder.load_state_dict(load_tensors(model_folder(settings.source) / VOCODER))
        return 0.0
    if minutes is not None:
        settings.steps = min(settings.steps, steps_in(modality, waves, settings, precision, SHARE * minutes))
    about = [VERSION, fingerprint, seed, settings.model_dump(), str(precision.dtype), modality.loudest, modality.rate]
    key = hashlib.sha256(json.dumps([*about, *modality.space]).encode()).hexdigest()[:24]
    places = [folder / f"vocoder-{key}.safetensors", cache_folder(None) / "vocoders" / f"{key}.safetensors"]
    found = next((path for path in places if path.exists()), None)
    if found is not None:
        modality.vocoder.load_state_dict(load_tensors(found))
    else:
        error = fit_vocoder(modality, waves, settings, precision, seed)
        note(f"sound is made by a vocoder trained in {time.perf_counter() - begin:.0f} s (spectral error {error:.3g})")
    for path in places:
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_tensors(modality.vocoder.state_dict(), path)
            except OSError:  # only the next training is slower for it
                continue
    return (time.perf_counter() - begin) / 60


def steps_in(
    modality: Audio, waves: np.ndarray, settings: VocoderConfig, precision: Precision, minutes: float
) -> int:  # fmt: skip
    """How many steps fit into `minutes`, by the speed of a few that are thrown away."""
    fit_vocoder(modality, waves, settings.model_copy(update={"steps": TRIAL // 4}), precision, 0)  # to warm up
    begin = time.perf_counter()
    fit_vocoder(modality, waves, settings.model_copy(update={"steps": TRIAL}), precision, 0)
    return max(TRIAL, int(60 * minutes * TRIAL / (time.perf_counter() - begin)))


def fit_vocoder(
    modality: Audio, waves: np.ndarray, settings: VocoderConfig, precision: Precision, seed: int
) -> float:  # fmt: skip
    """Train the modality's vocoder on waves int16 (N, C, T); returns the last mean spectral error."""
    vocoder = modality.vocoder.requires_grad_(True).train()
    initialise(vocoder, seed, "vocoder")
    precision.place(vocoder)
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=settings.lr, betas=(0.8, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps, pct_start=WARMUP)
    n_fft = modality.analysis.n_fft
    generator, errors = torch.Generator().manual_seed(seed), []
    for _ in range(settings.steps):
        wave = _windows(modality, waves, settings.batch_size, generator).to(precision.device)
        with torch.no_grad():
            picture = modality.picture(wave).round().clamp(0, 255) / 127.5 - 1
        with precision.autocast():
            made = vocoder(picture)
        lengths = (n_fft // 2, n_fft, 2 * n_fft)
        error = multi_resolution_distance(made.flatten(0, 1), wave.flatten(0, 1), lengths)
        heard = [modality.analysis(w).clamp_min(modality.quietest) for w in (made, wave)]
        optimizer.zero_grad()
        (error + MEL * (heard[0] - heard[1]).abs().mean()).backward()
        torch.nn.utils.clip_grad_norm_(vocoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        errors.append(error.detach())
    vocoder.requires_grad_(False).eval()
    return float(torch.stack(errors[-50:]).mean())


def _windows(modality: Audio, waves: np.ndarray, count: int, generator: torch.Generator) -> Tensor:
    """Random cuts (count, C, FRAMES·hop) of waves int16 (N, C, T), in [-1, 1], none without sound; each of its own
    loudness, so that the vocoder knows faint sounds too."""
    length = min(modality.samples, FRAMES * modality.hop)
    rows = torch.randint(len(waves), (3 * count,), generator=generator)
    starts = torch.randint((modality.samples - length) // modality.hop + 1, (3 * count,), generator=generator)
    cuts = np.stack([waves[r, :, s : s + length] for r, s in zip(rows.tolist(), (starts * modality.hop).tolist(),
                                                                 strict=True)])  # fmt: skip
    sounding = np.argsort(np.abs(cuts).max((1, 2)) < 328, kind="stable")[:count]  # 1 % of full scale
    gain = torch.exp(-1.5 * torch.rand(count, 1, 1, generator=generator))
    return torch.from_numpy(cuts[sounding]).float() / 32767 * gain
