"""Any rows of any layer equal the rows of the whole layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cyclegan_cli.engine.layers import Layer
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting.by_torch import TorchBackend
from cyclegan_cli.settings import GeneratorSpec
from tests.painting.common import rows_of


def conv(outputs: int, **how: Any) -> Layer:
    return Layer("conv", "it", 2, outputs, **how)


# Each as a layer, and as PyTorch's own module of it.
LAYERS: dict[str, tuple[Layer, nn.Module]] = {
    "reflect 1": (Layer("reflect", "it", 2, 2, padding=1), nn.ReflectionPad2d(1)),
    "reflect 3": (Layer("reflect", "it", 2, 2, padding=3), nn.ReflectionPad2d(3)),
    "conv 7": (conv(3, kernel=7), nn.Conv2d(2, 3, 7)),
    "conv 3": (conv(3, kernel=3), nn.Conv2d(2, 3, 3)),
    "conv 3 stride 2": (
        conv(3, kernel=3, stride=2, padding=1),
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
    ),
    "depthwise": (conv(2, kernel=3, groups=2), nn.Conv2d(2, 2, 3, groups=2)),
    "pointwise": (conv(3), nn.Conv2d(2, 3, 1)),
    "transposed": (
        Layer("conv_transpose", "it", 2, 3, kernel=3, stride=2, padding=1),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
    ),
    "upsample": (Layer("upsample", "it", 2, 2), nn.Upsample(scale_factor=2, mode="nearest")),
    "relu": (Layer("relu", "it", 2, 2), nn.ReLU()),
    "leaky relu": (Layer("leaky_relu", "it", 2, 2, slope=0.1), nn.LeakyReLU(0.1)),
    "tanh": (Layer("tanh", "it", 2, 2), nn.Tanh()),
}


def backend_of(module: nn.Module) -> TorchBackend:
    tensors = {f"it.{name}": value.numpy() for name, value in module.state_dict().items()}
    return TorchBackend(Weights(GeneratorSpec(), tensors), "cpu", "fp32")


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_rows_are_those_of_the_whole(name: str, data: st.DataObject) -> None:
    layer, module = LAYERS[name]
    module.requires_grad_(False)
    height = 2 * data.draw(st.integers(4, 12), "half the height")
    x = torch.randn(1, 2, height, 10)
    before = x.clone()
    whole = module(x.clone())
    rows = backend_of(module).apply(layer, rows_of(x))
    assert rows.shape == whole.shape[1:]
    start = data.draw(st.integers(0, rows.height - 1), "start")
    stop = data.draw(st.integers(start + 1, rows.height), "stop")
    torch.testing.assert_close(rows.read(start, stop), whole[:, :, start:stop], rtol=0, atol=1e-6)
    assert torch.equal(x, before), "the source is not the reader's to change"


def test_a_layer_that_no_generator_has_is_refused() -> None:
    with pytest.raises(TypeError, match="save"):
        backend_of(nn.ReLU()).apply(Layer("save", "it"), rows_of(torch.zeros(1, 2, 8, 8)))


def test_a_picture_is_added_in_float32() -> None:
    """bfloat16 has 8 bits of precision: a smooth 16-bit gradient would keep few of its values."""
    backend = TorchBackend(Weights(GeneratorSpec(), {}), "cpu", "bf16")
    gradient = torch.linspace(-1, 1, 3 * 8 * 400).view(1, 3, 8, 400)
    found = backend.finish(torch.zeros_like(gradient, dtype=torch.bfloat16), gradient)
    assert torch.equal(found, gradient)
    assert functional.mse_loss(gradient.bfloat16().float(), gradient) > 0
    assert len(np.unique(found.numpy())) == gradient.numel()
