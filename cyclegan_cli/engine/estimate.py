"""What a training needs, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cyclegan_cli.engine.features import DISCRIMINATORS
from cyclegan_cli.engine.networks import Generator, count_parameters
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
    generator = Generator(settings.generator)
    discriminator = DISCRIMINATORS[settings.discriminator](settings.generator.out_channels)
    channels, crop = settings.generator.in_channels, settings.crop_size
    pixels = settings.batch_size * crop * crop
    kept = 6 * _activations(generator, channels, pixels)
    kept += 2 * max(1, settings.replay) * _activations(discriminator, channels, pixels)
    parameters = 2 * (count_parameters(generator) + count_parameters(discriminator))
    history = (4 if settings.replay else 2) * settings.history * channels * crop * crop
    return Needs(
        memory=_FLOAT * (int(kept) + 4 * parameters + history) + 500 * 2**20,  # and torch itself
        checkpoint=_FLOAT * (3 * parameters + history),
        parameters=count_parameters(generator),
    )


def _activations(network: nn.Module, channels: int, pixels: float) -> float:
    """The number of elements that the layers put out (autograd keeps nearly all of them).

    Counted by hand, in the order of the layers: a pass over meta tensors would import the compiler.
    """
    total = 0.0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            pixels /= layer.stride[0] ** 2
            channels = layer.out_channels
        elif isinstance(layer, nn.ConvTranspose2d):
            pixels *= layer.stride[0] ** 2
            channels = layer.out_channels
        elif isinstance(layer, nn.Upsample):
            pixels *= 4
        if not list(layer.children()):
            total += channels * pixels
    return total
