"""Small networks and pictures, and the whole-picture evaluation that strips must equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.engine.grain import canvas
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting.by_kernels import KernelBackend
from cyclegan_cli.painting.by_torch import TorchBackend
from cyclegan_cli.painting.evaluate import evaluate
from cyclegan_cli.painting.painter import Painter
from cyclegan_cli.painting.statistics import conditioned, scene_code
from cyclegan_cli.painting.strips import Plan, Rows
from cyclegan_cli.settings import GENERATORS, GeneratorSpec

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
    if spec.code > 0:  # nothing at its end keeps its outputs near [−1, 1]
        result.decoder[-1].weight.mul_(0.1)
    return result


def random_pixels(height: int, width: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    """Noise over a slope, so that the strips' means differ."""
    rng = np.random.default_rng(seed)
    values = rng.random((height, width, 3)) * 0.5 + np.linspace(0, 0.5, height)[:, None, None]
    if dtype == "float32":
        return (values * 2 - 1).astype(np.float32)
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def weights_of(generator: Generator) -> Weights:
    """The weights of ``generator``, copied."""
    tensors = {
        name: x.detach().float().numpy().copy() for name, x in generator.state_dict().items()
    }
    return Weights(generator.spec, tensors)


def painter_of(
    generator: Generator, device: str = "cpu", precision: Any = "fp32", **how: Any
) -> Painter:
    """What paints with ``generator``."""
    return Painter(weights_of(generator), device, precision, **how)


def rows_of(x: Any, itemsize: int = 4) -> Rows[Any]:
    """A tensor (1×C×H×W) or an array (C×H×W) as the source of an evaluation."""
    channels, height, width = x.shape[-3:]
    cost = channels * width * 4
    return Rows(channels, height, width, itemsize, cost, read=lambda a, b: x[..., a:b, :])


def streamed(
    generator: Generator,
    x: Tensor,
    plan: Plan,
    override_stats=None,
    *,
    kernels: bool = False,
    bf16=False,
) -> Tensor:
    """The result by strips, and that every row was written once, in order."""
    strips: list[Any] = []

    def write(row: int, strip: Any) -> None:
        assert row == sum(done.shape[-2] for done in strips)
        strips.append(strip.clone() if isinstance(strip, Tensor) else strip.copy())

    weights, x = weights_of(generator), with_grain(generator.spec, x)
    if generator.spec.code > 0:
        picture = x[0, :-1].permute(1, 2, 0).numpy()
        weights = conditioned(weights, scene_code(weights, picture))
    backend: Any = (
        KernelBackend(weights, half=bf16) if kernels else TorchBackend(weights, "cpu", "fp32")
    )
    source = rows_of(x[0].numpy() if kernels else x, backend.itemsize)
    with torch.inference_mode():
        evaluate(generator.spec, backend, source, plan, write, override_stats=override_stats)
    if kernels:
        return torch.from_numpy(np.concatenate(strips, axis=1))[None]
    return torch.cat(strips, dim=2)


def whole(generator: Generator, x: Tensor) -> Tensor:
    """The whole-picture result."""
    with torch.inference_mode():
        return generator(with_grain(generator.spec, x))


def with_grain(spec: GeneratorSpec, x: Tensor) -> Tensor:
    """1×C×H×W, and beside it the canvas where the generator reads it as a channel."""
    if spec.code == 0:
        return x
    grain = torch.from_numpy(canvas(spec, 0, x.shape[2], x.shape[3]))
    return torch.cat([x, grain[None]], dim=1)
