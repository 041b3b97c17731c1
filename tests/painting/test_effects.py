"""resolution, strength, keep_color and compare around any painter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch.nn import functional

from cyclegan_cli.errors import PictureError
from cyclegan_cli.painting import effects
from cyclegan_cli.painting.by_torch import to_tensor
from cyclegan_cli.painting.effects import paint_picture
from cyclegan_cli.painting.pixels import Enlarger, Pixels
from cyclegan_cli.painting.statistics import OverrideStats
from cyclegan_cli.settings import TranslateSettings
from tests.painting.common import KINDS, network, painter_of, random_pixels


class Painter:
    """Stands in for a painter: any function of float32 pixels in [−1, 1]; notes the sizes."""

    def __init__(self, function: Any = lambda x: x) -> None:
        self.function, self.sizes = function, []

    def paint(
        self,
        pixels: Pixels,
        *,
        override_stats: OverrideStats | None = None,
        origin: tuple[int, int] = (0, 0),
        deep: bool | None = None,
    ) -> Pixels:
        self.sizes.append(pixels.shape[:2])
        if pixels.dtype == np.float32:
            return self.function(pixels).astype(np.float32)
        top = np.iinfo(pixels.dtype).max
        painted = (self.function(pixels / top * 2.0 - 1) + 1) * top / 2
        return np.rint(painted).clip(0, top).astype(pixels.dtype)


def paint(painter: Painter, pixels: Pixels, **chosen: Any) -> Pixels:
    before = pixels.copy()
    result = paint_picture(painter, pixels, TranslateSettings(**chosen))
    assert np.array_equal(pixels, before)
    return result


@pytest.fixture(autouse=True)
def _small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "_STRIP", 500)


def smooth(height: int, width: int) -> Pixels:
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    return np.rint(127.5 + 100 * np.stack(planes, 2)).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_nothing_asked_is_the_painting_itself(dtype: str) -> None:
    pixels = random_pixels(21, 34, dtype=dtype)
    translator = painter_of(network(KINDS["mobile"]))
    plain = paint_picture(translator, pixels, TranslateSettings())
    assert np.array_equal(plain, translator.paint(pixels))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_strength(dtype: str) -> None:
    pixels, inverse = random_pixels(40, 31, dtype=dtype), Painter(lambda x: -x)
    assert np.array_equal(paint(inverse, pixels, strength=0.0), pixels)
    assert np.array_equal(paint(inverse, pixels, strength=1.0), inverse.paint(pixels))
    quarter = paint(inverse, pixels, strength=0.25).astype(float)
    blended = 0.75 * pixels + 0.25 * inverse.paint(pixels)
    tolerance = 1e-6 if dtype == "float32" else 0.51
    assert np.abs(quarter - blended).max() <= tolerance
    assert paint(inverse, pixels, strength=0.25).dtype == pixels.dtype


def test_strength_0_does_not_paint() -> None:
    painter = Painter()
    paint(painter, smooth(20, 20), strength=0.0, resolution=16, keep_color=True)
    assert painter.sizes == []


def test_compare_puts_the_original_on_the_left() -> None:
    pixels = smooth(20, 33)
    both = paint(Painter(lambda x: -x), pixels, compare=True)
    assert both.shape == (20, 66, 3)
    assert np.array_equal(both[:, :33], pixels)
    assert np.array_equal(both[:, 33:], 255 - pixels)


@pytest.mark.parametrize(
    ("size", "resolution", "painted"),
    [
        ((60, 90), 30, (20, 30)),
        ((90, 60), 30, (30, 20)),
        ((60, 90), 180, (120, 180)),
        ((60, 90), 90, (60, 90)),
        ((1, 500), 16, (1, 16)),
        ((2, 3), 32, (21, 32)),
    ],
)
def test_painted_at_the_resolution_and_returned_at_the_size(size, resolution, painted) -> None:
    painter, pixels = Painter(), smooth(*size)
    result = paint(painter, pixels, resolution=resolution)
    assert painter.sizes == [painted]
    assert result.shape == pixels.shape
    if resolution > 16:  # an idle painter changes little
        assert np.abs(result.astype(int) - pixels).mean() <= 2


def test_what_a_style_was_made_for_bounds_what_is_not_asked() -> None:
    painter, pixels = Painter(), smooth(60, 90)
    for chosen, size in (
        ({"at_most": 30}, (20, 30)),
        ({"at_most": 90}, (60, 90)),
        ({"at_most": 200}, (60, 90)),
        ({"at_most": 30, "resolution": 45}, (30, 45)),
    ):
        painter.sizes.clear()
        assert paint(painter, pixels, **chosen).shape == pixels.shape
        assert painter.sizes == [size]


def test_an_idle_painter_gives_the_detail_back() -> None:
    """Noise that is finer than the painting's pixels comes back where nothing was painted over."""
    rng = np.random.default_rng(0)
    pixels = (smooth(96, 96).astype(int) // 2 + 50 + rng.integers(0, 60, (96, 96, 1))).astype("u1")
    with_detail = paint(Painter(), pixels, resolution=48).astype(int)
    luma = np.array([0.299, 0.587, 0.114])
    lost = to_tensor(pixels, 1)
    small = functional.interpolate(lost, (48, 48), mode="bicubic", antialias=True)
    plain = functional.interpolate(small, (96, 96), mode="bicubic", antialias=True)
    without = (plain[0, 0].numpy() + 1) * 127.5
    exact = pixels @ luma
    error_with, error_without = (
        np.abs(x - exact)[8:-8, 8:-8].mean() for x in (with_detail @ luma, without)
    )
    assert error_with < 0.25 * error_without


def test_a_line_that_was_left_out_beside_an_edge_leaves_no_scratch() -> None:
    """The edge is the photo's, as sharp as there; the dark line 10 pixels beside it stays away."""
    pixels = np.full((160, 160, 3), 180, np.uint8)
    pixels[:, 84:] = 60
    pixels[:, 72:74] = 20

    def only_the_edge(small: Any) -> Any:
        painted = np.full_like(small, 180 / 127.5 - 1)
        painted[:, small.shape[1] * 84 // 160 :] = 60 / 127.5 - 1
        return painted

    row = paint(Painter(only_the_edge), pixels, resolution=40)[80, :, 0].astype(int)
    assert np.abs(row[:80] - 180).max() <= 12
    assert row[82] - row[85] > 80, "the edge: 120 levels, smeared over 4 pixels by the enlargement"


def test_what_was_painted_over_stays_painted_over() -> None:
    """A painter that makes everything flat: no texture of the photo may come back."""
    pixels = random_pixels(80, 80)
    result = paint(Painter(lambda x: np.full_like(x, 0.2)), pixels, resolution=40)
    assert np.ptp(result.astype(int)) <= 1


def test_an_edge_that_was_kept_is_as_sharp_as_in_the_photo() -> None:
    pixels = np.full((64, 64, 3), 40, np.uint8)
    pixels[:, 32:] = 200
    result = paint(Painter(lambda x: x * 0.8), pixels, resolution=16).astype(int)
    step = result[32, 32, 0] - result[32, 31, 0]
    assert step > 0.7 * 0.8 * 160  # enlarging alone gives about a quarter of it


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_pixels(70, 50)
    chosen = {"resolution": 24, "keep_color": True, "strength": 0.7}
    thin = paint(Painter(lambda x: -x), pixels, **chosen)
    monkeypatch.setattr(effects, "_STRIP", 10**9)
    assert np.abs(thin.astype(int) - paint(Painter(lambda x: -x), pixels, **chosen)).max() <= 1


def test_keep_color() -> None:
    """A painter that only darkens, and swaps red and blue: the hue comes back, the dark stays."""
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:] = (180, 90, 60)
    result = paint(Painter(lambda x: x[..., ::-1] - 0.2), pixels, keep_color=True)
    red, green, blue = result[10, 10].tolist()
    assert red > green > blue
    assert red < 180


def test_rows_of_an_enlarger_are_those_of_the_whole() -> None:
    random = np.random.default_rng(0)
    photo, painting = random.random((2, 3, 20, 30), np.float32) * 2 - 1
    large = random.random((3, 61, 92), np.float32) * 2 - 1
    enlarger = Enlarger(photo, painting, (61, 92))
    whole = enlarger.rows(0, 61, large)
    parts = [enlarger.rows(a, min(a + 7, 61), large[:, a : a + 7]) for a in range(0, 61, 7)]
    assert np.abs(np.concatenate(parts, 1) - whole).max() <= 1e-6


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(PictureError):
        paint(Painter(), np.zeros((5, 5), np.uint8))
