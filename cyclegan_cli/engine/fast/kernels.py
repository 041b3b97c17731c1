"""The kernels of native/kernels.cpp on tensors, where ``library`` has them.

All tensors are float32 on the CPU. Sources are 1×C×h×W, their rows contiguous. Each function raises
MemoryError where the kernels get no memory for their own work.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cyclegan_cli.engine.fast.library import LONG, Source, call, library

__all__ = [
    "Strip",
    "add_normalised",
    "convolve",
    "correlate",
    "depthwise",
    "depthwise_backward",
    "fold",
    "moments",
    "normalise",
    "normalise_backward",
    "pointwise",
    "prepare",
    "present",
    "separable",
    "separable_backward",
    "spread",
    "winograd",
    "winograd_backward",
    "winograd_size",
    "winograd_weights",
]


@dataclass(frozen=True)
class Strip:
    """Rows of a picture, to be read as if they had been normalised and padded.

    ``values``: 1×C×h×W, the rows from ``first`` on of a picture of ``height`` rows. ``mean`` and
    ``scale``: C values each, or None; ``relu`` comes after them. ``pad`` on every side: by
    reflection (``mirror``) or zeros. Rows are counted in the padded picture, from its first one.
    ``enlarge``: before it is padded, each pixel becomes 2×2; ``first`` and ``height`` are of the
    picture as it was.
    """

    values: Tensor
    first: int
    height: int
    pad: int = 0
    mirror: bool = False
    mean: Tensor | None = None
    scale: Tensor | None = None
    relu: bool = False
    enlarge: bool = False

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of what is read."""
        scale = 2 if self.enlarge else 1
        return scale * self.height + 2 * self.pad, scale * self.values.shape[3] + 2 * self.pad


def present() -> bool:
    """Whether the kernels are here and run on this processor."""
    return _library() is not None


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """``library``, with the threads of PyTorch's own OpenMP."""
    found = library()
    if found is not None:
        found.set_team(_team())
    return found


def _team() -> ctypes.c_void_p | None:
    """What starts threads in the OpenMP runtime that PyTorch has loaded, where it can be found."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return None


def _call(name: str, *arguments: object) -> None:
    """Call a function of the library with tensors as pointers, whole numbers, and all threads."""
    found = _library()
    if found is None:
        raise RuntimeError("the kernels are not here")
    values = [_argument(argument) for argument in arguments]
    call(found, name, *values, LONG(torch.get_num_threads()))


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return LONG(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    return None if value is None else ctypes.byref(_source(value))


def _source(strip: object) -> Source:
    assert isinstance(strip, Strip)
    values = strip.values
    _, channels, rows, width = values.shape
    scale = 2 if strip.enlarge else 1
    size = (scale * strip.height, scale * width)
    return Source(
        *(values.data_ptr(), values.stride(1), strip.first, rows, *size, channels),
        *(strip.pad, int(strip.mirror)),
        strip.mean.data_ptr() if strip.mean is not None else None,
        strip.scale.data_ptr() if strip.scale is not None else None,
        *(int(strip.relu), int(strip.enlarge)),
    )


def prepare(strip: Strip, row: int, count: int) -> Tensor:
    """``count`` rows of the padded picture from ``row`` on: 1×C×count×(W + 2 pad)."""
    out = torch.empty(1, strip.values.shape[1], count, strip.padded[1])
    _call("prepare", strip, row, count, out)
    return out


def fold(strip: Strip, grad: Tensor) -> Tensor:
    """The gradient of reading all of ``strip``: of 1×C×(H + 2 pad)×(W + 2 pad), which is changed.

    Returns that of ``strip.values``; its mean and scale are taken for 0 and 1.
    """
    out = torch.empty(strip.values.shape)
    _call("fold", strip, grad, out)
    return out


# -- convolutions ----------------------------------------------------------------------------------


def convolve(
    strip: Strip,
    rows: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    *,
    turned: bool = False,
) -> Tensor:
    """``rows`` (from, to) of a convolution of the padded picture; weight: O×C×K×K, stride 1 or 2.

    ``turned``: weight is C×O×K×K, and mirrored both ways: the gradient of a convolution's input, of
    that of its output padded by K − 1 zeros. Returns 1×O×(to − from)×width.
    """
    outputs, kernel = weight.shape[1 if turned else 0], weight.shape[2]
    start, stop = rows
    width = (strip.padded[1] - kernel) // stride + 1
    out = torch.empty(1, outputs, stop - start, width)
    shape = (outputs, kernel, stride, int(turned))
    _call("convolve", strip, start, stop - start, *shape, weight, bias, out, out.stride(1))
    return out


def spread(
    strip: Strip,
    rows: tuple[int, int],
    columns: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Rows and columns of a 3×3 transposed convolution, stride 2; weight: C×O×3×3.

    They are counted in the whole output, (2 H + 1)×(2 W + 1), behind which there are zeros (and the
    bias). ``strip`` is padded by one zero. Also the gradient of a convolution's input, stride 2.
    """
    outputs, width = weight.shape[1], columns[1] - columns[0]
    out = torch.empty(1, outputs, rows[1] - rows[0], width)
    size = (rows[0], rows[1] - rows[0], columns[0], width, outputs)
    _call("spread", strip, *size, weight, bias, out, out.stride(1))
    return out


def correlate(strip: Strip, grad: Tensor, kernel: int, stride: int = 1) -> tuple[Tensor, Tensor]:
    """The gradients of ``convolve``'s weight and bias, of that of its whole output, 1×O×h×w."""
    _, outputs, height, width = grad.shape
    grad_weight = torch.empty(outputs, strip.values.shape[1], kernel, kernel)
    grad_bias = torch.empty(outputs)
    size = (outputs, height, width, kernel, stride)
    _call("correlate", strip, grad, *size, grad_weight, grad_bias)
    return grad_weight, grad_bias


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution of 1×C×h×w, rows contiguous; weight: O×C×1×1. Returns 1×O×h×w."""
    _, channels, height, width = x.shape
    outputs, count = weight.shape[0], height * width
    out = torch.empty(1, outputs, height, width)
    size = (channels, count, outputs, 0)
    _call("pointwise", x, x.stride(1), *size, weight, bias, out, count)
    return out


def depthwise(strip: Strip, row: int, count: int, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows of a depthwise 3×3 convolution of the padded picture; weight: C×1×3×3.

    Returns 1×C×count×(W + 2 pad − 2), from row ``row`` of the output on.
    """
    out = torch.empty(1, strip.values.shape[1], count, strip.padded[1] - 2)
    _call("depthwise", strip, row, count, weight.contiguous(), bias, out)
    return out


def depthwise_backward(strip: Strip, grad: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``depthwise`` of a whole picture: of its values, weight and bias.

    grad: 1×C×H×W, of the output.
    """
    channels = grad.shape[1]
    grad_in, grad_weight = torch.empty(strip.values.shape), torch.empty(weight.shape)
    grad_bias = torch.empty(channels)
    _call("depthwise_backward", strip, grad, weight, grad_in, grad_weight, grad_bias)
    return grad_in, grad_weight, grad_bias


def separable(
    strip: Strip,
    rows: tuple[int, int],
    depth: tuple[Tensor, Tensor | None],
    point: tuple[Tensor, Tensor | None],
) -> Tensor:
    """``rows`` (from, to) of a depthwise 3×3 convolution and a pointwise one behind it.

    ``depth`` and ``point``: weight and bias, C×1×3×3 and O×C×1×1. Returns 1×O×(to − from)×width.
    """
    start, stop = rows
    outputs = point[0].shape[0]
    out = torch.empty(1, outputs, stop - start, strip.padded[1] - 2)
    _call("separable", strip, start, stop - start, *depth, outputs, *point, out, out.stride(1))
    return out


def separable_backward(
    strip: Strip, grad: Tensor, depth: tuple[Tensor, Tensor], point: Tensor, *, inwards: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of ``separable`` over a whole picture.

    Of the picture's values (None without ``inwards``), the depthwise weight and bias, the pointwise
    weight and bias. ``grad``: 1×O×H×W, of its output. ``point``: the pointwise weight.
    """
    _, outputs, height, width = grad.shape
    channels = point.shape[1]
    grad_in = torch.empty(strip.values.shape) if inwards else None
    between = torch.empty(2, channels, height, width)
    depth_grads = torch.empty(channels, 1, 3, 3), torch.empty(channels)
    point_grads = torch.empty(point.shape), torch.empty(outputs)
    grads = (*depth_grads, *point_grads)
    _call("separable_backward", strip, grad, *depth, outputs, point, between, grad_in, *grads)
    return grad_in, *grads


# -- Winograd's filtering --------------------------------------------------------------------------


def winograd_size(outputs: int, inputs: int) -> int:
    """Floats of ``winograd_weights``, at most: blocks have 3, 6, 8 or 12 rows, and a bias more."""
    return 36 * (-(-outputs // 24) * 24) * (inputs + 1)


def winograd_weights(weight: Tensor, out: Tensor, *, turned: bool = False) -> None:
    """The weights of ``winograd``; weight: O×I×3×3; or ``turned``, of I×O×3×3.

    ``out``: ``winograd_size`` floats, which come to be in the order of the kernels.
    """
    outputs, inputs = weight.shape[:2][::-1] if turned else weight.shape[:2]
    _call("winograd_weights", weight, outputs, inputs, int(turned), out)


def winograd(
    strip: Strip,
    row: int,
    weights: Tensor,
    bias: Tensor | None,
    out: Tensor,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Rows of a 3×3 convolution of the padded picture, from ``row`` on, to ``out``: 1×O×h×w.

    ``weights``: those of ``winograd_weights``. ``statistics``: room for the mean and the sum of
    squared deviations of each channel of ``out``, float64, O each.
    """
    _, outputs, rows, _ = out.shape
    mean, m2 = statistics or (None, None)
    _call("winograd", strip, row, rows, weights, outputs, bias, out, out.stride(1), mean, m2)


def winograd_backward(
    strip: Strip, grad: Tensor, weights: Tensor | None, *, trained: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``winograd`` over a whole picture: of its values and its weight, O×I×3×3.

    ``grad``: 1×O×h×w, of its output. ``weights``: those of ``winograd_weights``, turned, or None
    where no gradient of the values is wanted; ``trained``: whether one of the weight is.
    """
    outputs, inputs = grad.shape[1], strip.values.shape[1]
    grad_in = None if weights is None else torch.empty(strip.values.shape)
    grad_weight = torch.empty(outputs, inputs, 3, 3) if trained else None
    _call("winograd_backward", strip, grad, weights, outputs, grad_in, grad_weight)
    return grad_in, grad_weight


# -- InstanceNorm ----------------------------------------------------------------------------------


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel: float64, C values each."""
    _, channels, rows, width = x.shape
    mean = torch.empty(channels, dtype=torch.float64)
    m2 = torch.empty(channels, dtype=torch.float64)
    _call("moments", x, channels, x.stride(1), rows * width, mean, m2)
    return mean, m2


def normalise(
    x: Tensor, eps: float, out: Tensor, statistics: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """InstanceNorm of N×C×h×w, contiguous, to ``out``, which may be ``x``.

    ``statistics``: mean and sum of squared deviations where they are known, float64, N·C each.
    Returns 1 / √(variance + eps), N·C values.
    """
    planes, count = x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]
    scale = torch.empty(planes)
    mean, m2 = statistics or (None, None)
    _call("normalise", x, planes, count, eps, mean, m2, out, scale)
    return scale


def normalise_backward(grad: Tensor, normalised: Tensor, scale: Tensor) -> Tensor:
    """The gradient of what ``normalise`` read, of that of its output, both N×C×h×w, contiguous."""
    planes, count = grad.shape[0] * grad.shape[1], grad.shape[2] * grad.shape[3]
    out = torch.empty(grad.shape)
    _call("normalise_backward", grad, normalised, scale, planes, count, out)
    return out


def add_normalised(total: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> None:
    """total += (x − mean) · scale of each channel, in place; both 1×C×h×W."""
    _, channels, rows, width = x.shape
    count = rows * width
    _call(
        "add_normalised",
        *(total, total.stride(1), x, x.stride(1), channels, count, mean, scale),
    )
