"""A page as plain blocks, and their way into one HTML file without anything outside it.

Whatever a block holds is escaped by the template, for samples may be HTML. Pictures and sounds are put in as `data:`;
a page that would be larger than `LIMIT` is made again with smaller and fewer of them.
"""

from __future__ import annotations

import base64
import functools
import io
import time
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from morphogen import __version__
from morphogen.loop import spaced
from morphogen.report.charts import Chart, Scatter
from morphogen.run import write_text

LIMIT = 5_000_000  # bytes of a page: what a mail takes
MOST_TEXT = 1000  # characters of one text that are shown
LONG_SOUND = 150_000  # bytes of a WAV from which on it goes in as MP3
SMALL_PICTURE = 30_000  # bytes up to which a picture stays a PNG
CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\t"), ord("\n")}, "\N{REPLACEMENT CHARACTER}")


class Block:
    """A part of a page; the template has a case for each kind."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()


@dataclass
class Heading(Block):
    """A heading within a section."""

    text: str


@dataclass
class Words(Block):
    """A paragraph; a note is set smaller."""

    text: str
    note: bool = False


@dataclass
class Table(Block):
    """Rows of text; the first cell of each names it."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    wraps: bool = False  # cells hold sentences


@dataclass
class Picture(Block):
    """A picture, its pixels enlarged without blur; alt: what it shows, for those who do not see it."""

    image: Pillow.Image
    alt: str
    caption: str = ""


@dataclass
class Strip(Block):
    """Pictures side by side, as many as fit; the first and the last are kept when there is room for few."""

    pictures: list[Picture]


@dataclass
class Charts(Block):
    """Charts side by side; legend: the name of each colour."""

    charts: list[Chart]
    legend: list[str] = field(default_factory=list)


@dataclass
class Map(Block):
    """Points in two dimensions, in the colours of their groups."""

    scatter: Scatter


@dataclass
class Sound:
    """int16 (T, C) to be played, and the picture of it."""

    wave: np.ndarray
    rate: int
    name: str
    picture: Pillow.Image | None = None


@dataclass
class Sounds(Block):
    """Players side by side; columns: in rows of so many, which belong together, in place of as many as fit."""

    sounds: list[Sound]
    columns: int = 0


@dataclass
class Texts(Block):
    """Texts, one below the other."""

    texts: list[str]
    caption: str = ""


@dataclass
class Code(Block):
    """Text as it stands, folded away under `title` if there is one."""

    text: str
    title: str = ""


@dataclass
class Alarm(Block):
    """A finding."""

    what: str
    since: str
    evidence: str
    remedy: str


@dataclass
class Page:
    """A whole page: sentences to begin with, and {heading: blocks}, of which the empty ones are left out."""

    title: str
    lead: list[str]
    sections: dict[str, list[Block]]


@dataclass(frozen=True)
class Room:
    """How large and how many the media of a page may be."""

    side: int
    strip: int
    sounds: int

    def picture(self, image: Pillow.Image) -> str:
        """A picture as data: the smaller of PNG and WebP."""
        image = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
        if max(image.size) > self.side:
            image = image.copy()
            image.thumbnail((self.side, self.side), Pillow.Resampling.LANCZOS)
        png, webp = io.BytesIO(), io.BytesIO()
        image.save(png, "PNG", optimize=True)
        if png.tell() > SMALL_PICTURE:
            image.save(webp, "WEBP", quality=82)
            if webp.tell() < png.tell():
                return _data(webp, "image/webp")
        return _data(png, "image/png")

    def few(self, pictures: list[Picture]) -> list[Picture]:
        """As many pictures of a strip as there is room for."""
        return [pictures[i] for i in spaced(len(pictures), self.strip)]

    def heard(self, block: Sounds) -> list[Sound]:
        """As many sounds as there is room for, in whole rows."""
        row = max(1, block.columns)
        return block.sounds[: self.sounds // row * row]

    def sound(self, sound: Sound) -> str:
        """A sound as data: WAV, which plays everywhere and is exact; a long one as MP3, which plays as well."""
        import soundfile

        found, long = io.BytesIO(), sound.wave.nbytes > LONG_SOUND and "MP3" in soundfile.available_formats()
        soundfile.write(found, sound.wave, sound.rate, format="MP3" if long else "WAV")
        return _data(found, "audio/mpeg" if long else "audio/wav")


ROOMS = (Room(1400, 24, 24), Room(1000, 12, 16), Room(700, 8, 8), Room(500, 4, 3), Room(300, 0, 0), Room(64, 0, 0))


def write_page(page: Page, out: Path) -> Path:
    """The page as a file, in folders made for it where there are none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html_of(page))
    return out


def html_of(page: Page, limit: int = LIMIT) -> str:
    """The page as HTML of at most `limit` bytes, by the first of `ROOMS` whose media are small enough."""
    sections = {slug(title): (title, blocks) for title, blocks in page.sections.items() if blocks}
    made = f"Made by Morphogen {__version__} on {time.strftime('%Y-%m-%d %H:%M %Z')}."
    html = ""
    for room in ROOMS:
        html = template().render(page=page, sections=sections, made=made, room=room)
        if len(html.encode()) <= limit:
            break
    return html


@functools.cache
def template() -> Any:
    """The template of every page."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("morphogen").joinpath("templates", "page.html").read_text(encoding="utf-8")
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters["shown"] = shown
    return env.from_string(text)


def slug(title: str) -> str:
    """A heading as the name of a place on the page."""
    return "-".join(title.lower().split())


def shown(text: Any, most: int = MOST_TEXT) -> str:
    """A text as it can be shown: no control characters, which HTML forbids, lone surrogates, or endless length."""
    text = str(text).encode("utf-8", "replace").decode("utf-8").translate(CONTROLS)
    return text if len(text) <= most else text[:most] + " …"


def _data(content: io.BytesIO, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
