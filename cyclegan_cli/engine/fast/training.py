"""Generators in training, by the layers of ``gradients``, on the CPU."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.fast import bf16
from cyclegan_cli.engine.fast.gradients import (
    Before,
    Convolution,
    Normalised,
    Separable,
    Transposed,
    Winograd,
    apply,
)
from cyclegan_cli.engine.fast.kernels import keep_freed_memory, library, uses_winograd
from cyclegan_cli.engine.layers import EPS, Layer, Trunk, layers
from cyclegan_cli.engine.networks import Generator

Function: TypeAlias = Callable[[Tensor], Tensor]


def fused_layers(network: Generator, *, half: bool = False) -> Function:
    """A function that computes what ``network`` does, and the same gradients, up to rounding.

    N×C×H×W; the parameters are those that ``network`` has when it is called. What is not float32
    on the CPU, and everything without the kernels, is computed by the network itself. ``half``:
    whole convolutions and their gradients multiply bfloat16, where the processor can; all else is
    float32, whatever autocast says.
    """
    if library() is None or network.spec.code > 0 or (half and not bf16.has_unit()):
        return network
    keep_freed_memory()
    parts = layers(network.spec)
    single = [part for part in parts if isinstance(part, Layer)]
    trunks = [part for part in parts if isinstance(part, Trunk)]
    encoder, decoder = (
        chain([layer for layer in single if layer.name.startswith(name)], network, half=half)
        for name in ("encoder", "decoder")
    )
    blocks = [chain(block, network, half=half) for trunk in trunks for block in trunk.blocks]

    def run(picture: Tensor) -> Tensor:
        if picture.dtype != torch.float32 or picture.device.type != "cpu":
            return cast(Tensor, network(picture))
        with torch.autocast("cpu", enabled=False):
            x = encoder(picture)
            for branch in blocks:
                x = x + branch(x)
            x = decoder(x)
            return picture + x if network.spec.residual else x

    return run


def chain(layers: Sequence[Layer], network: nn.Module, *, half: bool = False) -> Function:
    """Layers of ``network`` in a row, fused where they can be; ``half`` as of ``fused_layers``.

    Their order is that of a generator: ReLU, upsampling and reflection come before a convolution,
    and a pointwise convolution after a depthwise one.
    """
    steps = list(_steps(layers, network, half))

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def _steps(layers: Sequence[Layer], network: nn.Module, half: bool) -> Iterator[Function]:
    before = Before(half=half)
    left = deque((layer, network.get_submodule(layer.name)) for layer in layers)
    while left:
        layer, module = left.popleft()
        if layer.kind in ("relu", "upsample", "reflect") and left:
            before = _deferred(before, layer)
            continue
        step, computes_next = _step(before, layer, module, left[0] if left else None)
        if computes_next:
            left.popleft()
        yield step
        before = Before(half=half)


def _deferred(before: Before, layer: Layer) -> Before:
    """``layer`` after ``before``, both left to the next convolution."""
    if layer.kind == "reflect":
        return dataclasses.replace(before, pad=layer.padding, mirror=True)
    change = {"relu": True} if layer.kind == "relu" else {"enlarge": True}
    return dataclasses.replace(before, **change)


def _step(
    before: Before, layer: Layer, module: Any, following: tuple[Layer, Any] | None
) -> tuple[Function, bool]:
    """What computes ``layer`` after ``before``, and whether it computes ``following`` as well."""
    if layer.kind == "instance_norm":
        return lambda x: apply(Normalised, x, EPS), False
    if layer.kind == "conv_transpose":
        padded = dataclasses.replace(before, pad=1)
        return lambda x: apply(Transposed, x, module.weight, module.bias, padded), False
    if layer.kind != "conv":
        return module, False
    if layer.is_depthwise and following:
        point = following[1]
        return lambda x: apply(
            Separable, x, module.weight, module.bias, point.weight, point.bias, before
        ), True
    if layer.padding:
        before = dataclasses.replace(before, pad=layer.padding)
    normed = following is not None and following[0].kind == "instance_norm"
    if uses_winograd(layer) and not (before.half and bf16.has_tiles()):
        eps = EPS if normed else None
        return lambda x: apply(Winograd, x, module.weight, module.bias, before, eps), normed
    normed = normed and before.half
    more = (before, layer.stride, EPS if normed else None)
    return lambda x: apply(Convolution, x, module.weight, module.bias, *more), normed
