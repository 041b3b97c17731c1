"""The grain: one canvas, whoever asks for which part of it, and what strokes in flat skies need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.engine.grain import (
    COARSE,
    PERIOD,
    canvas,
    coarse_tile,
    drawn,
    fresh,
    on_canvas,
)
from cyclegan_cli.engine.networks import Generator, initialise
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.settings import GENERATORS, GeneratorSpec
from tests.painting.common import painter_of

FINE = GeneratorSpec(grain=1.0)
BOTH = GeneratorSpec(grain=0.1, coarse=0.3)


def test_it_is_nearly_normal_and_says_nothing_of_its_neighbours() -> None:
    grain = torch.from_numpy(canvas(FINE, 0, PERIOD, PERIOD)).double()
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
@given(
    st.sampled_from([FINE, BOTH]),
    st.integers(0, 3000),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 1100),
    st.integers(-2000, 2000),
)
def test_parts_of_the_canvas_fit_together(
    spec: GeneratorSpec, start: int, first: int, then: int, columns: int, left: int
) -> None:
    stop = start + first + then
    whole = canvas(spec, start, stop, columns, (0, left))
    parts = (
        canvas(spec, start, start + first, columns, (0, left)),
        canvas(spec, start + first, stop, columns, (0, left)),
    )
    assert np.array_equal(whole, np.concatenate(parts, axis=1))
    assert np.array_equal(whole, canvas(spec, start, stop, columns, (PERIOD, left - PERIOD)))
    assert np.array_equal(
        whole[:, :, 1:], canvas(spec, start, stop, columns, (0, left + 1))[:, :, :-1]
    )


def test_coarse_noise_is_a_quarter_of_the_size_brought_to_full_size() -> None:
    spec = replace(GENERATORS["scene"], grain=0.0, coarse=0.5)
    small = torch.from_numpy(coarse_tile())
    assert small.shape == (PERIOD // COARSE, PERIOD // COARSE)
    assert float(small.std()) == pytest.approx(1, abs=0.01)
    around = F.pad(small[None, None], (1, 1, 1, 1), mode="circular")
    large = F.interpolate(around, scale_factor=COARSE, mode="bilinear")
    expected = 0.5 * large[0, :, COARSE:-COARSE, COARSE:-COARSE]
    painted = torch.from_numpy(canvas(spec, 0, PERIOD, PERIOD))
    torch.testing.assert_close(painted, expected, rtol=0, atol=1e-6)


def test_coarse_noise_of_a_training_is_like_that_of_a_painting() -> None:
    spec = replace(GENERATORS["scene"], grain=0.0, coarse=1.0)
    like = torch.zeros(3, 1, 250, 130)
    noise = fresh(spec, like, 5)
    assert noise.shape == like.shape
    assert torch.equal(noise, fresh(spec, like, 5))
    assert not torch.equal(noise, fresh(spec, like, 6))
    canvas_ = torch.from_numpy(canvas(spec, 0, 1000, 1000))
    assert float(noise.std()) == pytest.approx(float(canvas_.std()), rel=0.03)
    for step in (1, 3, 6):  # as alike at every distance
        products = [float((x[..., step:] * x[..., :-step]).mean()) for x in (noise, canvas_)]
        assert products[0] == pytest.approx(products[1], abs=0.03)


def test_a_file_of_a_generator_without_later_parts_says_nothing_of_them() -> None:
    assert not {"coarse", "smooth_chroma"} & set(GENERATORS["brush"].to_json())
    assert GENERATORS["brush"].to_json()["code"] == 0  # which earlier versions want to know
    for spec in (GENERATORS["brush"], GENERATORS["scene"]):
        assert GeneratorSpec.from_json(spec.to_json()) == spec
    for bad in (-0.1, 1.5, float("nan"), "0.3", True):
        with pytest.raises(WeightsError):
            GeneratorSpec.from_json({**GENERATORS["scene"].to_json(), "coarse": bad})


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
    assert strength(replace(spec, grain=0.0, coarse=0.05)) > 2.0


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
    grain = torch.from_numpy(canvas(spec, 0, 16, 24))
    assert all(torch.equal(shown[3:], grain) for shown in seen[0])
    assert grain.std() > 0
