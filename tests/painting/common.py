"""Small networks and pictures, and the whole-picture evaluation that strips must equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.painting.plans import Plan
from cyclegan_cli.painting.rows import Rows
from cyclegan_cli.painting.streaming import evaluate
from cyclegan_cli.settings import GENERATORS, GeneratorSpec

CPU = torch.device("cpu")

# Every kind of layer that a generator can have; small, since every size and strip is tried.
KINDS = {
    **{
        name: replace(spec, width=4, blocks=min(spec.blocks, 2))
        for name, spec in GENERATORS.items()
    },
    "resize": GeneratorSpec(width=3, blocks=1, upsample="resize"),
    "separable": GeneratorSpec(width=3, blocks=1, separable=True),
    "no blocks": GeneratorSpec(width=3, blocks=0),
    "free, no blocks": GeneratorSpec(width=3, blocks=0, upsample="resize", norm="none"),
    "free": GeneratorSpec(width=3, blocks=3, upsample="resize", norm="none"),
    "residual": GeneratorSpec(width=3, blocks=1, residual=True),
    "grey": GeneratorSpec(width=3, blocks=1, in_channels=1, out_channels=1),
}


def network(spec: GeneratorSpec, seed: int = 0) -> Generator:
    """A generator that is alive: weights large enough for every layer to matter, and biases."""
    generator = torch.Generator().manual_seed(seed)
    result = Generator(spec).eval().requires_grad_(False)
    for parameter in result.parameters():
        spread = 0.5 if parameter.ndim == 1 else (2.0 / parameter[0].numel()) ** 0.5
        parameter.normal_(0.0, spread, generator=generator)
    return result


def random_pixels(height: int, width: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    """Noise over a slope, so that the strips' means differ."""
    rng = np.random.default_rng(seed)
    values = rng.random((height, width, 3)) * 0.5 + np.linspace(0, 0.5, height)[:, None, None]
    if dtype == "float32":
        return (values * 2 - 1).astype(np.float32)
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def rows_of(x: Tensor) -> Rows:
    """A tensor as the source of an evaluation."""
    _, channels, height, width = x.shape
    cost = channels * width * 4
    return Rows(channels, height, width, 4, lambda a, b: x[:, :, a:b], False, cost)


def streamed(generator: Generator, x: Tensor, plan: Plan, settle=None, quick=None) -> Tensor:
    """The result by strips, and that every row was written once, in order."""
    strips: list[Tensor] = []

    def write(row: int, strip: Tensor) -> None:
        assert row == sum(done.shape[2] for done in strips)
        strips.append(strip.clone())

    with torch.inference_mode():
        evaluate(generator, rows_of(x), plan, CPU, write, settle=settle, quick=quick)
    return torch.cat(strips, dim=2)


def whole(generator: Generator, x: Tensor) -> Tensor:
    """The whole-picture result."""
    with torch.inference_mode():
        return generator(x)
