"""The kernels on NumPy arrays: rows as they are read, and what is computed of them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.fast import arrays
from cyclegan_cli.engine.fast.arrays import Strip
from cyclegan_cli.engine.fast.library import library

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not here")

Drawn: TypeAlias = tuple[Strip, Tensor, tuple[int, int]]


def padded(strip: Strip, picture: Tensor) -> Tensor:
    """All of what is read of the whole ``picture``, which ``strip`` has some rows of."""
    if strip.mean is not None and strip.scale is not None:
        mean, scale = (torch.from_numpy(part)[:, None, None] for part in (strip.mean, strip.scale))
        picture = (picture - mean) * scale
    picture = torch.relu(picture) if strip.relu else picture
    if strip.enlarge:
        picture = functional.interpolate(picture, scale_factor=2, mode="nearest")
    return functional.pad(picture, (strip.pad,) * 4, mode="reflect" if strip.mirror else "constant")


def rows_of(pad: int, height: int, mirror: bool, first: int, stop: int) -> list[int]:
    """The picture's rows that rows ``first`` … ``stop`` of the padded one are read from."""
    rows = [row - pad for row in range(first, stop)]
    if mirror:
        rows = [abs(row) if row < height else 2 * (height - 1) - row for row in rows]
    return [row for row in rows if 0 <= row < height] or [0]


@st.composite
def strips(draw: st.DrawFn, least: int = 1) -> Drawn:
    """A strip, the picture that it is of, and rows of the padded one, ``least`` or more."""
    height, width = (
        draw(st.integers(max(3, least), 23), "height"),
        draw(st.integers(3, 23), "width"),
    )
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
    values = picture[0, :, low:high].numpy()
    how = [None if part is None else part.numpy() for part in (mean, scale)]
    relu = draw(st.booleans(), "relu")
    strip = Strip(np.ascontiguousarray(values), low, height, pad, mirror, *how, relu)
    return strip, picture, (first, stop)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def near(found: np.ndarray, right: Tensor) -> bool:
    """To the rounding of float32; ``right``: 1×C×h×w, float64."""
    assert found.shape == right.shape[1:]
    allowed = 1e-5 * max(1.0, float(right.abs().max()))
    return float((torch.from_numpy(found) - right[0]).abs().max()) <= allowed


@settings(max_examples=60, deadline=None, database=None)
@given(drawn=strips())
def test_any_rows_are_read_as_those_of_the_padded_picture(drawn: Drawn) -> None:
    strip, picture, (first, stop) = drawn
    values = strip.values.copy()
    right = padded(strip, picture)[0, :, first:stop]
    out = np.empty(tuple(right.shape), np.float32)
    arrays.prepare(strip, first, out)
    assert torch.equal(torch.from_numpy(out), right)
    assert np.array_equal(strip.values, values)


@settings(max_examples=30, deadline=None, database=None)
@given(drawn=strips(least=3), outputs=st.sampled_from([16, 19, 140]))
def test_any_rows_by_winograd(drawn: Drawn, outputs: int) -> None:
    strip, picture, (first, stop) = drawn
    inputs = picture.shape[1]
    weight = random(outputs, inputs, 3, 3, seed=outputs) / inputs**0.5
    bias = random(outputs, seed=1)
    x = padded(strip, picture)[:, :, first:stop].double()
    right = functional.conv2d(x, weight.double(), bias.double())
    out = np.empty(tuple(right.shape[1:]), np.float32)
    packed = arrays.winograd_weights(weight.numpy())
    mean, m2 = arrays.winograd(strip, first, packed, bias.numpy(), out)
    assert near(out, right)
    exact = out.astype(np.float64).reshape(outputs, -1)
    np.testing.assert_allclose(mean, exact.mean(1), atol=1e-6)
    np.testing.assert_allclose(m2, exact.var(1) * exact.shape[1], rtol=1e-4, atol=1e-6)
    again = arrays.moments(out)
    np.testing.assert_allclose(again[0], mean, atol=1e-6)


@settings(max_examples=30, deadline=None, database=None)
@given(drawn=strips(least=7), kernel=st.sampled_from([3, 7]), stride=st.sampled_from([1, 2]))
def test_any_rows_of_a_convolution(drawn: Drawn, kernel: int, stride: int) -> None:
    strip, picture, (first, stop) = drawn
    width = picture.shape[3] + 2 * strip.pad
    if width < kernel or (kernel, stride) == (7, 2):
        return
    inputs = picture.shape[1]
    weight, bias = random(5, inputs, kernel, kernel, seed=2) / (9 * inputs**0.5), random(5, seed=3)
    start = -(-first // stride)
    whole = functional.conv2d(
        padded(strip, picture).double(), weight.double(), bias.double(), stride
    )
    count = (stop - start * stride - kernel) // stride + 1
    if count < 1:
        return
    right = whole[:, :, start : start + count]
    out = np.empty(tuple(right.shape[1:]), np.float32)
    arrays.convolve(strip, start, (weight.numpy(), bias.numpy()), stride, out)
    assert near(out, right)


@settings(max_examples=20, deadline=None, database=None)
@given(drawn=strips(least=3), enlarge=st.booleans())
def test_all_rows_of_a_separable_convolution(drawn: Drawn, enlarge: bool) -> None:
    strip, picture, _ = drawn
    values = np.ascontiguousarray(picture[0].numpy())
    whole = Strip(values, 0, picture.shape[2], 1, True, strip.mean, strip.scale, True, enlarge)
    channels = picture.shape[1]
    depth = random(channels, 1, 3, 3, seed=4) / 3, random(channels, seed=5)
    point = random(6, channels, 1, 1, seed=6) / channels**0.5, random(6, seed=7)
    x = padded(whole, picture).double()
    x = functional.conv2d(x, depth[0].double(), depth[1].double(), groups=channels)
    right = functional.conv2d(x, point[0].double(), point[1].double())
    out = np.empty(tuple(right.shape[1:]), np.float32)
    pairs = [tuple(part.numpy() for part in pair) for pair in (depth, point)]
    arrays.separable(whole, 0, *pairs, out)
    assert near(out, right)


def test_a_transposed_convolution() -> None:
    x, weight, bias = random(1, 7, 9, 11, seed=0), random(7, 5, 3, 3, seed=1), random(5, seed=2)
    right = functional.conv_transpose2d(x.double(), weight.double(), bias.double(), 2, 1, 1)
    strip = Strip(np.ascontiguousarray(x[0].numpy()), 0, 9, 1)
    out = np.empty((5, 18, 22), np.float32)
    arrays.conv_transpose(strip, 1, 1, (weight.numpy(), bias.numpy()), out)
    assert near(out, right)


def test_what_is_normalised_is_added() -> None:
    x, total = random(4, 6, 5, seed=0).numpy(), random(4, 9, 5, seed=1).numpy()
    mean, scale = random(4, seed=2).numpy(), random(4, seed=3).numpy()
    expected = total.copy()
    expected[:, 2:8] += (x - mean[:, None, None]) * scale[:, None, None]
    arrays.accumulate_normalised(total[:, 2:8], x, mean, scale)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)


def test_threads_are_those_of_pytorch_where_it_is_loaded() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert arrays.threads() == 3
    finally:
        torch.set_num_threads(before)
