"""A source of recordings → Dataset of windows, all of one rate, length and number of channels.

N windows · C channels · T samples, int16
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from morphogen.data.audio import Clip, Span, cut, fit_audio, padded, plan_clip, windows
from morphogen.data.dataset import MAX_BAD, MINIMUM, Dataset, map_ordered, nothing_in, refusal
from morphogen.data.images import BadItem
from morphogen.data.sources import Source
from morphogen.errors import MorphogenError, UsageError


def prepare_audio(
    source: Source,
    *,
    clip: Clip | None = None,
    rate: int | None = None,
    seconds: float | None = None,
    channels: int | None = None,
    whole: bool = False,
    max_bad: float = MAX_BAD,
    minimum: int = MINIMUM,
    strict: bool = True,
) -> Dataset:
    """Decode all recordings of `source` in order into windows, leaving unreadable ones out.

    clip: the windows' shape; None chooses by `plan_clip` with `rate`, `seconds` and `channels`. A recording gives the
    windows that `cut` chooses; with `whole` those that cover it, and `joined` makes it of them again.
    Raises MorphogenError and UsageError as `prepare` does.
    """
    if source.space not in ("audio", "points"):
        raise UsageError(f"{source.spec} holds no recordings: name a folder of sound files, an .npy file of waves "
                         "(N, T) or (N, T, 2), or builtin:tones")  # fmt: skip
    if source.kind != "folder" and not (source.rate or rate or clip):
        raise UsageError(f"{source.spec} holds numbers without a rate: give it, as in --set data.rate=8000")
    given = rate if clip is None else clip.rate
    if clip is None:
        shapes = _shapes(source, given)
        if not shapes:
            raise MorphogenError(nothing_in(source))
        clip = plan_clip(shapes, rate, seconds, channels)
    data, spans, bad = _windows(source, clip, windows if whole else cut)
    reason = refusal(source, bad, max_bad, 0) if strict else None
    if strict and not reason and len(data) < minimum:
        reason = f"{source.spec} gives {len(data)} windows of sound and training needs at least {minimum}: add more"
    if reason:
        raise MorphogenError(reason)
    if not data:
        raise MorphogenError(nothing_in(source))
    rows = [span.recording for span in spans]
    return Dataset(
        data=np.stack(data),
        names=[source.names[i] for i in rows],
        labels={name: np.array(column)[rows] for name, column in source.labels.items()},
        skipped=[(source.paths[i] or source.names[i], why) for i, why in sorted(bad.items())],
        spec=source.spec,
        space="audio",
        rate=clip.rate,
        spans=spans,
    )


def _shapes(source: Source, rate: int | None) -> list[tuple[int, int, int]]:
    """(samples, channels, rate) of all recordings whose header can be read."""
    if source.kind != "folder":
        first = source.shape(0)
        return [(first[0], first[1] if len(first) > 1 else 1, source.rate or rate or 0)]

    def shape(i: int) -> Any:
        try:
            return source.shape(i)
        except BadItem:
            return None

    return [found for found in map_ordered(shape, len(source)) if found]


def _windows(
    source: Source, clip: Clip, choose: Callable[[np.ndarray, int], list[tuple[int, int]]]
) -> tuple[list[np.ndarray], list[Span], dict[int, str]]:
    def decode(i: int) -> tuple[np.ndarray, float] | str:
        try:
            wave = source.load(i)
            rate = source.shape(i)[2] if source.kind == "folder" else source.rate or clip.rate
            return fit_audio(wave if wave.ndim == 2 else wave[:, None], rate, clip)
        except BadItem as error:
            return error.reason

    data, spans, bad = [], [], {}
    for i, found in enumerate(map_ordered(decode, len(source))):
        if isinstance(found, str):
            bad[i] = found
            continue
        wave, gain = found
        for piece in choose(wave, clip.samples):
            window, start = padded(wave, piece, clip.samples)
            data.append(window)
            spans.append(Span(i, start, wave.shape[1], gain))
    return data, spans, bad
