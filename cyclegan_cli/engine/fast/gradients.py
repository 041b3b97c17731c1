"""Layers of a training with gradients of their own: float32 on the CPU.

Each reads its input through what lies before it (``Reading``), which so is never computed on its
own, neither forwards nor backwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.winograd import convolve, transformed

__all__ = [
    "Convolution",
    "Depthwise",
    "Normalised",
    "Reading",
    "Separable",
    "Transposed",
    "Winograd",
]

Grads = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Reading:
    """What is done first, in order: ReLU, each pixel as 2×2, padding by reflection or by zeros."""

    relu: bool = False
    enlarge: bool = False
    pad: int = 0
    mirror: bool = False

    def padded(self, zeros: int) -> Reading:
        """With a convolution's own zeros."""
        return dataclasses.replace(self, pad=zeros, mirror=False)

    def strip(self, one: Tensor) -> Strip:
        """1×C×H×W to be read so by the kernels."""
        return Strip(
            *(one, 0, one.shape[2], self.pad, self.mirror),
            relu=self.relu,
            enlarge=self.enlarge,
        )


class Convolution(torch.autograd.Function):
    """A K×K convolution, stride 1, or 3×3 with stride 2."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, reading: Reading, stride: int
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.reading, ctx.stride = reading, stride

        def one(part: Tensor) -> Tensor:
            strip = reading.strip(part)
            rows = (strip.padded[0] - weight.shape[2]) // stride + 1
            return kernels.convolve(strip, (0, rows), weight, bias, stride)

        return _each(x, one)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight = ctx.saved_tensors
        reading, stride, kernel = ctx.reading, ctx.stride, weight.shape[2]
        inwards, trained = ctx.needs_input_grad[0], ctx.needs_input_grad[1]

        def one(part: Tensor, grad: Tensor) -> Grads:
            strip = reading.strip(part)
            of_weights = kernels.correlate(strip, grad, kernel, stride) if trained else (None, None)
            if not inwards:
                return None, *of_weights
            height, width = strip.padded
            zeros = kernel - 1 if stride == 1 else 1
            around = Strip(grad, 0, grad.shape[2], zeros)
            if stride == 1:
                padded = kernels.convolve(around, (0, height), weight, None, turned=True)
            else:
                padded = kernels.spread(around, (0, height), (0, width), weight, None)
            return kernels.fold(strip, padded), *of_weights

        return *_both(x, grads[0], one), None, None


class Transposed(torch.autograd.Function):
    """A transposed 3×3 convolution: stride 2, padding 1 on both sides; ``reading`` pads by 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, reading: Reading) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.reading = reading
        rows, columns = ((1, 2 * size + 1) for size in x.shape[2:])
        return _each(x, lambda one: kernels.spread(reading.strip(one), rows, columns, weight, bias))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight = ctx.saved_tensors
        inwards, trained = ctx.needs_input_grad[:2]
        alone = dataclasses.replace(ctx.reading, pad=0)

        def one(part: Tensor, grad: Tensor) -> Grads:
            around = Strip(grad, 0, grad.shape[2], 1)
            grad_in, grad_weight, grad_bias = None, None, None
            if trained:
                values = kernels.prepare(alone.strip(part), 0, part.shape[2])
                grad_weight, _ = kernels.correlate(around, values, 3, 2)
                grad_bias = grad.sum((0, 2, 3))
            if inwards:
                grad_in = kernels.convolve(around, (0, part.shape[2]), weight, None, 2)
                grad_in = kernels.fold(alone.strip(part), grad_in)
            return grad_in, grad_weight, grad_bias

        return *_both(x, grads[0], one), None


class Separable(torch.autograd.Function):
    """A depthwise 3×3 convolution and a pointwise one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        depth: Tensor,
        depth_bias: Tensor,
        point: Tensor,
        point_bias: Tensor,
        reading: Reading,
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, depth, depth_bias, point)
        ctx.reading = reading

        def one(part: Tensor) -> Tensor:
            strip = reading.strip(part)
            rows = (0, strip.padded[0] - 2)
            return kernels.separable(strip, rows, (depth, depth_bias), (point, point_bias))

        return _each(x, one)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, depth, depth_bias, point = ctx.saved_tensors
        inwards = ctx.needs_input_grad[0]

        def one(part: Tensor, grad: Tensor) -> Grads:
            strip = ctx.reading.strip(part)
            return kernels.separable_backward(
                strip, grad, (depth, depth_bias), point, inwards=inwards
            )

        return *_both(x, grads[0], one), None


class Depthwise(torch.autograd.Function):
    """A depthwise 3×3 convolution alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, reading: Reading) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.reading = reading

        def one(part: Tensor) -> Tensor:
            strip = reading.strip(part)
            return kernels.depthwise(strip, 0, strip.padded[0] - 2, weight, bias)

        return _each(x, one)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight = ctx.saved_tensors

        def one(part: Tensor, grad: Tensor) -> Grads:
            return kernels.depthwise_backward(ctx.reading.strip(part), grad, weight)

        return *_both(x, grads[0], one), None


class Normalised(torch.autograd.Function):
    """InstanceNorm without parameters, by the statistics of what it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        scale = kernels.normalise(x, eps, y)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        y, scale = ctx.saved_tensors
        return kernels.normalise_backward(grads[0].contiguous(), y, scale), None


class Winograd(torch.autograd.Function):
    """A 3×3 convolution by Winograd's filtering: output, and gradients of input and weight.

    Also the InstanceNorm behind it, where ``eps`` is given: the convolution measures its output.
    The bias, which normalising takes away, then has a gradient of 0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, reading: Reading, eps: float | None
    ) -> Tensor:
        x = x.contiguous()
        ctx.reading = reading
        matrices = transformed(weight, passing=True)
        scales: list[Tensor] = []

        def one(part: Tensor) -> Tensor:
            strip = reading.strip(part)
            rows = (0, strip.padded[0] - 2)
            if eps is None:
                return convolve(strip, rows, matrices, bias)
            mean, m2 = torch.empty(2, weight.shape[0], dtype=torch.float64)
            out = convolve(strip, rows, matrices, bias, statistics=(mean, m2))
            scales.append(kernels.normalise(out, eps, out, (mean, m2)))
            return out

        y = _each(x, one)
        ctx.save_for_backward(x, weight, *((y, torch.cat(scales)) if scales else ()))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight, *normalised = ctx.saved_tensors
        inwards, trained = ctx.needs_input_grad[:2]
        grad = grads[0]
        if normalised:
            grad = kernels.normalise_backward(grad.contiguous(), *normalised)
        one = _winograd_backward(ctx.reading, weight, inwards, trained)
        of_input, of_weight, of_bias = _both(x, grad, one)
        if trained and of_bias is None:
            of_bias = torch.zeros(weight.shape[0]) if normalised else grad.sum((0, 2, 3))
        return of_input, of_weight, of_bias, None, None


def _winograd_backward(
    reading: Reading, weight: Tensor, inwards: bool, trained: bool
) -> Callable[[Tensor, Tensor], Grads]:
    """What gives the gradients of ``Winograd`` of one picture, the bias's left out."""
    matrices = transformed(weight, turned=True, passing=True).matrices if inwards else None

    def one(part: Tensor, grad: Tensor) -> Grads:
        strip = reading.strip(part)
        return *kernels.winograd_backward(strip, grad, matrices, trained=trained), None

    return one


def _each(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The kernels take one picture at a time."""
    parts = [function(x[i : i + 1]) for i in range(x.shape[0])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _both(x: Tensor, grad: Tensor, function: Callable[[Tensor, Tensor], Grads]) -> Grads:
    """Of each picture the gradients of itself, which are put together, and of the rest: added."""
    grad = grad.contiguous()
    found = [function(x[i : i + 1], grad[i : i + 1]) for i in range(x.shape[0])]
    if len(found) == 1:
        return found[0]
    own, *rest = zip(*found, strict=True)
    sums = [None if parts[0] is None else sum(parts) for parts in rest]
    return None if own[0] is None else torch.cat(own), *sums
