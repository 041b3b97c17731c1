"""The patch loss: generated pictures are drawn to the real ones, all of them taken together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cyclegan_cli.engine import losses
from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.losses import PatchLoss
from cyclegan_cli.errors import UsageError
from cyclegan_cli.settings import GENERATORS, TrainSettings

CPU = torch.device("cpu")
SPEC = replace(GENERATORS["brush"], blocks=1, width=4)


def noise(seed: int, spread: float = 0.2, centre: float = 0.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return centre + spread * torch.randn(1, 3, 64, 64, generator=draw)


def mean_loss(real: float, made: float) -> float:
    """Of noise with these deviations."""
    loss = PatchLoss(0, "Y", 3, CPU)
    loss.begin([noise(i, real) for i in range(8)], [noise(50 + i, made) for i in range(8)])
    values = [float(loss(noise(100 + i, made))) for i in range(8)]
    return sum(values) / len(values)


def test_equal_distributions_are_near_and_others_far() -> None:
    same, flatter, livelier = (mean_loss(0.2, made) for made in (0.2, 0.1, 0.4))
    assert flatter > 2 * same
    assert livelier > 2 * same


@pytest.mark.parametrize("centre", [-0.3, 0.3])
def test_a_picture_is_drawn_to_the_real_palette(centre: float) -> None:
    loss = PatchLoss(0, "Y", 3, CPU)
    change = torch.zeros(3, 1, 1, requires_grad=True)
    adam = torch.optim.Adam([change], 0.02)
    loss.begin([noise(i, centre=centre) for i in range(8)], [noise(50 + i) for i in range(8)])
    for i in range(120):
        adam.zero_grad()
        torch.autograd.backward(loss(noise(100 + i) + change))
        adam.step()
    assert (change.detach() - centre).abs().max() < 0.1


@pytest.mark.parametrize("trimmed", [0.0, losses.TRIMMED])
def test_a_picture_gets_no_spots_for_what_is_rare_in_paintings(
    trimmed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One painting in sixteen has a bright sun: a generator is not taught to scatter suns."""
    monkeypatch.setattr(losses, "TRIMMED", trimmed)
    loss, sun = PatchLoss(0, "Y", 3, CPU), torch.zeros(64, 64)
    sun[8:24, 8:24] = 1.0

    def picture(number: int, brightness: float | torch.Tensor) -> torch.Tensor:
        return noise(number, 0.05) + (brightness * sun if number % 16 == 0 else 0)

    size = torch.tensor(0.3, requires_grad=True)
    loss.begin([picture(i, 0.9) for i in range(32)], [picture(i, 0.3) for i in range(48)])
    adam = torch.optim.Adam([size], 0.03)
    for i in range(0, 480, 16):
        adam.zero_grad()
        torch.autograd.backward(loss(picture(i, size)))
        adam.step()
    assert (size.item() > 0.5) == (trimmed == 0)


@pytest.mark.parametrize("weight", ["lambda_patch", "lambda_spectrum"])
def test_the_loss_is_the_same_for_the_same_seed_and_survives_a_checkpoint(weight: str) -> None:
    settings = replace(
        TrainSettings(generator=SPEC, crop_size=64, load_size=64, lambda_cycle=0),
        **{weight: 10.0, "lambda_gan": 0.0},
    )

    def after(model: CycleGAN, first: int, last: int) -> CycleGAN:
        for i in range(first, last):
            model.step(noise(i), noise(1000 + i), 1e-3)
        return model

    def begun() -> CycleGAN:
        model = CycleGAN(settings)
        model.begin([(noise(i), noise(1000 + i)) for i in range(4)])
        return model

    whole, half = after(begun(), 0, 4), after(begun(), 0, 2)
    tensors, plain = half.state()
    resumed = CycleGAN(settings)
    resumed.load_state({k: v.clone() for k, v in tensors.items()}, plain)
    after(resumed, 2, 4)
    for (name, wanted), found in zip(
        whole.G.named_parameters(), resumed.G.parameters(), strict=True
    ):
        assert torch.equal(wanted, found), name
    first = CycleGAN(settings).G.decoder[-2].weight
    assert not torch.equal(first, whole.G.decoder[-2].weight)


def test_losses_of_weight_0_are_not_computed() -> None:
    settings = TrainSettings(
        generator=SPEC, crop_size=64, lambda_gan=0, lambda_cycle=0, lambda_self=0.5
    )
    model = CycleGAN(settings)
    before = model.D_X.model[0].weight.clone()
    assert set(model.step(noise(0), noise(1), 1e-3)) == {"self_X", "self_Y"}
    assert torch.equal(before, model.D_X.model[0].weight)


def test_crops_too_small_for_patches_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 64"):
        TrainSettings(crop_size=32, load_size=36, lambda_patch=1)
