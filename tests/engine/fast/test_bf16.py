"""Convolutions in bfloat16: products of rounded values, summed in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip

pytestmark = pytest.mark.skipif(
    not kernels.has_bf16(), reason="the processor has neither AMX nor AVX512-BF16"
)
SUMMED = 2e-5  # what float32 sums of some thousand products of about 1 may lose


def rounded(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).bfloat16().double()


@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_a_convolution_is_that_of_rounded_values(data: st.DataObject) -> None:
    channels, outputs = (data.draw(st.integers(1, 70), side) for side in ("inputs", "outputs"))
    kernel, stride = data.draw(st.sampled_from([(3, 1), (3, 2), (7, 1), (5, 1)]), "kernel")
    height, width = (data.draw(st.integers(8, 60), side) for side in ("height", "width"))
    random = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    pad = kernel // 2
    x = random.standard_normal((channels, height, width), np.float32)
    weight = random.standard_normal((outputs, channels, kernel, kernel), np.float32) / kernel
    bias = random.standard_normal(outputs, np.float32)
    padded = functional.pad(rounded(x)[None], (pad,) * 4, mode="reflect")
    wanted = functional.conv2d(padded, rounded(weight), torch.from_numpy(bias).double(), stride)[0]
    start = data.draw(st.integers(0, wanted.shape[1] - 1), "first row")
    out = kernels.empty(outputs, wanted.shape[1] - start, wanted.shape[2])
    strip = Strip(x, 0, height, pad, True)
    packed = kernels.bf16_weights((weight, bias), stride)
    kernels.convolve_bf16(strip, start, packed, kernel, stride, out)
    scale = max(1.0, (channels * kernel) ** 0.5)
    assert np.abs(out - wanted[:, start:].numpy()).max() < SUMMED * scale


@settings(max_examples=30, deadline=None, database=None)
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
    packed = kernels.bf16_transposed_weights((weight, bias))
    kernels.conv_transpose_bf16(Strip(x, 0, height, 1), row, column, packed, out)
    assert np.abs(out - wanted).max() < SUMMED * max(1.0, channels**0.5)
