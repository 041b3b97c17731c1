"""What a training needs, before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.networks import Discriminator, Generator, count_parameters
from cyclegan_cli.settings import TrainSettings

__all__ = ["Needs", "training_needs"]

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Needs:
    """``memory``: bytes while training, an estimate; ``checkpoint``: bytes of one checkpoint;
    ``parameters``: those of one generator."""

    memory: int
    checkpoint: int
    parameters: int


def training_needs(settings: TrainSettings) -> Needs:
    """Estimate from the shapes of the networks' layers; nothing is computed.

    Counted: what autograd keeps of six generator and two discriminator passes (one step for G and
    F), the parameters with their gradients and moments, and the histories.
    """
    with torch.device("meta"):
        generator = Generator(settings.generator)
        discriminator = Discriminator(settings.generator.out_channels)
        channels, crop = settings.generator.in_channels, settings.crop_size
        picture = torch.empty(settings.batch_size, channels, crop, crop)
        kept = 6 * _activations(generator, picture) + 2 * _activations(discriminator, picture)
    parameters = 2 * (count_parameters(generator) + count_parameters(discriminator))
    history = 2 * settings.history * channels * crop * crop
    return Needs(
        memory=_FLOAT * (kept + 4 * parameters + history) + 500 * 2**20,  # and torch itself
        checkpoint=_FLOAT * (3 * parameters + history),
        parameters=count_parameters(generator),
    )


def _activations(network: nn.Module, picture: Tensor) -> int:
    """The number of elements that the layers put out (autograd keeps nearly all of them)."""
    total = 0

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += math.prod(output.shape)

    layers = [m for m in network.modules() if not list(m.children())]
    handles = [layer.register_forward_hook(count) for layer in layers]
    network(picture)
    for handle in handles:
        handle.remove()
    return total
