"""Options of a painting: resolution, strength, the photo's colours, side by side; steady videos.

Colours are combined in OKLab (Ottosson, "A perceptual color space for image processing", 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.media.colour import encode_srgb
from cyclegan_cli.painting.pixels import (
    LUMA,
    Enlarger,
    Pixels,
    Planes,
    check,
    from_planes,
    matmul_left,
    resized,
    to_planes,
)
from cyclegan_cli.painting.statistics import Moments, OverrideStats
from cyclegan_cli.painting.strips import check_memory
from cyclegan_cli.settings import TranslateSettings

if TYPE_CHECKING:
    from cyclegan_cli.painting.painter import Painter

_STRIP = 2**17  # pixels of a strip: they stay in the processor's caches
# Bytes a pixel of the painting: photo, painting as pixels and as planes, the Enlarger's maps.
_RESIZED = 4 * (3 + 3 + 3 + 5)

_LMS = np.array((  # linear sRGB to the cones' responses
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
))  # fmt: skip
_LAB = np.array((  # their cube roots to lightness, green–red and blue–yellow
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
))  # fmt: skip
_FORTH = (_LMS.astype(np.float32), _LAB.astype(np.float32))
_BACK = (np.linalg.inv(_LAB).astype(np.float32), np.linalg.inv(_LMS).astype(np.float32))
_LUMINANCE = np.array([[0.2126, 0.7152, 0.0722]], np.float32)  # of linear sRGB


def paint_picture(
    painter: Painter,
    pixels: Pixels,
    settings: TranslateSettings,
    *,
    override_stats: OverrideStats | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Pixels:
    """Paint ``pixels`` with resolution, keep_color, strength, compare of ``settings``, in order.

    pixels: H×W×3, uint8, uint16, or float32 in [−1, 1]. Returns the same shape and dtype, or with
    ``compare`` H×2W×3, the original on the left. The rest, and what is raised: as
    ``Painter.paint``.
    """
    check(pixels)
    if settings.strength == 0:
        painted = pixels.copy()
    else:
        paint = partial(painter.paint, override_stats=override_stats)
        painted = _painted(paint, pixels, settings, origin)
    return np.concatenate([pixels, painted], axis=1) if settings.compare else painted


def _painted(
    paint: Callable[..., Pixels],
    pixels: Pixels,
    settings: TranslateSettings,
    origin: tuple[int, int],
) -> Pixels:
    height, width = pixels.shape[:2]
    enlarger = _at_resolution(paint, pixels, settings, origin)
    if enlarger is None:
        result = paint(pixels, origin=origin)
        if settings.strength == 1.0 and not settings.keep_color:
            return result
    else:
        result = np.empty_like(pixels, order="C")
    step = max(1, _STRIP // width)
    for start in range(0, height, step):
        stop = min(start + step, height)
        photo = to_planes(pixels[start:stop], 3)
        if enlarger is None:
            painting = to_planes(result[start:stop], 3)
        else:
            painting = enlarger.rows(start, stop, photo)
        if settings.keep_color:
            painting = with_colors_of(photo, painting)
        if settings.strength < 1.0:
            painting -= photo
            painting *= np.float32(settings.strength)
            painting += photo
        result[start:stop] = from_planes(painting, pixels.dtype)
    return result


def _at_resolution(
    paint: Callable[..., Pixels],
    pixels: Pixels,
    settings: TranslateSettings,
    origin: tuple[int, int],
) -> Enlarger | None:
    """The painting at the resolution of ``settings``; None if that is the picture's own."""
    height, width = pixels.shape[:2]
    resolution, limit = settings.resolution, settings.at_most
    if resolution is None and limit is not None and limit < max(height, width):
        resolution = limit
    if resolution is None or resolution == max(height, width):
        return None
    scale = resolution / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if resolution > max(height, width):  # any number can be typed
        what = f"Painting it at {size[1]}×{size[0]} pixels (--resolution {resolution})"
        check_memory(what, size[0] * size[1] * _RESIZED, settings.max_memory)
    photo = resized(lambda a, b: to_planes(pixels[a:b], 3), 3, (height, width), size)
    photo.clip(-1.0, 1.0, out=photo)
    moved = (round(origin[0] * scale), round(origin[1] * scale))
    painted = paint(photo.transpose(1, 2, 0), origin=moved, deep=pixels.dtype == np.uint16)
    return Enlarger(photo, to_planes(painted, 3), (height, width))


def with_colors_of(photo: Planes, painting: Planes) -> Planes:
    """The painting's lightness with the photo's hue and saturation: sRGB, 3×h×w in [−1, 1].

    The chroma is scaled with the lightness, and colours outside sRGB move towards their grey.
    """
    lab, light = _to_lab(photo), _to_lab(painting)[0]
    lab[1:] *= np.minimum(light / np.maximum(lab[0], np.float32(1e-3)), np.float32(1.5))
    lab[0] = light
    roots = _mix(_BACK[0], lab)
    coded = encode_srgb(_into_gamut(_mix(_BACK[1], roots * roots * roots)))
    coded *= np.float32(2.0)
    coded -= np.float32(1.0)
    return np.clip(coded, -1.0, 1.0, out=coded)


def _to_lab(picture: Planes) -> Planes:
    """3×h×w sRGB in [−1, 1] as OKLab, 3×h×w."""
    coded = ((picture + np.float32(1.0)) * np.float32(0.5)).clip(0.0, 1.0)
    curve = ((coded + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    linear = np.where(coded <= np.float32(0.04045), coded / np.float32(12.92), curve)
    cones = _mix(_FORTH[0], linear)
    return _mix(_FORTH[1], cones.clip(0.0, None) ** np.float32(1 / 3))


def _mix(matrix: NDArray[np.float32], planes: Planes) -> Planes:
    mixed = np.empty((len(matrix), *planes.shape[1:]), np.float32)
    matmul_left(matrix, planes.reshape(1, 3, -1), mixed.reshape(1, len(matrix), -1))
    return mixed


def _into_gamut(rgb: Planes) -> Planes:
    """Linear sRGB moved into 0..1, towards the grey of the same luminance."""
    grey = _mix(_LUMINANCE, rgb).clip(0.0, 1.0)
    away = rgb - grey
    limit = np.where(away > 0, np.float32(1.0) - grey, grey)
    share = (limit / np.maximum(np.abs(away), np.float32(1e-6))).min(0)
    inside: Planes = grey + away * np.minimum(share, np.float32(1.0))
    return inside


# -- videos without flicker: statistics that change slowly, a canvas that follows the camera ------
#
# InstanceNorm measures every frame, so an object that enters changes the colours of the whole
# picture. Here statistics are exponential averages over a scene's frames. The strokes of a style
# with grain are tied to its canvas, which moves with the picture, not with the screen.

_SECONDS = 1.0  # the time constant of the average
_GRID = 12  # a frame is compared with the one before by the means of 12×12 fields
_CUT = 0.09  # of the range of values: by how much fields change, on average, at a cut
_OUTLIER = 3.0  # and how many times what they changed by before
_SIDE = 512  # pixels: larger frames are reduced to about that height or width to be compared
_SMOOTH = 0.12  # cycles a pixel up to which frames are compared: above them there is mostly noise
_NOISE = 4.0  # levels of 255: the deviation of a sensor's noise
_LEAST = 1e-4  # of the sum of all frequencies: with less, nothing but noise is there to compare
_SURE = 0.25  # of the peak of a frame that is only moved: below it, it did something else
_STILL = 0.1  # of a pixel of the compared frames: less is a camera that stands still

_Field = NDArray[np.float32]


class Steady:
    """The statistics of a video's scenes: ``look`` at each frame, then paint it with
    ``override_stats`` and ``origin``. ``rate``: frames a second.
    """

    def __init__(self, rate: float) -> None:
        self._weight = 1.0 - math.exp(-1.0 / (_SECONDS * max(rate, 1e-3)))
        self._held: dict[int, Moments] = {}
        self._next: dict[int, Moments] = {}
        self._fields: NDArray[np.float32] | None = None
        self._usual = 0.0
        self._seen = 0  # frames of this scene
        self._follower = Follower()

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the canvas in this frame's corner."""
        return self._follower.origin

    def look(self, pixels: Pixels) -> bool:
        """Take the next frame: H×W×3, uint8 or uint16. Returns whether a scene begins with it.

        At a cut, the 12×12 mean colours differ from the frame before by 9% of the range on average,
        and by 3 times what is usual in this scene.
        """
        fields = _fields(pixels)
        change = 0.0 if self._fields is None else float(np.abs(fields - self._fields).mean())
        cut = self._fields is None or (change > _CUT and change > _OUTLIER * self._usual)
        self._fields = fields
        self._follower.look(pixels, begins=cut)
        self._held = {} if cut else self._next
        self._next = {}
        self._seen = 1 if cut else self._seen + 1
        self._usual = 0.0 if cut else self._usual + (change - self._usual) * 0.3
        return cut

    def override_stats(self, number: int, measured: Moments) -> Moments:
        """Those of InstanceNorm ``number``; a scene's first frames have equal weights."""
        held = self._held.get(number)
        weight = max(self._weight, 1.0 / self._seen) if self._seen else 1.0
        stats = measured if held is None else held.blend(measured, weight)
        self._next[number] = stats
        return stats


def _fields(pixels: Pixels) -> NDArray[np.float32]:
    """The mean colours of 12×12 fields (fewer in smaller pictures), 0..1."""
    height, width = pixels.shape[:2]
    rows = np.linspace(0, height, min(_GRID, height), endpoint=False, dtype=np.intp)
    columns = np.linspace(0, width, min(_GRID, width), endpoint=False, dtype=np.intp)
    sums = np.add.reduceat(pixels, rows, axis=0, dtype=np.float32)
    sums = np.add.reduceat(sums, columns, axis=1)
    areas = np.diff(rows, append=height)[:, None] * np.diff(columns, append=width)
    scale = float(np.iinfo(pixels.dtype).max)
    return np.asarray(sums / (areas[..., None] * scale), np.float32)


class Follower:
    """``look`` at each frame; ``origin``: row and column of the canvas at the frame's corner."""

    def __init__(self) -> None:
        self._before: _Field | None = None
        self._place = np.zeros(2)

    @property
    def origin(self) -> tuple[int, int]:
        row, column = np.rint(self._place).astype(int).tolist()
        return row, column

    def look(self, pixels: Pixels, *, begins: bool) -> None:
        """Take the next frame: H×W×3, uint8 or uint16. ``begins``: nothing leads to it."""
        field, scale = _reduced(pixels)
        if not begins and self._before is not None and self._before.shape == field.shape:
            self._place -= np.multiply(movement(self._before, field), scale)
        self._before = field


def movement(before: _Field, after: _Field) -> tuple[float, float]:
    """Rows and columns by which the picture moved from ``before`` to ``after``; 0, 0 if unsure.

    The peak of the phase correlation (Kuglin and Hines, 1975) of the low frequencies, with a
    parabola for fractions of a pixel. Both h×w, in levels of 255.
    """
    height, width = before.shape
    if min(height, width) < 16:
        return 0.0, 0.0
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    one, other = (np.fft.rfft2((field - field.mean()) * window) for field in (before, after))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    weights = np.exp(-(rows**2 + columns**2) / (2 * _SMOOTH**2))
    weights[0, 0] = 0.0  # the mean, which has been taken out
    cross = other * one.conj()
    # Frequencies with no more than a sensor's noise get no weight.
    weights /= np.abs(cross) + _NOISE**2 * float((window**2).sum())
    surface = np.fft.irfft2(weights * cross, (height, width))
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    agreed = np.fft.irfft2(weights * np.abs(cross), (height, width))[0, 0]
    if agreed < _LEAST or surface[row, column] < _SURE * agreed:
        return 0.0, 0.0
    found = (_peak(surface[:, column], int(row)), _peak(surface[row], int(column)))
    return found if max(map(abs, found)) > _STILL else (0.0, 0.0)


def _peak(line: NDArray[np.float64], place: int) -> float:
    """The position of the maximum around ``place``; past the middle it is negative."""
    size = len(line)
    low, top, high = line[place - 1], line[place], line[(place + 1) % size]
    bend = low - 2 * top + high
    exact = place + (0.5 * (low - high) / bend if bend < 0 else 0.0)
    return float(exact - size if exact > size / 2 else exact)


def _reduced(pixels: Pixels) -> tuple[_Field, int]:
    """(luma as means of squares of pixels, in levels of 255, the side of a square)."""
    scale = max(1, round(min(pixels.shape[:2]) / _SIDE))
    height, width = (side // scale * scale for side in pixels.shape[:2])
    shares = LUMA * (255 / np.iinfo(pixels.dtype).max)
    luma = pixels[:height, :width] @ shares.astype(np.float32)
    squares = luma.reshape(height // scale, scale, width // scale, scale)
    return squares.mean((1, 3), dtype=np.float32), scale
