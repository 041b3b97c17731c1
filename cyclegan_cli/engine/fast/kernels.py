"""kernels.cpp, loaded where it was built and the processor can run it.

All tensors are float32 on the CPU. Sources are 1×C×h×W, their rows contiguous.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

__all__ = [
    "Strip",
    "add_normalised",
    "depthwise",
    "depthwise_backward",
    "fold",
    "moments",
    "prepare",
    "present",
    "winograd_in",
    "winograd_out",
]

_LONG = ctypes.c_long


@dataclass(frozen=True)
class Strip:
    """Rows of a picture, to be read as if they had been normalised and padded.

    ``values``: 1×C×h×W, the rows from ``first`` on of a picture of ``height`` rows. ``mean`` and
    ``scale``: C values each, or None; ``relu`` comes after them. ``pad`` on every side: by
    reflection (``mirror``) or zeros. Rows are counted in the padded picture, from its first one.
    """

    values: Tensor
    first: int
    height: int
    pad: int = 0
    mirror: bool = False
    mean: Tensor | None = None
    scale: Tensor | None = None
    relu: bool = False


class _Source(ctypes.Structure):
    """The struct Source of kernels.cpp."""

    _fields_: ClassVar = [
        ("values", ctypes.c_void_p),
        *((name, _LONG) for name in ("plane", "first", "rows", "height", "width", "channels")),
        *((name, _LONG) for name in ("pad", "mirror")),
        *((name, ctypes.c_void_p) for name in ("mean", "scale")),
        ("relu", _LONG),
    ]


def present() -> bool:
    """Whether the kernels are here and run on this processor."""
    return _library() is not None


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    if not _runs_here():
        return None
    for path in sorted(folder.glob("_kernels*.so")):
        try:
            library = ctypes.CDLL(str(path))
            library.set_team(_team())
            return library
        except (OSError, AttributeError):  # of another machine, or of another version
            continue
    return None


def _runs_here() -> bool:
    """They are built for AVX2 with FMA on x86, and for any processor elsewhere."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _team() -> ctypes.c_void_p | None:
    """What starts threads in the OpenMP runtime that PyTorch has loaded, where it can be found."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return None


def _call(name: str, *arguments: object) -> None:
    """Call a function of the library with tensors as pointers, whole numbers, and all threads."""
    library = _library()
    if library is None:
        raise RuntimeError("the kernels are not here")
    values = [_argument(argument) for argument in arguments]
    getattr(library, name)(*values, _LONG(torch.get_num_threads()))


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return _LONG(value)
    return None if value is None else ctypes.byref(_source(value))


def _source(strip: object) -> _Source:
    assert isinstance(strip, Strip)
    values = strip.values
    _, channels, rows, width = values.shape
    return _Source(
        *(values.data_ptr(), values.stride(1), strip.first, rows, strip.height, width, channels),
        *(strip.pad, int(strip.mirror)),
        strip.mean.data_ptr() if strip.mean is not None else None,
        strip.scale.data_ptr() if strip.scale is not None else None,
        int(strip.relu),
    )


def prepare(strip: Strip, row: int, count: int) -> Tensor:
    """``count`` rows of the padded picture from ``row`` on: 1×C×count×(W + 2 pad)."""
    _, channels, _, width = strip.values.shape
    out = torch.empty(1, channels, count, width + 2 * strip.pad)
    _call("prepare", strip, row, count, out)
    return out


def depthwise(strip: Strip, row: int, count: int, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows of a depthwise 3×3 convolution of the padded picture; weight: C×1×3×3.

    Returns 1×C×count×(W + 2 pad − 2), from row ``row`` of the output on.
    """
    _, channels, _, width = strip.values.shape
    out = torch.empty(1, channels, count, width + 2 * strip.pad - 2)
    _call("depthwise", strip, row, count, weight.contiguous(), bias, out)
    return out


def depthwise_backward(strip: Strip, grad: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``depthwise`` of a whole picture mirrored by 1: input, weight, bias.

    grad: 1×C×H×W, of the output.
    """
    channels, height, width = grad.shape[1:]
    grad_in = torch.empty(1, channels, height, width)
    grad_weight, grad_bias = torch.empty(weight.shape), torch.empty(channels)
    values = (grad.contiguous(), weight.contiguous(), grad_in, grad_weight, grad_bias)
    _call("depthwise_backward", strip, *values)
    return grad_in, grad_weight, grad_bias


def fold(grad: Tensor) -> Tensor:
    """The gradient of reflection by 1: 1×C×(H + 2)×(W + 2), which is changed, to 1×C×H×W."""
    _, channels, height, width = grad.shape
    out = torch.empty(1, channels, height - 2, width - 2)
    _call("fold", grad, channels, height - 2, width - 2, out)
    return out


def winograd_in(strip: Strip, row: int, tiles: tuple[int, int], out: Tensor, apart: int) -> None:
    """Transform tiles of 6×6 values, 4 apart, from ``row`` of the padded picture on.

    ``tiles``: down and across. ``out``: 36 matrices of C×tiles, ``apart`` floats apart.
    """
    _call("winograd_in", strip, row, *tiles, out, apart)


def winograd_out(
    products: Tensor,
    apart: int,
    tiles: tuple[int, int],
    out: Tensor,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor, int] | None = None,
) -> None:
    """Transform 36 matrices of C×tiles, ``apart`` floats apart, to ``out``: 1×C×h×W, a view.

    8 floats behind the last matrix must be readable. ``statistics``: mean and sum of squared
    deviations of the ``seen`` values before, float64, C each, which these values join.
    """
    _, channels, rows, width = out.shape
    mean, m2, seen = statistics or (None, None, 0)
    size = (rows, width)
    _call(
        "winograd_out",
        *(products, apart, channels, *tiles, *size, bias, out, out.stride(1), mean, m2, seen),
    )


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel: float64, C values each."""
    _, channels, rows, width = x.shape
    mean = torch.empty(channels, dtype=torch.float64)
    m2 = torch.empty(channels, dtype=torch.float64)
    _call("moments", x, channels, x.stride(1), rows * width, mean, m2)
    return mean, m2


def add_normalised(total: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> None:
    """total += (x − mean) · scale of each channel, in place; both 1×C×h×W."""
    _, channels, rows, width = x.shape
    count = rows * width
    _call(
        "add_normalised",
        *(total, total.stride(1), x, x.stride(1), channels, count, mean, scale),
    )
