"""The method learns: a known map between two domains is found without a single pair.

X: cool skies with warm discs. Y: such scenes (others) with the hue turned by 120° and dark stripes.
The held-out measure is the mean distance of G(x) to the true image of x under that map, against
that of x itself (the identity map), and of F(y) likewise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.fast import bf16
from cyclegan_cli.settings import GeneratorSpec, TrainSettings

SIZE = 64
FACTOR = 2.5  # times nearer than the identity map; 3 to 6 is usual, and grey pictures have 1.7
STEPS = 200
SEEDS = 3  # of which one must learn: a training can stay where it makes grey pictures


def scene(seed: int) -> Tensor:
    """A picture of X: 3×64×64 in [−1, 1]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    top = np.array([0.1, 0.25, 0.75]) + random.uniform(-0.1, 0.1, 3)
    bottom = np.array([0.35, 0.55, 0.9]) + random.uniform(-0.1, 0.1, 3)
    picture = top + (bottom - top) * rows[..., None]
    for _ in range(random.integers(2, 5)):
        x, y, radius = random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.08, 0.28)
        inside = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
        picture[inside] = np.array([0.9, 0.6, 0.15]) + random.uniform(-0.1, 0.1, 3)
    return torch.tensor(picture.clip(0, 1).transpose(2, 0, 1) * 2 - 1, dtype=torch.float32)


def true_map(x: Tensor) -> Tensor:
    """X → Y: channels rotated, every other band of four rows at half its brightness."""
    stripes = 1 - 0.5 * (torch.arange(SIZE) // 4 % 2).float()[:, None]
    return (x[:, [2, 0, 1]] + 1) * stripes - 1


MOBILE = GeneratorSpec.named("mobile")


def gains(
    *,
    steps: int,
    seed: int = 0,
    generators_learn: bool = True,
    generator: GeneratorSpec = MOBILE,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, float]:
    """How many times nearer to the truth than the identity G and F are on held-out pictures.

    At the default learning rate, where 1 of 11 trainings stayed below 2 times. At 5e-4 half of them
    do, with the kernels and without, and which ones rounding decides: initial weights times
    1 ± 1e-7 turn one into the other.
    """
    settings = TrainSettings(
        generator=generator,
        crop_size=SIZE,
        load_size=SIZE,
        lambda_identity=0.0,
        seed=seed,
    )
    model = CycleGAN(settings, dtype=dtype)
    if not generators_learn:
        # What a learning rate of 0 for G and F amounts to, with D_X and D_Y learning on.
        model.optimiser_G.step = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    for index in range(steps):
        x, y = scene(index)[None], true_map(scene(50_000 + index)[None])
        model.step(x, y, settings.lr)
    x = torch.stack([scene(100_000 + index) for index in range(16)])
    y = true_map(x)
    identity = (x - y).abs().mean()
    with torch.no_grad():
        g, f = (model.G(x) - y).abs().mean(), (model.F(y) - x).abs().mean()
    return (identity / g).item(), (identity / f).item()


@pytest.mark.timeout(1800)
def test_training_finds_the_map_in_both_directions() -> None:
    found = (gains(steps=STEPS, seed=seed) for seed in range(SEEDS))
    assert any(min(both) > FACTOR for both in found)


@pytest.mark.skipif(not bf16.has_unit(), reason="the processor has no bfloat16")
@pytest.mark.timeout(1800)
def test_training_in_bfloat16_finds_it_too() -> None:
    """By whole convolutions, which are those in bfloat16."""
    whole = GeneratorSpec(width=16, blocks=3)
    found = (
        gains(steps=STEPS, seed=seed, generator=whole, dtype=torch.bfloat16)
        for seed in range(SEEDS)
    )
    assert any(min(both) > FACTOR for both in found)


def test_without_learning_generators_the_same_check_fails() -> None:
    g, f = gains(steps=5, generators_learn=False)  # more steps change nothing: G and F stand still
    assert g < FACTOR
    assert f < FACTOR
