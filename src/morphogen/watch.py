"""A finding, and the watch over those of one training: which stand, since when, and which have gone again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

BETTER = 0.02  # share by which a score must be lower to be better


@dataclass(frozen=True)
class Finding:
    """Something wrong: its name, the numbers that show it, the setting to change, and the step since which it is so.

    where: of several networks, domains or directions the one it is about.  done: what was done about it by itself.
    until: the step at which it had gone.
    """

    what: str
    evidence: str
    remedy: str
    since: int | None = None
    where: str = ""
    done: str = ""
    until: int | None = None

    @property
    def name(self) -> str:
        """What it is, and where."""
        return self.what + (f" ({self.where})" if self.where else "")

    def sentence(self) -> str:
        """The finding for a person."""
        since = "" if self.since is None else f" (since step {self.since})"
        done = f" (done: {self.done})" if self.done else ""
        return f"{self.name}{since}: {self.evidence}; {self.remedy}{done}."

    def json(self) -> dict[str, Any]:
        """The finding for `metrics.jsonl` and `evaluation.json`."""
        return asdict(self)


class Watch:
    """Which findings stand, and since when: a finding begins at the second measurement in a row that shows it, and has
    gone at the second in a row that does not.

    bounds: (step, training items' bound, held-out items') of every measurement.  best: the lowest score, and how many
    measurements ago.  skipped: updates skipped so far, and the steps.
    """

    def __init__(self) -> None:
        self.standing: dict[str, Finding] = {}
        self.suspected: dict[str, int] = {}
        self.missed: dict[str, int] = {}
        self.kept: list[str] = []
        self.bounds: list[tuple[int, float, float]] = []
        self.best: tuple[float, int] | None = None
        self.skipped: tuple[float, int] = (0.0, 0)

    def keep(self, finding: Finding) -> Finding:
        """A finding that needs no second measurement and does not go away; it stands since it was first kept."""
        key = finding.name
        if key in self.kept:
            finding = replace(finding, since=self.standing[key].since)
        else:
            self.kept.append(key)
        self.standing[key] = finding
        return finding

    def see(self, step: int, findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
        """What a measurement shows; returns the findings that have begun, and those that have gone."""
        seen, begun, gone = {f.name: f for f in findings}, [], []
        self.suspected = {key: self.suspected.get(key, step) for key in seen}
        for key, finding in seen.items():
            known = self.standing.get(key)
            if known is not None or self.suspected[key] < step:
                since = self.suspected[key] if known is None else known.since
                self.standing[key] = replace(finding, since=since)
                begun += [] if known is not None else [self.standing[key]]
        absent = [key for key in self.standing if key not in seen and key not in self.kept]
        self.missed = {key: self.missed.get(key, 0) + 1 for key in absent}
        for key in [key for key in absent if self.missed[key] > 1]:
            gone.append(replace(self.standing.pop(key), until=step))
        return begun, gone

    def better(self, score: float) -> int:
        """For how many measurements there has been no score that is lower by more than chance (`BETTER`)."""
        known = self.best
        if known is None or not math.isfinite(known[0]) or score < known[0] - BETTER * abs(known[0]):
            known = score, -1
        self.best = known[0], known[1] + 1
        return self.best[1]

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {**vars(self), "standing": {key: f.json() for key, f in self.standing.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        vars(self).update(state)
        self.standing = {key: Finding(**f) for key, f in state.get("standing", {}).items()}


def merge(result: dict[str, Any], standing: Iterable[dict[str, Any]]) -> None:
    """Put findings that stood at the end of a training into an evaluation. Where both have one the evaluation's words
    count, since then; what it has looked at itself and not found is not put in, for it judges the best model."""
    for finding in standing:
        parts = [part for part in (result, result.get("back")) if part is not None]
        same = [f for part in parts for f in part["health"]
                if (f["what"], f.get("where", "")) == (finding["what"], finding["where"])]  # fmt: skip
        for found in same:
            found["since"] = finding["since"]
        if not same and finding["what"] not in result.get("looked_for", []):
            result["health"].append(finding)
