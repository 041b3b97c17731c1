"""A training's fast layers: outputs and gradients are those of float64, to rounding."""

from __future__ import annotations

import copy
import ctypes
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.fast import bf16, kernels, training
from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.engine.fast.training import chain, fused_layers
from cyclegan_cli.engine.layers import Layer
from cyclegan_cli.engine.networks import Generator, _module
from cyclegan_cli.settings import GeneratorSpec, TrainSettings
from tests.engine.test_learning import scene, true_map

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels built")


def _builds() -> dict[str, ctypes.CDLL]:
    """Every build of the kernels that runs here."""
    files = sorted(Path(kernels.__file__).parent.glob("_kernels*.*so"))
    found = {file.name.split(".")[0]: ctypes.CDLL(str(file)) for file in files}
    return {name: one for name, one in found.items() if one.runs_here()}


BUILDS = _builds()
# Relative, of one layer: Winograd's filtering adds and takes away more than the plain sums do.
ROUNDING = 3e-6


def conv(inputs: int, outputs: int, kernel: int, **how: Any) -> Layer:
    return Layer("conv", "", inputs, outputs, kernel, **how)


RELU, UPSAMPLE = Layer("relu", ""), Layer("upsample", "")
REFLECT, REFLECT3 = Layer("reflect", "", padding=1), Layer("reflect", "", padding=3)
LAYERS = {
    "whole": [REFLECT, conv(24, 16, 3)],
    "whole, after ReLU": [RELU, REFLECT, conv(16, 20, 3)],
    "whole, normalised": [
        *(RELU, REFLECT, conv(16, 20, 3), Layer("instance_norm", "", 20, 20)),
        *(RELU, REFLECT, conv(20, 5, 3)),
    ],
    "separable": [REFLECT, conv(5, 5, 3, groups=5), conv(5, 14, 1)],
    "enlarged": [RELU, UPSAMPLE, REFLECT, conv(6, 6, 3, groups=6), conv(6, 12, 1)],
    "few channels": [RELU, REFLECT, conv(5, 7, 3)],
    "from three": [REFLECT3, conv(3, 8, 7)],
    "to three": [RELU, REFLECT3, conv(6, 3, 7)],
    "halved": [RELU, REFLECT, conv(5, 16, 3, stride=2)],
    "halved, zeros": [RELU, conv(5, 9, 3, stride=2, padding=1)],
    "transposed": [RELU, Layer("conv_transpose", "", 7, 13, 3, 2, 1)],
    "normalised": [Layer("instance_norm", "", 5, 5), RELU, REFLECT, conv(5, 7, 3)],
    "ReLU last": [REFLECT, conv(5, 7, 3), RELU],
}


def built(name: str) -> tuple[list[Layer], nn.Sequential]:
    """The layers of that name, and their modules."""
    layers = [replace(layer, name=str(number)) for number, layer in enumerate(LAYERS[name])]
    return layers, nn.Sequential(*map(_module, layers))


needs_unit = pytest.mark.skipif(not bf16.has_unit(), reason="the processor has no bfloat16")


@pytest.fixture(params=BUILDS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each of ``BUILDS``."""
    monkeypatch.setattr(kernels, "library", lambda: BUILDS[request.param])


def gradients(function, layers: nn.Sequential, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    y = function(x)
    found = torch.autograd.grad(y, [x, *layers.parameters()], grad)
    return [y.detach().double(), *(one.double() for one in found)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(4, 4), (6, 10), (17, 34), (32, 8), (4, 230), (70, 75)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_each_layer_and_its_gradients(
    name: str, size: tuple[int, int], channels_last: bool
) -> None:
    random = torch.Generator().manual_seed(sum(size))
    description, layers = built(name)
    for parameter in layers.parameters():
        parameter.data.normal_(0, 0.3, generator=random)
    channels = next(layer.inputs for layer in description if layer.inputs)
    x = torch.randn(2, channels, *size, generator=random)
    grad = torch.randn(layers(x).shape, generator=random)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        grad = grad.to(memory_format=torch.channels_last)
    exact = copy.deepcopy(layers).double()
    right = gradients(exact, exact, x.double(), grad.double())
    plain = gradients(layers, layers, x, grad)
    fused = gradients(chain(description, layers), layers, x, grad)
    for ours, theirs, value in zip(fused, plain, right, strict=True):
        allowed = 2 * float((theirs - value).norm()) + ROUNDING * float(value.norm())
        assert float((ours - value).norm()) <= allowed


@needs_unit
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "ReLU last"])
@pytest.mark.parametrize("size", [(4, 4), (17, 34), (4, 230), (70, 75)])
def test_each_layer_and_its_gradients_in_bfloat16(name: str, size: tuple[int, int]) -> None:
    """8 bits of precision for what is multiplied; two layers in a row turn some ReLUs over."""
    random = torch.Generator().manual_seed(sum(size))
    description, layers = built(name)
    for parameter in layers.parameters():
        parameter.data.normal_(0, 0.3, generator=random)
    channels = next(layer.inputs for layer in description if layer.inputs)
    x = torch.randn(2, channels, *size, generator=random)
    grad = torch.randn(layers(x).shape, generator=random)
    exact = copy.deepcopy(layers).double()
    right = gradients(exact, exact, x.double(), grad.double())
    found = gradients(chain(description, layers, half=True), layers, x, grad)
    allowed = 0.1 if name == "whole, normalised" else 0.01
    for ours, value in zip(found, right, strict=True):
        assert float((ours - value).norm()) <= allowed * float(value.norm()) + 1e-3


def test_a_picture_need_not_have_a_gradient() -> None:
    description, layers = built("from three")
    x = torch.rand(1, 3, 12, 12)
    for function in (layers, chain(description, layers)):
        layers.zero_grad()
        function(x).square().sum().backward()
    assert x.grad is None
    assert all(p.grad is not None for p in layers.parameters())


def step(
    settings: TrainSettings, dtype: torch.dtype, seed: int, autocast: torch.dtype = torch.float32
) -> Tensor:
    """All gradients of G and F of one step, as one vector."""
    model = CycleGAN(settings, dtype=autocast)
    random = torch.Generator().manual_seed(seed)
    for network in model.networks().values():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=random)
        network.to(dtype)
    x, y = (torch.rand(1, 3, 32, 32, generator=random).to(dtype) * 2 - 1 for _ in "xy")
    model._step_generators(x, y)
    parameters = model.optimiser_G.param_groups[0]["params"]
    return torch.cat([p.grad.double().flatten() for p in parameters])


SPECS = {
    "resnet": GeneratorSpec(width=4, blocks=2),
    "mobile": GeneratorSpec(width=4, blocks=2, separable=True, upsample="resize"),
    "brush": replace(GeneratorSpec.named("brush"), width=4, blocks=2),
}


def errors_of_steps(name: str, *precision: torch.dtype) -> dict[str, list[float]]:
    """Of the gradients of five draws, relative to float64: by plain and by fused layers."""
    settings = TrainSettings(generator=SPECS[name], crop_size=32, load_size=32, history=0)
    reference = TrainSettings.from_json({**settings.to_json(), "exact_reference": True})
    errors: dict[str, list[float]] = {"plain": [], "fused": []}
    for seed in range(5):
        exact = step(reference, torch.float64, seed)
        for way, chosen in (("plain", reference), ("fused", settings)):
            found = step(chosen, torch.float32, seed, *precision)
            errors[way].append(float((found - exact).norm() / exact.norm()))
    return errors


@pytest.mark.parametrize("name", SPECS)
def test_a_whole_step(name: str) -> None:
    """Of several draws: a ReLU or a difference that rounding turns over moves gradients by 1e-3."""
    errors = errors_of_steps(name)
    assert errors["plain"] != errors["fused"]  # another way was taken
    assert statistics.median(errors["fused"]) <= 4 * statistics.median(errors["plain"]) + 1e-6


@needs_unit
@pytest.mark.parametrize("name", ["resnet", "mobile"])
def test_a_whole_step_in_bfloat16_is_nearer_to_float64_than_autocasts(name: str) -> None:
    """Values between the layers, and InstanceNorm, stay float32; so do the gradients."""
    errors = errors_of_steps(name, torch.bfloat16)  # plain: under autocast
    assert statistics.median(errors["fused"]) < statistics.median(errors["plain"])


@needs_unit
def test_a_step_in_bfloat16_has_the_same_bits_again() -> None:
    """Of the generators also with other threads."""
    settings = TrainSettings(generator=GeneratorSpec(width=16, blocks=1), crop_size=32, history=0)
    assert torch.equal(
        *(step(settings, torch.float32, 0, torch.bfloat16) for _ in range(2)),
    )
    network = CycleGAN(settings).G
    x, found, before = torch.rand(2, 3, 64, 48), [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        y = fused_layers(network, half=True)(x)
        found.append([y, *torch.autograd.grad(y, list(network.parameters()), torch.ones_like(y))])
    torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@needs_unit
def test_without_a_unit_for_bfloat16_the_layers_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Generator(SPECS["resnet"])
    assert fused_layers(network, half=True) is not network
    monkeypatch.setattr(bf16, "has_unit", lambda: False)
    assert fused_layers(network, half=True) is network
    assert fused_layers(network) is not network


def test_without_the_kernels_the_layers_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Generator(SPECS["resnet"])
    assert fused_layers(network) is not network
    monkeypatch.setattr(training, "library", lambda: None)
    assert fused_layers(network) is network


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["resnet", "mobile"])
def test_gradients_along_a_training(name: str) -> None:
    """Those that a step took, by parameter, against float64 of the weights and pictures it had.

    Again a median of several steps; the biases before an InstanceNorm, which takes them away, have
    gradients that are nothing but rounding.
    """
    settings = TrainSettings(
        generator=replace(SPECS[name], width=8),
        discriminator="twoscale",
        crop_size=64,
        load_size=64,
        lambda_identity=0.0,
        lr=1e-3,
    )
    plain = TrainSettings.from_json({**settings.to_json(), "exact_reference": True})
    model, references = CycleGAN(settings), {"exact": CycleGAN(plain), "plain": CycleGAN(plain)}
    errors: dict[str, list[list[float]]] = {"fused": [], "plain": []}
    for index in range(33):
        x, y = scene(index)[None], true_map(scene(50_000 + index)[None])
        found = {}
        if index % 4 == 0:
            for kind, reference in references.items():
                dtype = torch.float64 if kind == "exact" else torch.float32
                for ours, theirs in zip(
                    model.networks().values(), reference.networks().values(), strict=True
                ):
                    theirs.load_state_dict(ours.state_dict())
                    theirs.to(dtype)
                reference._step_generators(x.to(dtype), y.to(dtype))
                found[kind] = [p.grad.double() for p in _weights(reference)]
        model.step(x, y, settings.lr)
        if found:
            found["fused"] = [p.grad.double() for p in _weights(model)]
            for kind, each in errors.items():
                pairs = zip(found[kind], found["exact"], strict=True)
                each.append([float((one - true).norm() / true.norm()) for one, true in pairs])
    medians = {
        kind: [statistics.median(one) for one in zip(*each, strict=True)]
        for kind, each in errors.items()
    }
    assert medians["fused"] != medians["plain"]
    for ours, theirs in zip(medians["fused"], medians["plain"], strict=True):
        assert ours <= 4 * theirs + 3e-6


def _weights(model: CycleGAN) -> list[nn.Parameter]:
    return [p for net in (model.G, model.F) for p in net.parameters() if p.ndim > 1]
