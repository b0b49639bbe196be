"""The sampler is a pure function of (n, batch, seed, step); the split never separates identical items."""

import numpy as np
import pytest

from morphogen.data.sampler import batch_indices, split_indices
from morphogen.errors import MorphogenError


@pytest.mark.parametrize(("n", "batch"), [(10, 5), (10, 3), (7, 16), (1, 4), (100, 100)])
def test_every_epoch_visits_each_item_exactly_once(n, batch):
    epochs = 4
    steps = -(-n * epochs // batch)
    stream = np.concatenate([batch_indices(n, batch, seed=3, step=s) for s in range(steps)])[: n * epochs]
    for epoch in stream.reshape(epochs, n):
        assert sorted(epoch) == list(range(n))


def test_a_batch_does_not_depend_on_what_was_asked_before():
    forward = [batch_indices(50, 8, 1, s).tolist() for s in range(40)]
    backward = [batch_indices(50, 8, 1, s).tolist() for s in reversed(range(40))]
    assert forward == backward[::-1]


def test_epochs_and_seeds_differ():
    epochs = [batch_indices(1000, 1000, 0, s).tolist() for s in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert batch_indices(1000, 1000, 1, 0).tolist() != epochs[0]


def test_the_batch_size_does_not_change_the_stream():
    fives = np.concatenate([batch_indices(13, 5, 9, s) for s in range(6)])
    thirties = batch_indices(13, 30, 9, 0)
    assert np.array_equal(fives, thirties) and thirties.dtype == np.int64 and thirties.shape == (30,)


def test_changing_a_batch_leaves_the_next_call_alone():
    first = batch_indices(20, 4, 0, 0)
    kept = first.copy()
    first[:] = -1
    assert np.array_equal(batch_indices(20, 4, 0, 0), kept)


@pytest.mark.parametrize("bad", [(0, 1, 0, 0), (5, 0, 0, 0), (5, 1, -1, 0), (5, 1, 0, -1)])
def test_impossible_requests_raise(bad):
    with pytest.raises(ValueError, match="batch_indices needs"):
        batch_indices(*bad)


@pytest.mark.parametrize(("n", "expected"), [(1000, 100), (40, 8), (10, 5), (200_000, 10_000)])
def test_held_out_size(n, expected):
    train, heldout = split_indices(range(n))
    assert len(heldout) == expected
    assert np.array_equal(np.sort(np.concatenate([train, heldout])), np.arange(n))
    assert (np.diff(heldout) > 0).all() and (np.diff(train) > 0).all()


def test_equal_keys_stay_together_and_the_seed_decides():
    keys = [i % 60 for i in range(180)]
    train, heldout = split_indices(keys, seed=4)
    assert not {keys[i] for i in train} & {keys[i] for i in heldout}
    assert len(heldout) == 18
    assert np.array_equal(heldout, split_indices(keys, seed=4)[1])
    assert not np.array_equal(heldout, split_indices(keys, seed=5)[1])


def test_identical_items_cannot_be_split():
    with pytest.raises(MorphogenError, match="identical"):
        split_indices(["same"] * 50)
    train, heldout = split_indices(["a"] * 30 + ["b"] * 28)  # no group fits the 8 wanted: the smaller goes out
    assert (len(train), len(heldout)) == (30, 28)
