"""The generators G: X→Y and F: Y→X, and the PatchGAN discriminators D_X and D_Y.

Zhu et al., ICCV 2017, section 4 and appendix; the residual generator is that of Johnson et al.,
ECCV 2016, the discriminator the 70×70 PatchGAN of Isola et al., CVPR 2017. ``mobile`` replaces the
3×3 convolutions of the blocks by depthwise-separable ones, as Li et al. do in GAN Compression
(CVPR 2020), and the transposed convolutions by resize-convolutions (Odena et al., Distill 2016),
which leave no checkerboard. ``brush`` is ``mobile`` without InstanceNorm, and its output is added
to the input, so that a pixel depends only on its surroundings. ``scene`` is a U-Net that also gets
a thumbnail of the whole picture, whose code conditions its blocks as in FiLM (Perez et al., AAAI
2018); its output is added to a smoothed picture, whose detail it has to paint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan_cli.engine.layers import (
    CHROMA_TAPS,
    EPS,
    SCENE_WIDTHS,
    SMOOTH,
    THUMBNAIL,
    Layer,
    Trunk,
    film_name,
    layers,
)
from cyclegan_cli.engine.losses import LUMA, wide
from cyclegan_cli.settings import DiscriminatorKind, GeneratorSpec

_DETAIL = 2.0
SEEN_CHANNELS = (16, 24, 40, 112)  # of the frozen network's stages that are looked at


def _norm(channels: int) -> nn.InstanceNorm2d:
    """InstanceNorm over (height, width): no affine, no running statistics, biased variance."""
    return nn.InstanceNorm2d(channels, eps=EPS, affine=False, track_running_stats=False)


def _module(layer: Layer) -> nn.Module:
    """The module of one layer."""
    size = (layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding)
    if layer.kind == "conv":
        return nn.Conv2d(*size, groups=layer.groups)
    if layer.kind == "conv_transpose":
        return nn.ConvTranspose2d(*size, output_padding=1)
    make: dict[str, Callable[[], nn.Module]] = {
        "reflect": lambda: nn.ReflectionPad2d(layer.padding),
        "instance_norm": lambda: _norm(layer.outputs),
        "relu": nn.ReLU,
        "leaky_relu": lambda: nn.LeakyReLU(layer.slope),
        "upsample": lambda: nn.Upsample(scale_factor=2, mode="nearest"),
        "tanh": nn.Tanh,
        "save": nn.Identity,  # done in forward
        "add": nn.Identity,
    }
    return make[layer.kind]()


class ResidualBlock(nn.Module):
    """x + branch(x): reflect 1, conv 3, IN, ReLU, reflect 1, conv 3, IN; no ReLU after the sum."""

    def __init__(self, branch: Iterable[Layer]) -> None:
        super().__init__()
        self.branch = nn.Sequential(*map(_module, branch))

    def forward(self, x: Tensor) -> Tensor:
        """x: float, N×C×h×w, h and w ≥ 2. Returns the same shape."""
        return x + cast(Tensor, self.branch(x))


_OF_SCENE = ("scene", "code", "films", "colour")  # modules of a generator


class Generator(nn.Module):
    """G or F, of ``layers``: an encoder, residual blocks at a lower resolution, and a decoder.

    A ``Generator`` can be rebuilt from its ``spec`` and a state_dict alone.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        parts = layers(spec)
        trunks = [part for part in parts if isinstance(part, Trunk)]
        single = [part for part in parts if isinstance(part, Layer)]
        parts_of = {
            name: [_module(part) for part in single if part.name.startswith(name)]
            for name in ("encoder", "decoder")
        }
        self.encoder = nn.Sequential(*parts_of["encoder"])
        self.trunk = nn.Sequential(*(ResidualBlock(b) for trunk in trunks for b in trunk.blocks))
        self.decoder = nn.Sequential(*parts_of["decoder"])
        if spec.smooth_chroma:
            chroma_filter(self.decoder[-1])
        if spec.code > 0:
            self._add_scene(spec, [layer for t in trunks for b in t.blocks for layer in b])

    def _add_scene(self, spec: GeneratorSpec, inner: list[Layer]) -> None:
        reads: list[nn.Module] = []
        channels = spec.in_channels
        for outputs in SCENE_WIDTHS:
            reads += [nn.Conv2d(channels, outputs, 3, stride=2, padding=1), nn.ReLU()]
            channels = outputs
        self.scene = nn.Sequential(*reads)
        self.code = nn.Linear(channels, spec.code)
        self.films = nn.ModuleDict(
            {
                film_name(layer).split(".")[1]: nn.Linear(spec.code, 2 * layer.outputs)
                for layer in inner
                if layer.scene
            }
        )
        self.colour = nn.Linear(spec.code, spec.out_channels * (spec.in_channels + 1))

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        """Translate a batch.

        x: float, N×in_channels×H×W in [−1, 1], H and W multiples of 4 and at least 16. Returns
        N×out_channels×H×W in (−1, 1); with ``spec.residual``, x plus that, in (−2, 2).

        With ``spec.code`` > 0, x has the grain as one more channel, H and W are multiples of 8, and
        the result is float32, added to the recoloured picture without its fine detail, and not
        limited to [−1, 1].
        ``code``: of the scenes, N×code; None: of x (``scene_code``).
        """
        if self.spec.code > 0:
            return self._conditioned(x, code)
        y = cast(Tensor, self.decoder(self.trunk(self.encoder(x))))
        return x + y if self.spec.residual else y

    def scene_code(self, picture: Tensor) -> Tensor:
        """N×in_channels×H×W in [−1, 1] -> N×code, from a thumbnail of the whole picture."""
        small = functional.adaptive_avg_pool2d(picture, THUMBNAIL)
        return functional.relu(self.code(self.scene(small).mean((2, 3))))

    def _conditioned(self, x: Tensor, code: Tensor | None) -> Tensor:
        picture = wide(x[:, : self.spec.in_channels])
        code = self.scene_code(picture) if code is None else code
        h = _channels_last(x)
        saved: dict[str, Tensor] = {}
        single = {"encoder": iter(self.encoder), "decoder": iter(self.decoder)}
        blocks = iter(self.trunk)
        for part in layers(self.spec):
            if isinstance(part, Trunk):
                for branch in part.blocks:
                    h = h + self._branch(cast(ResidualBlock, next(blocks)), branch, h, code)
                continue
            module = next(single[part.name.split(".")[0]])
            if part.kind == "save":
                saved[part.slot] = h
            elif part.kind == "add":
                h = h + saved.pop(part.slot)
            else:
                h = module(h)
        return self._recoloured(smoothed(picture), code) + wide(h)

    def _branch(
        self, block: ResidualBlock, branch: tuple[Layer, ...], h: Tensor, code: Tensor
    ) -> Tensor:
        for layer, module in zip(branch, block.branch, strict=True):
            h = module(h)
            if layer.scene:
                film = self.films[film_name(layer).split(".")[1]]
                scale, shift = torch.tanh(film(code))[:, :, None, None].chunk(2, 1)
                h = h * (1 + scale) + shift
        return h

    def _recoloured(self, picture: Tensor, code: Tensor) -> Tensor:
        """The picture by a colour matrix with offset: the identity plus entries from the code.

        Each entry is in (−1, 1): unlimited ones do not learn.
        """
        inputs, outputs = self.spec.in_channels, self.spec.out_channels
        matrix = torch.tanh(wide(self.colour(code))).view(-1, outputs, inputs + 1)
        shown = picture
        for channel in range(inputs):
            column = matrix[:, :, channel, None, None]
            shown = shown + column * picture[:, channel : channel + 1]
        return shown + matrix[:, :, inputs, None, None]


@torch.no_grad()
def chroma_filter(conv: nn.Module) -> None:
    """Let a convolution of 3 channels smooth their chroma and keep their luma; it is not trained.

    By the 5×5 binomial filter: JPEG halves chroma too.
    """
    conv.requires_grad_(False)
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    light = torch.tensor(LUMA).expand(3, 3)  # of each channel, the luma that is in all
    conv.weight.copy_((torch.eye(3) - light)[..., None, None] * taps.outer(taps))
    conv.weight[..., CHROMA_TAPS // 2, CHROMA_TAPS // 2] += light
    conv.bias.zero_()


def smoothed(picture: Tensor) -> Tensor:
    """Means of cells of ``SMOOTH``² pixels, enlarged again."""
    small = functional.avg_pool2d(picture, SMOOTH)
    return functional.interpolate(small, scale_factor=SMOOTH, mode="bilinear", align_corners=False)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class Discriminator(nn.Module):
    """D_X or D_Y: logits for overlapping 70×70 patches ("PatchGAN"), without a sigmoid.

    Five 4×4 convolutions with padding 1, strides 2, 2, 2, 1, 1 and widths 64, 128, 256, 512, 1;
    InstanceNorm on the middle three; LeakyReLU 0.2.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(nn.Conv2d(channels, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(64, 128, 4, stride=2, padding=1), _norm(128), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(128, 256, 4, stride=2, padding=1), _norm(256), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(256, 512, 4, stride=1, padding=1), _norm(512), nn.LeakyReLU(0.2)),
            nn.Conv2d(512, 1, 4, stride=1, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: float, N×channels×H×W in [−1, 1], H and W ≥ 32. Returns logits, N×1×h×w.

        h = H/8 − 2 where 8 divides H: 30×30 at 256².
        """
        return cast(Tensor, self.model(x))


class TwoScaleDiscriminator(nn.Module):
    """D_X or D_Y for few steps: logits for 38×38 patches of a picture and of its half.

    Two networks (Wang et al., "High-Resolution Image Synthesis …", CVPR 2018, section 3.2), each
    three 4×4 convolutions of stride 2 with padding 1 and widths 32, 64, 128, and a 3×3 one to the
    logits; LeakyReLU 0.2, no normalisation, which would hide the palette. Their input is the
    picture, and as further channels its fine detail times 2, so that brushwork is learnt early.
    """

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()

        def judge() -> nn.Sequential:
            layers: list[nn.Module] = []
            before = 2 * channels
            for after in (width, 2 * width, 4 * width):
                layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
                before = after
            return nn.Sequential(*layers, nn.Conv2d(before, 1, 3))

        self.fine, self.coarse = judge(), judge()

    def forward(self, x: Tensor) -> Tensor:
        """x: float, N×channels×H×W in [−1, 1], H and W ≥ 64. Returns logits, N×2×h×w.

        The second channel is that of the half, enlarged, so that both scales have equal weight.
        """
        half = functional.avg_pool2d(x, 2)
        fine = self.fine(_with_detail(x, half))
        coarse = self.coarse(_with_detail(half, functional.avg_pool2d(half, 2)))
        return torch.cat([fine, functional.interpolate(coarse, size=fine.shape[2:])], dim=1)


def _with_detail(x: Tensor, half: Tensor) -> Tensor:
    """``x`` and its fine detail as further channels; ``half``: ``x`` at half its size."""
    smooth = functional.interpolate(half, size=x.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([x, _DETAIL * (x - smooth)], dim=1)


@dataclass(frozen=True)
class View:
    """``source``: pictures; ``pictures``: as the frozen network gets them; ``features``: of its
    ``SEEN`` stages; ``whole``: the mean of its last stage, N×C×1×1."""

    source: Tensor
    pictures: Tensor
    features: list[Tensor]
    whole: Tensor


class ProjectedDiscriminator(nn.Module):
    """D_X or D_Y on frozen features: a small head on fixed random projections of each stage.

    And a small network on the pixels, with twice the weight. LeakyReLU 0.2, no normalisation.
    ``scales``: the deviations of the features, measured before the first step.
    """

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in SEEN_CHANNELS)
        self.projections.requires_grad_(False)
        self.heads = nn.ModuleList(_head(width) for _ in SEEN_CHANNELS)
        layers: list[nn.Module] = []
        for before, after, stride in ((channels, 32, 2), (32, 64, 2), (64, 128, 1)):
            layers += [nn.Conv2d(before, after, 4, stride, 1), nn.LeakyReLU(0.2)]
        self.pixels = nn.Sequential(*layers, nn.Conv2d(128, 1, 3, padding=1))
        self.register_buffer("scales", torch.ones(len(SEEN_CHANNELS)))
        self.scales: Tensor

    def requires_grad_(self, requires_grad: bool = True) -> ProjectedDiscriminator:
        """As ``nn.Module``'s, without the projections."""
        super().requires_grad_(requires_grad)
        self.projections.requires_grad_(False)
        return self

    def forward(self, view: View) -> Tensor:
        """Logits, N×6×h×w: of the four stages, and twice of the pixels, all at one size."""
        with torch.autocast(view.pictures.device.type, enabled=False):
            pixels = self.pixels(view.pictures)
            logits = [
                head(projection(stage / scale))
                for head, projection, stage, scale in zip(
                    self.heads, self.projections, view.features, self.scales, strict=True
                )
            ]
            size = logits[0].shape[2:]
            same = [functional.interpolate(one, size=size) for one in (*logits, pixels)]
        return torch.cat([*same, same[-1]], dim=1)


DISCRIMINATORS: dict[DiscriminatorKind, type[nn.Module]] = {
    "patchgan": Discriminator,
    "twoscale": TwoScaleDiscriminator,
    "projected": ProjectedDiscriminator,
}


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)),
        nn.Conv2d(width, 1, 3, padding=1),
    )


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Weights of convolutions from N(0, 0.02), biases 0 (paper, section 4).

    A generator without InstanceNorm has deviation √(2/fan-in) (He et al., ICCV 2015; √(1/fan-in) if
    depthwise), the last convolution of a block a fifth and that of the generator a fiftieth of it,
    so that blocks and residual generators start near the identity (Zhang et al., ICLR 2019). A
    discriminator without normalisation has He's deviation for its LeakyReLU.
    """
    free = isinstance(network, Generator) and network.spec.norm == "none"
    leaky = not isinstance(network, Generator | Discriminator)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            deviation = 0.02
            if free or leaky:
                gain = 2.0 / 1.04 if leaky else 2.0 if module.groups == 1 else 1.0
                deviation = math.sqrt(gain / module.weight[0].numel())
            module.weight.normal_(0.0, deviation, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
    if free and isinstance(network, Generator):
        for block in network.trunk:
            _last_convolution(block).weight.mul_(0.2)
        smooth = network.spec.smooth_chroma
        _last_convolution(network.decoder[:-1] if smooth else network.decoder).weight.mul_(0.02)
        if smooth:
            chroma_filter(network.decoder[-1])
        if network.spec.code > 0:
            _initialise_scene(network, generator)


def _initialise_scene(network: Generator, generator: torch.Generator) -> None:
    """The layers that use the code start at 0: nothing is scaled, shifted or recoloured."""
    weight = network.code.weight
    weight.normal_(0.0, math.sqrt(2 / weight.shape[1]), generator=generator)
    network.code.bias.zero_()
    for reader in (*network.films.values(), network.colour):
        for parameter in reader.parameters():
            parameter.zero_()


def parameter_groups(*networks: nn.Module) -> list[dict[str, Any]]:
    """What is trained, for an optimiser, and each group's ``factor`` of the learning rate.

    0.3 for what a scene's code decides (Karras et al., CVPR 2019, take a hundredth for their
    mapping network): at the whole rate the palette swings faster than strokes are learnt. The order
    of the parameters stays theirs, by which checkpoints number Adam's moments.
    """
    trained = [pair for n in networks for pair in n.named_parameters() if pair[1].requires_grad]
    return [
        {"params": [parameter for _, parameter in some], "factor": factor}
        for factor, some in groupby(trained, lambda pair: _factor(pair[0]))
    ]


def _factor(name: str) -> float:
    return 0.3 if name.split(".", maxsplit=1)[0] in _OF_SCENE else 1.0


def _last_convolution(network: nn.Module) -> nn.Conv2d:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]


def count_parameters(network: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
