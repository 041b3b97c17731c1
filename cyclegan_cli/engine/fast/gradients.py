"""Layers with gradients of their own, by the kernels: on the CPU, float32 in and out.

Each reads its input through the ReLU, upsampling and padding before it (``Before``), which are
therefore never computed on their own, neither forwards nor backwards.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.engine.fast import bf16, kernels
from cyclegan_cli.engine.fast.kernels import Array, Pair, Strip

Grads: TypeAlias = tuple[Tensor | None, ...]
Compute: TypeAlias = Callable[[Strip, Array], object]


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """The output of one of the layers."""
    return cast(Tensor, function.apply(*arguments))


@dataclass(frozen=True)
class Before:
    """What a layer does first: ReLU, each pixel as 2×2, padding by reflection (or zeros).

    ``half``: what a whole convolution multiplies, in its gradients too, is rounded to bfloat16.
    """

    relu: bool = False
    enlarge: bool = False
    pad: int = 0
    mirror: bool = False
    half: bool = False

    def size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of N×C×H×W after it."""
        scale = 2 if self.enlarge else 1
        return scale * x.shape[2] + 2 * self.pad, scale * x.shape[3] + 2 * self.pad

    def strip(self, x: Tensor) -> Strip:
        """C×H×W to be read in this way by the kernels."""
        return Strip(
            *(_array(x), 0, x.shape[1], self.pad, self.mirror),
            relu=self.relu,
            enlarge=self.enlarge,
        )


def _convolution(pair: Pair, stride: int, half: bool, *, transposed: bool = False) -> Compute:
    """``convolve`` of a whole picture."""
    if not half:
        return lambda strip, out: kernels.convolve(
            strip, 0, pair, stride, out, transposed=transposed
        )
    packed, kernel = bf16.weights(pair, stride, transposed=transposed), pair[0].shape[2]
    return lambda strip, out: bf16.convolve(strip, 0, packed, kernel, stride, out)


def _conv_transpose(pair: Pair, first: int, half: bool) -> Compute:
    """``conv_transpose`` from row and column ``first`` on."""
    if not half:
        return lambda strip, out: kernels.conv_transpose(strip, first, first, pair, out)
    packed = bf16.transposed_weights(pair)
    return lambda strip, out: bf16.conv_transpose(strip, first, first, packed, out)


def _correlate(half: bool) -> Callable[[Strip, Array, int, Array, Array | None], None]:
    return bf16.convolve_backward if half else kernels.convolve_backward


class Convolution(torch.autograd.Function):
    """A K×K convolution, stride 1, or 3×3 with stride 2; ``eps`` as of ``Winograd``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        before: Before,
        stride: int,
        eps: float | None,
    ) -> Tensor:
        x = x.contiguous()
        compute = _convolution((_array(weight), _array(bias)), stride, before.half)
        height, width = ((n - weight.shape[2]) // stride + 1 for n in before.size(x))
        out = torch.empty(len(x), weight.shape[0], height, width)
        for one, own in zip(x, out, strict=True):
            compute(before.strip(one), _array(own))
        ctx.before, ctx.stride, ctx.scale = before, stride, None
        if eps is not None:
            ctx.scale = kernels.normalise(_planes(out), eps, _planes(out))
        ctx.save_for_backward(x, weight, *([] if eps is None else [out]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight, *normalised = ctx.saved_tensors
        before, stride, of_output = ctx.before, ctx.stride, grads[0]
        inwards, trained = ctx.needs_input_grad[:2]
        correlate = _correlate(before.half)
        if normalised:
            of_output = _normalise_backward(of_output, normalised[0], ctx.scale)
        if inwards:
            pair = (_array(weight), None)
            adjoint = (
                _convolution(pair, 1, before.half, transposed=True)
                if stride == 1
                else _conv_transpose(pair, 0, before.half)
            )

        def one(picture: Tensor, grad: Tensor) -> Grads:
            strip, own = before.strip(picture), _array(grad)
            of_weight = of_bias = None
            if trained:
                of_weight, of_bias = torch.empty(weight.shape), torch.zeros(weight.shape[0])
                into = None if normalised else _array(of_bias)
                correlate(strip, own, stride, _array(of_weight), into)
            if not inwards:
                return None, of_weight, of_bias
            around = Strip(own, 0, grad.shape[1], weight.shape[2] - 1 if stride == 1 else 1)
            padded = kernels.empty(weight.shape[1], *before.size(picture[None]))
            adjoint(around, padded)
            return _folded(strip, padded), of_weight, of_bias

        return *_each(x, of_output, one), None, None, None


class Transposed(torch.autograd.Function):
    """A transposed 3×3 convolution: stride 2, padding 1 on both sides; ``before`` pads by 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, before: Before) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.before = before
        compute = _conv_transpose((_array(weight), _array(bias)), 1, before.half)
        out = torch.empty(len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        for one, own in zip(x, out, strict=True):
            compute(before.strip(one), _array(own))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight = ctx.saved_tensors
        inwards, trained = ctx.needs_input_grad[:2]
        before = dataclasses.replace(ctx.before, pad=0)
        correlate = _correlate(before.half)
        if inwards:
            adjoint = _convolution((_array(weight), None), 2, before.half)

        def one(picture: Tensor, grad: Tensor) -> Grads:
            strip, around = before.strip(picture), Strip(_array(grad), 0, grad.shape[1], 1)
            grad_in, of_weight, of_bias = None, None, None
            if trained:
                values, unused = kernels.empty(*picture.shape), kernels.empty(len(picture))
                kernels.prepare(strip, 0, values)
                of_weight = torch.empty(weight.shape)
                correlate(around, values, 2, _array(of_weight), unused)
                of_bias = grad[None].sum((0, 2, 3))
            if inwards:
                padded = kernels.empty(*picture.shape)
                adjoint(around, padded)
                grad_in = _folded(strip, padded)
            return grad_in, of_weight, of_bias

        return *_each(x, grads[0], one), None


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
        before: Before,
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, depth, depth_bias, point)
        ctx.before = before
        pairs = (_array(depth), _array(depth_bias)), (_array(point), _array(point_bias))
        out = torch.empty(len(x), point.shape[0], *(n - 2 for n in before.size(x)))
        for one, own in zip(x, out, strict=True):
            kernels.separable(before.strip(one), 0, *pairs, _array(own))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, depth, depth_bias, point = ctx.saved_tensors
        pair = (_array(depth), _array(depth_bias))

        def one(picture: Tensor, grad: Tensor) -> Grads:
            grad_in = torch.empty(picture.shape) if ctx.needs_input_grad[0] else None
            between = kernels.empty(2 * len(picture), *grad.shape[1:])
            shapes = (depth.shape, depth_bias.shape, point.shape, point.shape[:1])
            found = [torch.empty(shape) for shape in shapes]
            arrays = (_array(found[0]), _array(found[1]), _array(found[2]), _array(found[3]))
            into = None if grad_in is None else _array(grad_in)
            strip = ctx.before.strip(picture)
            kernels.separable_backward(
                strip, _array(grad), pair, _array(point), between, into, arrays
            )
            return grad_in, *found

        return *_each(x, grads[0], one), None


class Normalised(torch.autograd.Function):
    """InstanceNorm without parameters, by the statistics of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y = torch.empty(x.shape)
        ctx.scale = kernels.normalise(_planes(x.contiguous()), eps, _planes(y))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        (y,) = ctx.saved_tensors
        return _normalise_backward(grads[0], y, ctx.scale), None


class Winograd(torch.autograd.Function):
    """A 3×3 convolution by Winograd's filtering, and the InstanceNorm after it if ``eps`` is given.

    The convolution measures its output. The gradient of the bias, which InstanceNorm removes, is 0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, before: Before, eps: float | None
    ) -> Tensor:
        x = x.contiguous()
        weights = _transformed(weight)
        scales: list[Array] = []
        y = torch.empty(len(x), weight.shape[0], *(n - 2 for n in before.size(x)))
        for one, own in zip(x, map(_array, y), strict=True):
            measured = kernels.winograd(
                before.strip(one), 0, weights, _array(bias), own, measured=eps is not None
            )
            if eps is not None:
                scales.append(kernels.normalise(own, eps, own, measured))
        ctx.before, ctx.scale = before, np.concatenate(scales) if scales else None
        ctx.save_for_backward(x, weight, *([y] if scales else []))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight, *normalised = ctx.saved_tensors
        inwards, trained = ctx.needs_input_grad[:2]
        grad = grads[0]
        if normalised:
            grad = _normalise_backward(grad, normalised[0], ctx.scale)
        weights = _transformed(weight, transposed=True) if inwards else None

        def one(picture: Tensor, own: Tensor) -> Grads:
            of_input = torch.empty(picture.shape) if inwards else None
            of_weight = torch.empty(weight.shape) if trained else None
            into = [None if out is None else _array(out) for out in (of_input, of_weight)]
            kernels.winograd_backward(ctx.before.strip(picture), _array(own), weights, *into)
            return of_input, of_weight

        of_input, of_weight = _each(x, grad, one)
        of_bias = None
        if trained:
            of_bias = torch.zeros(weight.shape[0]) if normalised else grad.sum((0, 2, 3))
        return of_input, of_weight, of_bias, None, None


class _Buffer(threading.local):
    """Weights of ``winograd``, valid until the next ones of this thread.

    It is used again, since the system would have to clear the pages of a new one.
    """

    values = np.empty(0, np.float32)


_buffer = _Buffer()


def _transformed(weight: Tensor, *, transposed: bool = False) -> Array:
    """The weights of ``winograd``, or of ``winograd_backward``, of O×I×3×3."""
    size = kernels.winograd_size(*weight.shape[:2][:: -1 if transposed else 1])
    if _buffer.values.size < size:
        _buffer.values = kernels.empty(size)
    return kernels.winograd_weights(_array(weight), _buffer.values, transposed=transposed)


def _array(tensor: Tensor) -> Array:
    """``tensor`` as an array: a view, unless there are gaps in it."""
    array: Array = tensor.detach().contiguous().numpy()
    return array


def _planes(tensor: Tensor) -> Array:
    """N×C×H×W without gaps as (N · C)×H×W."""
    return _array(tensor).reshape(-1, *tensor.shape[2:])


def _folded(strip: Strip, padded: Array) -> Tensor:
    grad_in = torch.empty(strip.values.shape)
    kernels.fold(strip, padded, _array(grad_in))
    return grad_in


def _normalise_backward(grad: Tensor, normalised: Tensor, scale: Array) -> Tensor:
    out = torch.empty(grad.shape)
    arrays = _planes(grad.contiguous()), _planes(normalised)
    kernels.normalise_backward(*arrays, scale, _planes(out))
    return out


def _each(x: Tensor, grad: Tensor, function: Callable[[Tensor, Tensor], Grads]) -> Grads:
    """``function`` of each picture and its gradient: the first results stacked, the rest added."""
    found = [function(*both) for both in zip(x, grad.contiguous(), strict=True)]
    first, *rest = zip(*found, strict=True)
    if len(found) > 1:
        rest = [(None if parts[0] is None else sum(parts),) for parts in rest]
    whole = first[0][None] if len(found) == 1 and first[0] is not None else None
    if len(found) > 1 and first[0] is not None:
        whole = torch.stack(first)
    return whole, *(parts[0] for parts in rest)
