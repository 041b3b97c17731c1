"""Convolutions in bfloat16 on NumPy arrays, by AMX or AVX512-BF16. Imports no PyTorch.

Values and weights are rounded to bfloat16, and their products summed in float32. Shapes are those
of the functions of the same names in ``kernels``. Strips may be in pixel order if they have 16
channels or more, but for gradients. Every function raises MemoryError as those do.
"""

from __future__ import annotations

import math

import numpy as np

from cyclegan_cli.engine.fast.kernels import (
    LONG,
    Array,
    Pair,
    PixelArray,
    Statistics,
    Strip,
    aligned,
    empty,
    invoke,
    library,
    plane_size,
)


def has_unit() -> bool:
    """Whether the kernels can multiply bfloat16 on this processor: AMX or AVX512-BF16."""
    return _unit() > 0


def has_tiles() -> bool:
    """Whether they do so by AMX: faster than Winograd's filtering in float32, in any shape."""
    return _unit() == 2


def _unit() -> int:
    found = library()
    return 0 if found is None else int(found.bf16_unit())


def weights(pair: Pair, stride: int, *, transposed: bool = False) -> Array:
    """The weights of ``convolve`` in the processor's own order, of O×C×K×K and O.

    ``transposed``: of C×O×K×K, as of ``kernels.convolve``.
    """
    weight, bias = pair
    outputs, channels = weight.shape[:2][:: -1 if transposed else 1]
    size = (outputs, channels, weight.shape[2], stride)
    out = empty(_size("bf16_size", *size))
    invoke("bf16_weights", weight, bias, *size, int(transposed), out)
    return out


def convolve(
    strip: Strip, row: int, packed: Array, kernel: int, stride: int, out: PixelArray
) -> Statistics | None:
    """Rows from ``row`` on of a convolution with ``weights``.

    ``out``: float32 planes, or int16 in pixel order, of which ``moments`` are returned, exact sums
    of the rounded values.
    """
    size = (row, out.shape[1], out.shape[0], kernel, stride)
    return _measured("convolve_bf16", strip, size, packed, out)


def convolve_backward(
    strip: Strip, grad: Array, stride: int, grad_weight: Array, grad_bias: Array | None
) -> None:
    """The gradients of weight and bias from that of the whole output, which is rounded, too.

    That of the bias is not.
    """
    size = (*grad.shape, grad_weight.shape[2], stride)
    invoke("correlate_bf16", strip, grad, *size, grad_weight, grad_bias)


def transposed_weights(pair: Pair) -> Array:
    """The weights of ``conv_transpose``, of C×O×3×3 and O."""
    weight, bias = pair
    channels, outputs = weight.shape[:2]
    out = empty(_size("bf16_transposed_size", outputs, channels))
    invoke("bf16_transposed_weights", weight, bias, outputs, channels, out)
    return out


def conv_transpose(
    strip: Strip, row: int, column: int, packed: Array, out: PixelArray
) -> Statistics | None:
    """Rows and columns from ``row`` and ``column`` on; ``out`` and result as of ``convolve``."""
    size = (row, out.shape[1], column, out.shape[2], out.shape[0])
    return _measured("conv_transpose_bf16", strip, size, packed, out)


def _measured(
    name: str, strip: Strip, size: tuple[int, ...], packed: Array, out: PixelArray
) -> Statistics | None:
    half = out.dtype == np.int16
    mean, m2 = np.empty(out.shape[0]), np.empty(out.shape[0])
    invoke(name, strip, *size, packed, out, 0 if half else plane_size(out), int(half), mean, m2)
    return (mean, m2) if half else None


def _size(name: str, *sizes: int) -> int:
    """Floats of packed weights."""
    function = getattr(library(), name)
    function.restype = LONG
    return int(function(*map(LONG, sizes)))


# -- pixel order -----------------------------------------------------------------------------------


def pixels(shape: tuple[int, int, int], *, half: bool) -> PixelArray:
    """A C×h×w array in pixel order, not cleared: int16 (``half``) or float32."""
    channels, height, width = shape
    raw = aligned((2 if half else 4) * math.prod(shape))
    values: PixelArray = raw.view(np.int16 if half else np.float32)
    found: PixelArray = values.reshape(height, width, channels).transpose(2, 0, 1)
    return found


def prepare_pixels(strip: Strip, row: int, out: Array) -> None:
    """``kernels.prepare`` of a strip in pixel order; ``out``: float32 in pixel order."""
    invoke("prepare_pixels", strip, row, out.shape[1], out)


def copy_pixels(x: PixelArray, out: PixelArray) -> None:
    """Copy an array in pixel order to another of the same shape and type, by all threads."""
    invoke("copy_rows", x, out, x.shape[1], x.nbytes // x.shape[1])


def accumulate_pixels(total: Array, x: PixelArray, mean: Array, scale: Array) -> None:
    """``accumulate_normalised`` in pixel order: total is float32, x int16."""
    invoke("add_pixels", Strip(x, 0, x.shape[1], mean=mean, scale=scale), total)
