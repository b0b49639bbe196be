"""Charts as inline SVG, a few kilobytes each: crisp at any size and on paper, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 24
MOST_POINTS = 240  # of a line: more is not seen
COLOURS = 10  # hues in the style sheet, classes c0 to c9
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # on paper without colour lines differ by these


@dataclass
class Line:
    """One named curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


@dataclass
class Chart:
    """Curves over the steps; marks: vertical lines, {step: what happened there}."""

    title: str
    lines: list[Line]
    marks: dict[float, str] = field(default_factory=dict)
    xlabel: str = "step"

    def described(self) -> str:
        """What the picture shows, for those who do not see it."""
        told = [
            f"{line.name}: {number(line.y[0])} at first, {number(line.y[-1])} at {self.xlabel} {number(line.x[-1])}, "
            f"lowest {number(min(line.y))}"
            for line in self.lines
        ]
        return f"{self.title} by {self.xlabel}. " + "; ".join(told)

    def svg(self) -> Markup:
        """The chart as one <svg> element."""
        xs = [x for line in self.lines for x in line.x]
        ys = [y for line in self.lines for y in line.y]
        axis = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
        up = Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, logarithmic(ys))
        parts = [_grid(axis, up)]
        for step, what in self.marks.items():
            at = axis(step)
            if LEFT <= at <= WIDTH - RIGHT:
                parts.append(
                    f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                    f"<title>{escape(what)}</title></line>"
                )
        for line in self.lines:
            x, y = thinned(line.x, line.y)
            points = " ".join(f"{axis(a):.1f},{up(b):.1f}" for a, b in zip(x, y, strict=True))
            dash = DASHES[line.colour % len(DASHES)]
            parts.append(
                f'<polyline class="line c{line.colour % COLOURS}" stroke-dasharray="{dash}" points="{points}"/>'
            )
            if len(x) == 1:
                parts.append(
                    f'<circle class="dot c{line.colour % COLOURS}" cx="{axis(x[0]):.1f}" cy="{up(y[0]):.1f}" r="3"/>'
                )
        return _svg(self.described(), parts, WIDTH, HEIGHT)


class Axis:
    """Values → places on the page, straight or by logarithm, with a little room at both ends."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False):
        self.log = log
        low, high = (math.log10(low), math.log10(high)) if log else (float(low), float(high))
        if high - low < 1e-12 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the axis."""
        if self.log:
            span = self.high - self.low
            digits = (1, 2, 5) if span < 1.8 else (1,)
            powers = range(math.floor(self.low), math.floor(self.high + 1e-9) + 1)
            found = [d * 10.0**k for k in powers for d in digits]
            return [v for v in found if self.low - 1e-9 <= math.log10(v) <= self.high + 1e-9][
                :: max(1, round(span / 5))
            ]
        rough = (self.high - self.low) / most
        unit = 10 ** math.floor(math.log10(rough))
        size = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * 0.999)
        first = math.ceil(self.low / size - 1e-9)
        return [size * k for k in range(first, math.floor(self.high / size + 1e-9) + 1)]


def logarithmic(values: Sequence[float]) -> bool:
    """Whether values span so much that only their logarithm can be read."""
    return min(values) > 0 and max(values) > 15 * min(values)


def thinned(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` points of a curve: means of neighbours, so that no spike is picked by chance."""
    if len(x) <= most:
        return list(x), list(y)
    parts = np.array_split(np.arange(len(x)), most)
    a, b = np.asarray(x, float), np.asarray(y, float)
    return [float(a[p].mean()) for p in parts], [float(b[p].mean()) for p in parts]


def scatter(groups: dict[str, np.ndarray], title: str, size: int = 420) -> Markup:
    """Points (N, 2) of each group as a map whose axes mean nothing; the group's name stands at its middle."""
    everything = np.concatenate(list(groups.values()))
    low, high = everything.min(0), everything.max(0)
    place = lambda p: 12 + (p - low) / np.maximum(high - low, 1e-9) * (size - 24)
    parts, names = [], []
    for k, (name, points) in enumerate(groups.items()):
        at = place(points)
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in at)  # a line of no length with round ends is a dot
        parts.append(f'<path class="dots c{k % COLOURS}" d="{dots}"/>')
        x, y = np.median(at, axis=0)
        names.append(f'<text class="name" text-anchor="middle" x="{x:.0f}" y="{y:.0f}">{escape(name[:24])}</text>')
    return _svg(title, parts + (names if len(groups) > 2 else []), size, size)


def number(value: float | int | None) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _grid(axis: Axis, up: Axis) -> str:
    parts = []
    for value in up.ticks():
        y = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 5}" y="{y + 3.5:.1f}">{short(value)}</text>')
    for value in axis.ticks():
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{min(max(axis(value), LEFT), WIDTH - 16):.1f}" '
            f'y="{HEIGHT - 8}">{short(value)}</text>'
        )
    return "".join(parts)


def short(value: float) -> str:
    """The label of a tick."""
    value = float(f"{value:.6g}")
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _svg(described: str, parts: list[str], width: int, height: int) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(described)}">'
    return Markup(head + "".join(parts) + "</svg>")
