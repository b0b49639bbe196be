"""What goes wrong in training, said in words with a remedy: each finding is a name, its evidence and what to set.

Pure functions from numbers to findings; `watch.Watch` remembers since when each stands. docs/health.md has every rule;
the numbers come from `Family.measure`, `Family.diagnose`, `evaluation.HeldoutScore` and the loop's guards.
"""

from __future__ import annotations

from typing import Any

from morphogen.metrics.sound import CODED
from morphogen.watch import Finding

HIDING = 1.5, 0.025  # the cycle's error may grow so many times, and by what noise too faint to see itself amounts to
COPIES = 0.9  # share of an item that its translation may keep while nothing comes closer to the target
LOST = 0.5  # share of items that the way back must at least be nearest to
BROKEN = 0.05  # share of samples that may be silence or a pure tone beyond that of real ones
COLLAPSED = 0.5  # nats: with less the codes say next to nothing about their items
SPREAD, DISTINCT = 0.4, 0.2  # of samples, relative to real items: below it they are too much alike
MISSING = 0.2  # a class is missing when samples have less than this part of the share that real items have
FAR, STALLED = 5.0, 3  # times the floor's FID are bad samples; measurements without a better one are a standstill
WINNING, IDLE = 0.995, 0.4  # share of pairs that a discriminator tells apart: too many, and fewer than by chance
BY_HEART = 0.15  # by so much it may know training items better than held-out ones
HOLE = 0.7  # variances of the prior by which codes of items and of the prior may lie apart in a unit
DEAD = 0.5  # share of units that may never be positive
UNCHANGED = 0.1  # a conversion that differs less from the item in its own domain is none
ONE_SIDED = 0.5, 0.9  # a cycle that comes back loses less than the one, and one that does not more than the other
SKIPPED = 0.05  # share of updates that may be skipped
TURNED = 2.0  # standard errors by which the held-out bound must rise before it is more than chance
WAYS = "a to b", "b to a"
REPEATED, FLAT, UNEVEN = 0.1, 0.05, 10.0  # share of copies, of items of one value; the largest class over the smallest


def training_findings(numbers: dict[str, float], how: dict[str, Any]) -> list[Finding]:
    """What the numbers of one measurement show. how: 'family'; of a GAN 'augment', the present probability where it
    adapts itself; of a VAE 'sampled', whether random samples of it are wanted at all, and 'samplers'."""
    family = how["family"]
    found = [*update_findings(numbers, family), *game_findings(numbers, family, how.get("augment"))]
    found += [*dead_findings(numbers, family), *code_findings(numbers), *loop_findings(numbers)]
    if not how.get("sampled", True):
        return found
    for begin, end, where in (("", "", ""), ("converted_", "", "conversions"), ("", "_a_to_b", WAYS[0]),
                              ("", "_b_to_a", WAYS[1])):  # fmt: skip
        part = {k.removeprefix(begin).removesuffix(end): v for k, v in numbers.items()
                if k.startswith(begin) and k.endswith(end)}  # fmt: skip
        found += variety_findings(part | {"stalled": numbers.get("stalled", 1)}, family, where)
    return [*found, *prior_findings(numbers, bool(how.get("samplers")))]


LEARNERS = {"gan": ("generator", "discriminator"), "cycle_gan": ("generator", "discriminator"),
            "vae": ("autoencoder",), "cycle_vae": ("autoencoder", "discriminator")}  # fmt: skip


def _rates(family: str) -> str:
    return " and ".join(f"players.{player}.lr" for player in LEARNERS[family])


def update_findings(numbers: dict[str, float], family: str) -> list[Finding]:
    """Too many updates skipped since the last measurement, as not finite or far too large."""
    skipped, updates = numbers.get("skipped", 0.0), numbers.get("updates", 0.0)
    if not updates or skipped <= SKIPPED * updates:
        return []
    return [
        Finding(
            "updates skipped",
            f"{skipped:.0f} of {updates:.0f} updates had a gradient that was not finite or far too large",
            f"lower {_rates(family)}, or set players.{LEARNERS[family][0]}.clip",
            done="they were skipped",
        )
    ]


def divergence(
    step: int, back: int, scale: float, family: str, best: dict[str, Any], norm: tuple[float, float], streak: float
) -> Finding:
    """Training went astray at `step` and was taken back. norm: of the weights, and the largest that is allowed;
    streak: updates in a row that were skipped."""
    kept = f"; the best model, of step {best['step']}, is kept" if best else ""
    return Finding(
        "divergence",
        f"at step {step} the weights' norm was {norm[0]:.3g} (the limit is {norm[1]:.3g}), and {streak:.0f} updates in "
        "a row were skipped",
        f"lower {_rates(family)}",
        since=step,
        done=f"went back to step {back} with learning rates times {scale:.2g}{kept}",
    )


def game_findings(numbers: dict[str, float], family: str, augment: float | None = None) -> list[Finding]:
    """A discriminator that wins, is idle, or has learned its items by heart."""
    found = []
    bad = numbers.get("fid", 0.0) > FAR * numbers.get("floor", float("inf"))
    stuck = bad and numbers.get("stalled", 0) >= STALLED
    for key in [k for k in numbers if k.startswith("told/")]:
        name = key.removeprefix("told/")
        told, known = numbers[key], numbers[f"told_train/{name}"]
        where = "" if name == "discriminator" else name
        penalty = {"critic_a": "terms.r1_a", "critic_b": "terms.r1_b"}.get(name, "terms.r1")
        standstill = f"and the samples are no better for {numbers.get('stalled', 0):.0f} measurements"
        mode = {"gan": "set augment.mode=adaptive", "vae": "raise terms.r1.weight"}.get(
            family, "set augment.mode=fixed"
        )
        more = mode if augment is None else "raise augment.most"
        if known - told > BY_HEART:
            found.append(
                Finding(
                    "discriminator overfits",
                    f"it tells training items from samples in {known:.0%} of pairs, held-out items in {told:.0%}",
                    f"train with more items, or {more}",
                    where=where,
                    done="" if augment is None else f"augmentation adapts itself, and is at {augment:.2g}",
                )
            )
        if told >= WINNING and stuck:
            found.append(
                Finding(
                    "discriminator winning",
                    f"it tells held-out items from samples in {told:.1%} of pairs, {standstill}",
                    f"lower players.discriminator.lr, or raise {penalty}.weight",
                    where=where,
                )
            )
        constant = known == told == 0.5  # the same score for whatever it sees
        if (known < IDLE or constant) and stuck:
            found.append(
                Finding(
                    "discriminator idle",
                    f"it rates training items above samples in {known:.0%} of pairs, {standstill}",
                    f"raise players.discriminator.lr, or lower {penalty}.weight",
                    where=where,
                )
            )
    return found


POORER = {
    "gan": "raise terms.diversity.weight, or terms.r1.weight and terms.r2.weight, or lower players.generator.lr",
    "cycle_gan": "raise terms.r1_a.weight and terms.cycle_b.weight, or lower players.generator.lr",
    "vae": "lower terms.kl.weight, or set model.likelihood to one that suits the data",
    "cycle_vae": "lower terms.kl.weight, or terms.adversarial.weight",
    "": "look at what the samples' model was trained on, and how it is sampled",
}  # fmt: skip


def variety_findings(numbers: dict[str, float], family: str = "", where: str = "") -> list[Finding]:
    """Mode collapse: samples (`metrics.distances.variety`) too much alike, or whole classes missing among them."""
    if "variety/spread" not in numbers:
        return []
    spread, distinct = numbers["variety/spread"], numbers.get("variety/distinct", 1.0)
    shares = {key.removeprefix("share/"): value for key, value in numbers.items() if key.startswith("share/")}
    learning = numbers.get("stalled", 1) == 0  # samples that still get better may not yet be of any class
    missing = [] if learning else [name for name, share in shares.items() if share < MISSING]
    if spread >= SPREAD and distinct >= DISTINCT and not missing:
        return []
    said = [f"samples are spread {spread:.2g} times as wide as held-out items ({SPREAD:g} is the least that may be)"]
    said += [f"a sample is {distinct:.2g} times as far from its like"] if "variety/distinct" in numbers else []
    if missing:
        names = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        said.append(f"{len(missing)} of {len(shares)} classes are missing: {names}")
    return [Finding("mode collapse", ", ".join(said), POORER[family], where=where)]


def code_findings(scores: dict[str, float]) -> list[Finding]:
    """What the held-out scores of a family's `measure` say of its random codes; empty when all is well."""
    if not {"mutual_information", "top_mutual_information"} & scores.keys():
        return []  # no random codes
    carried = min(scores["kl"], scores.get("mutual_information", scores["kl"]))  # of a ladder only the top's is known
    if carried < COLLAPSED:
        units = [value for key, value in scores.items() if key.startswith("kl/")]
        most = f", at most {max(units):.2g} in a unit" if units else ""
        return [
            Finding(
                "posterior collapse",
                f"the codes carry {carried:.2g} nats about their items (KL {scores['kl']:.2g}{most}, "
                f"{scores.get('active_units', 0):.0f} active units), so the decoder ignores them",
                "lower terms.kl.weight, give it a warmup or a cycle, or set model.free_bits=0.1",
            )
        ]
    if scores.get("by_code", COLLAPSED) < COLLAPSED:
        return [
            Finding(
                "decoder ignores the codes",
                f"an item's own code explains it {scores['by_code']:.2g} nats better than another item's, though codes "
                f"cost {scores['kl']:.2g} nats",
                "set a weaker model.decoder (of text, one with a higher word_dropout), or lower terms.kl.weight",
            )
        ]
    return []


def prior_findings(numbers: dict[str, float], fitted: bool = False) -> list[Finding]:
    """A prior whose codes are not those of items. fitted: whether others are tried at the end."""
    gap = numbers.get("prior_gap", 0.0)
    if gap <= HOLE:
        return []
    return [
        Finding(
            "prior hole",
            f"codes drawn to make samples lie {gap:.2g} variances from those of items, where {HOLE:g} may be",
            "raise terms.kl.weight, set model.prior.kind=flow, or name priors in evaluate.samplers",
            done="at the end the best of evaluate.samplers is fitted to the codes" if fitted else "",
        )
    ]


def dead_findings(numbers: dict[str, float], family: str) -> list[Finding]:
    """Units that do nothing."""
    if numbers.get("dead", 0.0) <= DEAD:
        return []
    return [
        Finding(
            "dead units",
            f"{numbers['dead']:.0%} of {numbers['units']:.0f} units are never positive on held-out items",
            f"lower {_rates(family)}, or set train.warmup",
        )
    ]


def loop_findings(numbers: dict[str, float]) -> list[Finding]:
    """What is wrong with a cycle: of data and noise, of the conversions of a cycle VAE, of two data sets."""
    found, lost = [], {side: numbers[f"lost/{side}"] for side in "ab" if f"lost/{side}" in numbers}
    if lost and min(lost.values()) < ONE_SIDED[0] and max(lost.values()) > ONE_SIDED[1]:
        side = max(lost, key=lambda s: lost[s])
        what = {"a": "items", "b": "noise"}
        told = f"{what[side]} that went round are {lost[side]:.2g} away from what they were, where 1 is knowing nothing"
        found.append(_one_sided(f"{told}; {what['b' if side == 'a' else 'a']} {min(lost.values()):.2g}", side))
    if numbers.get("changed", 1.0) < UNCHANGED:
        found.append(
            Finding(
                "copied input",
                f"conversions differ from the items in their own domain by {numbers['changed']:.2g}, where 1 is as much"
                f" as items differ, and {UNCHANGED:g} is to be expected",
                "raise terms.blind.weight",
            )
        )
    ways = {way: _way(numbers, way) for way in WAYS if f"{way}/cycle" in numbers}
    kept = {way: result["cycle"]["content_kept"] for way, result in ways.items()}
    uneven = bool(kept) and min(kept.values()) < LOST <= max(kept.values())
    for way, result in ways.items():
        told = cycle_findings(result, way)
        found += [f for f in told if not (uneven and f.what == "content lost")]
    if uneven:
        way = min(kept, key=lambda w: kept[w])
        said = f"{kept[way]:.0%} of the items of {way[0]} that come back are nearest to what they were"
        found.append(_one_sided(f"{said}, of the other domain {max(kept.values()):.0%}", way[0]))
    return found


def _one_sided(evidence: str, side: str) -> Finding:
    return Finding("one-sided cycle", evidence, f"raise terms.cycle_{side}.weight", where=f"cycle_{side}")


def _way(numbers: dict[str, float], way: str) -> dict[str, Any]:
    """The numbers of one direction in the form of an evaluation."""
    cycle = {k.removeprefix(f"{way}/"): v for k, v in numbers.items() if k.startswith(f"{way}/")}
    rows = {"samples": {"kid": cycle["kid"]}, "not translated": {"kid": cycle.get("untranslated", 0.0)}}
    return {"cycle": cycle, "rows": rows | ({CODED: {}} if cycle.get("codec") else {})}


def sound_findings(found: dict[str, Any]) -> list[Finding]:
    """What `metrics.sound.sound_scores` says of generated sounds; empty when all is well."""
    told = {"silent": "silence", "tonal": "a single pure tone"}
    return [
        Finding(
            "silent samples" if name == "silent" else "pure tones",
            f"{100 * found['samples'][name]:.0f} % of the samples are {what} (held-out recordings: "
            f"{100 * found['held-out'][name]:.0f} %)",
            "raise train.steps, or give data.source more recordings",
        )
        for name, what in told.items()
        if found["samples"][name] > found["held-out"][name] + BROKEN
    ]


def cycle_findings(result: dict[str, Any], where: str = "") -> list[Finding]:
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
                where=where,
            )
        )
    moved = rows["samples"]["kid"], rows["not translated"]["kid"]
    if cycle["copy"] > COPIES and moved[0] > 0.5 * moved[1]:
        found.append(
            Finding(
                "copied input",
                f"translations keep {100 * cycle['copy']:.0f} % of their items and come hardly closer to the target "
                f"(KID {moved[0]:.3g}, untranslated {moved[1]:.3g})",
                "lower terms.cycle_a.weight, terms.cycle_b.weight, terms.identity_a.weight and terms.identity_b.weight",
                where=where,
            )
        )
    if cycle["content_kept"] < LOST:
        found.append(
            Finding(
                "content lost",
                f"only {100 * cycle['content_kept']:.0f} % of the items that come back are nearest to what they were, "
                f"where {100 * LOST:.0f} % should be",
                "raise terms.cycle_a.weight and terms.cycle_b.weight",
                where=where,
            )
        )
    return found


def overfitting(bounds: list[tuple[int, float, float]], error: float, best: dict[str, Any]) -> list[Finding]:
    """The held-out bound has turned up while that of training items falls on. bounds: see `Watch`; error: the standard
    error of the held-out one; best: the score and step of the model that is kept."""
    if len(bounds) < 2:
        return []
    step, known, unseen = min(bounds, key=lambda b: b[2])
    _, known_now, unseen_now = bounds[-1]
    if unseen_now - unseen <= TURNED * error or known_now >= known:
        return []
    return [
        Finding(
            "overfitting",
            f"since step {step} the bound of held-out items rose from {unseen:.4g} to {unseen_now:.4g}, that of "
            f"training items went from {known:.4g} to {known_now:.4g}",
            "train with more items, set fewer train.steps, or a smaller model.decoder",
            done=f"the model of step {best['step']} is kept" if best else "",
        )
    ]


def data_findings(facts: dict[str, Any]) -> list[Finding]:
    """What is wrong with the items before anything is trained on them.

    facts: 'total' and 'duplicates' (copies beyond the first), 'constant' (items of a single value), 'flat' (see
    `data.check.flat`) and 'classes': {attribute: {value: items}}, as `data.check.facts_of` has them.
    """
    found, total, copies = [], max(1, facts["total"]), facts["duplicates"]
    if copies > REPEATED * total:
        found.append(
            Finding(
                "duplicates",
                f"{copies} of {facts['total']} items are copies of others ({copies / total:.0%})",
                "remove them from data.source, else they count as often as they occur",
            )
        )
    if facts.get("constant", 0) > FLAT * total:
        found.append(
            Finding(
                "empty items",
                f"{facts['constant']} of {facts['total']} items have a single value throughout",
                "remove them from data.source",
            )
        )
    flat = facts.get("flat")
    if flat and flat["channels"]:
        found.append(
            Finding(
                "constant channels",
                f"{len(flat['channels'])} of {flat['of']} channels have one value in all items, the first of them "
                f"{flat['channels'][0]}",
                "set data.channels, or leave them out of data.source",
            )
        )
    for name, counts in facts.get("classes", {}).items():
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        if counts[many] > UNEVEN * counts[few]:
            found.append(
                Finding(
                    "class imbalance",
                    f"of '{name}', {many} has {counts[many]} items and {few} has {counts[few]}",
                    "even them out in data.source, or leave data.label out",
                    where=name,
                )
            )
    return found
