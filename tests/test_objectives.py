"""Adversarial losses and penalties against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from morphogen.objectives.adversarial import (
    LOSSES,
    lack_of_diversity,
    pair_distance,
    squared_difference,
    squared_slope,
    unit_slope,
)

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])


def softplus(v: float) -> float:
    return math.log1p(math.exp(v))


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        ("relativistic", [softplus(1.5), softplus(-4.0)], [softplus(-1.5), softplus(4.0)]),
        ("nonsaturating", [softplus(-0.5), softplus(-3.0)], [softplus(-2) + softplus(0.5), softplus(1) + softplus(3)]),
        ("hinge", [-0.5, -3.0], [0 + 1.5, 2 + 4]),
        ("leastsquares", [0.125, 2.0], [(1 + 0.25) / 2, (4 + 9) / 2]),
        ("wasserstein", [-0.5, -3.0], [-1.5, 4.0]),
    ],
)
def test_losses_equal_their_formulas(name, generator, discriminator):
    g, d, _ = LOSSES[name]
    assert g(REAL, FAKE).tolist() == pytest.approx(generator, rel=1e-6)
    assert d(REAL, FAKE).tolist() == pytest.approx(discriminator, rel=1e-6)


def test_every_loss_is_covered():
    assert set(LOSSES) == {"relativistic", "nonsaturating", "hinge", "leastsquares", "wasserstein"}


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """D(x) = Σ x² over the item, whose slope is 2x."""
    return x.flatten(1).square().sum(1)


def test_squared_slope_of_a_quadratic():
    x = torch.randn(5, 3, 4, 4)
    assert torch.allclose(squared_slope(quadratic, x), 4 * x.square().flatten(1).sum(1), rtol=1e-5)


def test_squared_slope_reaches_the_parameters():
    linear = torch.nn.Linear(6, 1)
    value = squared_slope(lambda x: linear(x).squeeze(1), torch.randn(4, 6)).mean()
    value.backward()
    # the penalty of a linear D is ‖w‖², its gradient 2w
    assert torch.allclose(linear.weight.grad, 2 * linear.weight, rtol=1e-5)


def test_squared_difference_is_the_slope_in_expectation():
    x = torch.randn(1, 8).repeat(20_000, 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    estimate = squared_difference(lambda v: v.square().sum(1), x, noise, 0.05)
    exact = 4 * x[0].square().sum()
    error = estimate.std() / math.sqrt(len(estimate))
    assert abs(estimate.mean() - exact) < 4 * error


def test_squared_difference_of_a_linear_function_is_exact():
    w, noise = torch.randn(6), torch.randn(3, 6)
    value = squared_difference(lambda v: v @ w, torch.randn(3, 6), noise, 0.1)
    assert torch.allclose(value, (noise @ w).square(), rtol=1e-3)


def test_unit_slope_vanishes_exactly_for_slope_one():
    w = torch.nn.functional.normalize(torch.randn(6), dim=0)
    real, fake, mix = torch.randn(4, 6), torch.randn(4, 6), torch.rand(4)
    assert unit_slope(lambda x: x @ w, real, fake, mix).abs().max() < 1e-8
    assert torch.allclose(unit_slope(lambda x: x @ (3 * w), real, fake, mix), torch.full((4,), 4.0), rtol=1e-4)


def test_pairs_of_one_label_are_compared_and_no_others():
    x, y = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), torch.tensor([7, 7, 1])
    assert pair_distance(x, y).item() == pytest.approx(9 / 2)  # a number of an item
    assert pair_distance(x, None).item() == pytest.approx((9 + 16 + 25) / 3 / 2)
    assert pair_distance(x, torch.arange(3)).item() == 0  # no two of a label


def test_the_distance_of_pairs_is_twice_the_variance():
    x = 3 * torch.randn(400, 50, generator=torch.Generator().manual_seed(0)) + 100
    assert pair_distance(x, None).item() == pytest.approx(2 * 9, rel=0.03)


def test_samples_as_far_apart_as_the_data_lack_nothing():
    made, real = torch.tensor([1.0, 4.0, 9.0], requires_grad=True), torch.tensor(4.0)
    lack = lack_of_diversity(made, real)
    assert lack.tolist() == [0.75**2, 0, 0]
    lack.sum().backward()
    assert made.grad is not None
    assert made.grad[0] < 0  # nearer is worse, and farther than the data no better
    assert made.grad[1:].tolist() == [0, 0]
