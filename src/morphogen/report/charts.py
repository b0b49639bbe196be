"""Charts as inline SVG, a few kilobytes each: crisp at any size and on paper, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 24
MAP = 420  # width and height
MOST_POINTS = 240  # of a line: more is not seen
COLOURS = 10  # hues in the style sheet, classes c0 to c9
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # on paper without colour lines differ by these
LOGARITHMIC = 15  # times the lowest value that the highest must be


@dataclass
class Line:
    """One named curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass
class Chart:
    """Curves over the steps, each in the colour of its place, which an empty one keeps, and logarithmic where only that
    can be read; marks: vertical lines, {step: what happened there}."""

    title: str
    lines: list[Line]
    marks: dict[float, str] = field(default_factory=dict)

    def described(self) -> str:
        """What the picture shows, for those who do not see it."""
        told = [
            f"{line.name}: {number(line.y[0])} at first, {number(line.y[-1])} at step {number(line.x[-1])}, "
            f"lowest {number(min(line.y))}"
            for line in self.lines
            if line.x
        ]
        return f"{self.title} by step. " + "; ".join(told)

    def svg(self) -> Markup:
        """The chart as one <svg> element."""
        xs, ys = [x for line in self.lines for x in line.x], [y for line in self.lines for y in line.y]
        log = min(ys) > 0 and max(ys) > LOGARITHMIC * min(ys)
        across, up = Axis(xs, LEFT, WIDTH - RIGHT), Axis(ys, HEIGHT - BOTTOM, TOP, log)
        parts = _grid(across, up)
        parts += [_mark(across(x), what) for x, what in self.marks.items() if across.low <= x <= across.high]
        for colour, line in enumerate(self.lines):
            places = [(across(x), up(y)) for x, y in zip(thinned(line.x), thinned(line.y), strict=True)]
            points, dash = " ".join(f"{x:.1f},{y:.1f}" for x, y in places), DASHES[colour % len(DASHES)]
            kind = f"c{colour % COLOURS}"
            parts.append(f'<polyline class="line {kind}" stroke-dasharray="{dash}" points="{points}"/>')
            if len(places) == 1:
                parts.append('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(kind, *places[0]))
        return _svg(self.described(), parts, WIDTH, HEIGHT)


@dataclass
class Scatter:
    """Points (N, 2) of each group as a map whose axes mean nothing; a group's name stands at its middle."""

    groups: dict[str, np.ndarray]
    described: str

    def svg(self) -> Markup:
        """The map as one <svg> element."""
        everything = np.concatenate(list(self.groups.values()))
        low, high = everything.min(0), everything.max(0)
        dots, names = [], []
        for colour, (name, points) in enumerate(self.groups.items()):
            places = 12 + (points - low) / np.maximum(high - low, 1e-9) * (MAP - 24)
            path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)  # a line of no length with round ends is a dot
            dots.append(f'<path class="dots c{colour % COLOURS}" d="{path}"/>')
            x, y = np.median(places, axis=0)
            names.append(f'<text class="name" text-anchor="middle" x="{x:.0f}" y="{y:.0f}">{escape(name[:24])}</text>')
        return _svg(self.described, dots + (names if len(names) > 2 else []), MAP, MAP)


class Axis:
    """Values → places on the page, straight or by logarithm."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False):
        low, high = (math.log10(v) if log else float(v) for v in (min(values), max(values)))
        if high - low < 1e-12 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the axis."""
        if self.log:
            span, powers = self.high - self.low, range(math.floor(self.low), math.floor(self.high + 1e-9) + 1)
            round_ones = [digit * 10.0**k for k in powers for digit in ((1, 2, 5) if span < 1.8 else (1,))]
            inside = [v for v in round_ones if self.low - 1e-9 <= math.log10(v) <= self.high + 1e-9]
            return inside[:: max(1, round(span / most))]
        rough = (self.high - self.low) / most
        unit = 10 ** math.floor(math.log10(rough))
        size = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * 0.999)
        return [size * k for k in range(math.ceil(self.low / size - 1e-9), math.floor(self.high / size + 1e-9) + 1)]


def thinned(values: Sequence[float], most: int = MOST_POINTS) -> list[float]:
    """At most `most` values of a curve: means of neighbours, so that no spike is picked by chance."""
    if len(values) <= most:
        return list(values)
    return [float(part.mean()) for part in np.array_split(np.asarray(values, float), most)]


def number(value: float | None) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def tick(value: float) -> str:
    """The label of a tick."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.6g}M"
    return f"{value / 1e3:.6g}k" if abs(value) >= 1e4 else f"{value:.6g}"


def _grid(across: Axis, up: Axis) -> list[str]:
    """The lines of the upward axis, and the values of both."""
    parts, right = [], WIDTH - RIGHT
    for value in up.ticks():
        y = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 5}" y="{y + 3.5:.1f}">{tick(value)}</text>')
    for value in across.ticks():
        x = min(max(across(value), LEFT), WIDTH - 16)
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - 8}">{tick(value)}</text>')
    return parts


def _mark(x: float, what: str) -> str:
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
    return f'<line class="mark" {ends}><title>{escape(what)}</title></line>'


def _svg(described: str, parts: list[str], width: int, height: int) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(described)}">'
    return Markup(head + "".join(parts) + "</svg>")
