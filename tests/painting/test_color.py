"""keep-color: brightness of one picture, colours of the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.painting.effects import _to_lab, with_colors_of
from cyclegan_cli.painting.pixels import Planes

UNIT = st.floats(0, 1, width=32)
COLOR = st.tuples(UNIT, UNIT, UNIT)


def pixel(color: tuple[float, float, float]) -> Planes:
    """One pixel of sRGB values in 0..1."""
    return (np.array(color, np.float32) * 2 - 1).reshape(3, 1, 1)


def linear(picture: Planes) -> Planes:
    coded = (picture + 1) / 2
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


@settings(max_examples=60, deadline=None)
@given(COLOR)
def test_a_picture_with_its_own_colours_is_itself(color: tuple[float, float, float]) -> None:
    x = pixel(color)
    assert np.abs(with_colors_of(x, x) - x).max() <= 4e-3  # half an 8-bit level


@settings(max_examples=100, deadline=None)
@given(COLOR, COLOR)
def test_within_range_and_never_not_a_number(
    photo: tuple[float, float, float], painting: tuple[float, float, float]
) -> None:
    result = with_colors_of(pixel(photo), pixel(painting))
    assert np.isfinite(result).all()
    assert result.min() >= -1
    assert result.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 1.0])
def test_a_grey_photo_stays_grey_and_takes_the_paintings_lightness(value: float) -> None:
    painting = pixel((0.8, 0.3, 0.1))
    result = with_colors_of(pixel((value,) * 3), painting)
    assert (result.max() - result.min()) < 1e-2
    assert _to_lab(result)[0].item() == pytest.approx(_to_lab(painting)[0].item(), abs=0.01)


def test_a_grey_painting_of_the_same_lightness_gives_the_photo_back() -> None:
    photo = pixel((0.7, 0.4, 0.3))
    light = _to_lab(photo)[0].item()
    grey = light**3  # of linear sRGB, all three alike
    coded = 1.055 * grey ** (1 / 2.4) - 0.055
    result = with_colors_of(photo, pixel((coded,) * 3))
    assert np.abs(result - photo).max() <= 8e-3


def test_what_is_painted_brighter_loses_colour_rather_than_brightness() -> None:
    """Pure blue cannot be bright: it goes towards white, not towards cyan or clipped noise."""
    result = linear(with_colors_of(pixel((0.0, 0.0, 1.0)), pixel((0.9, 0.9, 0.9))))[:, 0, 0]
    red, green, blue = result.tolist()
    assert blue > 0.99
    assert abs(red - green) < 0.25
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert luminance > 0.5
