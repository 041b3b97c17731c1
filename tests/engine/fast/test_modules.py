"""A training's fast layers: outputs and gradients are those of float64, to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.modules import _chain
from cyclegan_cli.settings import GeneratorSpec, TrainSettings

WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(not kernels.present(), reason="no kernels built")),
    False,
]
# Relative, of one layer: Winograd's filtering adds and takes away more than the plain sums do.
ROUNDING = 3e-6
LAYERS = {
    "whole": [nn.ReflectionPad2d(1), nn.Conv2d(24, 16, 3)],
    "depthwise": [nn.ReflectionPad2d(1), nn.Conv2d(5, 5, 3, groups=5)],
    "to three": [nn.ReflectionPad2d(3), nn.Conv2d(6, 3, 7)],
}


@pytest.fixture(params=WAYS, ids=lambda built: "kernels" if built else "torch alone")
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, and as on a machine without a compiler."""
    if not request.param:
        monkeypatch.setattr(kernels, "_library", lambda: None)


def gradients(function, layers: nn.Sequential, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    y = function(x)
    found = torch.autograd.grad(y, [x, *layers.parameters()], grad)
    return [y.detach().double(), *(one.double() for one in found)]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(4, 4), (5, 9), (17, 34), (32, 8)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_each_layer_and_its_gradients(
    name: str, size: tuple[int, int], channels_last: bool
) -> None:
    random = torch.Generator().manual_seed(sum(size))
    layers = nn.Sequential(*copy.deepcopy(LAYERS[name]))
    for parameter in layers.parameters():
        parameter.data.normal_(0, 0.3, generator=random)
    channels, outputs = layers[1].in_channels, layers[1].out_channels
    x = torch.randn(2, channels, *size, generator=random)
    grad = torch.randn(2, outputs, *size, generator=random)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        grad = grad.to(memory_format=torch.channels_last)
    exact = copy.deepcopy(layers).double()
    right = gradients(exact, exact, x.double(), grad.double())
    plain = gradients(layers, layers, x, grad)
    quick = gradients(_chain(layers), layers, x, grad)
    for ours, theirs, value in zip(quick, plain, right, strict=True):
        allowed = 2 * float((theirs - value).norm()) + ROUNDING * float(value.norm())
        assert float((ours - value).norm()) <= allowed


def step(settings: TrainSettings, dtype: torch.dtype) -> Tensor:
    """All gradients of G and F of one step, as one vector."""
    model = CycleGAN(settings)
    random = torch.Generator().manual_seed(1)
    for network in model.networks().values():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=random)
        network.to(dtype)
    x, y = (torch.rand(1, 3, 64, 64, generator=random).to(dtype) * 2 - 1 for _ in "xy")
    model._step_generators(x, y, (1, 1))
    parameters = model.optimiser_G.param_groups[0]["params"]
    return torch.cat([p.grad.double().flatten() for p in parameters])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("separable", [False, True])
def test_a_whole_step(separable: bool) -> None:
    spec = GeneratorSpec(
        width=4, blocks=2, separable=separable, upsample="resize" if separable else "transpose"
    )
    settings = TrainSettings(generator=spec, crop_size=64, load_size=64, history=0)
    reference = TrainSettings.from_json({**settings.to_json(), "exact_reference": True})
    exact = step(reference, torch.float64)
    plain = float((step(reference, torch.float32) - exact).norm() / exact.norm())
    quick = step(settings, torch.float32)
    assert not torch.equal(quick, step(reference, torch.float32))  # another way was taken
    assert float((quick - exact).norm() / exact.norm()) <= 4 * plain + 1e-6
