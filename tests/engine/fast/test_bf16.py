"""Convolutions in bfloat16: products of rounded values, summed in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cyclegan_cli.engine.fast import bf16, kernels
from cyclegan_cli.engine.fast.kernels import Strip, library

pytestmark = pytest.mark.skipif(
    not bf16.has_unit(), reason="the processor has neither AMX nor AVX512-BF16"
)
SUMMED = 2e-5  # what float32 sums of some thousand products of about 1 may lose
LOOSE = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
UNITS = ["AVX512-BF16", "AMX"]  # by the numbers 1 and 2 of native/pixels.h


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both units in turn: a processor with AMX is held to AVX512-BF16."""
    found, number = library(), UNITS.index(request.param) + 1
    assert found is not None
    if found.bf16_unit() < number:
        pytest.skip(f"the processor has no {request.param}")
    found.bf16_most(number)
    yield
    found.bf16_most(2)


def in_pixels(values: np.ndarray, *, half: bool) -> np.ndarray:
    """``values`` in pixel order, rounded to bfloat16 if ``half``."""
    out = bf16.pixels(values.shape, half=half)
    bits = torch.from_numpy(values).bfloat16().view(torch.int16).numpy()
    out[...] = bits if half else values
    return out


def as_floats(halves: np.ndarray) -> np.ndarray:
    return torch.from_numpy(halves).view(torch.bfloat16).double().numpy()


def assert_rounded(out: np.ndarray, exact: np.ndarray, found: kernels.Statistics | None) -> None:
    """bfloat16 has 8 bits; the statistics are those of the rounded values."""
    assert np.abs(as_floats(out) - exact).max() < np.abs(exact).max() * 2**-8
    assert found is not None
    flat = as_floats(out).reshape(len(out), -1)
    assert np.allclose(found[0], flat.mean(1), rtol=0, atol=1e-12)
    assert np.allclose(found[1], flat.var(1) * flat.shape[1], rtol=1e-9, atol=1e-9)


def rounded(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).bfloat16().double()


def drawn_convolution(
    data: st.DataObject, side: int
) -> tuple[np.random.Generator, np.ndarray, np.ndarray, int]:
    """A random generator, C×H×W of sides up to ``side``, weights O×C×K×K, and the stride."""
    channels, outputs = (data.draw(st.integers(1, 70), label) for label in ("inputs", "outputs"))
    kernel, stride = data.draw(st.sampled_from([(3, 1), (3, 2), (7, 1), (5, 1)]), "kernel")
    height, width = (data.draw(st.integers(8, side), label) for label in ("height", "width"))
    random = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    x = random.standard_normal((channels, height, width), np.float32)
    weight = random.standard_normal((outputs, channels, kernel, kernel), np.float32) / kernel
    return random, x, weight, stride


@pytest.mark.usefixtures("unit")
@settings(LOOSE, max_examples=60)
@given(data=st.data())
def test_a_convolution_is_that_of_rounded_values(data: st.DataObject) -> None:
    random, x, weight, stride = drawn_convolution(data, 60)
    outputs, channels, kernel, _ = weight.shape
    pad = kernel // 2
    bias = random.standard_normal(outputs, np.float32)
    padded = functional.pad(rounded(x)[None], (pad,) * 4, mode="reflect")
    wanted = functional.conv2d(padded, rounded(weight), torch.from_numpy(bias).double(), stride)[0]
    start = data.draw(st.integers(0, wanted.shape[1] - 1), "first row")
    out = kernels.empty(outputs, wanted.shape[1] - start, wanted.shape[2])
    strip = Strip(x, 0, x.shape[1], pad, True)
    packed = bf16.weights((weight, bias), stride)
    bf16.convolve(strip, start, packed, kernel, stride, out)
    scale = max(1.0, (channels * kernel) ** 0.5)
    assert np.abs(out - wanted[:, start:].numpy()).max() < SUMMED * scale


@pytest.mark.usefixtures("unit")
@settings(LOOSE, max_examples=30)
@given(data=st.data())
def test_a_transposed_convolution_is_that_of_rounded_values(data: st.DataObject) -> None:
    channels, outputs = (data.draw(st.integers(1, 70), side) for side in ("inputs", "outputs"))
    height, width = (data.draw(st.integers(2, 40), side) for side in ("height", "width"))
    random = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    x = random.standard_normal((channels, height, width), np.float32)
    weight = random.standard_normal((channels, outputs, 3, 3), np.float32)
    bias = random.standard_normal(outputs, np.float32)
    whole = functional.conv_transpose2d(
        rounded(x)[None], rounded(weight), torch.from_numpy(bias).double(), 2
    )[0]
    row, column = (data.draw(st.integers(0, 3), side) for side in ("row", "column"))
    wanted = whole[:, row : 2 * height, column : 2 * width].numpy()
    out = kernels.empty(*wanted.shape)
    packed = bf16.transposed_weights((weight, bias))
    bf16.conv_transpose(Strip(x, 0, height, 1), row, column, packed, out)
    assert np.abs(out - wanted).max() < SUMMED * max(1.0, channels**0.5)


def correlated(x: np.ndarray, grad: np.ndarray, kernel: int, stride: int) -> list[np.ndarray]:
    """The gradients of weight and bias of a convolution that pads by reflection."""
    shape = (len(grad), len(x), kernel, kernel)
    found = [kernels.empty(*shape), kernels.empty(len(grad))]
    strip = Strip(x, 0, x.shape[1], kernel // 2, True, relu=True)
    bf16.convolve_backward(strip, grad, stride, *found)
    return found


@pytest.mark.usefixtures("unit")
@settings(LOOSE, max_examples=60)
@given(data=st.data())
def test_gradients_are_those_of_rounded_values(data: st.DataObject) -> None:
    """Of weight and input; that of the bias is not rounded."""
    random, x, weight, stride = drawn_convolution(data, 90)
    outputs, _, kernel, _ = weight.shape
    pad = kernel // 2
    padded = functional.pad(rounded(np.maximum(x, 0))[None], (pad,) * 4, mode="reflect")
    padded, exact = padded.requires_grad_(), rounded(weight).requires_grad_()
    y = functional.conv2d(padded, exact, None, stride)
    grad = random.standard_normal(y.shape[1:], np.float32)
    of_input, of_weight = torch.autograd.grad(y, [padded, exact], rounded(grad)[None])
    found, of_bias = correlated(x, grad, kernel, stride)
    assert np.abs(found - of_weight.numpy()).max() < SUMMED * y[0, 0].numel() ** 0.5
    assert np.abs(of_bias - grad.sum((1, 2), dtype=np.float64)).max() < 1e-3
    into = kernels.empty(*padded.shape[1:])
    if stride == 1:
        strip = Strip(grad, 0, grad.shape[1], kernel - 1)
        bf16.convolve(strip, 0, bf16.weights((weight, None), 1, transposed=True), kernel, 1, into)
    else:
        packed = bf16.transposed_weights((weight, None))
        bf16.conv_transpose(Strip(grad, 0, grad.shape[1], 1), 0, 0, packed, into)
    scale = max(1.0, (outputs * kernel) ** 0.5)
    assert np.abs(into - of_input[0].numpy()).max() < SUMMED * scale


@pytest.mark.usefixtures("unit")
@pytest.mark.parametrize("shape", [(3, 40, 7, 1), (40, 3, 7, 1), (70, 40, 3, 1), (20, 70, 3, 2)])
def test_gradients_have_the_same_bits_with_any_threads(
    shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channels, outputs, kernel, stride = shape
    random = np.random.default_rng(0)
    x = random.standard_normal((channels, 90, 140), np.float32)
    size = (outputs, -(-90 // stride), -(-140 // stride))
    grad = random.standard_normal(size, np.float32)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(kernels, "threads", lambda count=threads: count)
        found.append(correlated(x, grad, kernel, stride))
    for other in found[1:]:
        assert all(np.array_equal(*pair) for pair in zip(found[0], other, strict=True))


@pytest.mark.usefixtures("unit")
@settings(LOOSE, max_examples=30)
@given(data=st.data())
def test_pixel_order_is_read_and_written(data: st.DataObject) -> None:
    """Of normalised values, bfloat16 or float32, and strips from any row on."""
    channels, outputs = (data.draw(st.integers(16, 80), side) for side in ("inputs", "outputs"))
    stride, mirror = data.draw(st.sampled_from([1, 2])), data.draw(st.booleans(), "mirror")
    height, width = (data.draw(st.integers(2, 90), side) for side in ("height", "width"))
    half, relu = data.draw(st.booleans(), "half"), data.draw(st.booleans(), "relu")
    random = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    x = rounded(random.standard_normal((channels, height, width), np.float32)).float().numpy()
    mean, scale = (random.random(channels, np.float32) for _ in range(2))
    weight = random.standard_normal((outputs, channels, 3, 3), np.float32) / 12
    bias = random.standard_normal(outputs, np.float32)
    read = (x - mean[:, None, None]) * scale[:, None, None]
    read = rounded(np.maximum(read, 0) if relu else read)[None]
    padded = functional.pad(read, (1,) * 4, mode="reflect" if mirror else "constant")
    b = torch.from_numpy(bias).double()
    strip = Strip(in_pixels(x, half=half), 0, height, 1, mirror, mean, scale, relu)
    wanted = functional.conv2d(padded, rounded(weight), b, stride)[0].numpy()
    start = data.draw(st.integers(0, wanted.shape[1] - 1), "first row")
    out = bf16.pixels(wanted[:, start:].shape, half=True)
    packed = bf16.weights((weight, bias), stride)
    assert_rounded(out, wanted[:, start:], bf16.convolve(strip, start, packed, 3, stride, out))
    wanted = functional.conv_transpose2d(read, rounded(weight).transpose(0, 1), b, 2)[0].numpy()
    out = bf16.pixels((outputs, 2 * height - start, 2 * width - 1), half=True)
    strip = replace(strip, mirror=False)
    packed = bf16.transposed_weights((weight.transpose(1, 0, 2, 3).copy(), bias))
    found = bf16.conv_transpose(strip, start, 1, packed, out)
    assert_rounded(out, wanted[:, start : 2 * height, 1 : 2 * width], found)


def test_a_trunks_sum_is_float32() -> None:
    random = np.random.default_rng(0)
    x, total = random.standard_normal((2, 40, 5, 7), np.float32)
    mean, scale = random.random((2, 40), np.float32)
    normalised = (rounded(x).numpy() - mean[:, None, None]) * scale[:, None, None]
    strip = Strip(in_pixels(x, half=True), 0, 5, mean=mean, scale=scale)
    prepared = bf16.pixels((40, 3, 7), half=False)
    bf16.prepare_pixels(strip, 1, prepared)
    assert np.allclose(prepared, normalised[:, 1:4], atol=1e-6)
    summed = in_pixels(total, half=False)
    bf16.accumulate_pixels(summed, strip.values, mean, scale)
    assert np.allclose(summed, total + normalised, atol=1e-6)
