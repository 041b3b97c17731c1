"""A painting at another size than the photo's, returned at the photo's with its detail."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.painting.resample import Filter, resample_rows

__all__ = ["Enlarger"]

_FINE = 1  # pixels of the painting: what differs from the mean this far around is its finest detail
_RADIUS = 2  # the windows in which that detail of photo and painting is compared
_NOISE = 1e-4  # variance, of values in [−1, 1], below which a window counts as flat
_LUMA = torch.tensor([0.299, 0.587, 0.114])


class Enlarger:
    """A small painting at the photo's size, strip by strip.

    The enlarged painting gets the detail that the photo lost on its way to the painting's size: the
    top of a Laplacian pyramid (Burt and Adelson, 1983), of the luma. How much of it is decided
    where it falls, as the guided filter does (He, Sun and Tang, 2010): by the slope of the line
    that in a small window leads from the photo's finest detail at the painting's size to the
    painting's, times the share of the painting's that this line explains (r²). Where the painter
    kept an edge, it is as sharp as in the photo; where he painted over a texture, left out a line
    or moved it, it stays so.

    photo: the photo at the painting's size; painting: both 1×3×h×w in [−1, 1]. ``size``: the
    photo's own height and width.
    """

    def __init__(self, photo: Tensor, painting: Tensor, size: tuple[int, int]) -> None:
        luma = _luma(photo)
        maps = [painting]
        if size[0] > painting.shape[2] or size[1] > painting.shape[3]:
            maps += [luma, _gain(luma, _luma(painting))]
        self._maps = torch.cat(maps, 1)
        self._down = Filter.bicubic(painting.shape[2], size[0])
        self._across = Filter.bicubic(painting.shape[3], size[1])

    def rows(self, start: int, stop: int, photo: Tensor) -> Tensor:
        """Rows start … stop − 1 of the painting: 1×3×h×W in [−1, 1].

        ``photo``: the same rows of the photo, 1×3×h×W.
        """
        read: Callable[[int, int], Tensor] = lambda a, b: self._maps[:, :, a:b]  # noqa: E731
        large = resample_rows(read, self._down, self._across, start, stop)
        painting = large[:, :3]
        if large.shape[1] > 3:
            detail = _luma(photo).sub_(large[:, 3:4])
            painting = painting + detail.mul_(large[:, 4:5])
        return painting.clamp_(-1.0, 1.0)


def _luma(picture: Tensor) -> Tensor:
    return torch.einsum("c,nchw->nhw", _LUMA, picture)[:, None]


def _gain(photo: Tensor, painting: Tensor) -> Tensor:
    """The slope, 0..1, of the line from the photo's to the painting's fine luma, times its r².

    Of the fine luma, since an edge that was kept would speak for a line beside it that was not,
    which would come back as a scratch.
    """
    photo, painting = photo - _mean(photo, _FINE), painting - _mean(painting, _FINE)
    mean, painted = _mean(photo), _mean(painting)
    common = _mean(photo * painting).sub_(mean * painted)
    slope = common / _mean(photo * photo).sub_(mean * mean).add_(_NOISE)
    explained = common.mul_(slope)
    explained /= _mean(painting * painting).sub_(painted * painted).add_(_NOISE)
    return _mean(slope.clamp_(0.0, 1.0).mul_(explained.clamp_(0.0, 1.0)))


def _mean(x: Tensor, radius: int = _RADIUS) -> Tensor:
    """The mean over the square window around each pixel, as far as it lies in the picture."""
    kernel = 2 * radius + 1
    for shape, pad in (((1, kernel), (0, radius)), ((kernel, 1), (radius, 0))):
        x = functional.avg_pool2d(x, shape, 1, pad, count_include_pad=False)
    return x
