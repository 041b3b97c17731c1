"""The method as it is usually run: plain eager modules, NCHW, float32, one picture at a time.

What every figure of ``python -m tests.benchmarks`` is a ratio to. It follows the description of
the method only (networks, losses, order of a step), shares no code with the engine, and does
nothing for speed: no strips, no fused operation, no other layout, no compiler.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def conv3(inputs: int, outputs: int, separable: bool) -> list[nn.Module]:
    if separable:
        return [nn.Conv2d(inputs, inputs, 3, groups=inputs), nn.Conv2d(inputs, outputs, 1)]
    return [nn.Conv2d(inputs, outputs, 3)]


class Block(nn.Module):
    """A residual block: no ReLU after the sum."""

    def __init__(self, width: int, separable: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.ReflectionPad2d(1), *conv3(width, width, separable)),
            *(nn.InstanceNorm2d(width), nn.ReLU()),
            *(nn.ReflectionPad2d(1), *conv3(width, width, separable)),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


def enlarge(inputs: int, outputs: int, separable: bool) -> list[nn.Module]:
    if separable:
        grow = nn.Upsample(scale_factor=2, mode="nearest")
        return [grow, nn.ReflectionPad2d(1), *conv3(inputs, outputs, True)]
    return [nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)]


def generator(blocks: int = 9, w: int = 64, separable: bool = False) -> nn.Sequential:
    """The residual generator; ``separable`` with w = 24 is ``mobile``."""

    def after(channels: int) -> tuple[nn.Module, nn.Module]:
        return nn.InstanceNorm2d(channels), nn.ReLU()

    return nn.Sequential(
        *(nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), *after(w)),
        *(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), *after(2 * w)),
        *(nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), *after(4 * w)),
        *(Block(4 * w, separable) for _ in range(blocks)),
        *(*enlarge(4 * w, 2 * w, separable), *after(2 * w)),
        *(*enlarge(2 * w, w, separable), *after(w)),
        *(nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()),
    )


def discriminator() -> nn.Sequential:
    """PatchGAN 70×70."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(64, 128, 4, 2, 1), nn.InstanceNorm2d(128), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(128, 256, 4, 2, 1), nn.InstanceNorm2d(256), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(256, 512, 4, 1, 1), nn.InstanceNorm2d(512), nn.LeakyReLU(0.2)),
        nn.Conv2d(512, 1, 4, 1, 1),
    )


@torch.no_grad()
def adopt(own: nn.Module, other: nn.Module) -> None:
    """Give ``own`` the parameters of ``other``, which has the same layers in the same order."""
    for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
        mine.copy_(theirs)


@torch.no_grad()
def translate(network: nn.Module, pixels: Any) -> Any:
    """H×W×3 uint8, or float32 in [−1, 1], whose sides are multiples of 4; the same comes out."""
    first = next(network.parameters())
    values = torch.from_numpy(pixels).to(device=first.device, dtype=first.dtype)
    whole = pixels.dtype == np.uint8
    x = values / 127.5 - 1 if whole else values
    y = network(x.permute(2, 0, 1)[None].contiguous())[0].permute(1, 2, 0)
    if whole:
        y = ((y + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return y.cpu().numpy()


class Pool:
    """The history of 50 generated pictures."""

    def __init__(self) -> None:
        self.held: list[Tensor] = []

    def exchange(self, pictures: Tensor) -> Tensor:
        shown = []
        for picture in pictures:
            if len(self.held) < 50:
                self.held.append(picture)
                shown.append(picture)
            elif random.random() < 0.5:
                index = random.randrange(50)
                shown.append(self.held[index])
                self.held[index] = picture
            else:
                shown.append(picture)
        return torch.stack(shown)


class Training:
    """The four networks, two Adams and two pools: ``step`` is one step in the public order."""

    def __init__(self, blocks: int = 9, w: int = 64, separable: bool = False) -> None:
        self.G, self.F = (generator(blocks, w, separable) for _ in range(2))
        self.D_X, self.D_Y = discriminator(), discriminator()
        self.pool_X, self.pool_Y = Pool(), Pool()
        self.begin()

    def begin(self) -> None:
        """New optimisers, for the parameters as they now are (another device or dtype)."""
        painters = itertools.chain(self.G.parameters(), self.F.parameters())
        judges = itertools.chain(self.D_X.parameters(), self.D_Y.parameters())
        self.adam_G = torch.optim.Adam(painters, lr=2e-4, betas=(0.5, 0.999))
        self.adam_D = torch.optim.Adam(judges, lr=2e-4, betas=(0.5, 0.999))

    def networks(self) -> dict[str, nn.Module]:
        return {"G": self.G, "F": self.F, "D_X": self.D_X, "D_Y": self.D_Y}

    def to(self, place: Any) -> Training:
        for network in self.networks().values():
            network.to(place)
        self.begin()
        return self

    def step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """One step; the losses, weighted as they enter the sum."""
        fake_y, fake_x = self.G(x), self.F(y)
        back_x, back_y = self.F(fake_y), self.G(fake_x)
        for judge in (self.D_X, self.D_Y):
            judge.requires_grad_(False)
        self.adam_G.zero_grad()
        losses = {
            "identity_Y": 5.0 * functional.l1_loss(self.G(y), y),
            "identity_X": 5.0 * functional.l1_loss(self.F(x), x),
            "G": _verdict(self.D_Y(fake_y), 1.0),
            "F": _verdict(self.D_X(fake_x), 1.0),
            "cycle_X": 10.0 * functional.l1_loss(back_x, x),
            "cycle_Y": 10.0 * functional.l1_loss(back_y, y),
        }
        sum(losses.values(), torch.zeros((), device=x.device)).backward()
        self.adam_G.step()
        for judge in (self.D_X, self.D_Y):
            judge.requires_grad_(True)
        self.adam_D.zero_grad()
        for name, judge, real, fake in (
            ("D_Y", self.D_Y, y, self.pool_Y.exchange(fake_y.detach())),
            ("D_X", self.D_X, x, self.pool_X.exchange(fake_x.detach())),
        ):
            losses[name] = 0.5 * (_verdict(judge(real), 1.0) + _verdict(judge(fake), 0.0))
            losses[name].backward()
        self.adam_D.step()
        return {name: loss.detach() for name, loss in losses.items()}


def _verdict(logits: Tensor, wanted: float) -> Tensor:
    """Least squares."""
    return functional.mse_loss(logits, torch.full_like(logits, wanted))
