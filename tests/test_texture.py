"""The grain of samples: errors of known size and likeness are found, and drawn again."""

from __future__ import annotations

import pytest
import torch

from morphogen.nets.texture import Texture


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(texture: Texture, mean: torch.Tensor) -> torch.Tensor:
    return texture(mean, torch.rand(len(mean), texture.numbers(mean), generator=torch.Generator().manual_seed(2)))


def alike(e: torch.Tensor, dy: int, dx: int) -> float:
    """The correlation of numbers of e (N, C, H, W) with those dy rows and dx columns further."""
    wide = e.shape[3] - abs(dx)
    here, there = e[:, :, : e.shape[2] - dy, max(0, -dx) :], e[:, :, dy:, max(0, dx) :]
    return float((here[..., :wide] * there[..., :wide]).mean() / e.square().mean())


def test_errors_of_known_size_and_likeness_are_drawn_again():
    """0.02 where the mean is below 0, 0.1 elsewhere, each (a + b) / √2 of two neighbours along a diagonal: correlation
    0.5 with the next one there, which fades by (1 − 1/16)² towards the reach, and none with those on the other one."""
    mean = (torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1).repeat_interleave(4, 2)
    mean = mean.repeat_interleave(4, 3)
    white, size = normal(400, 1, 17, 17, seed=1), torch.where(mean < 0, 0.02, 0.1)
    texture = Texture(1)
    texture.learn(mean, mean + size * (white[..., 1:, 1:] + white[..., :-1, :-1]) / 2**0.5)
    found = drawn(texture, mean)
    low, high = found[mean < 0].std().item(), found[mean >= 0].std().item()
    assert (low, high) == (pytest.approx(0.02, rel=0.05), pytest.approx(0.1, rel=0.05))
    level = found / size
    assert alike(level, 1, 1) == pytest.approx(0.5 * (15 / 16) ** 2, abs=0.05)
    for dy, dx in ((1, -1), (0, 1), (1, 0), (15, 15), (15, -15)):  # the last: opposite corners do not meet
        assert abs(alike(level, dy, dx)) < (0.06 if dy < 15 else 0.15), (dy, dx)


def test_a_level_that_never_came_has_the_usual_size_and_common_errors_of_colours_stay_common():
    mean = torch.full((60, 3, 8, 8), -0.5)
    mean[:30] = 0.5
    grey = normal(60, 1, 8, 8, seed=0).expand(-1, 3, -1, -1) * torch.where(mean > 0, 0.2, 0.05)
    texture = Texture(3)
    texture.learn(mean, mean + grey)
    middle = torch.zeros(7, 7)
    middle[3, 3] = 1
    assert torch.allclose(texture.kernel, middle, atol=0.08)
    assert texture.sizes[0].item() == pytest.approx(((0.2**2 + 0.05**2) / 2) ** 0.5, rel=0.05)
    found = drawn(texture, mean)
    assert torch.corrcoef(found.transpose(0, 1).flatten(1)).min().item() > 0.98


def test_the_size_of_millions_of_errors_is_exact_and_small_pictures_have_texture():
    mean, many = torch.zeros(200, 1, 160, 160), Texture(1)
    many.learn(mean, mean + 0.1)
    assert many.sizes[32].item() == pytest.approx(0.1, rel=1e-4)
    tiny = Texture(1)
    tiny.learn(torch.zeros(500, 1, 2, 1), 0.1 * normal(500, 1, 2, 1, seed=3))
    assert drawn(tiny, torch.zeros(500, 1, 2, 1)).std().item() == pytest.approx(0.1, rel=0.1)
