"""What goes wrong in training, said in words with a remedy: each finding is a name, its evidence and what to set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from morphogen.metrics.sound import CODED

HIDING = 1.5, 0.025  # the cycle's error may grow so many times, and by what noise too faint to see itself amounts to
COPIES = 0.9  # share of an item that its translation may keep while nothing comes closer to the target
LOST = 0.5  # share of items that the way back must at least be nearest to
BROKEN = 0.05  # share of samples that may be silence or a pure tone beyond that of real ones
COLLAPSED = 0.5  # nats: with less the codes say next to nothing about their items


@dataclass(frozen=True)
class Finding:
    """Something wrong: its name, the numbers that show it, the setting to change, and the step since which it is so."""

    what: str
    evidence: str
    remedy: str
    since: int | None = None

    def sentence(self) -> str:
        """The finding for a person."""
        since = "" if self.since is None else f" (since step {self.since})"
        return f"{self.what}{since}: {self.evidence}; {self.remedy}."

    def json(self) -> dict[str, Any]:
        """The finding for `metrics.jsonl` and `evaluation.json`."""
        return asdict(self)


def code_findings(scores: dict[str, float]) -> list[Finding]:
    """What the held-out scores of a family's `measure` say of its random codes; empty when all is well."""
    if not {"mutual_information", "top_mutual_information"} & scores.keys():
        return []  # no random codes
    carried = min(scores["kl"], scores.get("mutual_information", scores["kl"]))  # of a ladder only the top's is known
    if carried >= COLLAPSED:
        return []
    return [
        Finding(
            "posterior collapse",
            f"the codes carry {carried:.2g} nats about their items (KL {scores['kl']:.2g}, "
            f"{scores.get('active_units', 0):.0f} active units), so the decoder ignores them",
            "lower terms.kl.weight, give it a warmup or a cycle, or set model.free_bits=0.1",
        )
    ]


def sound_findings(found: dict[str, Any]) -> list[Finding]:
    """What `metrics.sound.sound_scores` says of generated sounds; empty when all is well."""
    told = {"silent": "silence", "tonal": "a single pure tone"}
    return [
        Finding(
            "silent samples" if name == "silent" else "pure tones",
            f"{100 * found['samples'][name]:.0f} % of the samples are {what} (held-out recordings: "
            f"{100 * found['held-out'][name]:.0f} %)",
            "train longer, or with more recordings",
        )
        for name, what in told.items()
        if found["samples"][name] > found["held-out"][name] + BROKEN
    ]


def cycle_findings(result: dict[str, Any]) -> list[Finding]:
    """What is dishonest in one direction's result of `assessment.evaluate_translations`; empty when all is well."""
    cycle, rows, found = result["cycle"], result["rows"], []
    ways = ("cycle_noisy",) if CODED in rows else ("cycle_noisy", "cycle_quantised")  # a codec loses more than detail
    worst = max(ways, key=lambda name: cycle[name])
    if cycle[worst] > HIDING[0] * cycle["cycle"] + HIDING[1]:
        found.append(
            Finding(
                "information hiding",
                f"the way back leans on detail too faint to see (error {cycle['cycle']:.3g}, but {cycle[worst]:.3g} "
                f"once the translation is {'rounded' if worst.endswith('quantised') else 'noisy'})",
                "set model.hide=0.1",
            )
        )
    moved = rows["samples"]["kid"], rows["not translated"]["kid"]
    if cycle["copy"] > COPIES and moved[0] > 0.5 * moved[1]:
        found.append(
            Finding(
                "copied input",
                f"translations keep {100 * cycle['copy']:.0f} % of their items and come hardly closer to the target "
                f"(KID {moved[0]:.3g}, untranslated {moved[1]:.3g})",
                "lower terms.cycle_a, cycle_b and identity",
            )
        )
    if cycle["content_kept"] < LOST:
        found.append(
            Finding(
                "content lost",
                f"only {100 * cycle['content_kept']:.0f} % of the items that come back are nearest to what they were, "
                f"where {100 * LOST:.0f} % should be",
                "raise terms.cycle_a.weight and terms.cycle_b.weight",
            )
        )
    return found
