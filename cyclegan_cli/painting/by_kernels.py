"""The layers of any generator by the compiled kernels, on NumPy arrays: CPU, no PyTorch.

InstanceNorm, ReLU, upsampling and padding are left to the convolution after them, and a depthwise
convolution to the pointwise one after it. 3×3 convolutions with enough channels are computed by
Winograd's filtering. In bfloat16, networks of whole convolutions with InstanceNorm keep their
values in bfloat16 and in pixel order (``kernels``), and the trunk's sum in float32. Without AMX,
Winograd's filtering in float32 is faster than direct convolution in bfloat16, so the trunk is
computed as in float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from cyclegan_cli.engine.fast import bf16, kernels
from cyclegan_cli.engine.fast.kernels import Array, Strip, keep_freed_memory
from cyclegan_cli.engine.layers import Layer
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting.pixels import from_planes, to_planes
from cyclegan_cli.painting.statistics import RECOLOUR, Moments, factors, recoloured, smoothed
from cyclegan_cli.painting.strips import EVERY, Place, Rows, Scratch, needed

Read = Callable[[int, int], Array]
Compute = Callable[[Strip, int, Array], None]  # rows of a convolution from that row on, to out

# Pixels before a convolution. In larger pictures, transforming the weights for each picture costs
# less than 3 % of the time.
_SMALL = 128**2
_FEWEST = 16  # channels that are kept in pixel order


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
        """Whether layers that come before padding can still be deferred."""
        return self.pad == 0 and not self.enlarge and self.depthwise is None

    def strip(self, start: int, stop: int) -> Strip:
        """The rows of the source that rows [start, stop) of the padded picture need."""
        source, how = self.source, {"mirror": self.mirror, "enlarge": self.enlarge}
        low, high = needed((start, stop), source.height, self.pad, **how)
        values = source.read(low, high)
        step = values.itemsize
        in_pixels = values.strides[0] == step < values.strides[2]
        if not in_pixels and values.strides[1:] != (step * values.shape[2], step):
            values = np.ascontiguousarray(values)
        facts = (self.pad, self.mirror, self.mean, self.scale, self.relu, self.enlarge)
        return Strip(values, low, source.height, *facts)

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop) of the padded picture."""
        strip = self.strip(start, stop)
        if self.mean is None and not (self.relu or self.enlarge or self.pad):
            return strip.values[:, start - strip.first : stop - strip.first]
        width = self.source.width * (2 if self.enlarge else 1) + 2 * self.pad
        shape = (self.source.channels, stop - start, width)
        if strip.order:
            out = bf16.pixels(shape, half=False)
            bf16.prepare_pixels(strip, start, out)
        else:
            out = kernels.empty(*shape)
            kernels.prepare(strip, start, out)
        return out


class KernelBackend:
    """``evaluate.Backend`` on arrays, C×h×W."""

    sum_itemsize = 4
    from_pixels, to_pixels = staticmethod(to_planes), staticmethod(from_planes)
    smoothed = staticmethod(smoothed)

    def __init__(self, weights: Weights, *, half: bool = False) -> None:
        """``half``: convolutions in bfloat16, except depthwise ones and those after them."""
        self._tensors = weights.tensors
        self._bf16 = half
        self._filters = not half or not bf16.has_tiles()  # by Winograd, wherever it can
        spec = weights.spec
        whole = spec.norm == "instance" and not spec.separable and spec.code == 0
        self._half = half and whole and spec.width >= _FEWEST
        self.itemsize = 2 if self._half else 4
        self.wide_from = 4 * spec.width if self._filters else EVERY
        self._packed: dict[str, Array] = {}  # weights in bfloat16
        self._transformed: dict[str, Array] = {}  # weights of Winograd's filtering
        self._last = threading.local()  # the output that was measured last in this thread
        keep_freed_memory()

    @property
    def workspace_threads(self) -> int:
        """Threads that have memory of their own."""
        return kernels.threads()

    @staticmethod
    def session() -> AbstractContextManager[object]:
        """Entered while a picture is painted."""
        return contextlib.nullcontext()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def release(self) -> None:
        """Free what is kept for later pictures."""
        self._transformed = {}

    def with_grain(self, values: Array, grain: Array) -> Array:
        values += grain
        return values

    def with_channel(self, values: Array, grain: Array) -> Array:
        return np.concatenate([values, grain])

    def apply(self, layer: Layer, source: Rows[Array]) -> Rows[Array]:
        found = source.deferred
        before = found if isinstance(found, _Deferred) else _Deferred(source)
        out = source.output_of(layer)
        if layer.kind == "relu" and before.takes_more and not before.relu:
            return _deferred(dataclasses.replace(before, relu=True), out)
        if layer.kind == "upsample" and before.takes_more:
            return _deferred(dataclasses.replace(before, enlarge=True), out)
        if layer.kind == "reflect" and before.pad == 0 and before.depthwise is None:
            return _deferred(dataclasses.replace(before, pad=layer.padding, mirror=True), out)
        if layer.kind == "conv_transpose" and before.takes_more:
            return dataclasses.replace(out, read=self._conv_transpose(layer, before))
        if layer.kind == "conv":
            return self._convolved(layer, before, out)
        return dataclasses.replace(out, read=_in_place(layer, source))

    def _convolved(self, layer: Layer, before: _Deferred, out: Rows[Array]) -> Rows[Array]:
        if before.depthwise is not None:
            if not layer.is_pointwise:
                raise TypeError("a depthwise convolution is followed by a pointwise one")
            compute = self._separable(before.depthwise, layer)
            return self._computed(before, before.depthwise, out, compute)
        if layer.padding:
            if not before.takes_more:
                raise TypeError("zeros cannot be put around what is padded or enlarged")
            before = dataclasses.replace(before, pad=layer.padding, mirror=False)
        if layer.is_depthwise:
            return dataclasses.replace(out, deferred=dataclasses.replace(before, depthwise=layer))
        planes = not (self._in_pixels(layer.inputs) or self._in_pixels(layer.outputs))
        if self._filters and planes and kernels.uses_winograd(layer):
            compute = self._winograd(layer)
        elif self._bf16 and not layer.is_pointwise:
            compute = self._convolution_bf16(layer)
        else:
            compute = self._convolution(layer)
        return self._computed(before, layer, out, compute)

    def _computed(
        self, before: _Deferred, layer: Layer, out: Rows[Array], compute: Compute
    ) -> Rows[Array]:
        """The rows ``out`` of a convolution of the size of ``layer``, after the deferred layers."""

        def read(start: int, stop: int) -> Array:
            first, end = start * layer.stride, (stop - 1) * layer.stride + layer.kernel
            rows = self._new((out.channels, stop - start, out.width))
            compute(before.strip(first, end), start, rows)
            return rows

        return dataclasses.replace(out, read=read)

    def _convolution(self, layer: Layer) -> Compute:
        weights = self._weights(layer)
        return lambda strip, row, out: kernels.convolve(strip, row, weights, layer.stride, out)

    def _convolution_bf16(self, layer: Layer) -> Compute:
        kernel, stride = layer.kernel, layer.stride
        if layer.name not in self._packed:
            self._packed[layer.name] = bf16.weights(self._weights(layer), stride)
        packed = self._packed[layer.name]

        def compute(strip: Strip, row: int, out: Array) -> None:
            self._found(out, bf16.convolve(strip, row, packed, kernel, stride, out))

        return compute

    def _found(self, out: Array, moments: kernels.Statistics | None) -> None:
        """Remember the statistics of ``out`` for ``measure``."""
        if moments is not None:
            self._last.found = (out, Moments(out.shape[1] * out.shape[2], *moments))

    def _new(self, shape: tuple[int, int, int]) -> Array:
        """An array for the output of a convolution."""
        if self._in_pixels(shape[0]):
            return bf16.pixels(shape, half=True)
        return kernels.empty(*shape)

    def _in_pixels(self, channels: int) -> bool:
        """Whether an array of so many is in pixel order."""
        return self._half and _FEWEST <= channels < self.wide_from

    def _separable(self, depth: Layer, point: Layer) -> Compute:
        both = self._weights(depth), self._weights(point)
        return lambda strip, row, out: kernels.separable(strip, row, *both, out)

    def _winograd(self, layer: Layer) -> Compute:
        """By Winograd's filtering, which also measures the output."""
        weight, bias = self._weights(layer)

        def compute(strip: Strip, row: int, out: Array) -> None:
            transformed = self._transformed.get(layer.name)
            if transformed is None:  # kept for the next picture if this one is small
                if strip.height * strip.values.shape[2] > _SMALL:
                    self._transformed = {}
                transformed = self._transformed[layer.name] = kernels.winograd_weights(weight)
            self._found(out, kernels.winograd(strip, row, transformed, bias, out))

        return compute

    def _conv_transpose(self, layer: Layer, before: _Deferred) -> Read:
        before, weights = dataclasses.replace(before, pad=1), self._weights(layer)
        if self._bf16 and layer.name not in self._packed:
            self._packed[layer.name] = bf16.transposed_weights(weights)

        def read(start: int, stop: int) -> Array:
            # Row r is row r + 1 of the whole output, which depends on two rows at most.
            strip = before.strip((start + 1) // 2, stop // 2 + 2)
            out = self._new((layer.outputs, stop - start, 2 * before.source.width))
            if self._bf16:
                packed = self._packed[layer.name]
                self._found(out, bf16.conv_transpose(strip, start + 1, 1, packed, out))
            else:
                kernels.conv_transpose(strip, start + 1, 1, weights, out)
            return out

        return read

    def _weights(self, layer: Layer) -> tuple[Array, Array]:
        return self._tensors[f"{layer.name}.weight"], self._tensors[f"{layer.name}.bias"]

    def measure(self, strip: Array) -> Moments:
        found: tuple[Array, Moments] | None = vars(self._last).pop("found", None)
        if found is not None and found[0] is strip:
            return found[1]
        return Moments(strip.shape[1] * strip.shape[2], *kernels.moments(strip))

    def normalised(self, source: Rows[Array], moments: Moments) -> Rows[Array]:
        mean, scale = factors(moments)
        return _deferred(_Deferred(source, mean, scale), source.derived(*source.shape))

    def on_device(self, strip: Array) -> Array:
        return strip

    def accumulate(self, total: Array, source: Rows[Array], start: int) -> None:
        before = source.deferred
        assert isinstance(before, _Deferred)
        assert before.takes_more
        assert not before.relu
        assert before.mean is not None
        assert before.scale is not None
        part = before.source.read(start, start + total.shape[1])
        if self._in_pixels(len(total)):
            bf16.accumulate_pixels(total, part, before.mean, before.scale)
        else:
            kernels.accumulate_normalised(total, part, before.mean, before.scale)

    def whole(self, rows: Rows[Array]) -> Array:
        values = rows.read(0, rows.height)
        return values if self._in_pixels(len(values)) else np.ascontiguousarray(values)

    def empty(self, rows: Rows[Array], place: Place, scratch: Scratch) -> Array:
        if place == "disk":
            dtype = np.float32 if rows.itemsize == 4 else np.int16
            flat: Array = np.frombuffer(scratch.buffer(rows.bytes), dtype)
            if self._in_pixels(rows.channels):
                found: Array = flat.reshape(*rows.shape[1:], rows.channels).transpose(2, 0, 1)
                return found
            return flat.reshape(rows.shape)
        if self._in_pixels(rows.channels):
            return bf16.pixels(rows.shape, half=rows.itemsize == 2)
        return kernels.empty(*rows.shape)

    def write(self, buffer: Array, start: int, strip: Array) -> None:
        rows = buffer[:, start : start + strip.shape[1]]
        if self._in_pixels(len(rows)) and strip.dtype == rows.dtype:
            bf16.copy_pixels(strip, rows)
        else:
            rows[...] = strip

    def finish(self, strip: Array, source: Array | None) -> Array:
        matrix = self._tensors.get(RECOLOUR)
        if source is not None:
            strip += source if matrix is None else recoloured(matrix, source)
        return strip


def _deferred(layers: _Deferred, out: Rows[Array]) -> Rows[Array]:
    return dataclasses.replace(out, read=layers.read, deferred=layers)


def _in_place(layer: Layer, source: Rows[Array]) -> Read:
    """tanh and leaky ReLU, by NumPy, in place."""
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
