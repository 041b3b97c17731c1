"""The spectrum loss: generated pictures get the contrast of real ones at each frequency."""

from __future__ import annotations

import math

import pytest
import torch

from cyclegan_cli.engine.losses import SpectrumLoss

CPU = torch.device("cpu")
COLUMNS = torch.arange(64.0)
WEAVE = torch.sin(COLUMNS * 2 * math.pi / 2.6)[None, :].expand(64, 64)  # upright lines


def noise(seed: int, spread: float = 0.2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return spread * torch.randn(2, 3, 64, 64, generator=draw)


def begun(made: list[torch.Tensor]) -> SpectrumLoss:
    """With noise of deviation 0.2 as the real pictures."""
    loss = SpectrumLoss(3, CPU)
    loss.begin([noise(i) for i in range(16)], made)
    return loss


def test_white_noise_has_its_variance_at_each_frequency() -> None:
    real = begun([noise(50)]).real
    expected = math.log(0.2**2) - 0.5772  # the mean logarithm of an exponential distribution
    inner = real[:, 2:-1, 2:-1]  # away from the mean, which is taken off
    assert float(inner.mean()) == pytest.approx(expected, abs=0.05)
    assert (inner - expected).abs().max() < 0.4


def test_a_faint_regular_pattern_is_far_from_noise_alone() -> None:
    def mean(patterned: float) -> float:
        made = [noise(50 + i) + patterned * WEAVE for i in range(8)]
        loss = begun(made)
        return sum(float(loss(picture)) for picture in made) / len(made)

    assert mean(0.1) > 5 * mean(0.0)


@pytest.mark.parametrize("contrast", [0.5, 2.0])
def test_contrast_is_drawn_to_that_of_real_pictures(contrast: float) -> None:
    gain = torch.tensor(contrast, requires_grad=True)
    adam = torch.optim.Adam([gain], 0.02)
    loss = begun([noise(50 + i) * contrast for i in range(4)])
    for i in range(200):
        adam.zero_grad()
        torch.autograd.backward(loss(noise(100 + i) * gain))
        adam.step()
    assert float(gain.detach()) == pytest.approx(1, abs=0.15)


def test_a_regular_pattern_is_taken_away() -> None:
    strength = torch.tensor(0.3, requires_grad=True)
    adam = torch.optim.Adam([strength], 0.01)
    loss = begun([noise(50 + i) + 0.3 * WEAVE for i in range(4)])
    for i in range(200):
        adam.zero_grad()
        torch.autograd.backward(loss(noise(100 + i) + strength * WEAVE))
        adam.step()
    assert abs(float(strength.detach())) < 0.1
