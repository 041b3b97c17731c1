"""The baseline computes what the engine computes; else its ratios would compare nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.networks import Generator, count_parameters, initialise
from cyclegan_cli.settings import GeneratorSpec, TrainSettings
from tests.benchmarks import baseline
from tests.painting.common import painter_of

TINY = {
    False: GeneratorSpec(name="tiny", blocks=2, width=4),
    True: GeneratorSpec(name="tiny", blocks=2, width=4, separable=True, upsample="resize"),
}


def test_the_sizes_that_the_paper_names() -> None:
    assert count_parameters(baseline.generator()) == 11_378_179
    assert count_parameters(baseline.discriminator()) == 2_764_737
    mobile = Generator(GeneratorSpec.named("mobile"))
    assert count_parameters(baseline.generator(9, 24, True)) == count_parameters(mobile)


@pytest.mark.parametrize("separable", [False, True])
def test_it_paints_what_the_program_paints(separable: bool) -> None:
    network = Generator(TINY[separable])
    initialise(network, torch.Generator().manual_seed(1))
    own = baseline.generator(2, 4, separable)
    baseline.adopt(own, network)
    pixels = np.random.default_rng(0).uniform(-1, 1, (36, 28, 3)).astype(np.float32)
    for picture, tolerance in ((pixels, 1e-4), ((127.5 * pixels + 127.5).astype(np.uint8), 1)):
        painted = painter_of(network).paint(picture).astype(np.float32)
        found = baseline.translate(own, picture)
        assert found.dtype == picture.dtype
        assert np.abs(painted - found).max() <= tolerance


@pytest.mark.parametrize("separable", [False, True])
def test_it_steps_as_the_engine_steps(separable: bool) -> None:
    model = CycleGAN(TrainSettings(generator=TINY[separable]))
    own = baseline.Training(2, 4, separable)
    for name, network in own.networks().items():
        baseline.adopt(network, model.networks()[name])
    own.to(torch.float64)
    for network in model.networks().values():
        network.double()
    for seed in (0, 1):
        torch.manual_seed(seed)
        x, y = (torch.rand(1, 3, 32, 32, dtype=torch.float64) * 2 - 1 for _ in range(2))
        expected, found = model.step(x, y, 2e-4), own.step(x, y)
        assert found.keys() == expected.keys()
        for name, loss in found.items():
            torch.testing.assert_close(loss, expected[name], rtol=1e-6, atol=1e-9)
    for name, network in own.networks().items():
        for mine, theirs in zip(
            network.parameters(), model.networks()[name].parameters(), strict=True
        ):
            # Gradients of biases before a norm are zero but for rounding, which Adam makes large.
            if mine.ndim > 1:
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)
