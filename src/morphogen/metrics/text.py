"""Numbers about generated text: quality (BLEU against held-out text), diversity (Self-BLEU, distinct n-grams), both at
once (reverse perplexity), and what was copied from the training text; and features of text for the distances that every
modality has.

Shapes: N items, uint8 (N, M) as `data.text` packs them · d features · W words or characters, the units of an item
Quality alone means nothing: a model that says one good sentence for ever has a high BLEU. So it stands beside
Self-BLEU, and beside the curve of a maximum-likelihood model over the temperature (Caccia et al. 2020).
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from morphogen.data.text import BLANK, unpacked
from morphogen.metrics.distances import mean_and_error, ratio_and_error

Item = tuple[str, ...]
Texts = Sequence[str] | np.ndarray
ORDERS = (2, 3, 4)  # of BLEU
LONG = 8  # words of an n-gram that nobody writes twice by chance
DEEP = {False: 3, True: 5}  # n of the n-grams of which reverse perplexity is made: of words, of characters
FOLDS = 5  # of a jackknife
BEGIN, END, UNKNOWN = "", "</s>", "<unk>"  # no unit of a text can be one of these
UNIT = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|\w+|[^\w\s]")  # scripts without spaces: a character is a word
FEW_WORDS = 3  # words of a usual item below which characters are the units


def units_of(texts: Texts, single: bool) -> list[Item]:
    """Each text as its words and punctuation marks, or, `single`, as its characters."""
    return [tuple(text) if single else tuple(UNIT.findall(text)) for text in texts]


def single_units(texts: Texts) -> bool:
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


def jackknife(score: Callable[[list[Item]], float], items: list[Item]) -> float:
    """The standard error of a score of all items together: leave out a fifth, each in turn (Efron & Stein 1981)."""
    without = [score([item for k, item in enumerate(items) if k % FOLDS != fold]) for fold in range(FOLDS)]
    return ((FOLDS - 1) * float(np.var(without))) ** 0.5


class Copies:
    """What of items stands in the training text."""

    def __init__(self, train: Sequence[Item]):
        self.items = set(train)
        self.long = {gram for item in train for gram in grams(item, LONG)}

    def __call__(self, items: Sequence[Item]) -> dict[str, float]:
        """Shares, with errors: items that are training items whole, and n-grams of `LONG` units that are in one."""
        long = [list(grams(item, LONG)) for item in items]
        there = np.array([sum(gram in self.long for gram in each) for each in long])
        whole, whole_error = mean_and_error(np.array([item in self.items for item in items]))
        share, error = ratio_and_error(there, np.array([len(each) for each in long]))
        name = f"copied_{LONG}grams"
        return {"copied": whole, "copied_error": whole_error, name: share, f"{name}_error": error}


class NgramModel:
    """A language model of counted n-grams, p(u|h) = (c(h u) + t(h) p(u|h')) / (c(h) + t(h)): h the units before u, h'
    those but the first, t(h) how many different units came after h (Witten & Bell 1991, method C). Below single units,
    all `symbols` units are as likely. It learns in seconds and the same every time, which a network does not."""

    def __init__(self, items: Iterable[Item], order: int, symbols: int):
        self.order, self.symbols = order, symbols
        after: dict[Item, Counter[str]] = defaultdict(Counter)
        for item in items:
            for history, unit in self._steps(item):
                for n in range(order):
                    after[history[order - 1 - n :]][unit] += 1
        self.after = {history: (counts, counts.total(), len(counts)) for history, counts in after.items()}

    def _steps(self, item: Item) -> Iterable[tuple[Item, str]]:
        """(the `order` − 1 units before it, unit), up to the end."""
        before = self.order - 1
        marked = (BEGIN,) * before + item + (END,)
        return ((marked[k - before : k], marked[k]) for k in range(before, len(marked)))

    def probability(self, unit: str, history: Item) -> float:
        p = 1 / self.symbols
        for n in range(min(self.order, len(history) + 1)):
            found = self.after.get(history[len(history) - n :])
            if found is None:
                break  # nor is any longer history known
            counts, total, kinds = found
            p = (counts[unit] + kinds * p) / (total + kinds)
        return p

    def perplexity(self, items: Iterable[Item]) -> float:
        """exp of the mean −log p of a unit, ends included."""
        logs = [math.log(self.probability(unit, history)) for item in items for history, unit in self._steps(item)]
        return math.exp(-sum(logs) / max(1, len(logs)))


class TextScores:
    """All numbers about text, with what they are measured against made ready once."""

    def __init__(self, train: np.ndarray, heldout: np.ndarray):
        texts = unpacked(heldout)
        self.single = single_units(texts)
        self.real = units_of(texts, self.single)
        self.heldout = References(self.real, max(ORDERS))
        trained = units_of(unpacked(train), self.single)
        self.copies, self.known = Copies(trained), {unit for item in trained for unit in item}

    def __call__(self, items: np.ndarray) -> dict[str, float]:
        """Of items uint8 (N, M)."""
        cut = units_of(unpacked(items), self.single)
        return self._of(cut) | self.copies(cut)

    def floor(self, items: np.ndarray) -> dict[str, float]:
        """What real text gets: of training items, but for copies, which of training text would be a matter of course:
        these are those of the held-out items."""
        return self._of(units_of(unpacked(items), self.single)) | self.copies(self.real)

    def _of(self, cut: list[Item]) -> dict[str, float]:
        scores = quality(cut, self.heldout)
        wholes: dict[str, Callable[[list[Item]], float]] = {
            "distinct1": lambda items: distinct(items, 1), "distinct2": lambda items: distinct(items, 2),
            "reverse_perplexity": self.reverse_perplexity,
        }  # fmt: skip
        for name, score in wholes.items():
            scores |= {name: score(cut), f"{name}_error": jackknife(score, cut)}
        return scores

    def reverse_perplexity(self, items: Sequence[Item]) -> float:
        """Of the held-out text under a language model that has learned from items (Zhao et al. 2018, section 5.2, with
        n-grams in place of a network): low only where samples are both good and diverse. Units that the training text
        lacks are one and the same unknown unit."""
        model = NgramModel(self._closed(items), DEEP[self.single], len(self.known) + 2)
        return model.perplexity(self._closed(self.real))

    def _closed(self, items: Sequence[Item]) -> Iterable[Item]:
        return (tuple(unit if unit in self.known else UNKNOWN for unit in item) for item in items)


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


def text_classifier(texts: Texts, labels: np.ndarray) -> Callable[[Texts], np.ndarray]:
    """Texts → their labels (N,) as a logistic regression on hashed n-grams tells them, of characters up to 3 and words
    up to 2; counts and not shares, so that it sees how long a text is, too."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    plain: dict[str, Any] = {"n_features": 2**14, "norm": None, "alternate_sign": False, "lowercase": False}
    grams = make_union(
        HashingVectorizer(analyzer="char", ngram_range=(1, 3), **plain),
        HashingVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), **plain),
    )
    model = make_pipeline(grams, LogisticRegression(C=0.1, solver="liblinear", random_state=0))
    return model.fit(texts, labels).predict


def common_words(texts: Texts, most: int) -> set[str]:
    """The most frequent units of texts."""
    counts = Counter(unit for item in units_of(texts, False) for unit in item)
    return {unit for unit, _ in counts.most_common(most)}


def words_kept(before: Texts, after: Texts, common: set[str]) -> float:
    """The mean share of the words of each text before, but for `common` ones, that stand in the text after."""
    pairs = zip(units_of(before, False), units_of(after, False), strict=True)
    shares = [(len((kept := set(a) - common) & set(b)), len(kept)) for a, b in pairs]
    return float(np.mean([same / count for same, count in shares if count] or [0.0]))
