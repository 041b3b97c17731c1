"""The kernels of native/kernels.cpp on NumPy arrays: those that painting needs. No PyTorch here.

All arrays are float32, C×h×W, with contiguous rows; between channels there may be a gap.
"""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.engine.fast.library import LONG, Source, call, library
from cyclegan_cli.engine.layers import Layer
from cyclegan_cli.machine import thread_count

__all__ = [
    "Array",
    "Pair",
    "Strip",
    "accumulate_normalised",
    "conv_transpose",
    "convolve",
    "empty",
    "moments",
    "prepare",
    "separable",
    "threads",
    "uses_winograd",
    "winograd",
    "winograd_weights",
    "winograd_workspace",
]

_LINE = 64  # bytes of a line of the cache
_WINOGRAD_CHANNELS = 16  # below, the transforms cost more than they save

Array = NDArray[np.float32]
Pair = tuple[Array, Array]  # weight and bias, as PyTorch shapes them
Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean, sum of squared deviations


@dataclass(frozen=True)
class Strip:
    """Rows of a picture, to be read as if they had been normalised, enlarged and padded.

    ``values``: C×h×W, the rows from ``first`` on of a picture of ``height`` rows. In this order:
    ``mean`` and ``scale`` (C values each, or None), ``relu``, ``enlarge`` (each pixel becomes 2×2),
    ``pad`` on every side by reflection (``mirror``) or zeros. ``first`` and ``height`` are of the
    picture in memory; the functions count rows in the padded picture, from its first one.
    """

    values: Array
    first: int
    height: int
    pad: int = 0
    mirror: bool = False
    mean: Array | None = None
    scale: Array | None = None
    relu: bool = False
    enlarge: bool = False


def threads() -> int:
    """As many as PyTorch takes, and its own where it is loaded: two pools would fight."""
    own = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return int(own()) if own is not None else thread_count()


def empty(*shape: int) -> Array:
    """An array, not cleared, whose start is that of a cache line: a register is loaded from one."""
    size = 4 * math.prod(shape)
    raw = np.empty(size + _LINE, np.uint8)
    first = -raw.ctypes.data % _LINE
    return raw[first : first + size].view(np.float32).reshape(shape)


def prepare(strip: Strip, row: int, out: Array) -> None:
    """Rows of the padded picture from ``row`` on; out, without gaps: C×count×(W + 2 pad)."""
    _call("prepare", strip, row, out.shape[1], out)


def convolve(strip: Strip, row: int, pair: Pair, stride: int, out: Array) -> None:
    """Rows from ``row`` on of a convolution of the padded picture, stride 1 or 2, into ``out``.

    The weight: O×C×K×K; out: O×count×width.
    """
    weight, bias = pair
    shape = (weight.shape[0], weight.shape[2], stride, 0)
    _call("convolve", strip, row, out.shape[1], *shape, weight, bias, out, _plane(out))


def conv_transpose(strip: Strip, row: int, column: int, pair: Pair, out: Array) -> None:
    """Rows and columns from ``row`` and ``column`` on of a transposed 3×3 convolution, stride 2.

    They are counted in the whole output, (2 H + 1)×(2 W + 1), behind which there are zeros (and the
    bias). ``strip`` is padded by one zero. The weight: C×O×3×3; out: O×count×width.
    """
    outputs, count, width = out.shape
    size = (row, count, column, width, outputs)
    _call("spread", strip, *size, *pair, out, _plane(out))


def has_bf16() -> bool:
    """Whether the kernels can multiply bfloat16 here: by AMX or AVX512-BF16."""
    found = library()
    return found is not None and int(found.bf16_unit()) > 0


def bf16_weights(pair: Pair, stride: int) -> Array:
    """The weights of ``convolve_bf16``, in the unit's own order, of O×C×K×K and O."""
    weight, bias = pair
    outputs, channels, kernel = weight.shape[:3]
    out = empty(_size("bf16_size", outputs, channels, kernel, stride))
    _call("bf16_weights", weight, bias, outputs, channels, kernel, stride, 0, out)
    return out


def convolve_bf16(
    strip: Strip, row: int, weights: Array, kernel: int, stride: int, out: Array
) -> None:
    """``convolve`` with values and weights rounded to bfloat16; sums and results are float32."""
    size = (row, out.shape[1], out.shape[0], kernel, stride)
    _call("convolve_bf16", strip, *size, weights, out, _plane(out))


def bf16_transposed_weights(pair: Pair) -> Array:
    """The weights of ``conv_transpose_bf16``, of C×O×3×3 and O."""
    weight, bias = pair
    channels, outputs = weight.shape[:2]
    out = empty(_size("bf16_transposed_size", outputs, channels))
    _call("bf16_transposed_weights", weight, bias, outputs, channels, out)
    return out


def conv_transpose_bf16(strip: Strip, row: int, column: int, weights: Array, out: Array) -> None:
    """``conv_transpose`` with values and weights rounded to bfloat16."""
    outputs, count, width = out.shape
    size = (row, count, column, width, outputs)
    _call("conv_transpose_bf16", strip, *size, weights, out, _plane(out))


def _size(name: str, *sizes: int) -> int:
    """Floats that packed weights take."""
    found = library()
    assert found is not None
    function = {"bf16_size": found.bf16_size}.get(name) or found.bf16_transposed_size
    function.restype = LONG
    return int(function(*map(LONG, sizes)))


def separable(strip: Strip, row: int, depth: Pair, point: Pair, out: Array) -> None:
    """Rows from ``row`` on of a depthwise 3×3 convolution and a pointwise one behind it.

    The weights: C×1×3×3 and O×C×1×1; out: O×count×width.
    """
    outputs = point[0].shape[0]
    _call("separable", strip, row, out.shape[1], *depth, outputs, *point, out, _plane(out))


def uses_winograd(layer: Layer) -> bool:
    """Whether ``layer`` is a 3×3 convolution of stride 1 with channels enough for it to pay."""
    whole = (layer.kind, layer.kernel, layer.stride, layer.groups) == ("conv", 3, 1, 1)
    return whole and min(layer.inputs, layer.outputs) >= _WINOGRAD_CHANNELS


def winograd_weights(weight: Array) -> Array:
    """The weights of ``winograd``, in the kernels' own order, of O×I×3×3."""
    outputs, inputs = weight.shape[:2]
    # Blocks have 3, 6, 8 or 12 rows, and a bias more.
    out = empty(36 * (-(-outputs // 24) * 24) * (inputs + 1))
    _call("winograd_weights", weight, outputs, inputs, 0, out)
    return out


def winograd(strip: Strip, row: int, weights: Array, bias: Array, out: Array) -> Statistics:
    """Rows from ``row`` on of a 3×3 convolution of the padded picture, to ``out``: O×count×width.

    ``weights``: those of ``winograd_weights``. Returns ``moments`` of ``out``.
    """
    outputs, count, _ = out.shape
    mean, m2 = np.empty(outputs), np.empty(outputs)
    _call("winograd", strip, row, count, weights, outputs, bias, out, _plane(out), mean, m2)
    return mean, m2


def winograd_workspace(outputs: int, inputs: int, width: int, threads: int) -> int:
    """Bytes that ``winograd`` takes besides its arguments, at most, and keeps for the next call.

    ``width``: of its output; nothing depends on the height. Each thread has 37 matrices of channels
    by tiles of 4×4 pixels: those of one row of tiles, or 128 (``Filtering`` of native/winograd.h).
    """
    tiles = max(128, -(-width // 4))
    pitch = (-(-tiles // 16) | 1) * 16
    return 4 * 37 * threads * (max(outputs, inputs) * pitch + 16)


def moments(x: Array) -> Statistics:
    """Mean and sum of squared deviations of each channel: float64, C values each."""
    channels, rows, width = x.shape
    mean, m2 = np.empty(channels), np.empty(channels)
    _call("moments", x, channels, _plane(x), rows * width, mean, m2)
    return mean, m2


def accumulate_normalised(total: Array, x: Array, mean: Array, scale: Array) -> None:
    """total += (x − mean) · scale of each channel, in place; both C×h×W."""
    channels, rows, width = x.shape
    size = (channels, rows * width)
    _call("add_normalised", total, _plane(total), x, _plane(x), *size, mean, scale)


def _plane(values: Array) -> int:
    """Floats from one channel to the next."""
    return values.strides[0] // 4


def _call(name: str, *arguments: Any) -> None:
    found = library()
    if found is None:
        raise RuntimeError("the kernels are not here")
    if "torch" in sys.modules:
        found.set_team(_team())
    call(found, name, *map(_argument, arguments), LONG(threads()))


@lru_cache(maxsize=1)
def _team() -> ctypes.c_void_p:
    """What starts threads in the OpenMP runtime that PyTorch has loaded; null where none is."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return ctypes.c_void_p(None)


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
        *(values.ctypes.data, _plane(values), strip.first, rows),
        *(scale * strip.height, scale * width, channels, strip.pad, int(strip.mirror)),
        strip.mean.ctypes.data if strip.mean is not None else None,
        strip.scale.ctypes.data if strip.scale is not None else None,
        *(int(strip.relu), int(strip.enlarge)),
    )
