"""The kernels of native/kernels.cpp, loaded if they were built and the processor can run them, and
called with NumPy arrays. Imports no PyTorch.

Pictures are float32, C×h×w, with contiguous rows; there may be gaps between channels. For bfloat16
there is *pixel order* besides: arrays C×h×w in which the channels of a pixel lie beside each other,
int16 (the bits of bfloat16) or float32. Weights and biases are shaped as in PyTorch. Results are
written to arguments named ``out`` or ``grad_…``, which have no gaps in rows. Every function raises
MemoryError if the kernels get no memory for their work.
"""

from __future__ import annotations

import ctypes
import math
import platform
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.engine.layers import Layer
from cyclegan_cli.machine import thread_count

LONG = ctypes.c_long
WINOGRAD_CHANNELS = 16  # with fewer, the transforms cost more than they save
_VERSION = 5  # of what the functions take and return: that of native/kernels.cpp
_NO_MEMORY = 1  # the enum Status of native/common.h; 0: done
_LINE = 64  # bytes of a cache line

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**25  # bytes: the largest threshold that glibc takes
_KEPT = 2**28  # bytes that may stay free at the end of the heap

Array = NDArray[np.float32]
PixelArray = NDArray[Any]  # float32 or int16
Pair = tuple[Array, Array | None]  # weight and bias
Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean, sum of squared deviations


@dataclass(frozen=True)
class Strip:
    """Rows of a picture, to be read as if they had been normalised, enlarged and padded.

    ``values``: C×h×W, the rows from ``first`` on of a picture of ``height`` rows. In this order:
    ``mean`` and ``scale`` (C values each, or None), ``relu``, ``enlarge`` (each pixel becomes 2×2),
    ``pad`` on every side by reflection (``mirror``) or zeros. ``first`` and ``height`` are of the
    picture in memory; the functions count rows in the padded picture, from its first one.
    Pixel order is for those functions alone that say so.
    """

    values: PixelArray
    first: int
    height: int
    pad: int = 0
    mirror: bool = False
    mean: Array | None = None
    scale: Array | None = None
    relu: bool = False
    enlarge: bool = False

    @property
    def order(self) -> int:
        """0: planes; in pixel order, 1: int16, 2: float32. The enum Order of native/common.h."""
        if self.values.dtype == np.int16:
            return 1
        return 0 if self.values.strides[2] == self.values.itemsize else 2


def threads() -> int:
    """As many as PyTorch uses; once it is loaded, the kernels run in its threads."""
    own = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return int(own()) if own is not None else thread_count()


def empty(*shape: int) -> Array:
    """An array, not cleared, that starts at a cache line."""
    return aligned(4 * math.prod(shape)).view(np.float32).reshape(shape)


def aligned(size: int) -> NDArray[np.uint8]:
    """Bytes, not cleared, from the beginning of a cache line on."""
    raw = np.empty(size + _LINE, np.uint8)
    first = -raw.ctypes.data % _LINE
    return raw[first : first + size]


def prepare(strip: Strip, row: int, out: Array) -> None:
    """Rows of the padded picture from ``row`` on; out, without gaps: C×count×(W + 2 pad)."""
    invoke("prepare", strip, row, out.shape[1], out)


def fold(strip: Strip, grad: Array, grad_in: Array) -> None:
    """The gradient of reading all of ``strip``, from that of the padded picture, which is changed.

    grad: C×(H + 2 pad)×(W + 2 pad); grad_in: C×H×W. ``mean`` and ``scale`` are ignored.
    """
    invoke("fold", strip, grad, grad_in)


# -- convolutions ----------------------------------------------------------------------------------


def convolve(
    strip: Strip, row: int, pair: Pair, stride: int, out: Array, *, transposed: bool = False
) -> None:
    """Rows from ``row`` on of a convolution of the padded picture, stride 1 or 2.

    The weight: O×C×K×K; out: O×count×width. ``transposed``: the weight is C×O×K×K, and mirrored
    both ways, which gives the gradient of a convolution's input from that of its output, padded by
    K − 1 zeros.
    """
    weight, bias = pair
    shape = (weight.shape[1 if transposed else 0], weight.shape[2], stride, int(transposed))
    invoke("convolve", strip, row, out.shape[1], *shape, weight, bias, out, plane_size(out))


def convolve_backward(
    strip: Strip, grad: Array, stride: int, grad_weight: Array, grad_bias: Array | None
) -> None:
    """The gradients of ``convolve``'s weight, O×C×K×K, and bias from that of its whole output.

    ``grad_bias``: None if it is not wanted.
    """
    size = (*grad.shape, grad_weight.shape[2], stride)
    invoke("correlate", strip, grad, *size, grad_weight, grad_bias)


def conv_transpose(strip: Strip, row: int, column: int, pair: Pair, out: Array) -> None:
    """Rows and columns from ``row`` and ``column`` on of a transposed 3×3 convolution, stride 2.

    They are counted in the whole output, (2 H + 1)×(2 W + 1), after which there are zeros (and the
    bias). ``strip`` is padded by one zero. The weight: C×O×3×3; out: O×count×width. Also gives the
    gradient of a convolution's input, stride 2.
    """
    outputs, count, width = out.shape
    size = (row, count, column, width, outputs)
    invoke("spread", strip, *size, *pair, out, plane_size(out))


def separable(strip: Strip, row: int, depth: Pair, point: Pair, out: Array) -> None:
    """Rows from ``row`` on of a depthwise 3×3 convolution and a pointwise one after it.

    The weights: C×1×3×3 and O×C×1×1; out: O×count×width.
    """
    outputs = point[0].shape[0]
    invoke("separable", strip, row, out.shape[1], *depth, outputs, *point, out, plane_size(out))


def separable_backward(
    strip: Strip,
    grad: Array,
    depth: Pair,
    point: Array,
    between: Array,
    grad_in: Array | None,
    grads: tuple[Array, Array, Array, Array],
) -> None:
    """The gradients of ``separable`` over a whole picture, from that of its output: O×H×W.

    ``point``: the pointwise weight. ``between``: a buffer, 2×C×H×W. ``grad_in``: of the picture's
    values, or None; ``grads``: of depthwise weight and bias, pointwise weight and bias.
    """
    size = (grad.shape[0], point, between, grad_in)
    invoke("separable_backward", strip, grad, *depth, *size, *grads)


# -- Winograd's minimal filtering, F(4×4, 3×3) -----------------------------------------------------
#
# A quarter of the multiplications. Winograd, "Arithmetic Complexity of Computations", 1980; Lavin
# and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. The rounding error
# depends on the points (Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
# Convolution for Deep Neural Networks", 2020): with 0, ±⅝, ±1½ and infinity it is two thirds of
# that of their 0, ±1, ½, −2, and less than half of that of the usual 0, ±1, ±2. As pairs they share
# their sums; all constants are exact in binary.


def uses_winograd(layer: Layer) -> bool:
    """Whether ``layer`` is a 3×3 convolution of stride 1 with enough channels."""
    whole = (layer.kind, layer.kernel, layer.stride, layer.groups) == ("conv", 3, 1, 1)
    return whole and min(layer.inputs, layer.outputs) >= WINOGRAD_CHANNELS


def winograd_size(outputs: int, inputs: int) -> int:
    """Floats of ``winograd_weights``, at most: blocks have 3, 6, 8 or 12 rows, and one bias."""
    return 36 * (-(-outputs // 24) * 24) * (inputs + 1)


def winograd_weights(weight: Array, out: Array | None = None, *, transposed: bool = False) -> Array:
    """The weights of ``winograd`` in the kernels' own order, of O×I×3×3.

    ``transposed``: those of ``winograd_backward``. ``out``: a buffer of ``winograd_size`` floats.
    """
    outputs, inputs = weight.shape[:2][::-1] if transposed else weight.shape[:2]
    packed = empty(winograd_size(outputs, inputs)) if out is None else out
    invoke("winograd_weights", weight, outputs, inputs, int(transposed), packed)
    return packed


def winograd(
    strip: Strip, row: int, weights: Array, bias: Array | None, out: Array, *, measured: bool = True
) -> Statistics:
    """Rows from ``row`` on of a 3×3 convolution of the padded picture; out: O×count×width.

    ``weights``: those of ``winograd_weights``. Returns ``moments`` of ``out``, if ``measured``.
    """
    outputs, count, _ = out.shape
    mean, m2 = np.empty(outputs), np.empty(outputs)
    statistics = (mean, m2) if measured else (None, None)
    invoke("winograd", strip, row, count, weights, outputs, bias, out, plane_size(out), *statistics)
    return mean, m2


def winograd_backward(
    strip: Strip, grad: Array, weights: Array | None, grad_in: Array | None, out: Array | None
) -> None:
    """The gradients of ``winograd`` over a whole picture, from that of its output: O×h×w.

    ``weights``: transposed ones of ``winograd_weights``, None without ``grad_in``; ``out``: of the
    weight.
    """
    invoke("winograd_backward", strip, grad, weights, grad.shape[0], grad_in, out)


def winograd_workspace(outputs: int, inputs: int, width: int, threads: int) -> int:
    """Bytes that ``winograd`` allocates at most and keeps for the next call.

    ``width``: of its output. Each thread has 37 matrices of channels by tiles of 4×4 pixels: those
    of one row of tiles, or 128 (``Filtering`` of native/winograd.h).
    """
    tiles = max(128, -(-width // 4))
    pitch = (-(-tiles // 16) | 1) * 16
    return 4 * 37 * threads * (max(outputs, inputs) * pitch + 16)


# -- InstanceNorm ----------------------------------------------------------------------------------


def moments(x: Array) -> Statistics:
    """Mean and sum of squared deviations of each channel: float64, C values each."""
    channels, rows, width = x.shape
    mean, m2 = np.empty(channels), np.empty(channels)
    invoke("moments", x, channels, plane_size(x), rows, width, mean, m2)
    return mean, m2


def normalise(x: Array, eps: float, out: Array, statistics: Statistics | None = None) -> Array:
    """InstanceNorm of C×h×w without gaps to ``out``, which may be ``x``.

    ``statistics``: ``moments`` of ``x``, if known. Returns 1 / √(variance + eps), C values.
    """
    channels, rows, width = x.shape
    scale = empty(channels)
    mean, m2 = statistics or (None, None)
    invoke("normalise", x, channels, rows * width, eps, mean, m2, out, scale)
    return scale


def normalise_backward(grad: Array, normalised: Array, scale: Array, grad_in: Array) -> None:
    """The gradient of ``normalise``'s input, from that of its output; all C×h×w without gaps.

    ``normalised``, ``scale``: what ``normalise`` gave.
    """
    channels, rows, width = grad.shape
    invoke("normalise_backward", grad, normalised, scale, channels, rows * width, grad_in)


def accumulate_normalised(total: Array, x: Array, mean: Array, scale: Array) -> None:
    """total += (x − mean) · scale of each channel, in place; both C×h×W."""
    channels, rows, width = x.shape
    sizes = (channels, rows * width)
    invoke("add_normalised", total, plane_size(total), x, plane_size(x), *sizes, mean, scale)


# -- loading and calling ---------------------------------------------------------------------------


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernels, in the build for the widest registers of this processor; None if there are none.

    Its functions (``invoke``) take pointers, integers (``LONG``), and last the number of threads,
    and return a status. It starts threads of its own until ``set_team`` gives it others.
    """
    folder = Path(__file__).parent
    for name in ("_kernels16", "_kernels"):
        for path in sorted(folder.glob(f"{name}.*so")):
            try:
                found = ctypes.CDLL(str(path))
                if found.version() == _VERSION and found.runs_here():
                    return found
            except (OSError, AttributeError):  # of another machine, or of another version
                continue
    return None


@lru_cache(maxsize=1)
def _team() -> ctypes.c_void_p:
    """What starts threads in the OpenMP runtime that PyTorch has loaded; null if there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return ctypes.c_void_p(None)


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep the memory of large arrays for the next ones, from now on.

    By default it returns each at once, and the system clears every page of the next: a fifth to a
    third of the time of a convolution at a quarter of a megapixel. False without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    return bool(taken) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))


def plane_size(values: Array) -> int:
    """Floats from one channel to the next."""
    return values.strides[0] // 4


def invoke(name: str, *arguments: object) -> None:
    """Call a function of the kernels with arrays, strips, numbers or None, by all threads.

    It runs in PyTorch's threads, once that is loaded. Raises MemoryError if it gets no memory; its
    outputs are undefined then.
    """
    found = library()
    if found is None:
        raise RuntimeError("the kernels are not here")
    if "torch" in sys.modules:
        found.set_team(_team())
    status = getattr(found, name)(*map(_argument, arguments), LONG(threads()))
    if status == _NO_MEMORY:
        raise MemoryError(f"no memory for {name}")
    if status:
        raise RuntimeError(f"{name} failed")


def _argument(value: object) -> object:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, int):
        return LONG(value)
    if isinstance(value, Strip):
        return ctypes.byref(_source(value))
    return None if value is None else ctypes.c_double(value)  # type: ignore[arg-type]


class _Source(ctypes.Structure):
    """The struct Source of native/common.h."""

    _fields_: ClassVar = [
        ("values", ctypes.c_void_p),
        *((name, LONG) for name in ("plane", "first", "rows", "height", "width", "channels")),
        *((name, LONG) for name in ("pad", "mirror")),
        *((name, ctypes.c_void_p) for name in ("mean", "scale")),
        ("relu", LONG),
        ("enlarge", LONG),
        ("order", LONG),
    ]


def _source(strip: Strip) -> _Source:
    values = strip.values
    channels, rows, width = values.shape
    scale = 2 if strip.enlarge else 1
    return _Source(
        *(values.ctypes.data, plane_size(values), strip.first, rows),
        *(scale * strip.height, scale * width, channels, strip.pad, int(strip.mirror)),
        strip.mean.ctypes.data if strip.mean is not None else None,
        strip.scale.ctypes.data if strip.scale is not None else None,
        *(int(strip.relu), int(strip.enlarge), strip.order),
    )
