"""A generator as a list of layers, without PyTorch.

``layers`` is the one description of a generator, for the PyTorch network, both painting backends,
the estimates of memory and the check of files of weights.

The residual generator is that of Johnson et al., ECCV 2016, as in Zhu et al., ICCV 2017, appendix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from cyclegan_cli.settings import GeneratorSpec

Kind: TypeAlias = Literal[
    "reflect",
    "conv",
    "conv_transpose",
    "instance_norm",
    "relu",
    "leaky_relu",
    "upsample",
    "tanh",
    "save",
    "add",
]

EPS = 1e-5  # of InstanceNorm
SLOPE = 0.1  # of a scene generator's leaky ReLUs
SMOOTH = 4  # pixels along a cell of the picture that a scene generator's output is added to
QUARTER_BLOCKS = 2  # of a scene generator, at a quarter of the resolution
CHROMA_TAPS = 5  # of the filter that smooths the chroma of a scene generator's output
SCENE_WIDTHS = (32, 64, 64)  # of the convolutions that read the thumbnail, each of stride 2
THUMBNAIL = 32  # pixels along a side of it


@dataclass(frozen=True)
class Layer:
    """One layer. ``name``: its prefix in the state_dict, such as ``encoder.1``.

    ``inputs``, ``outputs``: channels. ``kernel``, ``stride``, ``groups``: of convolutions.
    ``padding``: pixels on each side, by reflection ("reflect") or zeros (convolutions).
    ``slope``: of a leaky ReLU. ``slot``: "save" keeps its input under that name, "add" adds it (a
    skip connection). "upsample": twice the size, nearest pixel. "instance_norm": over height and
    width, without parameters, biased variance. ``scene``: the scene's code scales and shifts the
    output's channels (FiLM: Perez et al., AAAI 2018).
    """

    kind: Kind
    name: str
    inputs: int = 0
    outputs: int = 0
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    slope: float = 0.0
    slot: str = ""
    scene: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """As PyTorch shapes it; () where the layer has no weights."""
        square = (self.kernel, self.kernel)
        if self.kind == "conv":
            return (self.outputs, self.inputs // self.groups, *square)
        if self.kind == "conv_transpose":
            return (self.inputs, self.outputs, *square)
        return ()

    @property
    def is_depthwise(self) -> bool:
        """A 3×3 convolution of stride 1, each of several channels by itself."""
        each = self.groups == self.inputs == self.outputs > 1
        return self.kind == "conv" and each and self.kernel == 3 and self.stride == 1

    @property
    def is_pointwise(self) -> bool:
        """A 1×1 convolution of all channels."""
        return self.kind == "conv" and self.groups == 1 and self.kernel == self.stride == 1


@dataclass(frozen=True)
class Trunk:
    """Residual blocks in a row, at one resolution: each adds its layers' output to its input."""

    blocks: tuple[tuple[Layer, ...], ...]


@dataclass
class _Chain:
    """A list of layers under construction, with the channels and the name of the next one."""

    prefix: str
    channels: int
    spec: GeneratorSpec
    found: list[Layer] = field(default_factory=list)

    def add(self, kind: Kind, outputs: int | None = None, **how: Any) -> None:
        outputs = self.channels if outputs is None else outputs
        name = f"{self.prefix}.{len(self.found)}"
        self.found.append(replace(Layer(kind, name, self.channels, outputs), **how))
        self.channels = outputs

    def normalise(self) -> None:
        if self.spec.norm == "instance":
            self.add("instance_norm")

    def activate(self) -> None:
        self.normalise()
        self.add("relu")

    def halve(self) -> None:
        outputs = 2 * self.channels
        if self.spec.norm == "instance":
            self.add("conv", outputs, kernel=3, stride=2, padding=1)
        else:  # without normalisation, zeros at the border would be visible
            self.add("reflect", padding=1)
            self.add("conv", outputs, kernel=3, stride=2)
        self.activate()

    def double(self) -> None:
        outputs = self.channels // 2
        if self.spec.upsample == "transpose":
            self.add("conv_transpose", outputs, kernel=3, stride=2, padding=1)
        else:
            self.add("upsample")
            self.convolve3(outputs)
        self.activate()

    def convolve3(self, outputs: int) -> None:
        """Reflection, then a 3×3 convolution or a depthwise and a pointwise one."""
        self.add("reflect", padding=1)
        if self.spec.separable:
            self.add("conv", kernel=3, groups=self.channels)
            self.add("conv", outputs)
        else:
            self.add("conv", outputs, kernel=3)

    def convolve7(self, outputs: int) -> None:
        self.add("reflect", padding=3)
        self.add("conv", outputs, kernel=7)

    def leak(self, slot: str = "", kind: Kind = "save") -> None:
        """A leaky ReLU, whose output is saved in ``slot`` or added to it, if given."""
        self.add("leaky_relu", slope=SLOPE)
        if slot:
            self.add(kind, slot=slot)


@lru_cache(maxsize=64)
def layers(spec: GeneratorSpec) -> tuple[Layer | Trunk, ...]:
    """The layers of a generator in order, without the sum of ``spec.residual``.

    They are named ``encoder.N``, ``trunk.BLOCK.branch.N`` and ``decoder.N``.
    """
    if spec.code > 0:
        return _scene_layers(spec)
    encoder = _Chain("encoder", spec.in_channels, spec)
    encoder.convolve7(spec.width)
    encoder.activate()
    encoder.halve()
    encoder.halve()
    blocks = []
    for number in range(spec.blocks):
        branch = _Chain(f"trunk.{number}.branch", encoder.channels, spec)
        branch.convolve3(encoder.channels)
        branch.activate()
        branch.convolve3(encoder.channels)
        branch.normalise()
        blocks.append(tuple(branch.found))
    decoder = _Chain("decoder", encoder.channels, spec)
    decoder.double()
    decoder.double()
    decoder.convolve7(spec.out_channels)
    decoder.add("tanh")
    return (*encoder.found, Trunk(tuple(blocks)), *decoder.found)


def _scene_layers(spec: GeneratorSpec) -> tuple[Layer | Trunk, ...]:
    """A U-Net (Ronneberger et al., MICCAI 2015) down to an eighth of the resolution.

    No skip connection at the full resolution: fine detail is to be painted, not passed on.
    Residual blocks at an eighth and at a quarter of it, in which the scene's code acts. No tanh
    at the end: without normalisation large values would saturate it, and its gradient would stay 0.
    Colour differences that change from pixel to pixel are smoothed: neither an eye nor a JPEG keeps
    them, but a network that compares pictures with paintings sees them.
    """
    w = spec.width
    encoder = _Chain("encoder", source_channels(spec), spec)
    encoder.convolve7(w)
    encoder.leak()
    for outputs, slot in ((2 * w, "half"), (4 * w, "quarter"), (8 * w, "")):
        encoder.add("reflect", padding=1)
        encoder.add("conv", outputs, kernel=3, stride=2)
        encoder.leak(slot)
    eighth = tuple(_scene_block(spec, number, 8 * w) for number in range(spec.blocks))
    numbers = range(spec.blocks, spec.blocks + QUARTER_BLOCKS)
    quarter = tuple(_scene_block(spec, number, 4 * w) for number in numbers)
    decoder = _Chain("decoder", 8 * w, spec)
    found: list[Layer | Trunk] = [*encoder.found, Trunk(eighth)]
    for outputs, slot in ((4 * w, "quarter"), (2 * w, "half"), (w, "")):
        first = len(decoder.found)
        decoder.add("upsample")
        decoder.convolve3(outputs)
        decoder.leak(slot, "add")
        found += decoder.found[first:]
        if slot == "quarter":
            found.append(Trunk(quarter))
    first = len(decoder.found)
    decoder.convolve7(spec.out_channels)
    if spec.smooth_chroma:
        decoder.add("reflect", padding=CHROMA_TAPS // 2)
        decoder.add("conv", kernel=CHROMA_TAPS)  # not trained: networks.chroma_filter
    return (*found, *decoder.found[first:])


def _scene_block(spec: GeneratorSpec, number: int, channels: int) -> tuple[Layer, ...]:
    branch = _Chain(f"trunk.{number}.branch", channels, spec)
    branch.add("reflect", padding=1)
    branch.add("conv", kernel=3, scene=True)
    branch.leak()
    branch.convolve3(channels)
    return tuple(branch.found)


def weighted_layers(spec: GeneratorSpec) -> Iterator[Layer]:
    """The layers that have a weight and a bias, in order."""
    for part in layers(spec):
        every = [part] if isinstance(part, Layer) else [one for b in part.blocks for one in b]
        yield from (layer for layer in every if layer.weight_shape)


def shapes(spec: GeneratorSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the generator's state_dict, in its order."""
    found: dict[str, tuple[int, ...]] = {}
    parts = ("encoder", "trunk", "decoder")
    for layer in sorted(weighted_layers(spec), key=lambda one: parts.index(one.name.split(".")[0])):
        found[f"{layer.name}.weight"] = layer.weight_shape
        found[f"{layer.name}.bias"] = (layer.outputs,)
    return found | _scene_shapes(spec)


def _scene_shapes(spec: GeneratorSpec) -> dict[str, tuple[int, ...]]:
    """Of the layers that compute the code of the thumbnail, and of those that use it."""
    if spec.code == 0:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    channels = spec.in_channels
    for number, outputs in enumerate(SCENE_WIDTHS):
        found[f"scene.{2 * number}.weight"] = (outputs, channels, 3, 3)
        found[f"scene.{2 * number}.bias"] = (outputs,)
        channels = outputs
    readers = {"code": (spec.code, channels)}
    for layer in weighted_layers(spec):
        if layer.scene:
            readers[film_name(layer)] = (2 * layer.outputs, spec.code)
    readers["colour"] = (spec.out_channels * (spec.in_channels + 1), spec.code)
    for name, (outputs, inputs) in readers.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)
    return found


def film_name(layer: Layer) -> str:
    """Name of the linear layer that computes scales and shifts for ``layer`` from the code."""
    block = layer.name.split(".")[1]
    return f"films.{block}"


def source_channels(spec: GeneratorSpec) -> int:
    """Input channels of the first layer: the picture's, and the grain if it is a channel."""
    return spec.in_channels + (1 if spec.code > 0 else 0)


def reduction(spec: GeneratorSpec) -> int:
    """The picture's size over that of the smallest layer; pictures are padded to its multiples."""
    scale = most = 1
    for part in layers(spec):
        if isinstance(part, Layer) and part.kind == "conv":
            scale *= part.stride
        elif isinstance(part, Layer) and part.kind in ("conv_transpose", "upsample"):
            scale //= 2
        most = max(most, scale)
    return most
