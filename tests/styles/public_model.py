"""The public PyTorch CycleGAN's generator, written anew from its published layer list.

It shares no code with the package, so agreement with it says something. ``nn.Sequential`` indices
are those of the public files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, dim: int, dropout: bool, track: bool, padding: str = "reflect") -> None:
        super().__init__()

        def pad() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1)] if padding == "reflect" else []

        p = 0 if padding == "reflect" else 1
        layers: list[nn.Module] = [*pad(), nn.Conv2d(dim, dim, 3, padding=p, bias=True)]
        layers += [nn.InstanceNorm2d(dim, affine=False, track_running_stats=track), nn.ReLU(True)]
        layers += [nn.Dropout(0.5)] if dropout else []
        layers += [*pad(), nn.Conv2d(dim, dim, 3, padding=p, bias=True)]
        layers += [nn.InstanceNorm2d(dim, affine=False, track_running_stats=track)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class PublicResnet(nn.Module):
    """``netG`` of the public code: resnet_9blocks, resnet_6blocks, with what options it had."""

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        ngf: int = 64,
        blocks: int = 9,
        dropout: bool = False,
        track: bool = False,
        padding: str = "reflect",
    ) -> None:
        super().__init__()

        def norm(channels: int) -> nn.Module:
            return nn.InstanceNorm2d(channels, affine=False, track_running_stats=track)

        layers: list[nn.Module] = [nn.ReflectionPad2d(3)]
        layers += [nn.Conv2d(inputs, ngf, kernel_size=7, padding=0), norm(ngf), nn.ReLU(True)]
        for factor in (1, 2):
            layers.append(nn.Conv2d(ngf * factor, ngf * factor * 2, 3, stride=2, padding=1))
            layers += [norm(ngf * factor * 2), nn.ReLU(True)]
        layers += [Block(ngf * 4, dropout, track, padding) for _ in range(blocks)]
        for factor in (4, 2):
            layers.append(
                nn.ConvTranspose2d(
                    ngf * factor, ngf * factor // 2, 3, stride=2, padding=1, output_padding=1
                )
            )
            layers += [norm(ngf * factor // 2), nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def public_generator(seed: int = 0, **options: object) -> PublicResnet:
    """A generator in eval mode with weights that are far from trivial."""
    torch.manual_seed(seed)
    network = PublicResnet(**options)  # type: ignore[arg-type]
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.05)
    return network.eval()


def as_the_method_means(network: PublicResnet) -> PublicResnet:
    """The same weights normalising by the picture's own statistics, as in training."""
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return network
