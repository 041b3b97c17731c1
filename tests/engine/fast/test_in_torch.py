"""Without the kernels: rows as they are read, and Winograd's filtering in PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.fast import kernels, winograd_in_torch
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.reading import by_channel, realised, realised_by_pixel
from cyclegan_cli.engine.fast.rooms import Rooms
from cyclegan_cli.engine.fast.winograd import convolve, transformed

ONEDNN = winograd_in_torch._onednn()
PRODUCTS = [
    pytest.param(True, marks=pytest.mark.skipif(ONEDNN is None, reason="no product of oneDNN")),
    False,
]


@pytest.fixture(params=PRODUCTS, ids=lambda one: "oneDNN" if one else "bmm")
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernels, and either way to multiply."""
    monkeypatch.setattr(kernels, "_library", lambda: None)
    monkeypatch.setattr(winograd_in_torch, "_onednn", lambda: ONEDNN if request.param else None)


def padded(strip: Strip, picture: Tensor) -> Tensor:
    """All of what is read of the whole ``picture``, which ``strip`` has some rows of."""
    if strip.mean is not None and strip.scale is not None:
        picture = (picture - strip.mean[:, None, None]) * strip.scale[:, None, None]
    picture = torch.relu(picture) if strip.relu else picture
    return functional.pad(picture, (strip.pad,) * 4, mode="reflect" if strip.mirror else "constant")


def rows_of(pad: int, height: int, mirror: bool, first: int, stop: int) -> list[int]:
    """The picture's rows that rows ``first`` … ``stop`` of the padded one are read from."""
    rows = [row - pad for row in range(first, stop)]
    if mirror:
        rows = [abs(row) if row < height else 2 * (height - 1) - row for row in rows]
    return [row for row in rows if 0 <= row < height] or [0]


@st.composite
def strips(draw: st.DrawFn, least: int = 1) -> tuple[Strip, Tensor, tuple[int, int]]:
    """A strip, the picture that it is of, and rows of the padded one, ``least`` or more."""
    height, width = draw(st.integers(3, 23), "height"), draw(st.integers(3, 23), "width")
    pad, mirror = draw(st.integers(0, 2), "pad"), draw(st.booleans(), "mirror")
    channels = draw(st.sampled_from([16, 17, 130, 256]), "channels")
    source = torch.Generator().manual_seed(draw(st.integers(0, 9), "seed"))
    picture = torch.randn(1, channels, height, width, generator=source)
    first = draw(st.integers(0, height + 2 * pad - least), "first")
    stop = draw(st.integers(first + least, height + 2 * pad), "stop")
    rows = rows_of(pad, height, mirror, first, stop)
    low = draw(st.integers(0, min(rows)), "low")
    high = draw(st.integers(max(rows) + 1, height), "high")
    known = draw(st.booleans(), "known")
    mean = torch.randn(channels, generator=source) if known else None
    scale = torch.rand(channels, generator=source) if known else None
    values = picture[:, :, low:high].contiguous()
    relu = draw(st.booleans(), "relu")
    return Strip(values, low, height, pad, mirror, mean, scale, relu), picture, (first, stop)


@settings(max_examples=60, deadline=None, database=None)
@given(drawn=strips(), more=st.integers(0, 5))
def test_any_rows_are_read_as_those_of_the_padded_picture(
    drawn: tuple[Strip, Tensor, tuple[int, int]], more: int
) -> None:
    strip, picture, (first, stop) = drawn
    values = strip.values.clone()
    right = padded(strip, picture)[:, :, first:stop]
    assert torch.equal(realised(strip, first, stop - first), right)
    columns = right.shape[3] + more
    wide = realised_by_pixel(strip, first, stop - first, columns)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(wide, functional.pad(right, (0, more)))
    assert torch.equal(by_channel(wide[:, :, :, : right.shape[3]]), right)
    assert torch.equal(strip.values, values)


@pytest.mark.usefixtures("products")
@settings(max_examples=30, deadline=None, database=None)
@given(drawn=strips(least=3), outputs=st.sampled_from([16, 19, 140]), biased=st.booleans())
def test_any_rows_of_a_filtered_picture(
    drawn: tuple[Strip, Tensor, tuple[int, int]], outputs: int, biased: bool
) -> None:
    strip, picture, (first, stop) = drawn
    source = torch.Generator().manual_seed(outputs)
    inputs = picture.shape[1]
    weight = torch.randn(outputs, inputs, 3, 3, generator=source) / inputs**0.5
    bias = torch.randn(outputs, generator=source) if biased else None
    found = convolve(strip, (first, stop - 2), transformed(weight), bias)
    x = padded(strip, picture)[:, :, first:stop].double()
    right = functional.conv2d(x, weight.double(), None if bias is None else bias.double())
    assert found.shape == right.shape
    assert found.is_contiguous()
    assert float((found - right).abs().max()) <= 1e-5 * max(1.0, float(right.abs().max()))


@pytest.mark.usefixtures("products")
def test_parts_of_a_large_picture_meet() -> None:
    x = torch.randn(1, 160, 130, 67, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(96, 160, 3, 3, generator=torch.Generator().manual_seed(1)) / 30
    assert len(list(winograd_in_torch._parts(32, 17, 160))) > 1
    found = convolve(Strip(x, 0, 130), (0, 128), transformed(weight), None)
    right = functional.conv2d(x.double(), weight.double())
    assert float((found - right).abs().max()) <= 1e-5 * float(right.abs().max())


@pytest.mark.usefixtures("products")
def test_a_training_goes_on_after_a_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd_in_torch, "_rooms", Rooms())
    x, weight = torch.rand(1, 16, 9, 9), torch.rand(16, 16, 3, 3)
    with torch.inference_mode():
        painted = convolve(Strip(x, 0, 9), (0, 7), transformed(weight), None)
    with torch.no_grad():
        assert torch.equal(convolve(Strip(x, 0, 9), (0, 7), transformed(weight), None), painted)


def absent(*_: object) -> Tensor:
    raise RuntimeError("no such operator")


def other(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x @ weight.t() + 1e-3


@pytest.mark.parametrize("operator", [absent, other])
def test_a_product_of_onednn_that_is_not_what_it_was_is_left_alone(
    operator: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", operator, raising=False)
    assert winograd_in_torch._onednn.__wrapped__() is None
