"""The grain: one canvas, whoever asks for which part of it, and what strokes in flat skies need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.engine.grain import PERIOD, canvas, drawn, on_canvas
from cyclegan_cli.engine.networks import Generator, initialise
from cyclegan_cli.settings import GENERATORS, GeneratorSpec
from tests.painting.common import painter_of


def test_it_is_nearly_normal_and_says_nothing_of_its_neighbours() -> None:
    grain = torch.from_numpy(canvas(0, PERIOD, PERIOD, 3)).double()
    assert abs(float(grain.mean())) < 2e-3
    assert abs(float(grain.std()) - 1) < 2e-3
    for sigmas, share in ((1, 0.683), (2, 0.954)):  # a normal distribution's
        assert abs(float((grain.abs() < sigmas).double().mean()) - share) < 0.02
    neighbours = (
        (grain[:, 1:] * grain[:, :-1]).mean(),
        (grain[:, :, 1:] * grain[:, :, :-1]).mean(),
        (grain[0] * grain[1]).mean(),
        (grain[1] * grain[2]).mean(),
    )
    assert all(abs(float(product)) < 5e-3 for product in neighbours)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 9), st.integers(1, 9), st.integers(1, 1100))
def test_parts_of_the_canvas_fit_together(start: int, first: int, then: int, columns: int) -> None:
    whole = canvas(start, start + first + then, columns, 3)
    parts = (
        canvas(start, start + first, columns, 3),
        canvas(start + first, start + first + then, columns, 3),
    )
    assert np.array_equal(whole, np.concatenate(parts, axis=1))
    assert np.array_equal(whole, canvas(start + PERIOD, start + PERIOD + first + then, columns, 3))
    assert np.array_equal(whole[:1], canvas(start, start + first + then, columns, 1))


def test_fresh_grain_follows_its_seed() -> None:
    like = torch.zeros(2, 3, 32, 32)
    assert torch.equal(drawn(like, 1), drawn(like, 1))
    assert not torch.equal(drawn(like, 1), drawn(like, 2))
    assert abs(float(drawn(like, 1).std()) - 1) < 0.05


def strength(spec: GeneratorSpec) -> float:
    """How much a painted clear sky varies, in grey levels."""
    network = Generator(spec)
    initialise(network, torch.Generator().manual_seed(0))
    sky = torch.full((64, 64, 3), 0.3).numpy()
    return float(painter_of(network).paint(sky).std(axis=(0, 1)).mean()) * 127.5


def test_a_clear_sky_gives_strokes_something_to_grow_from() -> None:
    spec = replace(GENERATORS["brush"], width=8, blocks=1)
    assert strength(replace(spec, grain=0.0)) < 1.0
    assert strength(replace(spec, grain=0.05)) > 4.0


def test_the_canvas_of_a_scene_is_a_channel_beside_each_picture() -> None:
    spec = GENERATORS["scene"]
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    seen: list[torch.Tensor] = []

    def network(shown: torch.Tensor) -> torch.Tensor:
        seen.append(shown)
        return 9 * shown[:, :3]

    painted = on_canvas(spec, network, x)
    assert torch.equal(painted, (9 * x).clamp(-1, 1))
    assert torch.equal(seen[0][:, :3], x)
    grain = spec.grain * torch.from_numpy(canvas(0, 16, 24, 1))
    assert all(torch.equal(shown[3:], grain) for shown in seen[0])
    assert grain.std() > 0
