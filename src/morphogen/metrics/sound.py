"""What is measured of sounds besides distances of features: the codec's ceiling, silence, pure tones, closeness to the
training recordings, and mel-cepstral distortion of conversions.

Shapes: N items · C channels · T samples (int16) · M mel bands · F frames · K cepstral coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from morphogen.metrics.classifier import train_classifier
from morphogen.metrics.distances import draw, mean_and_error
from morphogen.metrics.extractors import Extractor
from morphogen.objectives.spectral import magnitudes, multi_resolution_distance

CODED = "real through the codec"
SILENT = 328  # of 32767: 1 % of full scale
TONAL = 0.95  # share of a sound's energy in one narrow band of its mean spectrum
MEASURED = 500  # recordings on which the codec is measured
COEFFICIENTS = 13
VOICED = 6.0  # nats of log mel below the loudest frame: fainter frames do not count


def through_codec(modality: Any, train: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    """A further row for `evaluate_items`: real training recordings that went through the codec; none for others than
    sound."""
    if modality.name != "audio":
        return {}
    return {CODED: coded(modality, draw(train, count, np.random.default_rng(seed)))}


def coded(modality: Any, waves: np.ndarray) -> np.ndarray:
    """decode(encode(x)) of waves int16 (N, C, T)."""
    return modality.decode(modality.encode(torch.from_numpy(modality.stored(waves))))


def sound_scores(
    modality: Any, samples: np.ndarray, train: np.ndarray, heldout: np.ndarray, extractor: Extractor
) -> dict[str, Any]:
    """Of generated waves int16 (N, C, T) and, beside them, of held-out recordings: the share of silence and of pure
    tones, and the median distance to the nearest training recording; and how far the codec changes real sound."""
    near = extractor.features(train)
    rows = {
        name: faults(waves, modality.rate) | {"nearest": nearest(extractor.features(waves), near)}
        for name, waves in (("samples", samples), ("held-out", heldout))
    }
    return rows | {"codec": codec_scores(modality, heldout[:MEASURED])}


def nearest(features: np.ndarray, train: np.ndarray) -> float:
    """The median, over rows of features (N, d), of the distance to the nearest row of train (M, d)."""
    x, there = torch.from_numpy(features), torch.from_numpy(train)
    return float(torch.cat([torch.cdist(part, there).amin(1) for part in x.split(500)]).median())


def faults(waves: np.ndarray, rate: int) -> dict[str, float]:
    """Shares of waves int16 (N, C, T) that are silent, and that are one pure tone, with errors."""
    mono = torch.from_numpy(np.asarray(waves)).float().mean(1) / 32767
    n_fft = 2 ** round(math.log2(0.064 * rate))
    spectrum = torch.cat([magnitudes(part, n_fft).square().mean(2) for part in mono.split(200)])  # (N, bins)
    band = torch.nn.functional.avg_pool1d(spectrum[:, None], 5, 1, padding=2)[:, 0] * 5
    tonal = band.amax(1) > TONAL * spectrum.sum(1)
    silent = torch.from_numpy(np.abs(waves.astype(np.int32)).max((1, 2)) < SILENT)
    found = {}
    for name, share in (("silent", silent), ("tonal", tonal & ~silent)):
        found[name], found[f"{name}_error"] = mean_and_error(share.numpy())
    return found


def codec_scores(modality: Any, waves: np.ndarray) -> dict[str, float]:
    """How far decode(encode(x)) is from waves int16 (N, C, T): multi-resolution STFT distance, mean |log mel ratio| in
    dB of audible frames, and STOI, 1 for speech that is as intelligible."""
    made, real = (torch.from_numpy(w).float().flatten(0, 1) / 32767 for w in (coded(modality, waves), waves))
    n_fft = modality.analysis.n_fft
    a, b = (modality.analysis(w[:, None])[:, 0] for w in (made, real))
    heard = b > modality.quietest + 0.5
    return {
        "multi_resolution_stft": float(multi_resolution_distance(made, real, (n_fft // 2, n_fft, 2 * n_fft))),
        "mel_db": float((a - b).abs()[heard].mean() * 20 / math.log(10)),
        "stoi": stoi(made.numpy(), real.numpy(), modality.rate),
    }


def stoi(made: np.ndarray, real: np.ndarray, rate: int) -> float:
    """Mean short-time objective intelligibility (Taal et al. 2011) of waves (N, T), by pystoi; waves with too little
    speech for it are left out; nan where that are all."""
    import warnings

    from pystoi import stoi as of_one

    found = []
    for x, y in zip(real, made, strict=True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = of_one(x, y, rate)
        if not caught:
            found.append(value)
    return float(np.mean(found)) if found else math.nan


def cepstra(modality: Any, wave: np.ndarray) -> np.ndarray:
    """One wave int16 (C, T) → mel cepstra (F', K) of its audible frames: the cosine transform of log mel, without its
    mean."""
    mel = modality.analysis(torch.from_numpy(wave[None]).float() / 32767)[0].mean(0).T.numpy()  # (F, M)
    mel = mel[mel.max(1) > mel.max() - VOICED]
    k = np.arange(mel.shape[1]) + 0.5
    basis = np.cos(np.pi / mel.shape[1] * np.outer(k, np.arange(1, COEFFICIENTS + 1)))
    return mel @ basis * (2 / mel.shape[1])


def mel_cepstral_distortion(a: np.ndarray, b: np.ndarray) -> float:
    """dB between cepstra (F, K) and (G, K) along the path of least cost (Kubichek 1993, with dynamic time warping)."""
    distance = np.sqrt(np.square(a[:, None] - b[None]).sum(-1))
    cost = np.full((len(a) + 1, len(b) + 1), np.inf)
    steps = np.zeros(cost.shape)
    cost[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            p = min(((i, j), (i, j + 1), (i + 1, j)), key=lambda p: cost[p])
            cost[i + 1, j + 1], steps[i + 1, j + 1] = cost[p] + distance[i, j], steps[p] + 1
    return float(10 * math.sqrt(2) / math.log(10) * cost[-1, -1] / steps[-1, -1])


Moments = tuple[np.ndarray, np.ndarray]  # mean and deviation, each (K,)


@dataclass
class Voices:
    """Recordings int16 (N, C, T) with their domains (N,) and, where these are known, what is said in them (N,)."""

    waves: np.ndarray
    domains: np.ndarray
    contents: np.ndarray | None


def heard_conversions(
    modality: Any, train: Voices, heldout: Voices, converted: np.ndarray, to: np.ndarray, fingerprint: str,
    autocast: bool,
) -> dict[str, float]:  # fmt: skip
    """What classifiers of training recordings hear in held-out ones that were `converted` (N, C, T) to domains `to`
    (N,), and how far these are from what the target says itself.

    domain_right       share heard in the wanted domain
    content_kept       share whose content is heard as before
    mcd_db             mel-cepstral distortion to the nearest held-out recording of the target with that content; with
                       '_unconverted' and '_mean_variance_matched' that of the plainest alternatives
    """

    def share_heard(labels: Callable[[Voices], np.ndarray], wanted: np.ndarray) -> tuple[float, float]:
        judge = train_classifier(
            modality.stored(train.waves), labels(train), modality.stored(heldout.waves), labels(heldout),
            fingerprint=fingerprint, autocast=autocast,
        )  # fmt: skip
        seen = judge.probabilities(modality.stored(converted)).argmax(1)
        return mean_and_error(np.asarray(judge.classes)[seen] == wanted)

    found = {}
    found["domain_right"], found["domain_right_error"] = share_heard(lambda voices: voices.domains, to)
    if heldout.contents is None or train.contents is None:
        return found
    kept = share_heard(lambda voices: np.asarray(voices.contents), heldout.contents)
    found["content_kept"], found["content_kept_error"] = kept
    return found | _distortions(modality, train, heldout, converted, to)


def _distortions(
    modality: Any, train: Voices, heldout: Voices, converted: np.ndarray, to: np.ndarray
) -> dict[str, float]:
    assert heldout.contents is not None
    bank = [cepstra(modality, wave) for wave in heldout.waves]
    moments: dict[str, Moments] = {}
    for domain in np.unique(train.domains):
        all_of_one = np.concatenate([cepstra(modality, w) for w in train.waves[train.domains == domain][:100]])
        moments[domain] = all_of_one.mean(0), all_of_one.std(0) + 1e-8
    rows: dict[str, list[float]] = {"mcd_db": [], "mcd_db_unconverted": [], "mcd_db_mean_variance_matched": []}
    for i, goal in enumerate(to):
        there = np.flatnonzero((heldout.domains == goal) & (heldout.contents == heldout.contents[i]))
        if not len(there) or heldout.domains[i] == goal:
            continue
        plain = matched(bank[i], moments[heldout.domains[i]], moments[goal])
        for name, found in zip(rows, (cepstra(modality, converted[i]), bank[i], plain), strict=True):
            rows[name].append(min(mel_cepstral_distortion(found, bank[k]) for k in there))
    means = {name: mean_and_error(np.asarray(values)) for name, values in rows.items() if values}
    return {name: mean for name, (mean, _) in means.items()} | {f"{name}_error": e for name, (_, e) in means.items()}


def matched(cepstrum: np.ndarray, source: Moments, target: Moments) -> np.ndarray:
    """Cepstra (F, K) of one speaker with the moments of another: the plainest conversion."""
    return (cepstrum - source[0]) / source[1] * target[1] + target[0]
