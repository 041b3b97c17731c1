"""Each loss by itself against the formula."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch.nn import functional

from cyclegan_cli.engine.losses import (
    chroma_loss,
    discriminator_loss,
    generator_loss,
    l1,
    structure_loss,
)
from cyclegan_cli.settings import GanLoss
from tests.engine import naive
from tests.engine.examination import TOLERANCE, relative_error


def logits(seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(2, 1, 30, 30, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("kind", get_args(GanLoss))
def test_adversarial_losses_are_the_formulas(kind: GanLoss) -> None:
    real, fake = logits(1), logits(2)
    found, wanted = generator_loss(fake, kind), naive.fooling(fake, kind)
    assert relative_error(found, wanted) < TOLERANCE
    found, wanted = discriminator_loss(real, fake, kind), naive.telling(real, fake, kind)
    assert relative_error(found, wanted) < TOLERANCE


def test_l1_is_a_mean() -> None:
    a, b = logits(3), logits(4)
    assert relative_error(l1(a, b), naive.distance(a, b)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", get_args(GanLoss))
def test_half_precision_logits_are_summed_in_float32(kind: GanLoss, dtype: torch.dtype) -> None:
    half = torch.full((1, 1, 300, 300), 3.0, dtype=dtype)  # 90 000 × 4 overflows float16
    for loss in (generator_loss(half, kind), discriminator_loss(half, half, kind)):
        assert loss.dtype == torch.float32
        assert math.isfinite(float(loss))
    assert float(generator_loss(half, "lsgan")) == 4.0
    assert l1(half, -half).dtype == torch.float32
    assert float(l1(half, -half)) == 6.0


@pytest.mark.parametrize("value", [-1000.0, 1000.0])
def test_vanilla_is_finite_for_logits_of_any_size(value: float) -> None:
    far = torch.full((1, 1, 2, 2), value, dtype=torch.float64)
    assert float(generator_loss(far, "vanilla")) == max(-value, 0.0)
    assert float(discriminator_loss(far, far, "vanilla")) == abs(value) / 2


def scene(seed: int) -> torch.Tensor:
    """Something with light and dark at several sizes: N×3×H×W."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 12, 12, generator=draw)
    return functional.interpolate(coarse, size=(96, 96), mode="bilinear").mul(0.4).clamp(-1, 1)


def test_structure_forgives_palette_and_contrast_but_not_another_scene() -> None:
    picture = scene(0)
    assert float(structure_loss(picture, picture)) < 1e-4
    paler = 0.6 * picture + torch.tensor([0.3, 0.1, -0.1])[:, None, None]
    assert float(structure_loss(paler, picture)) < 0.05
    dabs = picture + 0.3 * (torch.rand(1, 3, 96, 96).round() - 0.5)  # finer than it looks
    assert float(structure_loss(dabs, picture)) < 0.2
    assert float(structure_loss(scene(1), picture)) > 0.5
    assert float(structure_loss(-picture, picture)) > 1.0


def test_structure_has_finite_gradients_on_flat_pictures() -> None:
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    torch.autograd.backward(structure_loss(flat, torch.zeros(1, 3, 64, 64)))
    assert flat.grad is not None
    assert bool(torch.isfinite(flat.grad).all())


def test_the_chroma_loss_is_what_is_missing_of_four_fifths_of_the_colours() -> None:
    colour = torch.tensor([0.5, -0.5, -0.5])[None, :, None, None].expand(1, 3, 32, 32)
    assert float(chroma_loss(0.8 * colour, colour)) == pytest.approx(0.0, abs=1e-5)
    # Red less green is 1, blue less their mean −½: four fifths of both are missing in grey.
    # (0.8² + 0.4²) / 2, in units of 0.2.
    assert float(chroma_loss(0 * colour, colour)) == pytest.approx(
        (0.8**2 + 0.4**2) / 2 / 0.2, 1e-4
    )


def test_the_chroma_loss_of_a_wild_spot_is_above_that_of_a_slight_shift_of_all() -> None:
    grey = torch.zeros(1, 3, 64, 64)
    orange = torch.tensor([0.9, 0.1, -0.9])[:, None, None]
    spot, shift = grey.clone(), grey + orange / 16
    spot[..., 16:32, 32:48] += orange  # a sixteenth of the picture: the means are the same
    torch.testing.assert_close(spot.mean((2, 3)), shift.mean((2, 3)))
    assert float(chroma_loss(spot, grey)) > 10 * float(chroma_loss(shift, grey))
