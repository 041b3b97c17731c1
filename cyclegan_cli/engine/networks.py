"""The generators G: X→Y and F: Y→X, and the PatchGAN discriminators D_X and D_Y.

Zhu et al., ICCV 2017, section 4 and appendix; the residual generator is that of Johnson et al.,
ECCV 2016, the discriminator the 70×70 PatchGAN of Isola et al., CVPR 2017. ``mobile`` replaces the
3×3 convolutions of the blocks by depthwise-separable ones, as Li et al. do in GAN Compression
(CVPR 2020), and the transposed convolutions by resize-convolutions (Odena et al., Distill 2016),
which leave no checkerboard.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from cyclegan_cli.settings import GeneratorSpec

__all__ = ["Discriminator", "Generator", "ResidualBlock", "count_parameters", "initialise"]


def _norm(channels: int) -> nn.InstanceNorm2d:
    """InstanceNorm over (height, width): no affine, no running statistics, biased variance."""
    return nn.InstanceNorm2d(channels, eps=1e-5, affine=False, track_running_stats=False)


def _conv3(inputs: int, outputs: int, separable: bool) -> list[nn.Module]:
    """A 3×3 convolution without padding, whole or split into depthwise and pointwise."""
    if not separable:
        return [nn.Conv2d(inputs, outputs, 3)]
    return [nn.Conv2d(inputs, inputs, 3, groups=inputs), nn.Conv2d(inputs, outputs, 1)]


class ResidualBlock(nn.Module):
    """x + (reflect 1, conv 3, IN, ReLU, reflect 1, conv 3, IN)(x): no ReLU after the sum."""

    def __init__(self, channels: int, separable: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_conv3(channels, channels, separable),
            _norm(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            *_conv3(channels, channels, separable),
            _norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: float, N×C×h×w, h and w ≥ 2. Returns the same shape."""
        return x + cast(Tensor, self.branch(x))


class Generator(nn.Module):
    """G or F: an encoder to a quarter of the resolution, residual blocks, and a decoder.

    ``spec`` says which; a ``Generator`` is rebuilt from it and a state_dict, with nothing else.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        w = spec.width
        self.encoder = nn.Sequential(
            nn.ReflectionPad2d(3),
            *(nn.Conv2d(spec.in_channels, w, 7), _norm(w), nn.ReLU()),
            *(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), _norm(2 * w), nn.ReLU()),
            *(nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), _norm(4 * w), nn.ReLU()),
        )
        self.trunk = nn.Sequential(
            *(ResidualBlock(4 * w, spec.separable) for _ in range(spec.blocks))
        )
        self.decoder = nn.Sequential(
            *(*_upsample(4 * w, 2 * w, spec), _norm(2 * w), nn.ReLU()),
            *(*_upsample(2 * w, w, spec), _norm(w), nn.ReLU()),
            *(nn.ReflectionPad2d(3), nn.Conv2d(w, spec.out_channels, 7), nn.Tanh()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Translate a batch.

        x: float, N×in_channels×H×W in [−1, 1], H and W multiples of 4 and at least 16 (smaller or
        odd pictures are padded by ``painting``). Returns N×out_channels×H×W in (−1, 1).
        """
        return cast(Tensor, self.decoder(self.trunk(self.encoder(x))))


def _upsample(inputs: int, outputs: int, spec: GeneratorSpec) -> list[nn.Module]:
    """Twice the height and width: the paper's transposed convolution, or enlarge and convolve."""
    if spec.upsample == "transpose":
        return [nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)]
    enlarge = nn.Upsample(scale_factor=2, mode="nearest")
    return [enlarge, nn.ReflectionPad2d(1), *_conv3(inputs, outputs, spec.separable)]


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


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Weights of convolutions from N(0, 0.02), biases 0 (paper, section 4)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.normal_(0.0, 0.02, generator=generator)
            if module.bias is not None:
                module.bias.zero_()


def count_parameters(network: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
