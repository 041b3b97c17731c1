"""A painting at another size than the photo's, returned at the photo's with its detail."""

from __future__ import annotations

import numpy as np

from cyclegan_cli.painting.pixels import LUMA, Planes
from cyclegan_cli.painting.resample import Filter, resample_rows

__all__ = ["Enlarger"]

_FINE = 1  # pixels of the painting: what differs from the mean this far around is its finest detail
_RADIUS = 2  # the windows in which that detail of photo and painting is compared
_NOISE = 1e-4  # variance, of values in [−1, 1], below which a window counts as flat


class Enlarger:
    """A small painting at the photo's size, strip by strip.

    The enlarged painting gets the detail that the photo lost on its way to the painting's size: the
    top of a Laplacian pyramid (Burt and Adelson, 1983), of the luma. How much of it is decided
    where it falls, as the guided filter does (He, Sun and Tang, 2010): by the slope of the line
    that in a small window leads from the photo's finest detail at the painting's size to the
    painting's, times the share of the painting's that this line explains (r²). Where the painter
    kept an edge, it is as sharp as in the photo; where he painted over a texture, left out a line
    or moved it, it stays so.

    photo: the photo at the painting's size; painting: both 3×h×w in [−1, 1]. ``size``: the
    photo's own height and width.
    """

    def __init__(self, photo: Planes, painting: Planes, size: tuple[int, int]) -> None:
        luma = _luma(photo)
        maps = [painting]
        if size[0] > painting.shape[1] or size[1] > painting.shape[2]:
            maps += [luma, _gain(luma, _luma(painting))]
        self._maps = np.concatenate(maps)
        self._down = Filter.bicubic(painting.shape[1], size[0])
        self._across = Filter.bicubic(painting.shape[2], size[1])

    def rows(self, start: int, stop: int, photo: Planes) -> Planes:
        """Rows start … stop − 1 of the painting: 3×h×W in [−1, 1].

        ``photo``: the same rows of the photo, 3×h×W.
        """
        large = resample_rows(
            lambda a, b: self._maps[:, a:b], self._down, self._across, start, stop
        )
        painting = large[:3]
        if len(large) > 3:
            detail = _luma(photo)
            detail -= large[3]
            detail *= large[4]
            painting += detail
        return np.clip(painting, -1.0, 1.0, out=painting)


def _luma(picture: Planes) -> Planes:
    """3×h×w as 1×h×w."""
    luma: Planes = picture[:1] * LUMA[0]
    luma += picture[1:2] * LUMA[1]
    luma += picture[2:] * LUMA[2]
    return luma


def _gain(photo: Planes, painting: Planes) -> Planes:
    """The slope, 0..1, of the line from the photo's to the painting's fine luma, times its r².

    Of the fine luma, since an edge that was kept would speak for a line beside it that was not,
    which would come back as a scratch.
    """
    photo, painting = photo - _mean(photo, _FINE), painting - _mean(painting, _FINE)
    mean, painted = _mean(photo), _mean(painting)
    common = _mean(photo * painting) - mean * painted
    slope = common / (_mean(photo * photo) - mean * mean + np.float32(_NOISE))
    explained = common * slope
    explained /= _mean(painting * painting) - painted * painted + np.float32(_NOISE)
    return _mean(slope.clip(0.0, 1.0) * explained.clip(0.0, 1.0))


def _mean(x: Planes, radius: int = _RADIUS) -> Planes:
    """The mean over the square window around each pixel, as far as it lies in the picture."""
    return _along(_along(x, 2, radius), 1, radius)


def _along(x: Planes, axis: int, radius: int) -> Planes:
    """The mean of up to 2 ``radius`` + 1 values along ``axis``."""
    size = x.shape[axis]
    total = x.copy()
    for shift in range(1, min(radius, size - 1) + 1):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(size - shift), slice(shift, None)
        total[tuple(low)] += x[tuple(high)]
        total[tuple(high)] += x[tuple(low)]
    places = np.arange(size)
    count = np.minimum(places, radius) + np.minimum(size - 1 - places, radius) + 1
    shape = (1, 1, -1) if axis == 2 else (1, -1, 1)
    mean: Planes = total / count.astype(np.float32).reshape(shape)
    return mean
