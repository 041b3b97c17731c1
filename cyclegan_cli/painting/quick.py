"""The rows of ``rows``, faster: what lies between two convolutions is not computed on its own.

InstanceNorm, ReLU, enlarging and padding wait until a convolution reads through them, a depthwise
convolution for the pointwise one behind it; 3×3 convolutions are computed by Winograd's filtering.
The geometry, and so every strip, is that of ``rows``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.allocator import keep_freed_memory
from cyclegan_cli.engine.fast.convolutions import (
    few_outputs,
    is_depthwise,
    is_filtered,
    is_pointwise,
)
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.reading import by_channel, realised, realised_by_pixel
from cyclegan_cli.engine.fast.winograd import Transformed, convolve, transformed
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.painting.halo import needed
from cyclegan_cli.painting.moments import Moments, factors, measure
from cyclegan_cli.painting.rows import Rows, after, normalised

__all__ = ["Quick", "workspace"]


# Pixels before a convolution. In larger pictures transforming the weights for each, to four times
# their size, costs less than 3 % of the time.
_SMALL = 128**2


@dataclass(frozen=True)
class _Waiting:
    """What is to be done to ``source`` when it is read."""

    source: Rows
    mean: Tensor | None = None
    scale: Tensor | None = None
    relu: bool = False
    enlarge: bool = False
    pad: int = 0
    mirror: bool = False
    depth: nn.Conv2d | None = None

    @property
    def bare(self) -> bool:
        """Whether more than padding can still be put off: it comes before padding."""
        return self.pad == 0 and not self.enlarge and self.depth is None


class Quick:
    """``after``, ``normalised`` and ``measure`` for one generator: float32 on the CPU.

    Weights are transformed when they are needed.
    """

    def __init__(self) -> None:
        self._weights: dict[nn.Conv2d, Transformed] = {}
        self._waiting: tuple[Rows, _Waiting] | None = None  # of the rows that were made last
        self._measured: tuple[Tensor, Moments] | None = None  # by what computed it
        keep_freed_memory()

    @staticmethod
    def suits(network: Generator, device: torch.device) -> bool:
        """Whether it can evaluate ``network`` there."""
        return device.type == "cpu" and next(network.parameters()).dtype == torch.float32

    def measure(self, x: Tensor) -> Moments:
        """As ``moments.measure``, in one pass over the memory, or none."""
        found, self._measured = self._measured, None
        if found is not None and found[0] is x:
            return found[1]
        if not kernels.present() or x.stride(3) != 1 or x.stride(2) != x.shape[3]:
            return measure(x)
        mean, m2 = kernels.moments(x)
        return Moments(x.shape[2] * x.shape[3], mean, m2)

    def normalised(self, source: Rows, moments: Moments, eps: float) -> Rows:
        """As ``rows.normalised``."""
        mean, scale = factors(moments, eps)
        return self._delayed(_Waiting(source, mean, scale), normalised(source, moments, eps))

    def after(self, layer: nn.Module, source: Rows) -> Rows:
        """As ``rows.after``."""
        plain = after(layer, source)
        waiting = self._before(source)
        if isinstance(layer, nn.ReLU) and waiting.bare and not waiting.relu:
            return self._delayed(dataclasses.replace(waiting, relu=True), plain)
        if isinstance(layer, nn.Upsample) and waiting.bare and kernels.present():
            return self._delayed(dataclasses.replace(waiting, enlarge=True), plain)
        if isinstance(layer, nn.ReflectionPad2d) and waiting.pad == 0 and waiting.depth is None:
            padded = dataclasses.replace(waiting, pad=layer.padding[0], mirror=True)
            return self._delayed(padded, plain)
        if isinstance(layer, nn.Conv2d):
            return self._convolved(layer, waiting, source, plain)
        if isinstance(layer, nn.ConvTranspose2d) and waiting.bare:
            transposed = _transposed if kernels.present() else _transposed_in_torch
            plain = dataclasses.replace(plain, read=transposed(layer, waiting))
        elif isinstance(layer, nn.Tanh) and source.fresh and kernels.present():
            plain = dataclasses.replace(plain, read=_tanh(source))
        return plain

    def _convolved(self, layer: nn.Conv2d, waiting: _Waiting, source: Rows, plain: Rows) -> Rows:
        if waiting.depth is not None:
            if is_pointwise(layer):
                return dataclasses.replace(plain, read=_separable(waiting.depth, layer, waiting))
            waiting = _Waiting(source)
        zeros = int(layer.padding[0])
        if zeros and (waiting.pad or waiting.enlarge):
            return plain
        if zeros:
            waiting = dataclasses.replace(waiting, pad=zeros, mirror=False)
        rows = dataclasses.replace(plain, read=self._reader(layer, waiting))
        if is_depthwise(layer) and kernels.present():
            self._waiting = (rows, dataclasses.replace(waiting, depth=layer))
        return rows

    def add_normalised(self, total: Tensor, rows: Rows, start: int, stop: int) -> bool:
        """``total`` += the normalised ``rows``, where they are just that and it can be done."""
        waiting = self._before(rows)
        if (
            waiting.mean is None
            or waiting.scale is None
            or waiting.relu
            or waiting.pad
            or waiting.enlarge
        ):
            return False
        part = waiting.source.read(start, stop)
        if total.device != part.device:
            return False
        if kernels.present() and part.stride(2) == part.shape[3]:
            kernels.add_normalised(total, part, waiting.mean, waiting.scale)
        else:
            mean, scale = waiting.mean[:, None, None], waiting.scale[:, None, None]
            total.addcmul_(part - mean, scale)
        return True

    def _delayed(self, waiting: _Waiting, plain: Rows) -> Rows:
        def read(start: int, stop: int) -> Tensor:
            return _prepared(_strip(waiting, start, stop), start, stop - start)

        rows = dataclasses.replace(plain, read=read, fresh=True)
        self._waiting = (rows, waiting)
        return rows

    def _before(self, rows: Rows) -> _Waiting:
        if self._waiting is not None and self._waiting[0] is rows:
            return self._waiting[1]
        return _Waiting(rows)

    def _reader(self, layer: nn.Conv2d, waiting: _Waiting) -> Callable[[int, int], Tensor]:
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        compute = self._method(layer)

        def read(start: int, stop: int) -> Tensor:
            first, count = start * stride, (stop - start - 1) * stride + kernel
            strip = _strip(waiting, first, first + count)
            return compute(strip, first, count)

        return read

    def _method(self, layer: nn.Conv2d) -> Callable[[Strip, int, int], Tensor]:
        """What computes the output from ``count`` rows of the padded picture, from ``first`` on."""
        if is_filtered(layer):
            return lambda strip, first, count: self._filtered(
                strip, (first, first + count - 2), layer
            )
        if not kernels.present():
            return _in_torch(layer)
        if is_depthwise(layer):
            return lambda strip, first, count: kernels.depthwise(
                strip, first, count - 2, layer.weight, layer.bias
            )
        if is_pointwise(layer):
            return lambda strip, first, count: kernels.pointwise(
                _prepared(strip, first, count), layer.weight, layer.bias
            )
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        whole = layer.groups == 1 and layer.kernel_size == (kernel, kernel)
        if whole and (stride == 1 or (kernel, stride) == (3, 2)):

            def product(strip: Strip, first: int, count: int) -> Tensor:
                start = first // stride
                rows = (start, start + (count - kernel) // stride + 1)
                return kernels.convolve(strip, rows, layer.weight, layer.bias, stride)

            return product
        return _in_torch(layer)

    def _filtered(self, strip: Strip, rows: tuple[int, int], layer: nn.Conv2d) -> Tensor:
        """By Winograd's filtering, and measured on the way."""
        weights = self._transformed(layer, strip.height * strip.values.shape[3])
        if not kernels.present():
            return convolve(strip, rows, weights, layer.bias)
        mean, m2 = torch.empty(2, weights.outputs, dtype=torch.float64)
        out = convolve(strip, rows, weights, layer.bias, statistics=(mean, m2))
        self._measured = (out, Moments(out.shape[2] * out.shape[3], mean, m2))
        return out

    def _transformed(self, layer: nn.Conv2d, pixels: int) -> Transformed:
        """Those of a small picture are kept for the next one; of a large one they cost nothing."""
        if layer not in self._weights:
            if pixels > _SMALL:
                self._weights.clear()
            self._weights[layer] = transformed(layer.weight)
        return self._weights[layer]


def workspace(layer: nn.Conv2d, width: int) -> int:
    """Bytes that the kernels keep for themselves where ``layer`` writes rows of ``width``."""
    if not (kernels.present() and is_filtered(layer)):
        return 0
    threads = torch.get_num_threads()
    return kernels.winograd_workspace(layer.out_channels, layer.in_channels, width, threads)


def _separable(
    depth: nn.Conv2d, point: nn.Conv2d, waiting: _Waiting
) -> Callable[[int, int], Tensor]:
    def read(start: int, stop: int) -> Tensor:
        strip = _strip(waiting, start, stop + 2)
        both = (depth.weight, depth.bias), (point.weight, point.bias)
        return kernels.separable(strip, (start, stop), *both)

    return read


def _tanh(source: Rows) -> Callable[[int, int], Tensor]:
    def read(start: int, stop: int) -> Tensor:
        rows = source.read(start, stop)
        values = rows.numpy()
        np.tanh(values, out=values)  # as ``arrays`` does, to the last bit
        return rows

    return read


def _transposed(layer: nn.ConvTranspose2d, waiting: _Waiting) -> Callable[[int, int], Tensor]:
    waiting = dataclasses.replace(waiting, pad=1)

    def read(start: int, stop: int) -> Tensor:
        # Row r is row r + 1 of the whole output, which comes of two rows at most.
        strip = _strip(waiting, (start + 1) // 2, stop // 2 + 2)
        columns = (1, 2 * waiting.source.width + 1)
        return kernels.spread(strip, (start + 1, stop + 1), columns, layer.weight, layer.bias)

    return read


def _transposed_in_torch(
    layer: nn.ConvTranspose2d, waiting: _Waiting
) -> Callable[[int, int], Tensor]:
    """As ``rows`` does it, in channels_last: oneDNN takes half to three quarters of the time."""

    def read(start: int, stop: int) -> Tensor:
        low, high = start // 2, min(stop // 2 + 1, waiting.source.height)
        x = realised_by_pixel(_strip(waiting, low, high), low, high - low)
        y = functional.conv_transpose2d(
            *(x, layer.weight, layer.bias, layer.stride),
            padding=(0, 1),
            output_padding=(0, 1),
        )
        skip = start + 1 - 2 * low
        return by_channel(y[:, :, skip : skip + stop - start])

    return read


def _in_torch(layer: nn.Conv2d) -> Callable[[Strip, int, int], Tensor]:
    if is_pointwise(layer):
        return lambda strip, first, count: _pointwise(layer, _prepared(strip, first, count))
    if layer.out_channels <= 4 and layer.groups == 1 and layer.stride == (1, 1):
        return lambda strip, first, count: few_outputs(
            _prepared(strip, first, count), layer.weight, layer.bias
        )
    return lambda strip, first, count: functional.conv2d(
        *(_prepared(strip, first, count), layer.weight, layer.bias, layer.stride),
        groups=layer.groups,
    )


def _strip(waiting: _Waiting, start: int, stop: int) -> Strip:
    """What rows ``start`` … ``stop`` of the padded picture need, read."""
    source, how = waiting.source, {"mirror": waiting.mirror, "enlarge": waiting.enlarge}
    low, high = needed((start, stop), source.height, waiting.pad, **how)
    values = source.read(low, high)
    if values.stride(3) != 1 or values.stride(2) != values.shape[3]:
        values = values.contiguous()
    facts = (waiting.pad, waiting.mirror, waiting.mean, waiting.scale, waiting.relu)
    return Strip(values, low, source.height, *facts, waiting.enlarge)


def _prepared(strip: Strip, row: int, count: int) -> Tensor:
    """Rows of the padded picture as a tensor."""
    bare = strip.mean is None and not strip.relu and not strip.enlarge
    if bare and strip.pad == 0:
        return strip.values[:, :, row - strip.first : row - strip.first + count]
    if kernels.present():
        return kernels.prepare(strip, row, count)
    return realised(strip, row, count)


def _pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1×1 convolution is one matrix product."""
    _, channels, height, width = x.shape
    flat, weight = x.reshape(channels, -1), layer.weight.view(-1, channels)
    if layer.bias is None:
        return torch.mm(weight, flat).view(1, -1, height, width)
    return torch.addmm(layer.bias[:, None], weight, flat).view(1, -1, height, width)
