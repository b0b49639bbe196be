"""A page as plain blocks, and their way into one HTML file without anything outside it.

Whatever a block holds is escaped by the template, for samples may be HTML. Pictures and sounds are put in as `data:`;
a page that would be larger than `LIMIT` is made again with smaller and fewer of them.
"""

from __future__ import annotations

import base64
import functools
import io
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup
from PIL import Image as Pillow

LIMIT = 5_000_000  # bytes of a page: what a mail takes
MOST_TEXT = 1000  # characters of one text that are shown
LOUD_ENOUGH = 150_000  # bytes of a WAV from which on it is shared as MP3


@dataclass
class Words:
    """A paragraph; kind: '' or 'note'."""

    block: ClassVar[str] = "words"
    text: str
    kind: str = ""


@dataclass
class Table:
    """Rows of text; the first cell of each names it."""

    block: ClassVar[str] = "table"
    caption: str
    head: list[str]
    rows: list[list[str]]
    strong: list[str] = field(default_factory=list)  # names of rows to be seen first
    wraps: bool = False  # cells hold sentences


@dataclass
class Picture:
    """A picture with its words; pixels: small ones are enlarged without blur."""

    block: ClassVar[str] = "picture"
    image: Pillow.Image
    alt: str
    caption: str = ""
    pixels: bool = True


@dataclass
class Strip:
    """Pictures side by side, as many as fit; the first and the last are kept when there is room for few."""

    block: ClassVar[str] = "strip"
    pictures: list[Picture]


@dataclass
class Drawing:
    """An SVG with its words."""

    svg: Markup
    caption: str = ""


@dataclass
class Drawings:
    """Charts side by side; legend: (colour, name) of each line."""

    block: ClassVar[str] = "drawings"
    drawings: list[Drawing]
    legend: list[tuple[int, str]] = field(default_factory=list)
    wide: bool = False


@dataclass
class Sound:
    """int16 (T, C) to be played, and the picture of it."""

    wave: np.ndarray
    rate: int
    name: str
    picture: Pillow.Image | None = None


@dataclass
class Sounds:
    """Players side by side; columns: in rows of so many, which belong together, in place of as many as fit."""

    block: ClassVar[str] = "sounds"
    sounds: list[Sound]
    columns: int = 0


@dataclass
class Texts:
    """Texts, one below the other."""

    block: ClassVar[str] = "texts"
    texts: list[str]
    caption: str = ""


@dataclass
class Code:
    """Text as it stands, folded away under `title` if there is one."""

    block: ClassVar[str] = "code"
    text: str
    title: str = ""


@dataclass
class Alarm:
    """A finding."""

    block: ClassVar[str] = "alarm"
    what: str
    since: str
    evidence: str
    remedy: str


@dataclass
class Section:
    """A part of the page with a heading of its own."""

    title: str
    blocks: list[Any]

    @property
    def id(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass
class Page:
    """A whole page."""

    title: str
    lead: list[str]
    sections: list[Section]
    made: str = ""


@dataclass(frozen=True)
class Room:
    """How large and how many the media of a page may be."""

    side: int
    strip: int
    sounds: int

    def picture(self, image: Pillow.Image) -> str:
        """A picture as data: the smaller of PNG and WebP."""
        image = image.convert("RGB") if image.mode not in ("L", "RGB", "RGBA") else image
        if max(image.size) > self.side:
            share = self.side / max(image.size)
            size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
            image = image.resize(size, Pillow.Resampling.LANCZOS)
        png = _saved(image, "PNG", optimize=True)
        if len(png) < 30_000:
            return _data(png, "image/png")
        webp = _saved(image, "WEBP", quality=82, method=4)
        return _data(webp, "image/webp") if len(webp) < len(png) else _data(png, "image/png")

    def few(self, items: list[Any]) -> list[Any]:
        """As many pictures of a strip as there is room for, the ends among them."""
        return spaced(items, self.strip)

    def heard(self, block: Sounds) -> list[Sound]:
        """As many sounds as there is room for, in whole rows."""
        return block.sounds[: self.sounds // max(1, block.columns) * max(1, block.columns)]

    def sound(self, sound: Sound) -> str:
        """A sound as data: WAV, which plays everywhere and is exact; a long one as MP3, which plays as well."""
        import soundfile

        found = io.BytesIO()
        if sound.wave.nbytes > LOUD_ENOUGH and "MP3" in soundfile.available_formats():
            soundfile.write(found, sound.wave, sound.rate, format="MP3")
            return _data(found.getvalue(), "audio/mpeg")
        soundfile.write(found, sound.wave, sound.rate, format="WAV", subtype="PCM_16")
        return _data(found.getvalue(), "audio/wav")


ROOMS = (Room(1400, 24, 24), Room(1000, 12, 16), Room(700, 8, 8), Room(500, 4, 3), Room(300, 0, 0), Room(64, 0, 0))


def spaced(items: list[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(k)] for k in np.linspace(0, len(items) - 1, most)] if most > 1 else items[-1:] * most


def html_of(page: Page, limit: int = LIMIT) -> str:
    """The page as HTML of at most `limit` bytes, by the first of `ROOMS` whose media are small enough."""
    made = ""
    for room in ROOMS:
        made = template().render(page=page, room=room)
        if len(made.encode()) <= limit:
            break
    return made


@functools.cache
def template() -> Any:
    """The template of every page."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("morphogen").joinpath("templates", "page.html").read_text(encoding="utf-8")
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters["shown"] = shown
    return env.from_string(text)


def shown(text: Any, most: int = MOST_TEXT) -> str:
    """A text as it can be shown: no control characters, which HTML forbids, lone surrogates, or endless length."""
    text = str(text).encode("utf-8", "replace").decode("utf-8")
    text = "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0) else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return text if len(text) <= most else text[:most] + " …"


def _saved(image: Pillow.Image, kind: str, **how: Any) -> bytes:
    found = io.BytesIO()
    image.save(found, kind, **how)
    return found.getvalue()


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
