"""Bicubic resampling by strips is that of Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cyclegan_cli.painting import pixels
from cyclegan_cli.painting.pixels import Planes, resized

SIDE = st.integers(1, 60)


@settings(max_examples=40, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(1, 4000), st.integers(1, 9000))
def test_any_size_to_any_size(
    h: int, w: int, to_h: int, to_w: int, strip: int, product: int
) -> None:
    x = np.random.default_rng(h).random((1, h, w), np.float32)
    image = Image.fromarray(x[0])
    expected = np.asarray(image.resize((to_w, to_h), Image.Resampling.BICUBIC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_STRIP", strip)
        patch.setattr(pixels, "_LARGEST", product)
        result = resized(lambda a, b: x[:, a:b], 1, (h, w), (to_h, to_w))
    assert np.abs(result[0] - expected).max() <= 2e-6


def test_only_a_part_of_the_picture_is_read_at_once() -> None:
    x = np.zeros((1, 4000, 2000), np.float32)
    read: list[int] = []

    def rows(start: int, stop: int) -> Planes:
        read.append(stop - start)
        return x[:, start:stop]

    assert resized(rows, 1, (4000, 2000), (400, 200)).shape == (1, 400, 200)
    assert max(read) < 2500
