"""Generators in training, by the layers of ``gradients``, on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeGuard, cast

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.fast import bf16
from cyclegan_cli.engine.fast.gradients import (
    Before,
    Convolution,
    Depthwise,
    Normalised,
    Separable,
    Transposed,
    Winograd,
    apply,
)
from cyclegan_cli.engine.fast.kernels import WINOGRAD_CHANNELS
from cyclegan_cli.engine.fast.library import keep_freed_memory, library
from cyclegan_cli.engine.networks import Generator, ResidualBlock

Layer: TypeAlias = Callable[[Tensor], Tensor]


def fused_layers(network: Generator, *, half: bool = False) -> Layer:
    """A function that computes what ``network`` does, and the same gradients, up to rounding.

    N×C×H×W; the parameters are those that ``network`` has when it is called. What is not float32
    on the CPU, and everything without the kernels, is computed by the network itself. ``half``:
    whole convolutions and their gradients multiply bfloat16, where the processor can; all else is
    float32, whatever autocast says.
    """
    if library() is None or network.spec.code > 0 or (half and not bf16.has_unit()):
        return network
    keep_freed_memory()
    encoder, decoder = chain(network.encoder, half=half), chain(network.decoder, half=half)
    blocks = [chain(b.branch, half=half) for b in network.trunk if isinstance(b, ResidualBlock)]

    def run(picture: Tensor) -> Tensor:
        if picture.dtype != torch.float32 or picture.device.type != "cpu":
            return cast(Tensor, network(picture))
        with torch.autocast("cpu", enabled=False):
            return layers(picture)

    def layers(picture: Tensor) -> Tensor:
        x = encoder(picture)
        for branch in blocks:
            x = x + branch(x)
        x = decoder(x)
        return picture + x if network.spec.residual else x

    return run


def chain(layers: nn.Sequential, *, half: bool = False) -> Layer:
    """``layers`` in a row, fused where they can be; ``half`` as of ``fused_layers``."""
    steps = list(_steps(list(layers), half))

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


# -- which layers are fused ------------------------------------------------------------------------


_ORDER = (nn.ReLU, nn.Upsample, nn.ReflectionPad2d)  # of what comes before a convolution


def _steps(layers: list[nn.Module], half: bool) -> Iterator[Layer]:
    waiting: list[nn.Module] = []
    index = 0
    while index < len(layers):
        layer = layers[index]
        behind = layers[index + 1] if index + 1 < len(layers) else None
        index += 1
        if _waits(layer, waiting):
            waiting.append(layer)
            continue
        before = dataclasses.replace(_before(waiting), half=half)
        pair = _pair(before, layer, behind)
        index += 1 if pair else 0
        found = pair or _single(before, layer)
        if found is None:
            yield from waiting
        yield found or layer
        waiting = []
    yield from waiting


def _waits(layer: nn.Module, waiting: list[nn.Module]) -> bool:
    """Whether the layer that reads its output can compute ``layer``, after ``waiting``."""
    if not isinstance(layer, _ORDER):
        return False
    if isinstance(layer, nn.Upsample):
        if layer.scale_factor != 2 or layer.mode != "nearest":
            return False
    elif isinstance(layer, nn.ReflectionPad2d) and len(set(layer.padding)) > 1:
        return False
    place = _ORDER.index(type(layer))
    return all(_ORDER.index(type(other)) < place for other in waiting)


def _before(waiting: list[nn.Module]) -> Before:
    pads = [int(layer.padding[0]) for layer in waiting if isinstance(layer, nn.ReflectionPad2d)]
    return Before(
        relu=any(isinstance(layer, nn.ReLU) for layer in waiting),
        enlarge=any(isinstance(layer, nn.Upsample) for layer in waiting),
        pad=pads[0] if pads else 0,
        mirror=bool(pads),
    )


def _pair(before: Before, layer: nn.Module, behind: nn.Module | None) -> Layer | None:
    """Two layers as one: a convolution and its norm, or a depthwise and a pointwise convolution."""
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        return None
    if _is_plain_norm(behind) and _uses_winograd(before, layer) and layer.padding == (0, 0):
        eps = behind.eps
        return lambda x: apply(Winograd, x, layer.weight, layer.bias, before, eps)
    if _is_plain_norm(behind) and before.half and not _is_depthwise(layer):
        return _single(before, layer, behind.eps)
    if not (isinstance(behind, nn.Conv2d) and _is_depthwise(layer) and _is_pointwise(behind)):
        return None
    if behind.bias is None or behind.padding != (0, 0):
        return None
    return lambda x: apply(
        Separable, x, layer.weight, layer.bias, behind.weight, behind.bias, before
    )


def _single(before: Before, layer: nn.Module, eps: float | None = None) -> Layer | None:
    """``layer``, and the InstanceNorm behind it if ``eps`` is given, for whole convolutions."""
    if isinstance(layer, nn.ConvTranspose2d):
        shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
        usual = shape == ((3, 3), (2, 2), (1, 1), (1, 1)) and layer.groups == 1
        if not usual or layer.bias is None or before.pad or before.enlarge:
            return None
        padded = dataclasses.replace(before, pad=1)
        return lambda x: apply(Transposed, x, layer.weight, layer.bias, padded)
    if _is_plain_norm(layer) and before == Before(half=before.half):
        eps = layer.eps
        return lambda x: apply(Normalised, x, eps)
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        return None
    zeros = int(layer.padding[0])
    if zeros and (before.mirror or before.enlarge):
        return None
    return _convolution(dataclasses.replace(before, pad=zeros) if zeros else before, layer, eps)


def _convolution(before: Before, layer: nn.Conv2d, eps: float | None) -> Layer | None:
    """``before`` includes the convolution's own padding."""
    if _is_depthwise(layer):
        return lambda x: apply(Depthwise, x, layer.weight, layer.bias, before)
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    if layer.groups > 1 or layer.kernel_size != (kernel, kernel):
        return None
    if _uses_winograd(before, layer):
        return lambda x: apply(Winograd, x, layer.weight, layer.bias, before, None)
    if kernel == 1:
        before = dataclasses.replace(before, half=False)
    if stride == 1 or (kernel, stride) == (3, 2):
        return lambda x: apply(Convolution, x, layer.weight, layer.bias, before, stride, eps)
    return None


def _is_plain_norm(layer: nn.Module | None) -> TypeGuard[nn.InstanceNorm2d]:
    """InstanceNorm without parameters, by the statistics of its input."""
    return isinstance(layer, nn.InstanceNorm2d) and not (layer.affine or layer.track_running_stats)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    each = layer.groups == layer.in_channels == layer.out_channels > 1
    return each and layer.kernel_size == (3, 3) and layer.stride == (1, 1)


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.groups == 1 and layer.stride == (1, 1)


def _uses_winograd(before: Before, layer: nn.Conv2d) -> bool:
    whole = (layer.kernel_size, layer.stride, layer.groups) == ((3, 3), (1, 1), 1)
    return (
        not before.half
        and whole
        and min(layer.in_channels, layer.out_channels) >= WINOGRAD_CHANNELS
    )
