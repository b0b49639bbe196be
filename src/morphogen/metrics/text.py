"""Numbers about generated text: quality (BLEU against held-out text), diversity (Self-BLEU, distinct n-grams) and what
was copied from the training text; and features of text for the distances that every modality has.

Shapes: N items, uint8 (N, M) as `data.text` packs them · d features · W words or characters, the units of an item
Quality alone means nothing: a model that says one good sentence for ever has a high BLEU. So it stands beside
Self-BLEU, and beside the curve of a maximum-likelihood model over the temperature (Caccia et al. 2020).
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from morphogen.data.text import BLANK, unpacked
from morphogen.metrics.distances import mean_and_error

Item = tuple[str, ...]
ORDERS = (2, 3, 4)  # of BLEU
LONG = 8  # words of an n-gram that nobody writes twice by chance
UNIT = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|\w+|[^\w\s]")  # scripts without spaces: a character is a word
FEW_WORDS = 3  # words of a usual item below which characters are the units


def units_of(texts: Sequence[str], single: bool) -> list[Item]:
    """Each text as its words and punctuation marks, or, `single`, as its characters."""
    return [tuple(text) if single else tuple(UNIT.findall(text)) for text in texts]


def single_units(texts: Sequence[str]) -> bool:
    """Whether these are names and the like, which have no words to count."""
    return float(np.mean([len(UNIT.findall(text)) for text in texts])) < FEW_WORDS


def grams(item: Item, n: int) -> Iterable[Item]:
    """The n-grams of an item in order."""
    return zip(*(item[k:] for k in range(n)), strict=False)


class References:
    """How often each n-gram stands in the reference that has it most often, and in the next one: with both, any one
    reference can be left out."""

    def __init__(self, items: Sequence[Item], order: int):
        self.lengths = Counter(len(item) for item in items)
        self.most: dict[Item, tuple[int, int, int]] = {}  # n-gram → count, whose, count in the next
        for number, item in enumerate(items):
            for n in range(1, order + 1):
                for gram, count in Counter(grams(item, n)).items():
                    top, whose, second = self.most.get(gram, (0, -1, 0))
                    if count > top:
                        self.most[gram] = count, number, top
                    elif count > second:
                        self.most[gram] = top, whose, count

    def most_often(self, gram: Item, without: int) -> int:
        top, whose, second = self.most.get(gram, (0, -1, 0))
        return second if whose == without else top

    def nearest_length(self, length: int, without: int | None) -> int:
        """Of the references' lengths the nearest, the shorter of two; `without`: one of this length is left out."""
        left = (k for k, count in self.lengths.items() if count > (k == without))
        return min(left, key=lambda k: (abs(k - length), k), default=length)


def bleu(item: Item, references: References, orders: Sequence[int] = ORDERS, number: int | None = None) -> list[float]:
    """Sentence BLEU-n of an item for each n: Papineni et al. 2002, eq. in section 2.3, uniform weights; an n-gram
    order without a hit counts as 0.1 hits (Chen & Cherry 2014, method 1, as in NLTK). number: of the item among the
    references, where it is one and must be left out."""
    if not item:
        return [0.0] * len(orders)
    logs, scores = [], {}
    for n in range(1, max(orders) + 1):
        counts = Counter(grams(item, n))
        hits = sum(min(c, references.most_often(g, -2 if number is None else number)) for g, c in counts.items())
        if n == 1 and not hits:
            return [0.0] * len(orders)
        logs.append(math.log((hits or 0.1) / max(1, counts.total())))
        scores[n] = math.exp(sum(logs) / n)
    nearest = references.nearest_length(len(item), None if number is None else len(item))
    brevity = 1.0 if len(item) > nearest else math.exp(1 - nearest / len(item))
    return [brevity * scores[n] for n in orders]


def quality(items: Sequence[Item], heldout: References) -> dict[str, float]:
    """Mean BLEU-n of items against all held-out ones, and of each against all the others, with standard errors over
    the items."""
    others = References(items, max(ORDERS))
    found = {}
    each = {
        "bleu": [bleu(item, heldout) for item in items],
        "self_bleu": [bleu(item, others, number=k) for k, item in enumerate(items)],
    }
    for name, rows in each.items():
        for n, values in zip(ORDERS, np.asarray(rows).T, strict=True):
            found[f"{name}{n}"], found[f"{name}{n}_error"] = mean_and_error(values)
    return found


def distinct(items: Sequence[Item], n: int) -> float:
    """Different n-grams as a share of all (Li et al. 2016)."""
    every = [gram for item in items for gram in grams(item, n)]
    return len(set(every)) / max(1, len(every))


class Copies:
    """What of items stands in the training text."""

    def __init__(self, train: Sequence[Item]):
        self.items = set(train)
        self.long = {gram for item in train for gram in grams(item, LONG)}

    def __call__(self, items: Sequence[Item]) -> dict[str, float]:
        """Shares: items that are training items whole, and n-grams of `LONG` units that are in one."""
        long = [gram for item in items for gram in grams(item, LONG)]
        return {
            "copied": float(np.mean([item in self.items for item in items])),
            f"copied_{LONG}grams": sum(gram in self.long for gram in long) / max(1, len(long)),
        }


class TextScores:
    """All numbers about text, with what they are measured against made ready once."""

    def __init__(self, train: np.ndarray, heldout: np.ndarray):
        texts = unpacked(heldout)
        self.single = single_units(texts)
        self.heldout = References(units_of(texts, self.single), max(ORDERS))
        self.copies = Copies(units_of(unpacked(train), self.single))

    def __call__(self, items: np.ndarray, copies: bool = True) -> dict[str, float]:
        """Of items uint8 (N, M); copies: without them for items that are the training text."""
        cut = units_of(unpacked(items), self.single)
        scores = quality(cut, self.heldout) | {f"distinct{n}": distinct(cut, n) for n in (1, 2)}
        return scores | (self.copies(cut) if copies else {})


class NgramFeatures:
    """128 random projections of an item's hashed n-grams: of bytes up to 4 and of words up to 2, square roots of their
    shares. It sees spelling and wording, knows no meaning; nothing in it is learned."""

    name = "ngrams"
    resize = "none"
    BUCKETS, WIDTH = 8192, 128

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.projection = rng.standard_normal((self.BUCKETS, self.WIDTH), dtype=np.float32)
        self.identity = f"hashed n-grams of bytes and words, {self.WIDTH} projections, seed {seed}"

    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, 128) from uint8 (N, M)."""
        parts = [self._features(items[k : k + 1000]) for k in range(0, len(items), 1000)]
        return np.concatenate(parts)

    def _features(self, items: np.ndarray) -> np.ndarray:
        counts = np.zeros((len(items), self.BUCKETS), np.float32)
        rows = np.arange(len(items))[:, None]
        key = np.zeros(items.shape, np.uint64)
        for n in range(1, min(4, items.shape[1]) + 1):  # a rolling hash of the last n bytes
            key = key[:, : items.shape[1] - n + 1] * np.uint64(1_000_003) + items[:, n - 1 :] + np.uint64(n)
            there = items[:, n - 1 :] != BLANK
            bucket = ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) % np.uint64(self.BUCKETS)
            np.add.at(counts, (np.broadcast_to(rows, bucket.shape)[there], bucket[there].astype(np.int64)), 1)
        for row, text in enumerate(unpacked(items)):
            words = text.split()
            for gram in [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]:
                counts[row, zlib.crc32(gram.encode()) % self.BUCKETS] += 1
        counts = np.sqrt(counts / np.maximum(1, counts.sum(1, keepdims=True)))
        return counts @ self.projection
