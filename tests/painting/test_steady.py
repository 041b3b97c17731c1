"""Steady statistics: slow within a scene, new at a cut, and no trace of an earlier picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.painting.effects import Steady
from cyclegan_cli.painting.statistics import Moments
from tests.painting.common import KINDS, network, painter_of, random_pixels

Array = np.ndarray


def moments(mean: float, variance: float = 1.0) -> Moments:
    values = torch.tensor([mean], dtype=torch.float64)
    return Moments(10, values, torch.full_like(values, variance * 10))


def scene(seed: int, level: float, count: int, noise: float = 8.0) -> list[Array]:
    """One picture, of a brightness of its own, seen ``count`` times with a sensor's noise."""
    rng = np.random.default_rng(seed)
    still = random_pixels(48, 64, seed) * 0.5 + level
    return [np.clip(still + rng.normal(0, noise, still.shape), 0, 255).astype(np.uint8)] + [
        np.clip(still + rng.normal(0, noise, still.shape), 0, 255).astype(np.uint8)
        for _ in range(count - 1)
    ]


def cuts(frames: list[Array]) -> list[int]:
    steady = Steady(25.0)
    return [k for k, frame in enumerate(frames) if steady.look(frame)]


def test_cuts_are_found_and_noise_is_none() -> None:
    assert cuts(scene(1, 20, 6, noise=25.0)) == [0]
    assert cuts(scene(1, 20, 6) + scene(2, 90, 5) + scene(3, 10, 4)) == [0, 6, 11]


def test_a_pan_and_a_fade_are_no_cuts() -> None:
    wide = np.kron(random_pixels(8, 60, 4), np.ones((8, 8, 1), np.uint8))
    assert cuts([wide[:, k * 3 : k * 3 + 96] for k in range(40)]) == [0]
    assert cuts([(wide * (1 - k / 50)).astype(np.uint8) for k in range(50)]) == [0]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["uint8", "uint16"]))
def test_every_size_is_looked_at(height: int, width: int, dtype: str) -> None:
    top = np.iinfo(dtype).max
    steady = Steady(25.0)
    black, white = (np.full((height, width, 3), value, dtype) for value in (0, top))
    assert [steady.look(p) for p in (black, black, white, white)] == [True, False, True, False]


def test_statistics_follow_slowly_and_at_the_same_pace_in_time() -> None:
    for rate in (10.0, 50.0):
        steady = Steady(rate)
        frame = random_pixels(16, 16)
        for _ in range(round(rate) + 1):
            steady.look(frame)
            assert steady.override_stats(0, moments(1.0)).mean.item() == pytest.approx(1.0)
        for _ in range(round(rate)):  # one second
            steady.look(frame)
            followed = steady.override_stats(0, moments(2.0, 3.0))
        share = 1 - np.exp(-1)
        assert followed.mean.item() == pytest.approx(1 + share, abs=0.01)
        assert followed.variance.item() == pytest.approx(1 + 2 * share, abs=0.02)
        assert followed.count == 10


def test_the_first_frames_weigh_alike() -> None:
    steady = Steady(25.0)
    for k, value in enumerate((1.0, 3.0, 8.0)):
        steady.look(random_pixels(16, 16))
        assert steady.override_stats(5, moments(value)).mean.item() == pytest.approx(
            np.mean([1.0, 3.0, 8.0][: k + 1])
        )


def test_a_frame_that_is_painted_twice_counts_once() -> None:
    steady = Steady(25.0)
    steady.look(random_pixels(16, 16))
    steady.override_stats(0, moments(0.0))
    steady.look(random_pixels(16, 16))
    assert steady.override_stats(0, moments(4.0)).mean.item() == pytest.approx(2.0)
    assert steady.override_stats(0, moments(4.0)).mean.item() == pytest.approx(2.0)


def test_the_first_frame_and_one_after_a_cut_are_painted_as_pictures() -> None:
    painter = painter_of(network(KINDS["mobile"]))
    steady = Steady(25.0)
    frames = scene(1, 20, 3) + scene(2, 90, 2)
    found = []
    for frame in frames:
        steady.look(frame)
        found.append(painter.paint(frame, override_stats=steady.override_stats))
    alone = [painter.paint(frame) for frame in frames]
    same = [np.array_equal(a, b) for a, b in zip(found, alone, strict=True)]
    assert same == [True, False, False, True, False]


def test_equal_frames_stay_equal() -> None:
    painter = painter_of(network(KINDS["mobile"]))
    steady = Steady(25.0)
    frame = random_pixels(48, 64)
    found = []
    for _ in range(4):
        steady.look(frame)
        found.append(painter.paint(frame, override_stats=steady.override_stats))
    assert all(np.abs(f.astype(int) - found[0]).max() <= 1 for f in found)


def test_what_comes_in_changes_the_rest_less() -> None:
    """A bright bar enters at the left: the far right, which it does not touch, is watched."""
    painter = painter_of(network(KINDS["mobile"]))
    still = np.kron(random_pixels(8, 24, 3), np.ones((8, 8, 1), np.uint8))
    after = still.copy()
    after[:, :16] = 255
    steady = Steady(25.0)
    for _ in range(10):
        assert steady.look(still) is (steady._seen == 1)
        before = painter.paint(still, override_stats=steady.override_stats)
    assert not steady.look(after), "it is no cut"
    calm = painter.paint(after, override_stats=steady.override_stats)
    pairs = ((painter.paint(still), painter.paint(after)), (before, calm))
    plain, slow = (np.abs(a.astype(int) - b)[:, -64:].mean() for a, b in pairs)
    assert plain > 2.0
    assert slow < 0.5 * plain
