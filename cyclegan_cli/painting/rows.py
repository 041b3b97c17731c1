"""Layers that are evaluated only where they are asked: any rows of their output, from rows before.

Each layer works out which rows of its source it needs, asks for them, and reflects or zero-pads
only at the picture's own border; whatever the strips, the values are those of the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan_cli.painting.moments import Moments, normalise

__all__ = ["Rows", "added", "after", "normalised", "stored"]


@dataclass(frozen=True)
class Rows:
    """1×channels×height×width values, of which any rows can be read.

    ``read(start, stop)`` gives 1×channels×(stop − start)×width. ``fresh``: what it gives belongs to
    the reader, who may change it. To read n rows, the largest tensor on the way has about
    n · ``cost`` + ``margin`` bytes.
    """

    channels: int
    height: int
    width: int
    itemsize: int
    read: Callable[[int, int], Tensor]
    fresh: bool
    cost: float
    margin: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As a tensor's."""
        return (1, self.channels, self.height, self.width)

    @property
    def bytes(self) -> int:
        """Of all values together."""
        return self.channels * self.height * self.width * self.itemsize


def stored(values: Tensor, device: torch.device) -> Rows:
    """Rows that lie in memory, perhaps on another device or in a mapped file."""
    _, channels, height, width = values.shape

    def read(start: int, stop: int) -> Tensor:
        return values[:, :, start:stop].to(device)

    size = values.element_size()
    return Rows(channels, height, width, size, read, False, cost=channels * width * size)


def normalised(source: Rows, moments: Moments, eps: float) -> Rows:
    """InstanceNorm with statistics that are known."""

    def read(start: int, stop: int) -> Tensor:
        rows = source.read(start, stop)
        return normalise(rows, moments, eps, in_place=source.fresh)

    return _derived(source, source.shape[1:], read)


def added(source: Rows, other: Rows) -> Rows:
    """The sum of two of the same shape. ``source`` is fresh: the sum is made in it."""
    return _derived(source, source.shape[1:], lambda a, b: source.read(a, b).add_(other.read(a, b)))


def after(layer: nn.Module, source: Rows) -> Rows:
    """``source`` after one layer of a generator other than InstanceNorm.

    Raises TypeError for a layer that no generator has.
    """
    if isinstance(layer, nn.ReflectionPad2d):
        return _reflection(layer, source)
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, source)
    if isinstance(layer, nn.ConvTranspose2d):
        return _transposed(layer, source)
    if isinstance(layer, nn.Upsample):
        return _enlarged(layer, source)
    if isinstance(layer, nn.ReLU):
        return _pointwise(torch.relu_ if source.fresh else torch.relu, source)
    if isinstance(layer, nn.Tanh):
        return _pointwise(torch.tanh_ if source.fresh else torch.tanh, source)
    raise TypeError(f"no rows of a {type(layer).__name__}")


def _derived(
    source: Rows,
    shape: tuple[int, int, int],
    read: Callable[[int, int], Tensor],
    extra: int = 0,
) -> Rows:
    """Rows of another shape, of which n need n · source.height / height + ``extra`` of source."""
    channels, height, width = shape
    cost = max(
        float(channels * width * source.itemsize), source.cost * source.height / max(height, 1)
    )
    margin = source.margin + extra * source.cost
    return Rows(channels, height, width, source.itemsize, read, True, cost, margin)


def _pointwise(function: Callable[[Tensor], Tensor], source: Rows) -> Rows:
    return _derived(source, source.shape[1:], lambda a, b: function(source.read(a, b)))


def _reflection(layer: nn.ReflectionPad2d, source: Rows) -> Rows:
    left, right, above, below = layer.padding

    def read(start: int, stop: int) -> Tensor:
        first, end = start - above, stop - above  # in the source's rows; beyond it: mirrored
        top, bottom = max(0, -first), max(0, end - source.height)
        low = min(max(first, 0), source.height - 1 - bottom) if bottom else max(first, 0)
        high = max(min(end, source.height), top + 1) if top else min(end, source.height)
        rows = source.read(low, high)
        rows = functional.pad(rows, (left, right, top, bottom), mode="reflect")
        skip = first - (low - top)
        return rows[:, :, skip : skip + stop - start]

    shape = (source.channels, source.height + above + below, source.width + left + right)
    return _derived(source, shape, read)


def _convolution(layer: nn.Conv2d, source: Rows) -> Rows:
    (kernel, kernel_x), (stride, stride_x) = layer.kernel_size, layer.stride
    pad, pad_x = _pair(layer.padding)

    def read(start: int, stop: int) -> Tensor:
        first, end = start * stride - pad, (stop - 1) * stride - pad + kernel
        low, high = max(first, 0), min(end, source.height)
        rows = source.read(low, high)
        if (low, high) != (first, end):
            rows = functional.pad(rows, (0, 0, low - first, end - high))
        return functional.conv2d(
            rows, layer.weight, layer.bias, layer.stride, (0, pad_x), groups=layer.groups
        )

    height = (source.height + 2 * pad - kernel) // stride + 1
    width = (source.width + 2 * pad_x - kernel_x) // stride_x + 1
    return _derived(source, (layer.out_channels, height, width), read, extra=kernel - stride)


def _transposed(layer: nn.ConvTranspose2d, source: Rows) -> Rows:
    (kernel, kernel_x), (stride, stride_x) = layer.kernel_size, layer.stride
    (pad, pad_x), (more, more_x) = _pair(layer.padding), _pair(layer.output_padding)

    def read(start: int, stop: int) -> Tensor:
        # Row i of the source adds to the rows i·stride − pad … i·stride − pad + kernel − 1.
        low = max(0, -((kernel - 1 - start - pad) // stride))
        high = min(source.height, (stop - 1 + pad) // stride + 1)
        rows = functional.conv_transpose2d(
            source.read(low, high),
            *(layer.weight, layer.bias, layer.stride),
            padding=(0, pad_x),
            output_padding=(0, more_x),
            groups=layer.groups,
        )
        skip = start + pad - low * stride
        return rows[:, :, skip : skip + stop - start]

    height = (source.height - 1) * stride - 2 * pad + kernel + more
    width = (source.width - 1) * stride_x - 2 * pad_x + kernel_x + more_x
    return _derived(source, (layer.out_channels, height, width), read, extra=kernel - stride)


def _enlarged(layer: nn.Upsample, source: Rows) -> Rows:
    scale = int(layer.scale_factor)  # type: ignore[arg-type]

    def read(start: int, stop: int) -> Tensor:
        low = start // scale
        rows = functional.interpolate(
            source.read(low, -(-stop // scale)), scale_factor=scale, mode="nearest"
        )
        return rows[:, :, start - low * scale : stop - low * scale]

    shape = (source.channels, source.height * scale, source.width * scale)
    return _derived(source, shape, read, extra=1)


def _pair(padding: object) -> tuple[int, int]:
    if not isinstance(padding, tuple) or len(padding) != 2:
        raise TypeError(f"no rows of a layer with padding {padding!r}")
    return padding
