"""Which item goes where, and when: the seeded split and step-indexed batches, pure functions of a seed.

N items · B batch size · an epoch is N consecutive positions of the endless sample stream
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from morphogen.errors import MorphogenError

# Keeps the sampler's random stream apart from every other use of the same seed.
_SAMPLER, _SPLIT = 1, 2


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The items of batch `step`: int64 (B,) in [0, n).

    A function of its arguments only, so resuming needs no state and any number of workers agrees. Batch `step` covers
    the positions step·B … step·B + B - 1 of the stream; it may cross the end of an epoch, and B may exceed n.
    Raises ValueError unless n ≥ 1, batch_size ≥ 1, seed ≥ 0 and step ≥ 0.
    """
    if n < 1 or batch_size < 1 or seed < 0 or step < 0:
        raise ValueError(f"batch_indices needs n, batch_size ≥ 1 and seed, step ≥ 0: {(n, batch_size, seed, step)}")
    position, stop = step * batch_size, (step + 1) * batch_size
    pieces = []
    while position < stop:
        epoch, offset = divmod(position, n)
        pieces.append(_permutation(n, seed, epoch)[offset : offset + stop - position])
        position += len(pieces[-1])
    return np.concatenate(pieces)


@lru_cache(maxsize=4)  # two domains, each possibly crossing an epoch's end
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch, _SAMPLER)).permutation(n)
    order.setflags(write=False)  # it is shared between calls
    return order


def split_indices(
    keys: Sequence[object], fraction: float = 0.1, seed: int = 0, most: int = 10_000
) -> tuple[np.ndarray, np.ndarray]:
    """Split items into (train, held-out), two sorted int64 arrays; items with equal keys stay on one side.

    `keys` holds one hashable per item (a hash of its content). The held-out part has round(fraction·N) items, but at
    least 8, at most `most` and at most N/2; fewer only where large groups of equal items do not fit.
    Raises MorphogenError when all items are equal.
    """
    count = min(max(round(fraction * len(keys)), 8), most, len(keys) // 2)
    groups: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    if len(groups) < 2:
        raise MorphogenError(
            f"all {len(keys)} items are identical, so none can be held out: add items that differ from each other"
        )
    members = list(groups.values())
    heldout: list[int] = []
    for g in np.random.default_rng((seed, _SPLIT)).permutation(len(members)):
        if len(heldout) + len(members[g]) <= count:
            heldout += members[g]
    heldout = sorted(heldout or min(members, key=len))
    return np.setdiff1d(np.arange(len(keys)), heldout), np.array(heldout, dtype=np.int64)
