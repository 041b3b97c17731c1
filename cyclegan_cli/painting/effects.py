"""Options of a painting: resolution, strength, the photo's colours, side by side.

Colours are combined in OKLab (Ottosson, "A perceptual color space for image processing", 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.media.colour import encode_srgb
from cyclegan_cli.painting.pixels import (
    Enlarger,
    Pixels,
    Planes,
    check,
    from_planes,
    matmul_left,
    resized,
    to_planes,
)
from cyclegan_cli.painting.strips import check_memory
from cyclegan_cli.settings import TranslateSettings

if TYPE_CHECKING:
    from cyclegan_cli.painting.painter import Painter
    from cyclegan_cli.painting.statistics import OverrideStats

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
