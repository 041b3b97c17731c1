"""The description of a generator is that of the network, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cyclegan_cli.engine.layers import (
    EPS,
    Layer,
    Trunk,
    layers,
    reduction,
    shapes,
    weighted_layers,
)
from cyclegan_cli.engine.networks import Generator, ResidualBlock
from cyclegan_cli.settings import GENERATORS, GeneratorSpec

SPECS = {
    **GENERATORS,
    "resize": GeneratorSpec(width=3, blocks=1, upsample="resize"),
    "separable": GeneratorSpec(width=3, blocks=2, separable=True),
    "free": GeneratorSpec(width=3, blocks=2, norm="none"),
    "free, resize": GeneratorSpec(width=1, blocks=1, norm="none", upsample="resize"),
    "no blocks": GeneratorSpec(width=2, blocks=0, residual=True),
    "grey": GeneratorSpec(width=2, blocks=1, in_channels=1, out_channels=1),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_names_and_shapes_are_those_of_the_state_dict(spec: GeneratorSpec) -> None:
    with torch.device("meta"):
        state = Generator(spec).state_dict()
    assert list(shapes(spec).items()) == [(name, tuple(t.shape)) for name, t in state.items()]


def described(module: nn.Module, name: str, channels: int) -> Layer:
    """A module of the network as a layer."""
    if isinstance(module, nn.ReflectionPad2d):
        return Layer("reflect", name, channels, channels, padding=module.padding[0])
    if isinstance(module, nn.ConvTranspose2d):
        assert module.output_padding == (1, 1)
        size = {"kernel": module.kernel_size[0], "stride": module.stride[0]}
        padding = int(module.padding[0])
        return Layer("conv_transpose", name, channels, module.out_channels, padding=padding, **size)
    if isinstance(module, nn.Conv2d):
        size = {"kernel": module.kernel_size[0], "stride": module.stride[0]}
        more = {"padding": int(module.padding[0]), "groups": module.groups}
        return Layer("conv", name, channels, module.out_channels, **size, **more)
    if isinstance(module, nn.InstanceNorm2d):
        assert module.eps == EPS
        assert not module.affine
        assert not module.track_running_stats
        return Layer("instance_norm", name, channels, channels)
    kinds = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Upsample: "upsample"}
    return Layer(kinds[type(module)], name, channels, channels)  # type: ignore[arg-type]


CHAINS = {name: spec for name, spec in SPECS.items() if spec.code == 0}


@pytest.mark.parametrize("spec", CHAINS.values(), ids=CHAINS)
def test_every_layer_is_that_of_the_network(spec: GeneratorSpec) -> None:
    network = Generator(replace(spec, width=min(spec.width, 4)))
    expected: list[Layer | Trunk] = []
    channels = spec.in_channels
    for part in ("encoder", "trunk", "decoder"):
        if part == "trunk":
            blocks = []
            for number, block in enumerate(network.trunk):
                assert isinstance(block, ResidualBlock)
                prefix = f"trunk.{number}.branch"
                branch = [
                    described(module, f"{prefix}.{i}", channels)
                    for i, module in enumerate(block.branch)
                ]
                blocks.append(tuple(branch))
            expected.append(Trunk(tuple(blocks)))
            continue
        for number, module in enumerate(getattr(network, part)):
            expected.append(described(module, f"{part}.{number}", channels))
            channels = expected[-1].outputs
    assert layers(network.spec) == tuple(expected)


def test_the_smallest_layer_is_a_quarter_of_the_picture() -> None:
    for spec in CHAINS.values():
        assert reduction(spec) == 4
        network = Generator(replace(spec, width=1, blocks=0))
        encoded: Tensor = network.encoder(torch.zeros(1, spec.in_channels, 16, 32))
        assert encoded.shape[2:] == (4, 8)


def test_a_scene_generator_has_its_layers_at_their_names() -> None:
    spec = GENERATORS["scene"]
    network = Generator(spec)
    assert reduction(spec) == 8
    for layer in weighted_layers(spec):
        module = network.get_submodule(layer.name)
        assert described(module, layer.name, layer.inputs) == replace(layer, scene=False)
    every = [part for part in layers(spec) if isinstance(part, Layer)]
    saved = [layer.slot for layer in every if layer.kind == "save"]
    assert [layer.slot for layer in every if layer.kind == "add"] == saved[::-1]
