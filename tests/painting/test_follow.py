"""The canvas follows the camera: a pan, a still, a cut, and what nobody can follow."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cyclegan_cli.painting.effects import Follower, Steady, movement, paint_picture
from cyclegan_cli.settings import GENERATORS, TranslateSettings
from tests.painting.common import network, painter_of

Array = np.ndarray


def scene(seed: int, height: int, width: int) -> Array:
    """A picture of large and small shapes, as floats."""
    random = np.random.default_rng(seed)
    result = np.zeros((height, width, 3))
    for cells, weight in ((6, 120.0), (24, 70.0), (80, 40.0)):
        coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        result += np.asarray(layer) * (weight / 256)
    return result


def seen(wide: Array, row: int, column: int, size: tuple[int, int] = (96, 128)) -> Array:
    """What a camera with a sensor's noise shows of it from there."""
    part = wide[row : row + size[0], column : column + size[1]]
    noise = np.random.default_rng(row * 1000 + column).normal(0, 4, part.shape)
    return np.clip(part + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("step", [(0, 4), (3, -5), (-9, 16), (0, 1), (0, 0)])
def test_the_origin_goes_where_the_camera_goes(step: tuple[int, int]) -> None:
    wide, follower = scene(1, 300, 400), Follower()
    for k in range(8):
        row, column = 100 + k * step[0], 120 + k * step[1]
        follower.look(seen(wide, row, column), begins=k == 0)
        error = np.abs(np.subtract(follower.origin, (k * step[0], k * step[1])))
        assert error.max() <= 1
        if step == (0, 0):
            assert follower.origin == (0, 0)


def test_large_frames_are_compared_reduced_and_followed_in_their_own_pixels() -> None:
    wide, follower = scene(2, 1400, 2000), Follower()
    for k in range(4):
        follower.look(seen(wide, 10 * k, 20 * k, (1100, 1500)), begins=k == 0)
    assert np.abs(np.subtract(follower.origin, (30, 60))).max() <= 1


def test_what_did_not_move_as_a_whole_leaves_the_canvas_where_it_is() -> None:
    one, other = (scene(seed, 96, 128)[..., 0].astype(np.float32) for seed in (3, 4))
    flat = np.zeros_like(one)
    for pair in ((one, other), (one, flat), (flat, flat), (one[:9], other[:9])):
        assert movement(*pair) == (0.0, 0.0)
    follower = Follower()
    wide = scene(5, 200, 300)
    follower.look(seen(wide, 0, 0), begins=True)
    follower.look(seen(wide, 0, 9), begins=True)
    assert follower.origin == (0, 0), "a scene that begins was not led to"


@pytest.mark.parametrize("resolution", [None, 64])
def test_strokes_stay_on_what_they_were_painted_on(resolution: int | None) -> None:
    """A pan over a flat wall, marked at its corners: its grain moves along with the marks."""
    spec = replace(GENERATORS["brush"], width=4, blocks=2, grain=0.3)
    painter = painter_of(network(spec))
    chosen = TranslateSettings(resolution=resolution)
    wall = scene(6, 96, 228)
    wall[30:70] = 128
    changes = []
    for follows in (False, True):
        average, found = Steady(25.0), []
        for k in range(3):
            frame = wall[:, 8 * k : 8 * k + 128].astype(np.uint8)
            average.look(frame)
            origin = average.origin if follows else (0, 0)
            found.append(paint_picture(painter, frame, chosen, origin=origin).astype(int))
        moved = itertools.pairwise(found)
        changes.append(
            np.mean([np.abs(a[44:56, 48:-40] - b[44:56, 40:-48]).mean() for a, b in moved])
        )
    assert changes[1] < 0.5 * changes[0]


def test_the_canvas_is_one_whatever_its_origin() -> None:
    from cyclegan_cli.engine.grain import PERIOD, canvas

    spec = GENERATORS["scene"]
    whole = canvas(spec, 0, 60, 80)
    assert np.array_equal(canvas(spec, 0, 20, 30, (7, 11)), whole[:, 7:27, 11:41])
    moved = canvas(spec, 5, 20, PERIOD, (-5, PERIOD))
    assert np.array_equal(moved, canvas(spec, 0, 15, PERIOD))
