"""What GANs do beyond the laws: diversity within a label, and discriminators that see by a classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TINY, assert_same, final_state, stopping_after
from torch import Tensor, nn

from morphogen import api, load
from morphogen.errors import UsageError
from morphogen.families import Turn
from morphogen.families.gan import GAN, GANOptions
from morphogen.metrics.classifier import ClassifierNet
from morphogen.modalities import Image
from morphogen.nets.projected import LOOKS, PLAN, FrozenTrunk
from morphogen.run import load_tensors

SPACE = (1, 16, 16)
PROJECTED = ["model.discriminator={kind: projected, width: 8, features: 16, heads: 4}"]


class Scaled(nn.Module):
    """A generator that makes so much of its noise."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(amount))

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        return (self.amount * z).view(-1, *SPACE)


def lack(amount: float, labels: Tensor | None) -> Tensor:
    """The term 'diversity' of a generator's samples beside items of deviation 0.1."""
    classes = 0 if labels is None else 3
    options = GANOptions(latent_dim=256, discriminator={"width": 8, "features": 16})
    family = GAN(Image(SPACE), options, classes, networks={"generator": Scaled(amount)})
    x = 0.1 * torch.randn(48, *SPACE, generator=torch.Generator().manual_seed(0))
    batch = {"a": x} if labels is None else {"a": x, "label": labels}
    family.prepare(x)
    return family.losses(Turn("generator", 0, 0, {"generator": 1.0, "diversity": 1.0}), batch)["diversity"]


@pytest.mark.parametrize("labels", [None, torch.arange(48) % 3])
def test_one_item_for_all_noise_is_caught_and_enough_is_enough(labels):
    assert lack(0.001, labels).item() == pytest.approx(2, abs=0.01)  # in detail and in the large
    assert lack(0.05, labels).item() == pytest.approx(2 * 0.75**2, abs=0.1)
    assert lack(0.11, labels).item() == 0


def test_where_no_two_share_a_label_nothing_is_asked():
    options = GANOptions(latent_dim=256, discriminator={"width": 8, "features": 16})
    family = GAN(Image(SPACE), options, 48, networks={"generator": Scaled(0.001)})
    x = torch.rand(48, *SPACE)
    family.prepare(x)
    turn = Turn("generator", 0, 0, {"generator": 1.0, "diversity": 1.0})
    assert family.losses(turn, {"a": x, "label": torch.arange(48)})["diversity"].item() == 0
    assert family.distances.tolist() == [0, 0]


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("space", [(1, 16, 16), (3, 64, 48), (1, 30, 17)])
def test_a_frozen_trunk_sees_what_its_classifier_sees(space, side):
    torch.manual_seed(0)
    trunk = FrozenTrunk(space, side)
    classifier = ClassifierNet(space[0], 5, trunk.largest)
    for _ in range(3):
        classifier(torch.randn(16, space[0], 32, 32))  # statistics of their own
    assert max(trunk.size) == min(max(32, side), max(space[1:]))
    trunk.learn(classifier.eval().trunk)
    x = torch.rand(4, *space) * 2 - 1
    h = torch.nn.functional.interpolate(x, size=trunk.size, mode="area")
    expected = [h := block(h) for block in classifier.trunk[: len(PLAN)]]
    for k, seen in zip(LOOKS, trunk(x), strict=True):
        assert torch.allclose(seen, expected[k], atol=1e-4)
    assert not list(trunk.parameters())


def test_a_projected_discriminator_is_taught_trained_and_loaded(tmp_path):
    settings = [*TINY, *PROJECTED, "data.label=label", "train.evaluate_every=6"]
    api.train("gan-image", "builtin:digits", out=tmp_path / "run", steps=6, settings=settings)
    model = load(tmp_path / "run")
    x = torch.rand(3, *model.family.modality.space) * 2 - 1
    assert model.family.discriminator(x, torch.arange(3)).shape == (3,)
    assert model.family.score(x, torch.arange(3)).shape == (3,)
    assert model.family.discriminator.train()(x, torch.arange(3)).shape == (3, 1 + len(LOOKS))
    kept = load_tensors(tmp_path / "run" / "model" / "weights.safetensors")
    assert not [key for key in kept if "heads" in key or "seen" in key]  # a model is as small as without
    state = final_state(tmp_path / "run", 6)
    assert [key for key, value in state.items() if "seen.weight_0" in key and value.abs().sum() > 0]


def test_stopped_and_resumed_equals_never_stopped(tmp_path, monkeypatch):
    """With a frozen trunk, heads and the data's own diversity, which are in checkpoints only."""
    settings = [*TINY, *PROJECTED, "data.label=label", "terms.diversity.weight=5", "train.evaluate_every=12"]
    begin = lambda name: api.train("gan-image", "builtin:digits", out=tmp_path / name, steps=12, settings=settings)
    begin("whole")
    with stopping_after(monkeypatch, 5):
        begin("cut")
    begin("cut")
    whole = final_state(tmp_path / "whole", 12)
    assert whole["family.distances"].min() > 0
    assert_same(final_state(tmp_path / "cut", 12), whole)


class OwnDiscriminator(nn.Module):
    """A user's own, with parts that happen to be called as those of a projected one."""

    def __init__(self):
        super().__init__()
        self.seen, self.heads = nn.Flatten(), nn.Linear(8 * 8, 1)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        return self.heads(self.seen(x)).squeeze(1)


def test_parts_of_the_users_own_discriminator_are_kept(tmp_path):
    settings = [*TINY, "data.size=8", "augment.mode=off", "train.evaluate_every=4"]
    api.train("gan-image", "builtin:digits", out=tmp_path / "run", steps=4, settings=settings,
              networks={"discriminator": OwnDiscriminator()})  # fmt: skip
    assert "discriminator.heads.weight" in load_tensors(tmp_path / "run" / "model" / "weights.safetensors")


def test_without_labels_nobody_can_teach(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8))
    with pytest.raises(UsageError, match=r"data\.label"):
        api.train("gan-image", str(tmp_path / "x.npy"), out=tmp_path / "run", steps=2, settings=[*TINY, *PROJECTED])
