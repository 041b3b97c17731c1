"""Any rows of any layer equal the rows of the whole layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cyclegan_cli.painting.rows import after
from tests.painting.common import rows_of

LAYERS = {
    "reflect 1": nn.ReflectionPad2d(1),
    "reflect 3": nn.ReflectionPad2d(3),
    "conv 7": nn.Conv2d(2, 3, 7),
    "conv 3": nn.Conv2d(2, 3, 3),
    "conv 3 stride 2": nn.Conv2d(2, 3, 3, stride=2, padding=1),
    "depthwise": nn.Conv2d(2, 2, 3, groups=2),
    "pointwise": nn.Conv2d(2, 3, 1),
    "transposed": nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
    "enlarge": nn.Upsample(scale_factor=2, mode="nearest"),
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
}


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_rows_are_those_of_the_whole(name: str, data: st.DataObject) -> None:
    layer = LAYERS[name].requires_grad_(False)
    height = 2 * data.draw(st.integers(4, 12), "half the height")
    x = torch.randn(1, 2, height, 10)
    before = x.clone()
    whole = layer(x.clone())
    rows = after(layer, rows_of(x))
    assert rows.shape == whole.shape
    start = data.draw(st.integers(0, rows.height - 1), "start")
    stop = data.draw(st.integers(start + 1, rows.height), "stop")
    torch.testing.assert_close(rows.read(start, stop), whole[:, :, start:stop], rtol=0, atol=1e-6)
    assert torch.equal(x, before), "the source is not the reader's to change"


def test_a_layer_that_no_generator_has_is_refused() -> None:
    with pytest.raises(TypeError, match="Sigmoid"):
        after(nn.Sigmoid(), rows_of(torch.zeros(1, 2, 8, 8)))
