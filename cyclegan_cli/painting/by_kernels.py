"""The layers of any generator by the compiled kernels, on NumPy arrays: float32, CPU, no PyTorch.

What lies between two convolutions is not computed on its own: InstanceNorm, ReLU, enlarging and
padding are left to the convolution that reads next, and a depthwise convolution to the pointwise
one behind it. 3×3 convolutions of enough channels are computed by Winograd's filtering.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Array, Strip
from cyclegan_cli.engine.fast.library import keep_freed_memory
from cyclegan_cli.engine.layers import Layer
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting.pixels import Pixels, from_planes, to_planes
from cyclegan_cli.painting.scene import RECOLOUR, recoloured
from cyclegan_cli.painting.statistics import Moments, factors
from cyclegan_cli.painting.strips import Place, Rows, Scratch, needed

__all__ = ["KernelBackend"]

Read = Callable[[int, int], Array]

# Pixels before a convolution. In larger pictures transforming the weights for each, to four times
# their size, costs less than 3 % of the time.
_SMALL = 128**2


@dataclass(frozen=True)
class _Deferred:
    """What is done to ``source`` when it is read, in this order."""

    source: Rows[Array]
    mean: Array | None = None
    scale: Array | None = None
    relu: bool = False
    enlarge: bool = False
    pad: int = 0
    mirror: bool = False
    depthwise: Layer | None = None

    @property
    def takes_more(self) -> bool:
        """Whether more than padding can still be deferred: it comes before padding."""
        return self.pad == 0 and not self.enlarge and self.depthwise is None

    @property
    def only_normalises(self) -> bool:
        return self.mean is not None and self.takes_more and not self.relu

    def strip(self, start: int, stop: int) -> Strip:
        """What rows [start, stop) of the padded picture need, read."""
        source, how = self.source, {"mirror": self.mirror, "enlarge": self.enlarge}
        low, high = needed((start, stop), source.height, self.pad, **how)
        values = source.read(low, high)
        if values.strides[2] != 4 or values.strides[1] != 4 * values.shape[2]:
            values = np.ascontiguousarray(values)
        facts = (self.pad, self.mirror, self.mean, self.scale, self.relu, self.enlarge)
        return Strip(values, low, source.height, *facts)

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop) of the padded picture."""
        strip = self.strip(start, stop)
        if self.mean is None and not (self.relu or self.enlarge or self.pad):
            return strip.values[:, start - strip.first : stop - strip.first]
        width = self.source.width * (2 if self.enlarge else 1) + 2 * self.pad
        out = kernels.empty(self.source.channels, stop - start, width)
        kernels.prepare(strip, start, out)
        return out


class _LastMeasured(threading.local):
    """What was computed and measured last, by each thread that paints."""

    found: tuple[Array, Moments] | None = None


class KernelBackend:
    """``evaluate.Backend`` on arrays, C×h×W."""

    itemsize = 4

    def __init__(self, weights: Weights, *, bf16: bool = False) -> None:
        """``bf16``: convolutions in bfloat16, but for depthwise ones and those behind them."""
        self._tensors = weights.tensors
        self._bf16 = bf16
        self._packed: dict[str, Array] = {}  # weights in bfloat16
        self._transformed: dict[str, Array] = {}  # of Winograd's filtering
        self._last = _LastMeasured()
        keep_freed_memory()

    @property
    def workspace_threads(self) -> int:
        """How many threads keep memory of their own."""
        return kernels.threads()

    @staticmethod
    def session() -> AbstractContextManager[object]:
        """Entered while a picture is painted."""
        return contextlib.nullcontext()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def release(self) -> None:
        """Give back what is held for later pictures."""
        self._transformed = {}

    # -- pictures ----------------------------------------------------------------------------------

    def from_pixels(self, pixels: Pixels, channels: int) -> Array:
        return to_planes(pixels, channels)

    def with_grain(self, values: Array, grain: Array) -> Array:
        values += grain
        return values

    def with_channel(self, values: Array, grain: Array) -> Array:
        return np.concatenate([values, grain])

    def to_pixels(self, strip: Array, dtype: np.dtype[Any]) -> Pixels:
        return from_planes(strip, dtype)

    # -- layers ------------------------------------------------------------------------------------

    def after(self, layer: Layer, source: Rows[Array]) -> Rows[Array]:
        before = source.deferred
        waiting = before if isinstance(before, _Deferred) else _Deferred(source)
        behind = source.after(layer)
        if layer.kind == "relu" and waiting.takes_more and not waiting.relu:
            return _deferred(dataclasses.replace(waiting, relu=True), behind)
        if layer.kind == "upsample" and waiting.takes_more:
            return _deferred(dataclasses.replace(waiting, enlarge=True), behind)
        if layer.kind == "reflect" and waiting.pad == 0 and waiting.depthwise is None:
            padded = dataclasses.replace(waiting, pad=layer.padding, mirror=True)
            return _deferred(padded, behind)
        if layer.kind == "conv_transpose" and waiting.takes_more:
            return dataclasses.replace(behind, read=self._conv_transpose(layer, waiting))
        if layer.kind == "conv":
            return self._convolved(layer, waiting, behind)
        return dataclasses.replace(behind, read=_in_place(layer, source))

    def _convolved(self, layer: Layer, waiting: _Deferred, behind: Rows[Array]) -> Rows[Array]:
        if waiting.depthwise is not None:
            if not layer.is_pointwise:
                raise TypeError("a depthwise convolution is followed by a pointwise one")
            return dataclasses.replace(behind, read=self._separable(layer, waiting))
        if layer.padding:
            if not waiting.takes_more:
                raise TypeError("zeros cannot be put around what is padded or enlarged")
            waiting = dataclasses.replace(waiting, pad=layer.padding, mirror=False)
        if layer.is_depthwise:
            return dataclasses.replace(
                behind, deferred=dataclasses.replace(waiting, depthwise=layer)
            )
        if self._bf16 and not layer.is_pointwise:
            return dataclasses.replace(
                behind, read=self._convolution_bf16(layer, waiting, behind.width)
            )
        if kernels.uses_winograd(layer):
            return dataclasses.replace(behind, read=self._winograd(layer, waiting, behind.width))
        return dataclasses.replace(behind, read=self._convolution(layer, waiting, behind.width))

    def _convolution(self, layer: Layer, waiting: _Deferred, width: int) -> Read:
        kernel, stride, weights = layer.kernel, layer.stride, self._weights(layer)

        def read(start: int, stop: int) -> Array:
            strip = waiting.strip(start * stride, (stop - 1) * stride + kernel)
            out = kernels.empty(layer.outputs, stop - start, width)
            kernels.convolve(strip, start, weights, stride, out)
            return out

        return read

    def _convolution_bf16(self, layer: Layer, waiting: _Deferred, width: int) -> Read:
        kernel, stride = layer.kernel, layer.stride
        if layer.name not in self._packed:
            self._packed[layer.name] = kernels.bf16_weights(self._weights(layer), stride)
        weights = self._packed[layer.name]

        def read(start: int, stop: int) -> Array:
            strip = waiting.strip(start * stride, (stop - 1) * stride + kernel)
            out = kernels.empty(layer.outputs, stop - start, width)
            kernels.convolve_bf16(strip, start, weights, kernel, stride, out)
            return out

        return read

    def _winograd(self, layer: Layer, waiting: _Deferred, width: int) -> Read:
        """By Winograd's filtering, and measured on the way."""
        weight, bias = self._weights(layer)

        def read(start: int, stop: int) -> Array:
            strip = waiting.strip(start, stop + 2)
            out = kernels.empty(layer.outputs, stop - start, width)
            pixels = strip.height * strip.values.shape[2]
            transformed = self._winograd_weights(layer.name, weight, pixels)
            mean, m2 = kernels.winograd(strip, start, transformed, bias, out)
            self._last.found = (out, Moments(out.shape[1] * out.shape[2], mean, m2))
            return out

        return read

    def _winograd_weights(self, name: str, weight: Array, pixels: int) -> Array:
        """Those of a small picture are kept for the next one; of a large one they cost nothing."""
        found = self._transformed.get(name)
        if found is None:
            if pixels > _SMALL:
                self._transformed = {}
            found = self._transformed[name] = kernels.winograd_weights(weight)
        return found

    def _separable(self, point: Layer, waiting: _Deferred) -> Read:
        assert waiting.depthwise is not None
        both = self._weights(waiting.depthwise), self._weights(point)
        width = waiting.source.width * (2 if waiting.enlarge else 1) + 2 * waiting.pad - 2

        def read(start: int, stop: int) -> Array:
            strip = waiting.strip(start, stop + 2)
            out = kernels.empty(point.outputs, stop - start, width)
            kernels.separable(strip, start, *both, out)
            return out

        return read

    def _conv_transpose(self, layer: Layer, waiting: _Deferred) -> Read:
        waiting, weights = dataclasses.replace(waiting, pad=1), self._weights(layer)
        if self._bf16 and layer.name not in self._packed:
            self._packed[layer.name] = kernels.bf16_transposed_weights(weights)

        def read(start: int, stop: int) -> Array:
            # Row r is row r + 1 of the whole output, which comes of two rows at most.
            strip = waiting.strip((start + 1) // 2, stop // 2 + 2)
            width = 2 * waiting.source.width
            out = kernels.empty(layer.outputs, stop - start, width)
            if self._bf16:
                kernels.conv_transpose_bf16(strip, start + 1, 1, self._packed[layer.name], out)
            else:
                kernels.conv_transpose(strip, start + 1, 1, weights, out)
            return out

        return read

    def _weights(self, layer: Layer) -> tuple[Array, Array]:
        return self._tensors[f"{layer.name}.weight"], self._tensors[f"{layer.name}.bias"]

    # -- statistics --------------------------------------------------------------------------------

    def measure(self, strip: Array) -> Moments:
        found, self._last.found = self._last.found, None
        if found is not None and found[0] is strip:
            return found[1]
        return Moments(strip.shape[1] * strip.shape[2], *kernels.moments(strip))

    def normalised(self, source: Rows[Array], moments: Moments) -> Rows[Array]:
        mean, scale = factors(moments)
        return _deferred(_Deferred(source, mean, scale), source.derived(*source.shape))

    # -- what is kept ------------------------------------------------------------------------------

    def stored(self, values: Array) -> Rows[Array]:
        channels, height, width = values.shape
        cost = channels * width * self.itemsize
        read: Read = lambda start, stop: values[:, start:stop]  # noqa: E731
        return Rows(channels, height, width, self.itemsize, cost, read=read)

    def added(self, source: Rows[Array], other: Rows[Array]) -> Rows[Array]:
        def read(start: int, stop: int) -> Array:
            rows = source.read(start, stop)
            rows += other.read(start, stop)
            return rows

        return dataclasses.replace(source.derived(*source.shape), read=read)

    def accumulate(self, total: Array, source: Rows[Array], start: int) -> None:
        before = source.deferred
        assert isinstance(before, _Deferred)
        assert before.only_normalises
        assert before.mean is not None
        assert before.scale is not None
        part = before.source.read(start, start + total.shape[1])
        kernels.accumulate_normalised(total, part, before.mean, before.scale)

    def whole(self, rows: Rows[Array]) -> Array:
        return np.ascontiguousarray(rows.read(0, rows.height))

    def empty(self, rows: Rows[Array], place: Place, scratch: Scratch) -> Array:
        if place == "disk":
            return np.frombuffer(scratch.buffer(rows.bytes), np.float32).reshape(rows.shape)
        return kernels.empty(*rows.shape)

    def write(self, buffer: Array, start: int, strip: Array) -> None:
        buffer[:, start : start + strip.shape[1]] = strip

    def finish(self, strip: Array, source: Array | None) -> Array:
        matrix = self._tensors.get(RECOLOUR)
        if source is not None:
            strip += source if matrix is None else recoloured(matrix, source)
        return strip


def _deferred(waiting: _Deferred, behind: Rows[Array]) -> Rows[Array]:
    return dataclasses.replace(behind, read=waiting.read, deferred=waiting)


def _in_place(layer: Layer, source: Rows[Array]) -> Read:
    """What is computed by NumPy, in what was just made."""
    if layer.kind not in ("tanh", "leaky_relu") or not source.fresh:
        raise TypeError(f"the kernels cannot compute a layer of kind {layer.kind} here")
    slope = np.float32(layer.slope)

    def read(start: int, stop: int) -> Array:
        rows = source.read(start, stop)
        if layer.kind == "tanh":
            np.tanh(rows, out=rows)
        else:
            np.maximum(rows, slope * rows, out=rows)
        return rows

    return read
