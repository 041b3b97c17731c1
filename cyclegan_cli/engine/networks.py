"""The generators G: X→Y and F: Y→X, and the PatchGAN discriminators D_X and D_Y.

Zhu et al., ICCV 2017, section 4 and appendix; the residual generator is that of Johnson et al.,
ECCV 2016, the discriminator the 70×70 PatchGAN of Isola et al., CVPR 2017. ``mobile`` replaces the
3×3 convolutions of the blocks by depthwise-separable ones, as Li et al. do in GAN Compression
(CVPR 2020), and the transposed convolutions by resize-convolutions (Odena et al., Distill 2016),
which leave no checkerboard. ``brush`` is ``mobile`` without InstanceNorm, which paints its change
onto the input: whatever lies elsewhere in a picture leaves a pixel as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan_cli.engine.layers import EPS, Layer, Trunk, layers
from cyclegan_cli.settings import DiscriminatorKind, GeneratorSpec

__all__ = [
    "DISCRIMINATORS",
    "Discriminator",
    "Generator",
    "ResidualBlock",
    "TwoScaleDiscriminator",
    "count_parameters",
    "initialise",
]


_DETAIL = 2.0


def _norm(channels: int) -> nn.InstanceNorm2d:
    """InstanceNorm over (height, width): no affine, no running statistics, biased variance."""
    return nn.InstanceNorm2d(channels, eps=EPS, affine=False, track_running_stats=False)


def _module(layer: Layer) -> nn.Module:
    """The module of one layer. Raises KeyError for a kind that is no module by itself."""
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


class Generator(nn.Module):
    """G or F, of ``layers``: an encoder to a quarter of the resolution, residual blocks, a decoder.

    ``spec`` says which; a ``Generator`` is rebuilt from it and a state_dict, with nothing else.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        parts = layers(spec)
        middle = next(i for i, part in enumerate(parts) if isinstance(part, Trunk))
        trunk = parts[middle]
        assert isinstance(trunk, Trunk)
        self.encoder = nn.Sequential(*(_module(p) for p in parts[:middle] if isinstance(p, Layer)))
        self.trunk = nn.Sequential(*map(ResidualBlock, trunk.blocks))
        self.decoder = nn.Sequential(
            *(_module(p) for p in parts[middle + 1 :] if isinstance(p, Layer))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Translate a batch.

        x: float, N×in_channels×H×W in [−1, 1], H and W multiples of 4 and at least 16 (smaller or
        odd pictures are padded by ``painting``). Returns N×out_channels×H×W in (−1, 1), or, where
        ``spec.residual``, x plus that, in (−2, 2): whoever shows it clips it.
        """
        y = cast(Tensor, self.decoder(self.trunk(self.encoder(x))))
        return x + y if self.spec.residual else y


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

    Each sees the picture and beside it, twice as strong, what half the resolution cannot show:
    brushwork is faint beside light and dark, and would be learnt late.
    Two networks, each three 4×4 convolutions of stride 2 with padding 1 and widths 32, 64, 128, and
    a 3×3 one to the logits; LeakyReLU 0.2, and no normalisation, which would hide the palette. Two
    scales: Wang et al., "High-Resolution Image Synthesis …", CVPR 2018, section 3.2.
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

        The second channel is the half's answer, enlarged: so both scales weigh the same.
        """
        half = functional.avg_pool2d(x, 2)
        fine = self.fine(_with_detail(x, half))
        coarse = self.coarse(_with_detail(half, functional.avg_pool2d(half, 2)))
        return torch.cat([fine, functional.interpolate(coarse, size=fine.shape[2:])], dim=1)


DISCRIMINATORS: dict[DiscriminatorKind, type[Discriminator] | type[TwoScaleDiscriminator]] = {
    "patchgan": Discriminator,
    "twoscale": TwoScaleDiscriminator,
}


def _with_detail(x: Tensor, half: Tensor) -> Tensor:
    """``x`` and its fine detail as further channels; ``half``: ``x`` at half its size."""
    smooth = functional.interpolate(half, size=x.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([x, _DETAIL * (x - smooth)], dim=1)


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Weights of convolutions from N(0, 0.02), biases 0 (paper, section 4).

    A generator without InstanceNorm has nothing that would bring such small weights to scale: its
    deviation is √(2/fan-in) (He et al., ICCV 2015; √(1/fan-in) where depthwise), the last
    convolution of a block a fifth and that of the generator a fiftieth of it, so that every block,
    and a residual generator as a whole, starts near the identity (Zhang et al., ICLR 2019).
    ``TwoScaleDiscriminator`` has no normalisation either, and He's deviation for its LeakyReLU.
    """
    free = isinstance(network, Generator) and network.spec.norm == "none"
    leaky = isinstance(network, TwoScaleDiscriminator)
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
        _last_convolution(network.decoder).weight.mul_(0.02)


def _last_convolution(network: nn.Module) -> nn.Conv2d:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]


def count_parameters(network: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
