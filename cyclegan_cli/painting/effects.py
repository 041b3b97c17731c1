"""What a user can ask of a painting: coarser strokes, less of it, the photo's colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cyclegan_cli.painting.color import with_colors_of
from cyclegan_cli.painting.detail import Enlarger
from cyclegan_cli.painting.memory import check_room
from cyclegan_cli.painting.pixels import Pixels, Planes, check, from_planes, to_planes
from cyclegan_cli.painting.resample import resized
from cyclegan_cli.settings import TranslateSettings

if TYPE_CHECKING:
    from cyclegan_cli.painting.statistics import OverrideStats

__all__ = ["Paints", "paint_picture"]

_STRIP = 2**17  # pixels that are worked on at once: they stay in the processor's caches
# Bytes a pixel of the painting's size, at their most: the photo, the painting as pixels and as
# planes, the Enlarger's five maps.
_RESIZED = 4 * (3 + 3 + 3 + 5)


class Paints(Protocol):
    """Paints H×W×3 pixels at their size: ``painter.Painter``, or several processes together."""

    def paint(
        self,
        pixels: Pixels,
        *,
        override_stats: OverrideStats | None = None,
        origin: tuple[int, int] = (0, 0),
        deep: bool | None = None,
    ) -> Pixels: ...


def paint_picture(
    painter: Paints,
    pixels: Pixels,
    settings: TranslateSettings,
    *,
    override_stats: OverrideStats | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Pixels:
    """Paint ``pixels`` as ``settings`` ask: resolution, keep_color, strength, compare, in order.

    pixels: H×W×3, uint8, uint16, or float32 in [−1, 1]. Returns the same shape and dtype; with
    ``compare`` H×2W×3: the original on the left, the result on the right, with no gap.
    ``strength`` blends sRGB values, as the opacity of a layer does. ``override_stats``, and
    ``origin`` in pixels of the picture: as for ``Painter.paint``.
    Raises PictureError for arrays of another shape or type, and where memory does not suffice.
    """
    check(pixels)
    strength = settings.strength
    if strength == 0:
        painted = pixels.copy()
    else:
        painted = _painted(painter, pixels, settings, override_stats, origin)
    return np.concatenate([pixels, painted], axis=1) if settings.compare else painted


def _painted(
    painter: Paints,
    pixels: Pixels,
    settings: TranslateSettings,
    override_stats: OverrideStats | None,
    origin: tuple[int, int],
) -> Pixels:
    height, width = pixels.shape[:2]
    enlarger = _at_resolution(painter, pixels, settings, override_stats, origin)
    if enlarger is None:
        result = painter.paint(pixels, override_stats=override_stats, origin=origin)
        if settings.strength == 1.0 and not settings.keep_color:
            return result
    else:
        result = np.empty_like(pixels, order="C")
    for start, stop in _strips(height, width):
        photo = to_planes(pixels[start:stop], 3)
        if enlarger is None:
            painting = to_planes(result[start:stop], 3)
        else:
            painting = enlarger.rows(start, stop, photo)
        if settings.keep_color:
            painting = with_colors_of(photo, painting)
        if settings.strength < 1.0:
            painting = _blended(photo, painting, settings.strength)
        result[start:stop] = from_planes(painting, pixels.dtype)
    return result


def _at_resolution(
    painter: Paints,
    pixels: Pixels,
    settings: TranslateSettings,
    override_stats: OverrideStats | None,
    origin: tuple[int, int],
) -> Enlarger | None:
    """``pixels`` painted with their long side at the resolution; None where that is their own."""
    height, width = pixels.shape[:2]
    resolution, limit = settings.resolution, settings.at_most
    if resolution is None and limit is not None and limit < max(height, width):
        resolution = limit
    if resolution is None or resolution == max(height, width):
        return None
    scale = resolution / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if resolution > max(height, width):  # a number that was typed can be of any size
        what = f"Painting it at {size[1]}×{size[0]} pixels (--resolution {resolution})"
        check_room(what, size[0] * size[1] * _RESIZED, settings.max_memory)
    photo = resized(lambda a, b: to_planes(pixels[a:b], 3), 3, (height, width), size)
    photo.clip(-1.0, 1.0, out=photo)
    moved = (round(origin[0] * scale), round(origin[1] * scale))
    painted = painter.paint(
        photo.transpose(1, 2, 0),
        override_stats=override_stats,
        origin=moved,
        deep=pixels.dtype == np.uint16,
    )
    return Enlarger(photo, to_planes(painted, 3), (height, width))


def _blended(photo: Planes, painting: Planes, share: float) -> Planes:
    """``share`` of the painting, the rest of the photo; the painting's values are changed."""
    painting -= photo
    painting *= np.float32(share)
    painting += photo
    return painting


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _STRIP // width)
    for start in range(0, height, step):
        yield start, min(start + step, height)
