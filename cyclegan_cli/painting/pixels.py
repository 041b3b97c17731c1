"""Pixels (uint8, uint16, float32) and planes of values in [−1, 1], and both at other sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.errors import PictureError

Pixels: TypeAlias = NDArray[Any]  # H×W×3: uint8, uint16, or float32 in [−1, 1]
Planes: TypeAlias = NDArray[np.float32]  # C×H×W

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601, as Pillow turns RGB into grey
_TOP = {"uint8": 255.0, "uint16": 65535.0}  # white; float32 has its own range


def check(pixels: Pixels) -> None:
    """Raises PictureError unless ``pixels`` is H×W×3, H and W ≥ 1, uint8, uint16 or float32."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise PictureError(f"Pixels of shape {pixels.shape} cannot be painted: H×W×3 are needed.")
    if pixels.dtype.name not in (*_TOP, "float32"):
        raise PictureError(
            f"Pixels of type {pixels.dtype} cannot be painted: uint8, uint16 or float32 are needed."
        )


def reflected(size: int, padded: int) -> NDArray[np.intp]:
    """Indices of rows padded by reflection: 3 padded to 8 are 0 1 2 1 0 1 2 1; 1 is repeated."""
    period = max(1, 2 * (size - 1))
    turn = np.arange(padded) % period
    return np.minimum(turn, period - turn) if size > 1 else turn


def padded(size: int, multiple: int = 4) -> int:
    """``size`` rounded up to a multiple of ``multiple``, at least 4 times it."""
    return max(4 * multiple, -(-size // multiple) * multiple)


def padded_rows(
    pixels: Pixels, height: int, size: tuple[int, int], first: int = 0
) -> Callable[[int, int], Pixels]:
    """Gives rows [start, stop) of a picture padded to ``size``. pixels: rows from ``first`` on."""
    rows, columns = reflected(height, size[0]), reflected(pixels.shape[1], size[1])

    def read(start: int, stop: int) -> Pixels:
        if stop <= height and len(columns) == pixels.shape[1]:
            return pixels[start - first : stop - first]
        part: Pixels = pixels[rows[start:stop] - first][:, columns]
        return part

    return read


def to_planes(pixels: Pixels, channels: int) -> Planes:
    """H×W×3 pixels as a new array, channels×H×W in [−1, 1]; 1 channel is the luma."""
    top = _TOP.get(pixels.dtype.name)
    if channels == 1:
        values = _scaled(pixels.astype(np.float32), top)
        return np.ascontiguousarray((values @ LUMA)[None])
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    planes[...] = pixels.transpose(2, 0, 1)
    return _scaled(planes, top)


def _scaled(values: Planes, top: float | None) -> Planes:
    """From 0 … ``top`` to −1 … 1, in place."""
    if top is not None:
        values *= np.float32(2.0 / top)
        values -= np.float32(1.0)
    return values


def from_planes(picture: Planes, dtype: np.dtype[Any]) -> Pixels:
    """C×H×W (1 is repeated) as H×W×3 pixels, clipped to [−1, 1] and rounded (not truncated)."""
    top = _TOP.get(dtype.name)
    if top is None:
        values = picture.clip(-1.0, 1.0)
    else:
        values = picture + np.float32(1.0)
        values *= np.float32(top / 2.0)
        np.rint(values, out=values)
        np.clip(values, 0.0, top, out=values)
    pixels = np.empty((*picture.shape[1:], 3), dtype)
    pixels[...] = values.transpose(1, 2, 0)
    return pixels


# -- antialiased bicubic resampling, strip by strip ----------------------------------------------
#
# Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, with a = −1/2; for
# smaller pictures the kernel is wider. The values are those of Pillow's BICUBIC, in float32.

_STRIP = 2**21  # values that a strip of the larger picture may have
_BLOCK = 32  # values that are computed by one matrix product
# Multiplications of a product that OpenBLAS computes in the caller's thread. For larger ones it
# starts threads, which take longer to wake than to compute, and then spin for a while.
_LARGEST = 2**18
_FINE = 1  # pixels of the painting: radius of the mean from which its finest detail differs
_RADIUS = 2  # of the windows in which the fine detail of photo and painting is compared
_NOISE = 1e-4  # variance, of values in [−1, 1], below which a window counts as flat


@dataclass(frozen=True)
class Filter:
    """Value i is the sum of ``weights[i]`` times the ``source`` values from ``first[i]`` on."""

    source: int
    first: NDArray[np.int64]  # size
    weights: NDArray[np.float32]  # size×taps; their sum is 1

    @classmethod
    def bicubic(cls, source: int, size: int) -> Filter:
        """From ``source`` to ``size`` values, of which the outer borders lie together."""
        scale = source / size
        wide = max(1.0, scale)
        taps = min(source, math.ceil(4 * wide) + 1)
        centre = (np.arange(size) + 0.5) * scale
        first = np.ceil(centre - 2 * wide - 0.5).astype(np.int64).clip(0, source - taps)
        places = first[:, None] + np.arange(taps) + 0.5
        weights = _cubic((places - centre[:, None]) / wide)
        weights /= weights.sum(1, keepdims=True)
        return cls(source, first, weights.astype(np.float32))

    def part(self, start: int, stop: int) -> tuple[int, int]:
        """The first and one past the last source value that values start … stop − 1 need."""
        return int(self.first[start]), int(self.first[stop - 1]) + self.weights.shape[1]

    def rows(self, x: Planes, start: int, stop: int) -> Planes:
        """Rows start … stop − 1 of ``x``, which is ``part`` of a picture: C×h×W."""
        above = self.part(start, stop)[0]
        result = np.empty((x.shape[0], stop - start, x.shape[2]), np.float32)
        for first in range(start, stop, _BLOCK):
            last = min(first + _BLOCK, stop)
            low, matrix = self._matrix(first, last)
            needed = x[:, low - above : low - above + matrix.shape[1]]
            matmul_left(matrix, needed, result[:, first - start : last - start])
        return result

    def columns(self, x: Planes) -> Planes:
        """All columns of ``x``: C×h×source gives C×h×size."""
        result = np.empty((*x.shape[:2], len(self.first)), np.float32)
        for number, (low, matrix) in enumerate(self._blocks):
            out = result[:, :, number * _BLOCK : number * _BLOCK + matrix.shape[1]]
            matmul_right(x[:, :, low : low + matrix.shape[0]], matrix, out)
        return result

    @cached_property
    def _blocks(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Of each block of columns: the first that it needs, and what they are multiplied with."""
        size = len(self.first)
        found = [self._matrix(n, min(n + _BLOCK, size)) for n in range(0, size, _BLOCK)]
        return [(low, np.ascontiguousarray(matrix.T)) for low, matrix in found]

    def _matrix(self, start: int, stop: int) -> tuple[int, NDArray[np.float32]]:
        """What values start … stop − 1 come of: the first, and (stop − start)×count weights."""
        low, high = self.part(start, stop)
        matrix = np.zeros((stop - start, high - low), np.float32)
        places = self.first[start:stop, None] - low + np.arange(self.weights.shape[1])
        np.put_along_axis(matrix, places, self.weights[start:stop], 1)
        return low, matrix


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resample_rows(
    read: Callable[[int, int], Planes], down: Filter, across: Filter, start: int, stop: int
) -> Planes:
    """Rows start … stop − 1 of a resized picture, C×h×W; ``read`` gives rows of the picture."""
    rows = read(*down.part(start, stop))
    if len(across.first) < across.source:  # the axis that leaves less goes first
        return down.rows(across.columns(rows), start, stop)
    return across.columns(down.rows(rows, start, stop))


def resized(
    read: Callable[[int, int], Planes], channels: int, size: tuple[int, int], to: tuple[int, int]
) -> Planes:
    """A whole picture of height and width ``size`` at those of ``to``: C×h×w, float32."""
    down, across = (Filter.bicubic(have, want) for have, want in zip(size, to, strict=True))
    result = np.empty((channels, *to), np.float32)
    # As many rows as keep a strip of the larger of the two pictures small.
    wide = channels * max(size[1], to[1]) * max(1.0, size[0] / to[0])
    step = max(1, int(_STRIP / wide))
    for start in range(0, to[0], step):
        stop = min(start + step, to[0])
        result[:, start:stop] = resample_rows(read, down, across, start, stop)
    return result


def matmul_left(matrix: NDArray[np.float32], x: Planes, out: Planes) -> None:
    """``matrix`` (n×k) times each plane of ``x`` (C×k×W), into ``out`` (C×n×W)."""
    (n, k), (count, _, width) = matrix.shape, x.shape
    part = max(1, _LARGEST // (n * k))
    whole = width // part * part
    if whole:
        parts = x[:, :, :whole].reshape(count, k, -1, part).transpose(0, 2, 1, 3)
        results = out[:, :, :whole].reshape(count, n, -1, part).transpose(0, 2, 1, 3)
        np.matmul(matrix, parts, out=results)
    if whole < width:
        np.matmul(matrix, x[:, :, whole:], out=out[:, :, whole:])


def matmul_right(x: Planes, matrix: NDArray[np.float32], out: Planes) -> None:
    """Each plane of ``x`` (C×h×k) times ``matrix`` (k×n), into ``out`` (C×h×n)."""
    (k, n), (count, height, _) = matrix.shape, x.shape
    part = max(1, _LARGEST // (n * k))
    whole = height // part * part
    if whole:
        parts = x[:, :whole].reshape(count, -1, part, k)
        np.matmul(parts, matrix, out=out[:, :whole].reshape(count, -1, part, n))
    if whole < height:
        np.matmul(x[:, whole:], matrix, out=out[:, whole:])


# -- detail ---------------------------------------------------------------------------------------


class Enlarger:
    """A small painting at the photo's size, strip by strip.

    The enlarged painting gets the luma detail that the photo lost when it was reduced: the top of a
    Laplacian pyramid (Burt and Adelson, 1983). Its weight is local, as in the guided filter (He,
    Sun and Tang, 2010): the slope of the regression of the painting's finest detail on the photo's,
    times r². So edges that the painting kept are sharp, and detail that it painted over does not
    come back. photo, painting: 3×h×w in [−1, 1]. ``size``: height and width of the photo itself.
    """

    def __init__(self, photo: Planes, painting: Planes, size: tuple[int, int]) -> None:
        luma, maps = _luma(photo), [painting]
        if size[0] > painting.shape[1] or size[1] > painting.shape[2]:
            maps += [luma, _gain(luma, _luma(painting))]
        self._maps = np.concatenate(maps)
        self._down = Filter.bicubic(painting.shape[1], size[0])
        self._across = Filter.bicubic(painting.shape[2], size[1])

    def rows(self, start: int, stop: int, photo: Planes) -> Planes:
        """Rows start … stop − 1 of the painting, 3×h×W in [−1, 1]; ``photo``: the same of it."""
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
    """The slope, 0..1, of the regression of the painting's fine luma on the photo's, times r².

    Of the fine luma only, else an edge that was kept would bring back a line beside it.
    """
    photo, painting = photo - _mean(photo, _FINE), painting - _mean(painting, _FINE)
    mean, painted = _mean(photo), _mean(painting)
    common = _mean(photo * painting) - mean * painted
    slope = common / (_mean(photo * photo) - mean * mean + np.float32(_NOISE))
    explained = common * slope
    explained /= _mean(painting * painting) - painted * painted + np.float32(_NOISE)
    return _mean(slope.clip(0.0, 1.0) * explained.clip(0.0, 1.0))


def _mean(x: Planes, radius: int = _RADIUS) -> Planes:
    """The mean over the square window around each pixel, within the picture."""
    for _ in range(2):  # along the rows, then along the columns
        size, total = x.shape[2], x.copy("K")
        for shift in range(1, min(radius, size - 1) + 1):
            total[..., :-shift] += x[..., shift:]
            total[..., shift:] += x[..., :-shift]
        places = np.arange(size)
        count = np.minimum(places, radius) + np.minimum(size - 1 - places, radius) + 1
        x = (total / count.astype(np.float32)).swapaxes(1, 2)
    return x
