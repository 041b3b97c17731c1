"""The kernels of native/kernels.cpp on NumPy arrays: those that painting without PyTorch needs.

All arrays are float32, C×h×W, with contiguous rows; between channels there may be a gap.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.engine.fast.library import LONG, Source, call, library

__all__ = ["Array", "Layer", "Strip", "convolve", "prepare", "separable"]

Array = NDArray[np.float32]
Layer = tuple[Array, Array]  # weight and bias, as PyTorch shapes them


@dataclass(frozen=True)
class Strip:
    """Rows of a picture, to be read as if they had gone through ReLU, been enlarged and padded.

    As ``kernels.Strip``: ``values`` are C×h×W, the rows from ``first`` on of a picture of
    ``height`` rows; padding mirrors.
    """

    values: Array
    first: int
    height: int
    pad: int = 0
    relu: bool = False
    enlarge: bool = False


def prepare(strip: Strip, row: int, out: Array, threads: int) -> None:
    """Rows of the padded picture from ``row`` on; out, without gaps: C×count×(W + 2 pad)."""
    _call("prepare", strip, row, out.shape[1], out, threads)


def convolve(strip: Strip, row: int, layer: Layer, stride: int, out: Array, threads: int) -> None:
    """Rows from ``row`` on of a convolution of the padded picture, stride 1 or 2, into ``out``.

    The weight: O×C×K×K; out: O×count×width.
    """
    weight, bias = layer
    shape = (weight.shape[0], weight.shape[2], stride, 0)
    size = (out, out.strides[0] // 4)
    _call("convolve", strip, row, out.shape[1], *shape, weight, bias, *size, threads)


def separable(strip: Strip, row: int, depth: Layer, point: Layer, out: Array, threads: int) -> None:
    """Rows from ``row`` on of a depthwise 3×3 convolution and a pointwise one behind it.

    The weights: C×1×3×3 and O×C×1×1; out: O×count×width.
    """
    size = (out, out.strides[0] // 4)
    _call(
        "separable",
        *(strip, row, out.shape[1], *depth, point[0].shape[0], *point, *size, threads),
    )


def _call(name: str, *arguments: Any) -> None:
    found = library()
    if found is None:
        raise RuntimeError("the kernels are not here")
    call(found, name, *(_argument(argument) for argument in arguments))


def _argument(value: Any) -> object:
    if isinstance(value, int):
        return LONG(value)
    if isinstance(value, Strip):
        return ctypes.byref(_source(value))
    return ctypes.c_void_p(value.ctypes.data)


def _source(strip: Strip) -> Source:
    values = strip.values
    channels, rows, width = values.shape
    scale = 2 if strip.enlarge else 1
    return Source(
        *(values.ctypes.data, values.strides[0] // 4, strip.first, rows),
        *(scale * strip.height, scale * width, channels, strip.pad, 1),
        *(None, None, int(strip.relu), int(strip.enlarge)),
    )
