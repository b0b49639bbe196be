"""The words after `#` in a source: which part, and which labels.

`#train`, `#test` and conditions `attr=value`, `attr=a|b`, `attr=lo-hi` (numbers, both ends included), joined by commas
"""

import re
import string
from pathlib import PurePosixPath

from morphogen.errors import UsageError

_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)-(-?\d+(?:\.\d+)?)")
_SHOWN = 20


def parse_select(text: str, spec: str) -> tuple[str | None, list[tuple[str, str]]]:
    """ "test,label=3" → ("test", [("label", "3")]); part None when not named. Raises UsageError."""
    part, conditions = None, []
    for clause in filter(None, (clause.strip() for clause in text.split(","))):
        attribute, equals, value = (piece.strip() for piece in clause.partition("="))
        if equals and attribute and value:
            conditions.append((attribute, value))
        elif clause not in ("train", "test"):
            raise UsageError(f"'{clause}' in '{spec}' is not understood: write #train, #test or #attribute=value")
        elif part not in (None, clause):
            raise UsageError(f"'{spec}' names both train and test: choose one")
        else:
            part = clause
    return part, conditions


def select_rows(labels: dict[str, list[str]], count: int, conditions: list[tuple[str, str]], spec: str) -> list[int]:
    """The rows, of 0..count-1, that meet every condition, in order. Raises UsageError when nothing does."""
    rows = list(range(count))
    for attribute, value in conditions:
        if attribute not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise UsageError(
                f"'{spec}' selects on '{attribute}', which the items do not have: their attributes are {known}"
            )
        column = labels[attribute]
        wanted = _wanted(set(column), attribute, value, spec)
        rows = [i for i in rows if column[i] in wanted]
    if not rows:
        raise UsageError(f"no item meets all conditions of '{spec}': drop one of them")
    return rows


def _wanted(present: set[str], attribute: str, value: str, spec: str) -> set[str]:
    """Those of the `present` values that "a|b" or "lo-hi" means; each alternative must exist."""
    wanted: set[str] = set()
    for alternative in (piece.strip() for piece in value.split("|")):
        ends = _RANGE.fullmatch(alternative)
        if alternative in present:  # before the range: a label may be called "1-2"
            found = {alternative}
        elif ends:
            found = {v for v in present if _within(v, float(ends[1]), float(ends[2]))}
        else:
            found = set()
        if not found:
            raise UsageError(f"no item of '{spec}' has {attribute}={alternative}: {attribute} is {_listing(present)}")
        wanted |= found
    return wanted


def _within(value: str, low: float, high: float) -> bool:
    try:
        return low <= float(value) <= high
    except ValueError:
        return False


def _listing(values: set[str]) -> str:
    values = values - {""}
    shown = sorted(values)[:_SHOWN]
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(shown) + more


def labels_from_names(names: list[str], pattern: str) -> tuple[dict[str, list[str]], list[int]]:
    """Match file stems with a pattern such as "{digit}_{speaker}_{take}" → (attributes, rows that do not match).

    A row that does not match has "" for every attribute. Raises UsageError for a malformed pattern or one that matches
    nothing.
    """
    expression, fields = _compile(pattern)
    matches = [expression.fullmatch(PurePosixPath(name).stem) for name in names]
    if not any(matches):
        raise UsageError(
            f"label_pattern '{pattern}' matches no file name (the first is '{names[0]}'): write it like the names"
        )
    labels = {field: [match[field] if match else "" for match in matches] for field in fields}
    return labels, [i for i, match in enumerate(matches) if not match]


def _compile(pattern: str) -> tuple[re.Pattern[str], list[str]]:
    try:
        pieces = list(string.Formatter().parse(pattern))
        fields = [field for _, field, _, _ in pieces if field is not None]
        plain = not any(form or conversion for _, _, form, conversion in pieces)
        groups = "".join(re.escape(text) + (f"(?P<{field}>.+?)" if field else "") for text, field, _, _ in pieces)
        if not (fields and plain and all(fields)):
            raise ValueError(pattern)
        return re.compile(groups, re.DOTALL), fields
    except (ValueError, re.error) as error:
        raise UsageError(
            f"label_pattern is '{pattern}' but must name attributes in braces, such as {{digit}}_{{speaker}}_{{take}}"
        ) from error
