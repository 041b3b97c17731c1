"""The generators of a training, run the fast way: float32 on the CPU.

A generator stays what it is, a module with its parameters; ``quick`` gives a function that computes
the same with other operations. What they cannot do, the modules do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.allocator import keep_freed_memory
from cyclegan_cli.engine.fast.convolutions import few_outputs
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.winograd import convolve, realised, transformed
from cyclegan_cli.engine.networks import Generator, ResidualBlock

__all__ = ["quick"]

_LEAST = 16  # channels: below, the transforms cost more than they save
Layer: TypeAlias = Callable[[Tensor], Tensor]


def quick(network: Generator) -> Layer:
    """A function that computes what ``network`` does, and the same gradients, to rounding.

    N×C×H×W; the parameters are used as they are when it is called. What is not float32 on the CPU
    goes through the modules.
    """
    keep_freed_memory()
    encoder, decoder = _chain(network.encoder), _chain(network.decoder)
    blocks = [_chain(b.branch) for b in network.trunk if isinstance(b, ResidualBlock)]

    def run(picture: Tensor) -> Tensor:
        if picture.dtype != torch.float32 or picture.device.type != "cpu":
            plain: Tensor = network(picture)
            return plain
        x = encoder(picture)
        for branch in blocks:
            x = x + branch(x)
        x = decoder(x)
        return picture + x if network.spec.residual else x

    return run


def _chain(layers: nn.Sequential) -> Layer:
    steps = list(_steps(list(layers)))

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def _steps(layers: list[nn.Module]) -> Iterator[Layer]:
    """Each layer's function; reflection by 1 and the 3×3 convolution behind it are one."""
    index = 0
    while index < len(layers):
        layer = layers[index]
        after = layers[index + 1] if index + 1 < len(layers) else None
        together = _reflected(layer, after)
        yield together or _single(layer)
        index += 2 if together else 1


def _reflected(pad: nn.Module, layer: nn.Module | None) -> Layer | None:
    if not (isinstance(pad, nn.ReflectionPad2d) and isinstance(layer, nn.Conv2d)):
        return None
    if layer.kernel_size != (3, 3) or layer.stride != (1, 1) or pad.padding != (1, 1, 1, 1):
        return None
    if layer.groups == 1 and min(layer.in_channels, layer.out_channels) >= _LEAST:
        return lambda x: _call(_Winograd, x, layer.weight, layer.bias)
    if layer.groups == layer.in_channels == layer.out_channels and kernels.present():
        return lambda x: _call(_Depthwise, x, layer.weight, layer.bias)
    return None


def _single(layer: nn.Module) -> Layer:
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (7, 7) and layer.out_channels <= 4:
        return lambda x: few_outputs(x, layer.weight, layer.bias)
    return layer


def _call(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


class _Winograd(torch.autograd.Function):
    """Reflection by 1 and a 3×3 convolution: output and input gradient by Winograd's filtering."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        x, matrices = x.contiguous(), transformed(weight)
        return _each(x, lambda one: convolve(_mirrored(one), (0, one.shape[2]), matrices, bias))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_in = None
        if ctx.needs_input_grad[0]:
            # The gradient of a convolution is one with the kernel turned, zeros around.
            matrices = transformed(weight.flip(2, 3).transpose(0, 1))
            rows = (0, grad.shape[2] + 2)

            def back(one: Tensor) -> Tensor:
                strip = Strip(one, 0, one.shape[2], pad=2)
                return _folded(convolve(strip, rows, matrices, None))

            grad_in = _each(grad, back)
        padded = _each(x.contiguous(), _padded)
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            *(grad, padded, weight, [weight.shape[0]] if ctx.biased else None),
            *([1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            [False, ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2]],
        )
        return grad_in, grad_weight, grad_bias


class _Depthwise(torch.autograd.Function):
    """Reflection by 1 and a depthwise 3×3 convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _each(
            x.contiguous(),
            lambda one: kernels.depthwise(_mirrored(one), 0, one.shape[2], weight, bias),
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x, grad = x.contiguous(), grads[0].contiguous()
        parts = [
            kernels.depthwise_backward(_mirrored(x[i : i + 1]), grad[i : i + 1], weight)
            for i in range(x.shape[0])
        ]
        grads_in, grads_weight, grads_bias = zip(*parts, strict=True)
        return torch.cat(grads_in), sum(grads_weight), sum(grads_bias)


def _each(x: Tensor, function: Layer) -> Tensor:
    """The kernels take one picture at a time."""
    parts = [function(x[i : i + 1]) for i in range(x.shape[0])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _mirrored(one: Tensor) -> Strip:
    return Strip(one, 0, one.shape[2], pad=1, mirror=True)


def _padded(one: Tensor) -> Tensor:
    strip = _mirrored(one)
    if kernels.present():
        return kernels.prepare(strip, 0, one.shape[2] + 2)
    return realised(strip, 0, one.shape[2] + 2, 0)


def _folded(grad: Tensor) -> Tensor:
    """The gradient of reflection by 1."""
    if kernels.present():
        return kernels.fold(grad)
    grad[:, :, 2] += grad[:, :, 0]
    grad[:, :, -3] += grad[:, :, -1]
    grad[:, :, :, 2] += grad[:, :, :, 0]
    grad[:, :, :, -3] += grad[:, :, :, -1]
    return grad[:, :, 1:-1, 1:-1].contiguous()
