"""The grain of samples: errors of known size and likeness are found, and drawn again."""

from __future__ import annotations

import pytest
import torch

from morphogen.nets.texture import Texture


def errors(mean: torch.Tensor, seed: int) -> torch.Tensor:
    """Of size 0.02 where the mean is below 0 and 0.1 elsewhere, each the half sum of two neighbours along the width:
    (a + b) / √2 has correlation 0.5 with the next one and none with those beyond."""
    white = torch.randn(*mean.shape[:3], mean.shape[3] + 1, generator=torch.Generator().manual_seed(seed))
    return torch.where(mean < 0, 0.02, 0.1) * (white[..., 1:] + white[..., :-1]) / 2**0.5


def alike(e: torch.Tensor, dy: int, dx: int) -> float:
    a, b = e[..., : e.shape[2] - dy, : e.shape[3] - dx], e[..., dy:, dx:]
    return float((a * b).mean() / e.square().mean())


def test_errors_of_known_size_and_likeness_are_drawn_again():
    mean = (torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1).repeat_interleave(4, 2)
    mean = mean.repeat_interleave(4, 3)
    texture = Texture()
    texture.learn(mean, mean + errors(mean, 1))
    drawn = texture(mean, torch.rand(mean.shape, generator=torch.Generator().manual_seed(2)))
    low, high = drawn[mean < 0].std().item(), drawn[mean >= 0].std().item()
    assert (low, high) == (pytest.approx(0.02, rel=0.05), pytest.approx(0.1, rel=0.05))
    level = drawn / torch.where(mean < 0, 0.02, 0.1)
    assert alike(level, 0, 1) == pytest.approx(0.5 * (1 - 1 / 16), abs=0.05)  # it fades towards the reach
    assert abs(alike(level, 1, 0)) < 0.03
    assert abs(alike(level, 0, 2)) < 0.05
    assert drawn.mean().item() == pytest.approx(0, abs=2e-3)


def test_unrelated_errors_stay_unrelated_and_sizes_cover_levels_that_never_came():
    mean = torch.full((50, 3, 8, 8), -0.5)
    texture = Texture()
    texture.learn(mean, mean + 0.1 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)))
    middle = torch.zeros(7, 7)
    middle[3, 3] = 1
    assert torch.allclose(texture.kernel, middle, atol=0.05)
    assert texture.sizes.min().item() == pytest.approx(0.1, rel=0.05)
