"""Text as a source: lines, paragraphs or windows of .txt files, a column of .csv or .jsonl, and text every Python has.

An item is held as its UTF-8 bytes; a data set of text is uint8 (N, M), each row an item's bytes, then `BLANK`, a byte
that UTF-8 never uses. So items can be split, hashed and drawn like pictures, before any vocabulary is known.

N items · M the longest item's bytes
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphogen.errors import UsageError

BLANK = 0xFF
TABLES = (".csv", ".jsonl")
SPLITS = ("line", "paragraph", "window")
WINDOW = 128  # characters of a window
LONGEST, USUAL = 1024, 4  # bytes of an item unless data.length says so; and so many times the 95th percentile
SHORTEST = 64  # bytes that an item may have in any case
EMPTY = "empty"  # how a reason ends that is no fault: such items do not count as bad

Pieces = list[tuple[int, bytes]]  # (number of the line, paragraph, window or row, from 1; content)


def packed(texts: Sequence[str | bytes], width: int) -> np.ndarray:
    """Texts → uint8 (N, width); what does not fit is cut off at a character's end."""
    rows = np.full((len(texts), width), BLANK, np.uint8)
    for row, text in zip(rows, texts, strict=True):
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        if len(data) > width:
            data = data[:width].decode("utf-8", "ignore").encode()
        row[: len(data)] = np.frombuffer(data, np.uint8)
    return rows


def unpacked(rows: np.ndarray) -> list[str]:
    """uint8 (N, M) → texts."""
    lengths = (rows != BLANK).sum(1)
    return [bytes(row[:n]).decode("utf-8", "replace") for row, n in zip(rows, lengths, strict=True)]


def read_text(path: Path, split: str) -> Pieces:
    """The items of a .txt file; UsageError where it is UTF-16."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"{path} is UTF-16: save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if split == "window":
        text = data.decode("utf-8", "surrogateescape")  # bad bytes stay what they are, for `faults` to find
        windows = range(0, len(text), WINDOW)
        parts = (text[start : start + WINDOW] for start in windows)
        return [(k + 1, part.encode("utf-8", "surrogateescape")) for k, part in enumerate(parts)]
    lines = data.removesuffix(b"\n").split(b"\n")
    lines = [line.removesuffix(b"\r") for line in lines]
    if split == "line":
        return [(k + 1, line) for k, line in enumerate(lines)]
    paragraphs: list[list[bytes]] = [[]]
    for line in lines:
        if line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return [(k + 1, b"\n".join(part)) for k, part in enumerate(paragraphs) if part]


def read_table(path: Path, column: str | None) -> tuple[Pieces, dict[str, list[str]]]:
    """One column of a .csv or .jsonl file, by default 'text' or the only one; the others are attributes."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if path.suffix.lower() == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text, newline="")))
    else:
        rows = [_json_row(line, path, k + 1) for k, line in enumerate(text.removesuffix("\n").split("\n"))]
    columns = list(dict.fromkeys(str(key) for row in rows for key in row if key is not None))
    if column is None:
        column = "text" if "text" in columns else columns[0] if len(columns) == 1 else None
    if column not in columns:
        raise UsageError(f"{path} has the columns {', '.join(columns)}: choose one, as in {path.name}#column=NAME")
    items = [(k + 1, _bytes(_cell(row, column))) for k, row in enumerate(rows)]
    return items, {c: [_cell(row, c) for row in rows] for c in columns if c != column}


def _bytes(cell: str) -> bytes:
    try:
        return cell.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, which JSON can spell: no UTF-8, and `faults` says so
        return cell.encode("utf-8", "surrogatepass")


def _cell(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)


def _json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line) if line.strip() else {}
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UsageError(f"line {number} of {path} is no JSON object: write one object a line")
    return row


def faults(pieces: Pieces, unit: str) -> dict[int, str]:
    """row → reason, of items that are empty or not UTF-8."""
    found = {}
    for row, (number, data) in enumerate(pieces):
        if not data.strip():
            found[row] = f"{unit} {number}: {EMPTY}"
            continue
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            found[row] = f"{unit} {number}: not UTF-8 (byte {error.start + 1})"
    return found


def column_of(conditions: list[tuple[str, str]]) -> str | None:
    """The value of 'column' among the conditions of a source, which loses it."""
    named = [value for name, value in conditions if name == "column"]
    conditions[:] = [pair for pair in conditions if pair[0] != "column"]
    return named[0] if named else None


def is_text_folder(names: list[str]) -> bool:
    """Whether a folder of files with these names is one of text: at least half are .txt."""
    return 2 * sum(name.lower().endswith(".txt") for name in names) >= len(names) > 0


def rows_of(source: Any, length: int | None) -> tuple[np.ndarray, dict[int, str]]:
    """Good items of a text source as uint8 (N, M), and row → reason for the others. length: M; by default that of the
    longest item that is not `too_long`."""
    bad = source.bad | too_long(source, length)
    good = [bytes(source.load(i)) for i in range(len(source)) if i not in bad]
    return packed(good, length or max(map(len, good), default=1)), bad


def too_long(source: Any, length: int | None = None) -> dict[int, str]:
    """row → reason, of a text source's items of more than `length` bytes; by default outliers: `USUAL` times the 95th
    percentile, at least `SHORTEST` and at most `LONGEST`."""
    sizes = {i: len(source.load(i)) for i in range(len(source)) if i not in source.bad}
    most = length or min(LONGEST, max(SHORTEST, USUAL * int(np.percentile([*sizes.values()] or [1], 95))))
    number = lambda i: int(source.names[i].removesuffix(".txt").rpartition("-")[2]) + 1
    return {
        i: f"{source.kind} {number(i)}: {size} bytes, more than {most}; set data.length"
        for i, size in sizes.items()
        if size > most
    }


def word_counts(source: Any) -> list[str]:
    """How many words each item of a text source has: an attribute that can always be selected on."""
    return [str(len(bytes(item).split())) for item in source.block(0, len(source))]


def array_of(pieces: Pieces) -> np.ndarray:
    """Items as an object array (N,) of uint8 arrays: what a Source holds."""
    items = np.empty(len(pieces), object)
    for row, (_, data) in enumerate(pieces):
        items[row] = np.frombuffer(data, np.uint8)
    return items


def words() -> list[str]:
    """The sentences of the standard library's documentation that any Python of this version carries: the first
    paragraph of each docstring in a fixed list of modules, one sentence an item, in order, without repeats."""
    import importlib
    import inspect
    import re

    modules = (
        "argparse", "ast", "asyncio", "base64", "calendar", "codecs", "collections", "configparser", "csv", "datetime",
        "decimal", "difflib", "email.message", "fractions", "functools", "gettext", "glob", "gzip", "heapq", "html",
        "http.client", "http.cookiejar", "imaplib", "inspect", "io", "ipaddress", "json", "locale", "logging",
        "mailbox", "mimetypes", "numbers", "os", "pathlib", "pickle", "pprint", "queue", "random", "shelve", "shlex",
        "shutil", "smtplib", "socket", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap",
        "threading", "tokenize", "traceback", "types", "typing", "unittest", "urllib.parse", "urllib.request", "uuid",
        "weakref", "xml.dom.minidom", "zipfile",
    )  # fmt: skip
    found: dict[str, None] = {}
    for name in modules:
        module = importlib.import_module(name)
        things: list[Any] = [module]
        for _, thing in sorted(vars(module).items()):
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__.split(".")[0] in name:
                things.append(thing)
                things += [m for _, m in sorted(vars(thing).items()) if inspect.isfunction(m)]
        for thing in things:
            text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
            for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", text):
                if 15 <= len(sentence) <= 100 and sentence.isascii() and sentence[0].isalpha() and ">>>" not in text:
                    found[sentence] = None
    return list(found)
