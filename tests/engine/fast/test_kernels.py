"""The kernels alone: the same bits whatever the number of threads, and the moments on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.winograd import convolve, transformed

pytestmark = pytest.mark.skipif(not kernels.present(), reason="no kernels built")


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def with_threads(count: int, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    torch.set_num_threads(count)
    return work()


@settings(max_examples=30, deadline=None, database=None)
@given(data=st.data())
def test_a_filtered_picture_has_the_same_bits_with_any_threads(data: st.DataObject) -> None:
    outputs, inputs = (data.draw(st.integers(16, 40), side) for side in ("outputs", "inputs"))
    height, width = (data.draw(st.integers(2, 70), side) for side in ("height", "width"))
    source = torch.Generator().manual_seed(data.draw(st.integers(0, 9), "seed"))
    x = torch.randn(1, inputs, height, width, generator=source)
    weight = torch.randn(outputs, inputs, 3, 3, generator=source) / inputs**0.5
    bias = torch.randn(outputs, generator=source)

    def work() -> tuple[Tensor, ...]:
        mean, m2 = torch.empty(2, outputs, dtype=torch.float64)
        strip = Strip(x, 0, height, 1, True)
        own = transformed(weight)
        return convolve(strip, (0, height), own, bias, statistics=(mean, m2)), mean, m2

    alone, mean, m2 = with_threads(1, work)
    for count in (2, 3, data.draw(st.integers(4, 40), "threads")):
        assert all(
            torch.equal(one, other)
            for one, other in zip(with_threads(count, work), (alone, mean, m2), strict=True)
        )

    padded = functional.pad(x.double(), (1, 1, 1, 1), mode="reflect")
    exact = functional.conv2d(padded, weight.double(), bias.double())
    assert float((alone - exact).abs().max()) < 1e-4
    values = alone.double()
    assert torch.allclose(mean, values.mean((0, 2, 3)), atol=1e-7)
    squares = ((values - values.mean((0, 2, 3), keepdim=True)) ** 2).sum((0, 2, 3))
    assert torch.allclose(m2, squares, rtol=1e-5)


def test_long_sums_are_as_exact_as_those_of_pytorch() -> None:
    # Of 3136 terms: one after the other in float32, the error was five times PyTorch's.
    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 40, 40, generator=source).abs()
    weight, bias = torch.randn(3, 64, 7, 7, generator=source) / 56, torch.zeros(3)
    exact = functional.conv2d(x.double(), weight.double())
    plain = functional.conv2d(x, weight)
    found = kernels.convolve(Strip(x, 0, 40), (0, 34), weight, bias)
    error = float((found - exact).pow(2).mean().sqrt())
    assert error < 2 * float((plain - exact).pow(2).mean().sqrt())
