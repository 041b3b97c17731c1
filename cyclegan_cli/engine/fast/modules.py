"""The generators of a training, run the fast way: float32 on the CPU.

A generator stays what it is, a module with its parameters; ``quick`` gives a function that computes
the same with other operations. What they cannot do, the modules do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeGuard, cast

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.allocator import keep_freed_memory
from cyclegan_cli.engine.fast.gradients import (
    Convolution,
    Depthwise,
    Normalised,
    Reading,
    Separable,
    Transposed,
    Winograd,
)
from cyclegan_cli.engine.networks import Generator, ResidualBlock

__all__ = ["quick"]

Layer: TypeAlias = Callable[[Tensor], Tensor]
_WINOGRAD_CHANNELS = 16  # below, the transforms cost more than they save


def quick(network: Generator) -> Layer:
    """A function that computes what ``network`` does, and the same gradients, to rounding.

    N×C×H×W; the parameters are used as they are when it is called. What is not float32 on the CPU
    goes through the modules, and everything where there are no kernels.
    """
    if not kernels.present() or network.spec.code > 0:
        return network
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
    """Each layer's function: what a convolution can read through is one with it."""
    waiting: list[nn.Module] = []
    index = 0
    while index < len(layers):
        layer = layers[index]
        behind = layers[index + 1] if index + 1 < len(layers) else None
        index += 1
        if _waits(layer, waiting):
            waiting.append(layer)
            continue
        reading = _reading(waiting)
        together = _together(reading, layer, behind)
        index += 1 if together else 0
        found = together or _single(reading, layer)
        if found is None:
            yield from waiting
        yield found or layer
        waiting = []
    yield from waiting


_ORDER = (nn.ReLU, nn.Upsample, nn.ReflectionPad2d)  # in which kernels do them


def _waits(layer: nn.Module, waiting: list[nn.Module]) -> bool:
    """Whether ``layer`` can be done by what reads its output, after those that wait already."""
    if not isinstance(layer, _ORDER):
        return False
    if isinstance(layer, nn.Upsample):
        if layer.scale_factor != 2 or layer.mode != "nearest":
            return False
    elif isinstance(layer, nn.ReflectionPad2d) and len(set(layer.padding)) > 1:
        return False
    place = _ORDER.index(type(layer))
    return all(_ORDER.index(type(before)) < place for before in waiting)


def _reading(waiting: list[nn.Module]) -> Reading:
    pads = [int(layer.padding[0]) for layer in waiting if isinstance(layer, nn.ReflectionPad2d)]
    return Reading(
        relu=any(isinstance(layer, nn.ReLU) for layer in waiting),
        enlarge=any(isinstance(layer, nn.Upsample) for layer in waiting),
        pad=pads[0] if pads else 0,
        mirror=bool(pads),
    )


def _together(reading: Reading, layer: nn.Module, behind: nn.Module | None) -> Layer | None:
    """Two layers that are one function."""
    if not isinstance(layer, nn.Conv2d):
        return None
    bare = layer.bias is not None and layer.padding == (0, 0)
    if bare and _is_plain_norm(behind) and _uses_winograd(layer):
        eps = behind.eps
        return lambda x: _call(Winograd, x, layer.weight, layer.bias, reading, eps)
    return _separable(reading, layer, behind)


def _is_plain_norm(layer: nn.Module | None) -> TypeGuard[nn.InstanceNorm2d]:
    """InstanceNorm without parameters, by the statistics of what it is given."""
    return isinstance(layer, nn.InstanceNorm2d) and not (layer.affine or layer.track_running_stats)


def _separable(reading: Reading, layer: nn.Conv2d, behind: nn.Module | None) -> Layer | None:
    """A depthwise convolution with the pointwise one behind it."""
    if not (isinstance(behind, nn.Conv2d) and _is_depthwise(layer) and _is_pointwise(behind)):
        return None
    if layer.bias is None or behind.bias is None or behind.padding != (0, 0):
        return None
    depth, point = layer, behind
    return lambda x: _call(
        Separable, x, depth.weight, depth.bias, point.weight, point.bias, reading
    )


def _single(reading: Reading, layer: nn.Module) -> Layer | None:
    if isinstance(layer, nn.ConvTranspose2d):
        return _transposed(reading, layer)
    if _is_plain_norm(layer) and reading == Reading():
        eps = layer.eps
        return lambda x: _call(Normalised, x, eps)
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        return None
    zeros = int(layer.padding[0])
    if zeros and (reading.mirror or reading.enlarge):
        return None
    return _convolution(reading.padded(zeros) if zeros else reading, layer)


def _convolution(reading: Reading, layer: nn.Conv2d) -> Layer | None:
    """``reading`` has the convolution's own padding, too."""
    if _is_depthwise(layer):
        return lambda x: _call(Depthwise, x, layer.weight, layer.bias, reading)
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    if layer.groups > 1 or layer.kernel_size != (kernel, kernel):
        return None
    if _uses_winograd(layer):
        return lambda x: _call(Winograd, x, layer.weight, layer.bias, reading, None)
    if stride == 1 or (kernel, stride) == (3, 2):
        return lambda x: _call(Convolution, x, layer.weight, layer.bias, reading, stride)
    return None


def _transposed(reading: Reading, layer: nn.ConvTranspose2d) -> Layer | None:
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    if shape != ((3, 3), (2, 2), (1, 1), (1, 1)) or layer.groups > 1 or layer.bias is None:
        return None
    if reading.pad or reading.enlarge:
        return None
    reads = reading.padded(1)
    return lambda x: _call(Transposed, x, layer.weight, layer.bias, reads)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    """3×3, stride 1, each of several channels by itself."""
    each = layer.groups == layer.in_channels == layer.out_channels > 1
    return each and layer.kernel_size == (3, 3) and layer.stride == (1, 1)


def _is_pointwise(layer: nn.Conv2d) -> bool:
    """1×1, stride 1, all channels together."""
    return layer.kernel_size == (1, 1) and layer.groups == 1 and layer.stride == (1, 1)


def _uses_winograd(layer: nn.Conv2d) -> bool:
    """Whether Winograd's filtering computes it: 3×3, stride 1, of channels enough for it to pay."""
    whole = (layer.kernel_size, layer.stride, layer.groups) == ((3, 3), (1, 1), 1)
    return whole and min(layer.in_channels, layer.out_channels) >= _WINOGRAD_CHANNELS


def _call(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    return cast(Tensor, function.apply(*arguments))
