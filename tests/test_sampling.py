"""How samples are asked of a model: labels that join attributes, and choosing among tries by the discriminator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from morphogen import api, train
from morphogen.data import open_source, prepare
from morphogen.domains import Data
from morphogen.errors import UsageError
from morphogen.families.gan import GAN, GANOptions
from morphogen.modalities import Points
from morphogen.model import Description, Model


class Known(nn.Module):
    """The noise itself as items."""

    def forward(self, z, y=None):
        return z


class Ratio(nn.Module):
    """log N(x; 1, 1) − log N(x; 0, 1) = x − ½: the best discriminator of these samples, for data around 1."""

    def forward(self, x, y=None):
        return x[:, 0] - 0.5


def gan(loss="nonsaturating"):
    networks = {"generator": Known(), "discriminator": Ratio()}
    family = GAN(Points((1,), 0.0, 1.0), GANOptions(latent_dim=1, loss=loss), networks=networks)
    family.register_parameter("anchor", nn.Parameter(torch.zeros(())))
    return family.eval()


def chosen(family, count, tries):
    return family.chosen_codes(count, 3, None, 1.0, None, tries)[:, 0]


def test_choosing_by_the_ratio_gives_the_data():
    """Importance resampling of N(0, 1) by the true ratio is N(1, 1), in the limit of many tries."""
    codes = chosen(gan(), 4000, 64)
    assert codes.mean() == pytest.approx(1.0, abs=0.06) and codes.std() == pytest.approx(1.0, abs=0.06)
    few = chosen(gan(), 4000, 2)
    assert 0.2 < few.mean() < 0.8  # two tries go a part of the way
    assert chosen(gan(), 4000, 1).mean() == pytest.approx(0.0, abs=0.06)


def test_a_chosen_sample_is_its_own_whatever_the_count():
    family = gan()
    assert torch.equal(chosen(family, 250, 5)[:30], chosen(family, 30, 5))


def test_only_log_ratios_choose(tmp_path):
    assert gan().chooses and not gan("hinge").chooses
    with pytest.raises(UsageError, match=r"sample\.tries"):
        train("gan-points", out=tmp_path, steps=1, settings=["model.loss=hinge"])


def joined_model(classes, counts, label):
    description = Description("gan", "points", [1], {}, label=label, classes=classes, label_counts=counts)
    return Model(gan(), description)


def test_one_value_stands_for_a_label_that_joins_two():
    classes = ["0+ann", "0+bob", "1+ann", "1+bob"]
    model = joined_model(classes, [30, 10, 5, 5], "digit+speaker")
    numbers = model.labels("all", 1000)
    assert (numbers // 2 == torch.arange(1000) % 2).all()  # the first attribute goes round
    zeros = numbers[numbers // 2 == 0]
    assert (zeros == 0).float().mean() == pytest.approx(0.75, abs=0.06)  # the second as often as in training
    assert set(model.labels("bob", 200, loose=True).tolist()) == {1, 3}
    with pytest.raises(UsageError, match="no label 'bob'"):
        model.labels("bob", 200)  # an item's own label is the whole one
    assert model.labels("1+ann", 3).tolist() == [2, 2, 2]
    assert torch.equal(model.labels("all", 1000)[:150], model.labels("all", 150))
    with pytest.raises(UsageError, match="no label 'eve'"):
        model.labels("eve", 1, loose=True)
    with pytest.raises(UsageError, match="2 labels were given for 3 items"):
        model.labels(["0+ann", "0+bob"], 3)


def test_a_value_of_two_attributes_is_asked_about():
    model = joined_model(["0+0", "0+1", "1+0", "1+1"], [5, 5, 5, 5], "digit+take")
    assert (model.labels("all", 100) // 2 == torch.arange(100) % 2).all()
    with pytest.raises(UsageError, match="several attributes"):
        model.labels("0", 4, loose=True)


def test_an_interpolation_keeps_one_label():
    model = joined_model(["0+ann", "0+bob", "1+ann"], [5, 5, 5], "digit+speaker")
    seen = []
    model.family.generate = lambda z, y: seen.extend(y.tolist()) or z
    model.interpolate(20, label="0")
    assert len(set(seen)) == 1 and seen[0] in (0, 1)


def test_a_plain_label_may_hold_a_plus():
    model = joined_model(["c", "c++"], [1, 1], "language")
    assert model.labels("c", 2, loose=True).tolist() == [0, 0]
    assert model.labels("all", 4).tolist() == [0, 1, 0, 1]
    assert model.labels(["c++", "c"], 2).tolist() == [1, 0]
    numbered = joined_model(["1", "2"], [1, 1], "label")
    assert numbered.labels(2, 3).tolist() == [1, 1, 1]


def test_of_a_joined_label_the_values_of_each_part_are_attributes():
    data = prepare(open_source("builtin:digits"))
    data.labels["half"] = np.where(np.asarray(data.labels["label"], int) < 5, "low", "high")
    data.labels["odd"] = np.where(np.asarray(data.labels["label"], int) % 2, "1", "low")
    joined = data.with_label("label+half")
    codes = torch.from_numpy(np.asarray(data.labels["label"], np.float32))[:, None].repeat(1, 3)
    found = api.attributes(codes, Data(joined, joined, None, [], "", content="label+half"), np.arange(len(data)))
    assert set(found) == {*"0123456789", "low", "high"}
    three = data.with_label("label+half+odd")
    unclear = api.attributes(codes, Data(three, three, None, [], "", content="label+half+odd"), np.arange(len(data)))
    assert set(unclear) == set(found) - {"1", "low"}  # which of the two is meant?
    low = codes[:, 0] < 5
    assert found["low"] == pytest.approx([float(codes[low].mean() - codes[~low].mean())] * 3)
