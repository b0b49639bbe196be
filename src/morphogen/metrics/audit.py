"""Did the model learn its data by heart? Its samples' nearest training items, beside those of real held-out data.

Shapes: N samples · M held-out items · T training items · d plain features · K neighbours
Distances are those of plain features, which no training has touched: pixels, spectrograms, n-grams, coordinates.

A sample is a *near copy* when, measured by the distance of its K-th nearest training item, the nearest one is less
than half as far as it usually is of a held-out item: it sits on one training item, not among them.

Three questions, since each alone can be fooled:
  C_T            do samples lie nearer to the training items than held-out items do, cell by cell (Meehan, Chaudhuri &
                 Dasgupta 2020, eq. 1-3)? Blurred samples do, too, without copying anything.
  near copies    are there more of them than among held-out items (Fisher's exact test)? Short texts coincide by
                 chance, and a data set without duplicates hides that from its held-out items.
  exchange       of the items that are nearly copied, are more training items than their share among training and
                 held-out items together (hypergeometric test)? Copies by chance hit both alike. Asked only where
                 samples hit held-out items more often than these hit each other, or mostly hit training items that
                 stand there more than once: whatever is common is made again, and held-out items never are such.
The verdict is "copies" when the second says so, and the third does not explain it by chance. A copy that is moved by
a pixel is none by these distances.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from morphogen.metrics.distances import draw
from morphogen.metrics.images import shrink
from morphogen.metrics.text import NgramFeatures

MOST = 2000  # samples, and held-out items, that are looked at
NEIGHBOURS = 10  # K
NEAR = 0.5  # of the usual ratio of the nearest to the K-th nearest
PIXELS = 300  # of an item at most; larger pictures are reduced by area averaging
CHUNK = 8192  # training items at once
PER_CELL, CELLS = 100, 10  # held-out items a cell of C_T has on average, and the most cells
FEWEST = 20  # samples and held-out items that a cell of C_T needs
SIGNIFICANT = 0.01
COINCIDE = 1e-4  # of samples that hit held-out items oftener than these each other: what that test asks is weaker
SHOWN = 20  # of the closest pairs

Features = Callable[[np.ndarray], np.ndarray]


def plain_features(see: Features | None = None) -> Features:
    """What turns items into rows (N, d): pixels of images (N, C, H, W) and of what `see` makes of other items, n-grams
    of text uint8 (N, M), coordinates of points float (N, D)."""
    words = NgramFeatures()

    def features(items: np.ndarray) -> np.ndarray:
        items = items if see is None else see(items)
        if items.ndim == 2 and items.dtype == np.uint8:
            return words.features(items)
        if items.ndim == 2:
            return np.asarray(items, np.float32)
        channels, height, width = items.shape[1:]
        side = int(max(height, width) * min(1.0, (PIXELS / (channels * height * width)) ** 0.5))
        return shrink(torch.from_numpy(np.ascontiguousarray(items)), side).flatten(1).float().numpy() / 255

    return features


def audit(
    samples: np.ndarray, train: np.ndarray, heldout: np.ndarray, features: Features, seed: int = 0
) -> dict[str, Any]:
    """Whether samples (N, …) copy training items (T, …), beside held-out items (M, …) in their place; T ≥ 4, M ≥ 4.

    verdict                "copies" or "clean"; p: the p-value behind it
    ct, ct_p               C_T and its one-sided p: far below 0 means nearer to the training data than held-out data are
    near_copies            share of the samples; near_copies_heldout: of held-out items; smallest: a share of near
                           copies that N samples would show at p < 0.01
    authenticity           share of samples that are farther from their nearest training item than that is from its own
                           nearest (Alaa et al. 2022, section 3): 0 for copies; read it beside the held-out row
    rows                   the same of the samples and of one half of the held-out items, the other being held out, with
                           its own verdict, which must be "clean"
    closest                [{"sample", "train", "distance", "ratio"}] of the pairs with the smallest ratio
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(samples))[:MOST])
    ours, theirs = features(samples[chosen]), features(draw(heldout, MOST, rng))
    known = Neighbours(train, features, min(NEIGHBOURS, len(train) // 2))
    of_ours, of_theirs = known(ours), known(theirs)
    usual = float(np.median(of_theirs.ratio))
    cells = _cells(theirs, seed)
    found = _compare(of_ours, of_theirs, usual, cells(ours), cells(theirs))
    times = Counter(item.tobytes() for item in train)
    p, hits = _exchange(ours, of_ours, theirs, NEAR * usual, len(times))
    usual_hits = float((of_theirs.ratio < NEAR * usual).mean()) * len(ours) * len(theirs) / len(train)
    coincide = stats.poisson.sf(hits - 1, usual_hits) < COINCIDE  # more often than real items coincide
    hit = [times[train[k].tobytes()] for k in of_ours.nearest[of_ours.ratio < NEAR * usual]]
    coincide |= bool(hit) and float(np.mean(np.array(hit) > 1)) > 0.5  # what is common is made again
    verdict_p = max(found["near_copies_p"], p) if coincide else found["near_copies_p"]
    by_chance = bool(found["near_copies_p"] < SIGNIFICANT <= verdict_p)
    order = rng.permutation(len(theirs))
    half, other = order[: len(order) // 2], order[len(order) // 2 :]
    real = _compare(of_theirs[half], of_theirs[other], usual, cells(theirs[half]), cells(theirs[other]))
    closest = np.argsort(of_ours.ratio, kind="stable")[:SHOWN]
    return {
        "verdict": "copies" if verdict_p < SIGNIFICANT else "clean",
        "p": verdict_p,
        "ct": found["ct"],
        "ct_p": found["ct_p"],
        "near_copies": found["near_copies"],
        "near_copies_heldout": float((of_theirs.ratio < NEAR * usual).mean()),
        "smallest": smallest_share(len(ours), len(theirs), float((of_theirs.ratio < NEAR * usual).mean())),
        "authenticity": known.authenticity(of_ours),
        "heldout_items_hit": hits,
        "by_chance": by_chance,
        "samples": len(ours),
        "rows": {
            "samples": found | {"authenticity": known.authenticity(of_ours)},
            "real held-out data": real
            | {
                "verdict": "copies" if real["near_copies_p"] < SIGNIFICANT else "clean",
                "authenticity": known.authenticity(of_theirs[half]),
            },
        },
        "closest": [
            {
                "sample": int(chosen[k]),
                "train": int(of_ours.nearest[k]),
                "distance": float(of_ours.distance[k]),
                "ratio": float(of_ours.ratio[k]),
            }
            for k in closest
        ],
    }


class Near:
    """The neighbours of N items among the training items: which is nearest (N,), how far it is (N,), how far the K-th
    nearest is (N,), and the ratio of the two (N,)."""

    def __init__(self, nearest: np.ndarray, distance: np.ndarray, reach: np.ndarray):
        self.nearest, self.distance, self.reach = nearest, distance, reach
        self.ratio = distance / np.maximum(reach, 1e-12)

    def __getitem__(self, rows: np.ndarray) -> Near:
        return Near(self.nearest[rows], self.distance[rows], self.reach[rows])


class Neighbours:
    """Nearest training items, by matrix products over chunks of them: the features of all are never in memory."""

    def __init__(self, train: np.ndarray, features: Features, k: int):
        self.train, self.features, self.k = train, features, k
        self.centre = features(train[:CHUNK]).mean(axis=0)  # nearer to the origin the products lose fewer digits

    def __call__(self, rows: np.ndarray) -> Near:
        """The neighbours of rows (N, d)."""
        distances, indices = self._nearest(rows, self.k)
        return Near(indices[:, 0], distances[:, 0], distances[:, -1])

    def authenticity(self, near: Near) -> float:
        """The share of items that are farther from their nearest training item than that is from its own nearest."""
        hit, back = np.unique(near.nearest, return_inverse=True)
        own = self._nearest(self.features(self.train[hit]), 2)[0][:, 1]  # the nearest is itself
        return float((near.distance > own[back]).mean())

    def _nearest(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and indices (N, k) of the nearest training items, the nearest first."""
        x = torch.from_numpy(rows - self.centre)
        best = torch.full((len(x), k), torch.inf)
        which = torch.zeros(len(x), k, dtype=torch.long)
        for start, y in self._chunks():
            distance = torch.cdist(x, y)
            values, index = distance.topk(min(k, len(y)), largest=False)
            every, both = torch.cat([best, values], 1), torch.cat([which, index + start], 1)
            best, order = every.topk(k, largest=False)
            which = both.gather(1, order)
        return best.numpy(), which.numpy()

    def _chunks(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self.train), CHUNK):
            yield start, torch.from_numpy(self.features(self.train[start : start + CHUNK]) - self.centre)


def _compare(ours: Near, theirs: Near, usual: float, our_cells: np.ndarray, their_cells: np.ndarray) -> dict[str, Any]:
    """C_T and the shares of near copies of items, against held-out items."""
    ct, ct_p = data_copying(ours.distance, theirs.distance, our_cells, their_cells)
    near, near_heldout = (int((n.ratio < NEAR * usual).sum()) for n in (ours, theirs))
    return {
        "nearest": float(np.median(ours.distance)),
        "near_copies": near / max(1, len(ours.ratio)),
        "near_copies_p": _more(near, len(ours.ratio), near_heldout, len(theirs.ratio)),
        "ct": ct,
        "ct_p": ct_p,
    }


def data_copying(
    ours: np.ndarray, theirs: np.ndarray, our_cells: np.ndarray, their_cells: np.ndarray
) -> tuple[float, float]:
    """C_T and its one-sided p-value, from distances (N,), (M,) to the nearest training item and the cells they are in.

    In each cell z is that of the Mann-Whitney U of ours against theirs, ties counted as halves; C_T is their mean,
    weighted by the held-out items in the cell: Meehan et al. 2020 (2004.05675), section 3.2. (0, 0.5) where no cell
    has enough items.
    """
    scores, weights = [], []
    for cell in np.unique(their_cells):
        a, b = ours[our_cells == cell], theirs[their_cells == cell]
        if min(len(a), len(b)) < FEWEST and len(np.unique(their_cells)) > 1:
            continue
        if min(len(a), len(b)) == 0:
            continue
        n, m = len(a), len(b)
        ranks = stats.rankdata(np.concatenate([a, b]))
        ties = np.unique(ranks, return_counts=True)[1].astype(float)
        u = ranks[:n].sum() - n * (n + 1) / 2
        variance = n * m / 12 * ((n + m + 1) - (ties**3 - ties).sum() / max(1, (n + m) * (n + m - 1)))
        scores.append((u - n * m / 2) / max(variance, 1e-12) ** 0.5)
        weights.append(len(b))
    if not scores:
        return 0.0, 0.5
    w = np.asarray(weights) / np.sum(weights)
    ct = float(w @ np.asarray(scores))
    return ct, float(stats.norm.cdf(ct / np.sqrt((w**2).sum())))


def _exchange(ours: np.ndarray, near: Near, theirs: np.ndarray, below: float, train: int) -> tuple[float, int]:
    """The chance that, of all items that samples nearly copy, so many or more are training items, were the labels
    training and held-out given at random; and how many held-out items are nearly copied. train: distinct items."""
    to_heldout, which = torch.cdist(torch.from_numpy(ours), torch.from_numpy(theirs)).min(1)
    distance = to_heldout.numpy()
    first = near.distance <= distance  # the training item is the nearer one
    copied = len(np.unique(near.nearest[(near.ratio < below) & first]))
    hits = len(np.unique(which.numpy()[(distance < below * near.reach) & ~first]))
    total = train + len(np.unique(theirs, axis=0))
    return float(stats.hypergeom.sf(copied - 1, total, train, copied + hits)), hits


def smallest_share(samples: int, heldout: int, usual: float) -> float:
    """The smallest share of near copies among so many samples that is significantly above the `usual` one."""
    theirs = round(usual * heldout)
    significant = lambda ours: _more(ours, samples, theirs, heldout) < SIGNIFICANT
    return bisect.bisect_left(range(samples + 1), True, key=significant) / samples


def _more(ours: int, samples: int, theirs: int, heldout: int) -> float:
    """The p-value of Fisher's exact test for a larger share of ours among samples than of theirs among held-out."""
    return float(stats.hypergeom.sf(ours - 1, samples + heldout, ours + theirs, samples))


def _cells(heldout: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """What tells the cell of each row: that of the nearest of some centres of the held-out items."""
    count = int(np.clip(len(heldout) // PER_CELL, 1, CELLS))
    if count == 1:
        return lambda rows: np.zeros(len(rows), np.int64)
    from sklearn.cluster import KMeans

    clusters = KMeans(count, n_init="auto", random_state=seed).fit(heldout.astype(np.float32))
    return lambda rows: np.asarray(clusters.predict(np.ascontiguousarray(rows, dtype=np.float32)))
