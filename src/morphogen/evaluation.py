"""Measuring what a model makes: its samples, and real data in their place, against the same held-out set.

Shapes:  items are uint8 (N, C, H, W) for images or float (N, D) for points · d features · K classes
The second row is the floor: what a perfect model would score with as many items. A number means nothing without it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphogen.errors import MorphogenError
from morphogen.families.base import CHUNK, apart, chunks, seed_of
from morphogen.families.vae import VAE
from morphogen.health import variety_findings
from morphogen.metrics.audit import SHOWN, Features, audit, plain_features
from morphogen.metrics.distances import (
    METRICS,
    draw,
    frechet_between,
    frechet_distance,
    frechet_error,
    gaussian,
    kernel_distance,
    mean_and_error,
    ratio_and_error,
    variety,
)
from morphogen.metrics.extractors import ClassifierFeatures, Extractor
from morphogen.nets.translators import fitted
from morphogen.objectives.categorical import BLANK

SAMPLES, FLOOR = "samples", "real held-out data"
FEW_ITEMS = 2000  # below, the bias of FID is no longer small
CONFIDENT = 0.9  # probability above which the classifier counts as sure
ENOUGH = 20  # samples of a class to be expected, so that their absence is no chance
MOST_CLASSES, FEW_OF_A_CLASS = 50, 20  # of a table by class, and items of one that are enough for its KID


def evaluate_items(
    samples: np.ndarray,
    train: np.ndarray,
    heldout: np.ndarray,
    extractor: Extractor,
    *,
    seed: int = 0,
    sample_count: int | None = None,
    split: str = "as given",
    beside: dict[str, np.ndarray] | None = None,
    see: Features | None = None,
    family: str = "",
) -> dict[str, Any]:
    """All `METRICS` of the samples against the held-out set, and of as many training items: the floor.

    Both rows use the same number of items: all samples, but no more than there are training items or `sample_count`;
    larger sets are reduced to a seeded draw. `beside`: further rows, as many items as samples. `split` says in words
    how held-out and training data were parted. `see` makes pictures of items that are none. Also: by class where the
    extractor knows classes; mode collapse, with what can be done about it in the `family`; the audit of
    `metrics.audit`; and the samples that are farthest from any data. The result is plain JSON. `MorphogenError` when
    the sets' items differ in shape or a set is too small (6 items).
    """
    _check_shapes({"samples": samples, "training": train, "held-out": heldout})
    count = min(len(samples), len(train), sample_count or len(samples))
    rng = np.random.default_rng(seed)
    rows_used = draw(np.arange(len(samples)), count, rng)
    ours, real, reference = (Seen(items, extractor) for items in (samples[rows_used], draw(train, count, rng), heldout))
    rows = {SAMPLES: _row(ours, reference, extractor, seed), FLOOR: _row(real, reference, extractor, seed)}
    for name, items in (beside or {}).items():
        seen = Seen(draw(items, count, np.random.default_rng(seed)), extractor)
        rows[name] = _row(seen, reference, extractor, seed)
    result: dict[str, Any] = {
        "extractor": extractor.identity,
        "resize": extractor.resize,
        "split": split,
        "counts": {"samples": count, "train": len(train), "heldout": len(heldout)},
        "rows": rows,
        "health": [],
        "looked_for": ["mode collapse"],
        "notes": _notes(count, len(samples), len(train), reference.features.shape, extractor),
        "audit": audit(ours.items, train, heldout, plain_features(see), seed),
        "failures": farthest(ours.features, np.concatenate([real.features, reference.features])),
    }
    for found in (*result["audit"]["closest"], *result["failures"]):
        found["sample"] = int(rows_used[found["sample"]])
    result["audit"]["gap"] = _gap(ours.features, real.features, reference.features, seed)
    poor = variety(ours.features, reference.features)
    if ours.classes is not None:
        result["by_class"] = by_class(ours, real, reference, extractor, seed)
        poor |= relative_shares(rows[SAMPLES]["class_shares"], rows[FLOOR]["class_shares"], count)
    result["health"] += [f.json() for f in variety_findings(poor, family)]
    return result


class HeldoutScore:
    """Scores of samples against a held-out set whose features are computed once: for use while training."""

    def __init__(self, extractor: Extractor, heldout: np.ndarray, seed: int = 0, real: np.ndarray | None = None):
        """real: training items whose FID is the `floor`, as many as samples will come."""
        self.extractor, self.seed = extractor, seed
        self.reference = extractor.features(heldout)
        self.gaussian = gaussian(self.reference)
        self.floor = None if real is None else frechet_between(gaussian(extractor.features(real)), self.gaussian)
        self.shares = _class_shares(extractor, self.reference)

    def __call__(self, samples: np.ndarray) -> dict[str, float]:
        """{"fid", "kid", …} of samples (N, …), N ≥ 4: also `variety` and, where the extractor knows classes,
        'share/CLASS', the share of samples in it relative to that of held-out items, for the classes of which `ENOUGH`
        samples are to be expected. KID uses ten subsets: enough to follow a training, and cheap."""
        features = self.extractor.features(samples)
        kid, _ = kernel_distance(features, self.reference, subsets=10, seed=self.seed)
        scores = {"fid": frechet_between(gaussian(features), self.gaussian), "kid": kid}
        ours = _class_shares(self.extractor, features)
        return scores | variety(features, self.reference) | relative_shares(ours, self.shares, len(samples))


def _class_shares(extractor: Extractor, features: np.ndarray) -> dict[str, float]:
    """{class: share} of items with these features (N, d); {} where the extractor knows no classes."""
    if not isinstance(extractor, ClassifierFeatures):
        return {}
    counts = np.bincount(extractor.classes_of(features), minlength=len(extractor.classes))
    return {name: float(count / len(features)) for name, count in zip(extractor.classes, counts, strict=True)}


def relative_shares(ours: dict[str, float], real: dict[str, float], count: int) -> dict[str, float]:
    """'share/CLASS': the share of `count` samples that are seen in a class over that of real items, for the classes of
    which `ENOUGH` samples are to be expected."""
    expected = {name: share for name, share in real.items() if share * count >= ENOUGH}
    return {f"share/{name}": ours.get(name, 0.0) / share for name, share in expected.items()}


def likelihood_of(
    family: VAE, x: Tensor, y: Tensor | None, samples: int, seed: int, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """What a VAE's latent variables are worth on items x (N, *space): the parts of the bound, the importance-weighted
    estimate of −log p(x) with its standard error over the items, bits per dimension where the likelihood is one of
    discrete data, and what tells of collapse. In nats unless it says bits."""
    measured = family.measure(x, y, seed)
    result: dict[str, Any] = {k: v for k, v in measured.items() if not k.startswith("kl/")}
    result["kl_by_unit"] = [v for k, v in measured.items() if k.startswith("kl/")] or [measured["kl"]]
    result |= {"items": len(x), "latent_dim": family.latent_dim}
    if family.options.posterior == "point":
        return result
    if family.options.likelihood == "bernoulli" and not family.options.binarize:
        result["note"] = (
            "Bernoulli on grey levels is a loss and no probability, so there is no −log p(x): set model.binarize."
        )
        return result
    found, begin = [], time.perf_counter()
    for nll in family.nll(x, y, samples, seed):
        found.append(nll.cpu())
        done = sum(map(len, found))
        if progress is not None and (done // CHUNK) % 10 == 0:
            left = (time.perf_counter() - begin) * (len(x) / done - 1)
            progress(f"likelihood of {done} of {len(x)} items, {left:.0f} s left")
    each = torch.cat(found).double()
    result |= {"iw_nll": float(each.mean()), "iw_nll_error": float(each.std() / len(each) ** 0.5), "samples": samples}
    units = getattr(family.modality, "units", None)
    if units is not None:
        share = result["iw_nll_error"] / result["iw_nll"]
        result |= per_unit(result["iw_nll"], share, len(x), units(x if x.dim() == 2 else x.argmax(1)))
    elif family.density.discrete:
        bits = 1 / (math.log(2) * x[0].numel())
        result |= {"bits_per_dim": result["iw_nll"] * bits, "bits_per_dim_error": result["iw_nll_error"] * bits}
    else:
        result["note"] = "This likelihood is a density of continuous values: it has no bits per dimension."
    return result


def per_unit(nll: float, share: float, items: int, units: dict[str, int]) -> dict[str, float]:
    """−log p(x) in nats and perplexity by unit of text, with errors; nll: the mean over `items`, share: its error as a
    part of it, units: how many they have."""
    found = {}
    for name, count in units.items():
        each = nll * items / count
        found |= {f"nll_per_{name}": each, f"nll_per_{name}_error": share * each}
        found |= {f"perplexity_{name}": math.exp(each), f"perplexity_{name}_error": share * each * math.exp(each)}
    return found


GREY_LEVELS = 3  # of noise on a translation: what is hidden in less than that is lost (Chu et al. 2017)


@torch.no_grad()
def cycle_scores(family: Any, side: str, x: Tensor, other: Any, seed: int) -> tuple[dict[str, float], Tensor]:
    """How honest the cycle is on items x (N, *space) of domain `side`, and the items that came back (N, *space).

    cycle            mean |back − x|, of values between -1 and 1
    cycle_quantised  the same when the translation is rounded to 8 bits on the way; of sound, made audible and heard
                     again
    cycle_noisy      the same with noise of 3 grey levels on it: much more than `cycle` means that the translation
                     hides what the eye does not see
    copy             1 − mean |translation − x| / the same with another item's x: 1 is a copy, 0 has nothing of it
    content_kept     share of items to which, of all N, the item that came back is nearest
    diversity        mean |one translation − another of the same item| / that of translations of other items; 0 where
                     there is one translation only
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "honesty", side))
    amount = 2 * GREY_LEVELS / 255
    spoils = {
        "cycle": lambda there: there,
        "cycle_quantised": lambda there: other.encode(torch.from_numpy(other.stored(other.decode(there)))).to(there),
        "cycle_noisy": lambda there: there + amount * torch.randn(there.shape, generator=generator).to(there.device),
    }
    scores, ends = {}, {}
    for name, spoil in spoils.items():
        ways = [family.there_and_back(part.to(family.device), side, spoil) for part in x.split(CHUNK)]
        there, back = (torch.cat(parts).cpu() for parts in zip(*ways, strict=True))
        ends[name] = there, back
        scores[name], scores[f"{name}_error"] = mean_and_error((back - x).abs().flatten(1).mean(1).numpy())
    there, back = ends["cycle"]
    same = fitted(x.mean(1, keepdim=True), (there.shape[2], there.shape[3]))
    grey, another_one = there.mean(1, keepdim=True), _partners(len(x), seed)
    moved = [(grey - item).abs().flatten(1).mean(1).numpy() for item in (same, same[another_one])]
    changed, scores["copy_error"] = ratio_and_error(*moved)
    scores["copy"] = 1 - changed
    nearest = torch.cdist(back.flatten(1), x.flatten(1)).argmin(1)
    kept = (nearest == torch.arange(len(x))).numpy()
    scores["content_kept"], scores["content_kept_error"] = mean_and_error(kept)
    to = "b" if side == "a" else "a"
    one, another = (_in_style(family, x, to, k) for k in (seed, seed + 1))
    apart = [(one - item).abs().flatten(1).mean(1).numpy() for item in (another, one[another_one])]
    scores["diversity"], scores["diversity_error"] = ratio_and_error(*apart)
    return scores, back


@torch.no_grad()
def text_cycle(family: Any, side: str, x: Tensor, other: Any) -> tuple[dict[str, float], Tensor]:
    """`cycle_scores` for relaxed text x (N, V, L) of domain `side`, and what came back (N, V, L).

    cycle            share of the symbols that do not come back
    cycle_quantised  the same when the translation is written down as text on the way; cycle_noisy is that, too: text
                     has nothing fainter than a symbol
    copy             share of the symbols that the translation leaves as they are
    content_kept     1 − cycle_quantised
    """
    written = lambda there: other.encode(torch.from_numpy(other.stored(other.decode(there)))).to(there.device)
    ends = {}
    for name, spoil in (("cycle", lambda there: there), ("cycle_quantised", written)):
        ways = [family.there_and_back(part.to(family.device), side, spoil) for part in x.split(CHUNK)]
        ends[name] = tuple(torch.cat(parts).cpu() for parts in zip(*ways, strict=True))
    said = x.argmax(1) != BLANK
    scores = {}
    for name, (_, back) in ends.items():
        scores[name], scores[f"{name}_error"] = _apart(back, x, said)
    texts = family.modality if side == "a" else family.other
    written_out = texts.encode(torch.from_numpy(texts.stored(texts.stretched(other.decode(ends["cycle"][0])))))
    changed, error = _apart(written_out, x, said)
    lost, lost_error = scores["cycle_quantised"], scores["cycle_quantised_error"]
    scores |= {"cycle_noisy": lost, "cycle_noisy_error": lost_error, "copy": 1 - changed, "copy_error": error}
    return scores | {"content_kept": 1 - lost, "content_kept_error": lost_error}, ends["cycle"][1]


def _apart(one: Tensor, other: Tensor, where: Tensor) -> tuple[float, float]:
    """The share of different symbols of (N, V, L), of those places `where` (N, L), and its standard error."""
    different = (one.argmax(1) != other.argmax(1)) & where
    return ratio_and_error(different.sum(1).numpy(), where.sum(1).numpy())


def _partners(count: int, seed: int) -> Tensor:
    """For each of `count` items another one, at random: neighbours in a folder are of one class."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, "partners")))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


@torch.no_grad()
def conversion_scores(
    family: Any, x: Tensor, y: Tensor, classes: list[str], extractor: Extractor, seed: int
) -> dict[str, float]:
    """What a model makes of held-out items x (N, *space) of domains y (N,) in every other domain.

    domain_right    share of conversions that the classifier sees in the wanted domain, where the extractor is one
    back            mean |x₁ − x| of items that were converted and brought back, of values between -1 and 1; of text
                    the share of other symbols
    domain_in_code  share of codes out of which a probe tells the domain, on the half it was not trained on: the better
                    one of a linear probe and of one with two hidden layers, which finds what is folded up
    chance          the same for a probe that always names the most frequent domain
    code_moved      mean squared distance of a code and that of its conversion, in units of the codes' variance
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    to = family.others(y, seed)
    codes, there, back, moved = [], [], [], []
    for start, part, own in chunks(x, y):
        converted = family.convert(part, to[start : start + CHUNK])
        z, again = family.encode(part, None, seed), family.encode(converted, None, seed)
        codes.append(z)
        moved.append(again - z)
        there.append(converted)
        back.append(family.generate(again, own))
    code, labels = torch.cat(codes).cpu().numpy(), y.cpu().numpy()
    code /= code.std(0) + 1e-8
    away, away_error = mean_and_error(apart(torch.cat(back), x).cpu().numpy())
    distance = (torch.cat(moved).square() / torch.cat(codes).var(0).clamp_min(1e-8)).mean(1)
    far, far_error = mean_and_error(distance.cpu().numpy())
    found = {
        "back": away,
        "back_error": away_error,
        "code_moved": far,
        "code_moved_error": far_error,
    }
    if len(np.unique(labels[::2])) > 1:
        kinds = LogisticRegression(max_iter=500), MLPClassifier((256, 256), max_iter=50, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 50 passes are patient enough
            told = [probe.fit(code[::2], labels[::2]).predict(code[1::2]) == labels[1::2] for probe in kinds]
        found["domain_in_code"], found["domain_in_code_error"] = max(map(mean_and_error, told))
        found["chance"] = float(np.bincount(labels[1::2]).max() / len(labels[1::2]))
    if isinstance(extractor, ClassifierFeatures) and set(extractor.classes) == set(classes):
        seen = extractor.probabilities(family.modality.decode(torch.cat(there))).argmax(1)
        wanted = np.asarray(classes)[to.cpu().numpy()]
        right = np.asarray(extractor.classes)[seen] == wanted
        found["domain_right"], found["domain_right_error"] = mean_and_error(right)
    return found


def _in_style(family: Any, x: Tensor, to: str, seed: int) -> Tensor:
    """Translations of x (N, *space) in random styles."""
    styles = family.noise(len(x), seed_of(seed, "style"))
    pairs = zip(x.split(CHUNK), styles.split(CHUNK), strict=True)
    return torch.cat([family.translate(part.to(family.device), to, z.to(family.device)).cpu() for part, z in pairs])


class TranslationScore:
    """`HeldoutScore` for two domains: translations are compared with the held-out items of the domain they went to."""

    def __init__(self, a: HeldoutScore, b: HeldoutScore, beaten: dict[str, np.ndarray] | None = None):
        """beaten: items of each domain in the form of the other one, untranslated: their KID is to be beaten."""
        self.of = {"a": a, "b": b}
        self.floor = None if a.floor is None or b.floor is None else (a.floor + b.floor) / 2
        there = {"a": b, "b": a}
        self.untranslated = {side: there[side](items)["kid"] for side, items in (beaten or {}).items()}

    def __call__(self, items: np.ndarray, to: str) -> dict[str, float]:
        """{"fid", "kid"} of items (N, …) in domain `to`."""
        return self.of[to](items)


class Seen:
    """Items (N, …) with their features (N, d) and, where the extractor is a classifier, probabilities (N, K) and
    predicted class (N,)."""

    def __init__(self, items: np.ndarray, extractor: Extractor):
        self.items, self.features = items, extractor.features(items)
        known = isinstance(extractor, ClassifierFeatures)
        self.probabilities = extractor.probabilities(items) if known else None
        self.classes = None if self.probabilities is None else self.probabilities.argmax(axis=1)


def _row(seen: Seen, reference: Seen, extractor: Extractor, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for metric in METRICS.values():
        row |= metric(seen.features, reference.features, seed)
    if seen.probabilities is not None and isinstance(extractor, ClassifierFeatures):
        row |= class_balance(seen.probabilities, extractor.classes)
    return row


def by_class(ours: Seen, real: Seen, reference: Seen, extractor: Any, seed: int) -> dict[str, dict[str, float]]:
    """{class: scores} of the items that the classifier sees in it, of the `MOST_CLASSES` most frequent among real ones.

    share, share_real  of the samples, and of as many training items, that are seen in the class
    kid, kid_floor     of those samples, and of those training items, against the held-out items that are seen in it;
                       left out where one of them are fewer than `FEW_OF_A_CLASS`
    """
    found: dict[str, dict[str, float]] = {}
    counts = np.bincount(np.asarray(real.classes), minlength=len(extractor.classes))
    frequent = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    for k in np.sort(frequent):
        row: dict[str, float] = {}
        row["share"], row["share_error"] = mean_and_error(ours.classes == k)
        row["share_real"] = float((real.classes == k).mean())
        target = reference.features[reference.classes == k]
        for name, seen in (("kid", ours), ("kid_floor", real)):
            features = seen.features[seen.classes == k]
            if min(len(features), len(target)) >= FEW_OF_A_CLASS:
                row[name], row[f"{name}_error"] = kernel_distance(features, target, subsets=10, seed=seed)
        found[extractor.classes[k]] = row
    return found


def _gap(ours: np.ndarray, real: np.ndarray, reference: np.ndarray, seed: int) -> dict[str, float]:
    """FID of samples against training and against held-out items, as many of each: nearer to the training data than to
    others of their kind by more than the error is overfitting."""
    count = min(len(real), len(reference))
    found = {}
    for name, features in (("train", real), ("heldout", reference)):
        some = draw(features, count, np.random.default_rng(seed))
        found[f"fid_{name}"] = frechet_distance(ours, some)
        found[f"fid_{name}_error"] = frechet_error(ours, some, repeats=3, seed=seed)
    return found


def farthest(features: np.ndarray, data: np.ndarray) -> list[dict[str, float]]:
    """The samples, of features (N, d), that are farthest from any of the data (M, d), the farthest first:
    [{"sample": row, "distance": …}]."""
    x, y = (torch.from_numpy(np.asarray(f, np.float32)) for f in (features, data))
    nearest = torch.cat([torch.cdist(part, y).amin(1) for part in x.split(1000)])
    order = nearest.argsort(descending=True, stable=True)[:SHOWN]
    return [{"sample": int(k), "distance": float(nearest[k])} for k in order]


def class_balance(probabilities: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """What a classifier sees in items, from probabilities (N, K).

    class_entropy  entropy in nats of the shares of the predicted classes; at most log K, 0 when all are one class; its
                   error is that of the delta method, √((Σ p log² p − H²) / N)
    confident      share of items whose predicted class has a probability of at least 0.9
    class_shares   {class: share}
    """
    shares = np.bincount(probabilities.argmax(axis=1), minlength=len(classes)) / len(probabilities)
    present = shares[shares > 0]
    entropy = float(np.abs((present * np.log(present)).sum()))
    spread = float((present * np.log(present) ** 2).sum()) - entropy**2
    confident, confident_error = mean_and_error(probabilities.max(axis=1) >= CONFIDENT)
    return {
        "class_entropy": entropy,
        "class_entropy_error": (max(0.0, spread) / len(probabilities)) ** 0.5,
        "confident": confident,
        "confident_error": confident_error,
        "class_shares": {name: float(share) for name, share in zip(classes, shares, strict=True)},
    }


def _notes(count: int, given: int, train: int, reference: tuple[int, ...], extractor: Extractor) -> list[str]:
    """What a reader must know before believing the numbers."""
    heldout, width = reference
    notes = []
    if count < given:
        reason = "as there are training items for the floor" if count == train else "as asked"
        notes.append(f"Only {count} of the {given} samples were used, drawn by seed: as many {reason}.")
    if min(count, heldout) < FEW_ITEMS:
        notes.append(
            f"FID is biased upwards with fewer than {FEW_ITEMS} items (here {count} against {heldout}): "
            "compare it with the floor's row only; KID has no such bias."
        )
    if heldout < 5 * width:
        notes.append(f"{heldout} held-out items are few for {width} features: their covariance, and so FID, is noisy.")
    if extractor.name == "random":
        notes.append("Random features see texture and layout, not meaning: a good value is necessary, not sufficient.")
    if isinstance(extractor, ClassifierFeatures) and extractor.accuracy < 0.8:
        notes.append("The classifier is often wrong on held-out data: do not lean on its classes and features.")
    return notes


def _check_shapes(sets: dict[str, np.ndarray]) -> None:
    shapes = {name: items.shape[1:] for name, items in sets.items()}
    if len(set(shapes.values())) > 1:
        described = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise MorphogenError(f"The items differ in shape ({described}); bring all to one size and channel count first.")
