"""What a training of few steps may use beyond the paper: a replay, a mean, two scales, grain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cyclegan_cli.engine import checkpoint
from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.networks import Generator, TwoScaleDiscriminator, initialise
from cyclegan_cli.engine.run import Place
from cyclegan_cli.errors import UsageError
from cyclegan_cli.settings import GENERATORS, TrainSettings

SETTINGS = TrainSettings(
    generator=replace(GENERATORS["brush"], blocks=1, width=4),
    discriminator="twoscale",
    crop_size=64,
    load_size=64,
    lambda_cycle=0,
    lambda_patch=1,
    lambda_structure=0.3,
    history=4,
    replay=3,
    ema=0.9,
    lr_d=5e-4,
)


def picture(seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, 64, 64, generator=draw) * 2 - 1


def trained(model: CycleGAN, first: int, last: int) -> CycleGAN:
    for step in range(first, last):
        model.step(picture(2 * step), picture(2 * step + 1), 1e-3)
    return model


def begun(settings: TrainSettings = SETTINGS) -> CycleGAN:
    model = CycleGAN(settings)
    model.begin([(picture(900 + i), picture(950 + i)) for i in range(3)])
    return model


def test_a_resumed_training_is_one_that_never_stopped(tmp_path) -> None:
    whole = trained(begun(), 0, 7)
    half = trained(begun(), 0, 3)
    path = checkpoint.save(tmp_path, half, Place(3, 0, 3), {})
    start = checkpoint.load(path)
    resumed = CycleGAN(start.settings)
    resumed.load_state(start.tensors, start.plain)
    trained(resumed, 3, 7)
    ours, theirs = whole.state()[0], resumed.state()[0]
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_the_mean_is_what_is_shown_and_published(tmp_path) -> None:
    model = trained(begun(), 0, 5)
    weight, mean = (n.decoder[-2].weight for n in (model.G, model.shown_G))
    assert not torch.equal(weight, mean)
    path = checkpoint.save(tmp_path, model, Place(5, 0, 5), {})
    G, F = checkpoint.generators(checkpoint.load(path))
    assert torch.equal(G.decoder[-2].weight, mean)
    assert torch.equal(F.decoder[-2].weight, model.shown_F.decoder[-2].weight)
    x = picture(1)
    assert torch.equal(model.sample(x, x)["G(x)"], model.paint(model.shown_G, x))


def test_the_mean_follows_the_generator() -> None:
    model = begun()
    last = [model.shown_G.decoder[-2].weight.clone()]
    expected = last[0].clone()
    for step in range(6):
        trained(model, step, step + 1)
        stays = min(0.9, (1 + step) / (10 + step))
        expected = stays * expected + (1 - stays) * model.G.decoder[-2].weight.detach()
    assert torch.allclose(model.shown_G.decoder[-2].weight, expected, atol=1e-6)


def test_without_a_mean_the_generators_are_shown() -> None:
    model = CycleGAN(replace(SETTINGS, ema=0.0))
    assert model.shown_G is model.G
    assert model.shown_F is model.F


def test_a_start_from_a_style_is_a_start_of_the_mean_too() -> None:
    model, other = begun(), Generator(SETTINGS.generator)
    initialise(other, torch.Generator().manual_seed(99))
    model.start_from("F", other)
    for network in (model.F, model.shown_F):
        assert torch.equal(network.decoder[-2].weight, other.decoder[-2].weight)


def test_the_discriminators_have_their_own_rate() -> None:
    model = trained(begun(), 0, 1)
    assert model.optimiser_G.param_groups[0]["lr"] == 1e-3
    assert model.optimiser_D.param_groups[0]["lr"] == pytest.approx(1e-3 * 5e-4 / 2e-4)


def test_both_scales_weigh_the_same_and_see_what_they_should() -> None:
    network = TwoScaleDiscriminator()
    initialise(network, torch.Generator().manual_seed(0))
    x = picture(0).repeat(1, 1, 2, 2).requires_grad_()
    logits = network(x)
    assert logits.shape == (1, 2, 14, 14)
    for scale, side in ((0, 38), (1, 76)):  # and what the fine detail beside it reaches
        (grad,) = torch.autograd.grad(logits[0, scale, 7, 7], x, retain_graph=True)
        rows = grad.abs().amax(dim=(0, 1, 3)).nonzero().flatten()
        assert side <= int(rows.max() - rows.min()) + 1 <= side * 1.2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("replay", -1),
        ("ema", 1.0),
        ("discriminator", "none"),
        ("lr_d", -1.0),
        ("warmup", -1),
        ("history", 0),
    ],
)
def test_what_cannot_be_is_refused(option: str, value: object) -> None:
    with pytest.raises(UsageError, match="--"):
        replace(SETTINGS, **{option: value})


def test_the_generators_rate_rises_while_the_discriminators_have_theirs() -> None:
    model = begun(replace(SETTINGS, lr=2e-4, lr_d=3e-4, warmup=4))
    rates = []
    for step in range(6):
        model.step(picture(2 * step), picture(2 * step + 1), 2e-4)
        optimisers = (model.optimiser_G, model.optimiser_D)
        rates.append([max(group["lr"] for group in each.param_groups) for each in optimisers])
    risen = [0.5e-4, 1e-4, 1.5e-4, 2e-4, 2e-4, 2e-4]
    assert rates == [[pytest.approx(rate), pytest.approx(3e-4)] for rate in risen]
