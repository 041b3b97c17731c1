"""The layers of a generator by PyTorch's operations, on any device and in any precision.

A layer reads the rows that it needs and pads only at the picture's border, so strips do not show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.device import DTYPES
from cyclegan_cli.engine.layers import EPS, Layer
from cyclegan_cli.engine.networks import smoothed
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting.pixels import Pixels, from_planes, to_planes
from cyclegan_cli.painting.statistics import RECOLOUR, Moments, factors, varies
from cyclegan_cli.painting.strips import EVERY, Place, Rows, Scratch, needed
from cyclegan_cli.settings import Precision

Read = Callable[[int, int], Tensor]


def measure(x: Tensor) -> Moments:
    """The moments of 1×C×h×w values of any float type, without cancellation.

    The second sum corrects the first one's rounding: a flat picture has a variance of exactly 0.
    """
    values = x.float()
    rough = values.mean((0, 2, 3), keepdim=True)
    deviation = values - rough
    shift = deviation.mean((0, 2, 3))
    squares = deviation.mul_(deviation).sum((0, 2, 3))
    parts = torch.stack([rough.flatten(), shift, squares])
    # On CUDA the result stays on the device, so that nothing waits for it; others lack float64.
    rough64, shift64, squares64 = (parts if parts.is_cuda else parts.cpu()).double()
    count = x.shape[0] * x.shape[2] * x.shape[3]
    found = Moments(count, rough64 + shift64, (squares64 - count * shift64**2).clamp_(min=0.0))
    return found if parts.is_cuda else found.on_host()


def normalise(x: Tensor, moments: Moments, *, in_place: bool) -> Tensor:
    """(x − mean) / √(variance + eps) of each channel of 1×C×h×w, in x's dtype.

    The mean goes first: multiplying first would lose the digits of a mean that is far from 0.
    """
    if isinstance(moments.mean, Tensor):  # on the card
        scale = ((moments.variance + EPS).rsqrt() * varies(moments)).float()
        mean = moments.mean.float()
    else:
        mean, scale = (torch.from_numpy(part).to(x.device) for part in factors(moments))
    mean, scale = mean[:, None, None], scale[:, None, None]
    if x.dtype != torch.float32:
        return x.float().sub_(mean).mul_(scale).to(x.dtype)
    return (x.sub_(mean) if in_place else x - mean).mul_(scale)


def to_tensor(pixels: Pixels, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """``to_planes`` as a new float32 tensor, 1×channels×H×W; 8 bits are converted on the device."""
    if channels == 3 and pixels.dtype == np.uint8 and torch.device(device).type != "cpu":
        levels = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        return levels_to_tensor(levels)
    return torch.from_numpy(to_planes(pixels, channels)[None]).to(device)


def levels_to_tensor(levels: Tensor) -> Tensor:
    """H×W×3 uint8 as float32, 1×3×H×W in [−1, 1], on its own device."""
    return levels.permute(2, 0, 1)[None].float().contiguous().mul_(2.0 / 255.0).sub_(1.0)


def tensor_to_levels(picture: Tensor) -> Tensor:
    """1×3×H×W as H×W×3 uint8, clipped and rounded as ``from_planes`` does, on its own device."""
    scaled = picture[0].float().add(1.0).mul_(127.5)
    return scaled.round_().clamp_(0.0, 255.0).to(torch.uint8).permute(1, 2, 0).contiguous()


def to_pixels(picture: Tensor, dtype: np.dtype[Any]) -> Pixels:
    """``from_planes`` of 1×C×H×W."""
    if picture.device.type != "cpu" and picture.shape[1] == 3 and dtype == np.uint8:
        return tensor_to_levels(picture).cpu().numpy()
    return from_planes(picture[0].float().cpu().numpy(), dtype)


def paints_tensors(paint: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    """A painter's ``paint`` for 1×3×H×W, float32 in [−1, 1], on the CPU; the same comes out."""

    def painted(picture: Tensor) -> Tensor:
        pixels = paint(picture[0].permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()

    return painted


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch has a class for it on CUDA, and only messages elsewhere."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(word in str(error) for word in words)


class TorchBackend:
    """``evaluate.Backend`` on tensors, 1×C×h×W. ``precision``: of convolutions, not statistics."""

    workspace_threads = 0
    is_out_of_memory = staticmethod(is_out_of_memory)
    to_pixels = staticmethod(to_pixels)
    measure = staticmethod(measure)

    def __init__(self, weights: Weights, device: str, precision: Precision) -> None:
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self.itemsize = self.sum_itemsize = self.dtype.itemsize
        self.wide_from = EVERY
        self._tensors = {
            name: torch.from_numpy(array).to(self.device, self.dtype)
            for name, array in weights.tensors.items()
        }
        matrix = weights.tensors.get(RECOLOUR)
        self._recolour = None if matrix is None else torch.from_numpy(matrix).to(self.device)

    @staticmethod
    def session() -> AbstractContextManager[object]:
        """Entered while a picture is painted."""
        return torch.inference_mode()

    def release(self) -> None:
        """Free what is kept for later pictures."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def from_pixels(self, pixels: Pixels, channels: int) -> Tensor:
        return to_tensor(pixels, channels, self.device)

    def with_grain(self, values: Tensor, grain: Any) -> Tensor:
        return values + torch.from_numpy(grain).to(self.device)

    def with_channel(self, values: Tensor, grain: Any) -> Tensor:
        return torch.cat([values, torch.from_numpy(grain[None]).to(self.device)], dim=1)

    def apply(self, layer: Layer, source: Rows[Tensor]) -> Rows[Tensor]:
        read: Read
        if layer.kind == "reflect":
            read = _reflect(layer.padding, source)
        elif layer.kind == "conv":
            read = self._conv(layer, source)
        elif layer.kind == "conv_transpose":
            read = self._conv_transpose(layer, source)
        elif layer.kind == "upsample":
            read = _upsample(source)
        elif layer.kind == "relu":
            read = _each(torch.relu_ if source.fresh else torch.relu, source)
        elif layer.kind == "tanh":
            read = _each(torch.tanh_ if source.fresh else torch.tanh, source)
        elif layer.kind == "leaky_relu":
            read = _each(lambda x: functional.leaky_relu(x, layer.slope), source)
        else:
            raise TypeError(f"rows of a layer of kind {layer.kind} cannot be computed")
        return dataclasses.replace(source.output_of(layer), read=read)

    def _weights(self, layer: Layer) -> tuple[Tensor, Tensor]:
        return self._tensors[f"{layer.name}.weight"], self._tensors[f"{layer.name}.bias"]

    def _conv(self, layer: Layer, source: Rows[Tensor]) -> Read:
        kernel, stride, pad = layer.kernel, layer.stride, layer.padding

        def read(start: int, stop: int) -> Tensor:
            first, end = start * stride - pad, (stop - 1) * stride - pad + kernel
            low, high = max(first, 0), min(end, source.height)
            rows = source.read(low, high).to(self.dtype)
            if (low, high) != (first, end):
                rows = functional.pad(rows, (0, 0, low - first, end - high))
            weights = self._weights(layer)
            return functional.conv2d(rows, *weights, stride, (0, pad), groups=layer.groups)

        return read

    def _conv_transpose(self, layer: Layer, source: Rows[Tensor]) -> Read:
        kernel, stride, pad = layer.kernel, layer.stride, layer.padding

        def read(start: int, stop: int) -> Tensor:
            # Row i of the source adds to the rows i·stride − pad … i·stride − pad + kernel − 1.
            low = max(0, -((kernel - 1 - start - pad) // stride))
            high = min(source.height, (stop - 1 + pad) // stride + 1)
            rows = functional.conv_transpose2d(
                *(source.read(low, high), *self._weights(layer), stride),
                padding=(0, pad),
                output_padding=(0, 1),
            )
            skip = start + pad - low * stride
            return rows[:, :, skip : skip + stop - start]

        return read

    def normalised(self, source: Rows[Tensor], moments: Moments) -> Rows[Tensor]:
        def read(start: int, stop: int) -> Tensor:
            return normalise(source.read(start, stop), moments, in_place=source.fresh)

        return dataclasses.replace(source.derived(*source.shape), read=read)

    def on_device(self, strip: Tensor) -> Tensor:
        return strip.to(self.device)

    def accumulate(self, total: Tensor, source: Rows[Tensor], start: int) -> None:
        part = source.read(start, start + total.shape[2])
        total.copy_(part.add_(total)) if total.device != part.device else total.add_(part)

    def whole(self, rows: Rows[Tensor]) -> Tensor:
        return rows.read(0, rows.height).contiguous()

    def empty(self, rows: Rows[Tensor], place: Place, scratch: Scratch) -> Tensor:
        shape = (1, *rows.shape)
        if place == "disk":
            return torch.frombuffer(scratch.buffer(rows.bytes), dtype=self.dtype).view(shape)
        device = self.device if place == "device" else "cpu"
        return torch.empty(shape, dtype=self.dtype, device=device)

    def write(self, buffer: Tensor, start: int, strip: Tensor) -> None:
        buffer[:, :, start : start + strip.shape[2]].copy_(strip)

    def smoothed(self, picture: Tensor) -> Tensor:
        return smoothed(picture.float())

    def finish(self, strip: Tensor, source: Tensor | None) -> Tensor:
        strip = strip.float()
        if source is None or self._recolour is None:
            return strip if source is None else strip.add_(source)
        inputs = self._recolour.shape[1] - 1
        colours = torch.tensordot(self._recolour[:, :inputs], source[0, :inputs], dims=1)
        return strip.add_(colours).add_(self._recolour[:, inputs, None, None])


def _each(function: Callable[[Tensor], Tensor], source: Rows[Tensor]) -> Read:
    return lambda start, stop: function(source.read(start, stop))


def _reflect(pad: int, source: Rows[Tensor]) -> Read:
    def read(start: int, stop: int) -> Tensor:
        low, high = needed((start, stop), source.height, pad, mirror=True, enlarge=False)
        top, bottom = max(0, pad - start), max(0, stop - pad - source.height)
        rows = functional.pad(source.read(low, high), (pad, pad, top, bottom), mode="reflect")
        skip = start - pad - (low - top)
        return rows[:, :, skip : skip + stop - start]

    return read


def _upsample(source: Rows[Tensor]) -> Read:
    def read(start: int, stop: int) -> Tensor:
        low = start // 2
        rows = source.read(low, -(-stop // 2))
        rows = functional.interpolate(rows, scale_factor=2, mode="nearest")
        return rows[:, :, start - low * 2 : stop - low * 2]

    return read
