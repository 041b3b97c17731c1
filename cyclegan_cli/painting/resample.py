"""Pictures at another size, strip by strip: antialiased bicubic resampling.

Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, with a = −1/2; where a
picture becomes smaller, the kernel is as much wider, so that nothing aliases. The values are those
of Pillow's BICUBIC, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Filter", "resample_rows", "resized"]

_STRIP = 2**22  # values that a strip of the larger picture may have


@dataclass(frozen=True)
class Filter:
    """How ``size`` values come of ``source`` values along one axis.

    Value i is the sum of ``weights[i]`` times the source's values from ``first[i]`` on.
    """

    source: int
    first: Tensor  # int64, size
    weights: Tensor  # float32, size×taps; their sum is 1

    @classmethod
    def bicubic(cls, source: int, size: int) -> Filter:
        """From ``source`` to ``size`` values, of which the outer borders lie together."""
        scale = source / size
        wide = max(1.0, scale)
        taps = min(source, math.ceil(4 * wide) + 1)
        centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
        first = (centre - 2 * wide - 0.5).ceil().long().clamp_(0, source - taps)
        places = first[:, None] + torch.arange(taps) + 0.5
        weights = _cubic((places - centre[:, None]) / wide)
        return cls(source, first, (weights / weights.sum(1, keepdim=True)).float())

    def part(self, start: int, stop: int) -> tuple[int, int]:
        """The first and one past the last source value that values start … stop − 1 need."""
        return int(self.first[start]), int(self.first[stop - 1]) + self.weights.shape[1]

    def along(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """Values start … stop − 1 along ``axis`` (−1 or −2) of ``x``, which is ``part`` of it."""
        first = self.first[start:stop] - self.first[start]
        weights = self.weights[start:stop]
        shape = (-1, 1) if axis == -2 else (-1,)
        result = x.index_select(axis, first) * weights[:, 0].view(shape)
        for tap in range(1, weights.shape[1]):
            part = x.index_select(axis, first + tap)
            result.addcmul_(part, weights[:, tap].view(shape))
        return result


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resample_rows(
    read: Callable[[int, int], Tensor], down: Filter, across: Filter, start: int, stop: int
) -> Tensor:
    """Rows start … stop − 1 of a resized picture: 1×C×(stop − start)×width, float32.

    ``read(start, stop)`` gives rows of the picture, 1×C×h×w; ``down`` and ``across`` are the
    filters of its height and its width.
    """
    rows = read(*down.part(start, stop))
    width = len(across.first)
    if width < across.source:  # the axis that leaves less goes first
        rows = across.along(rows, -1, 0, width)
        return down.along(rows, -2, start, stop)
    return across.along(down.along(rows, -2, start, stop), -1, 0, width)


def resized(
    read: Callable[[int, int], Tensor], channels: int, size: tuple[int, int], to: tuple[int, int]
) -> Tensor:
    """A whole picture of height and width ``size`` at those of ``to``: 1×C×h×w, float32."""
    down, across = (Filter.bicubic(have, want) for have, want in zip(size, to, strict=True))
    result = torch.empty(1, channels, *to)
    # As many rows as keep a strip of the larger of the two pictures small.
    wide = channels * max(size[1], to[1]) * max(1.0, size[0] / to[0])
    step = max(1, int(_STRIP / wide))
    for start in range(0, to[0], step):
        stop = min(start + step, to[0])
        result[:, :, start:stop] = resample_rows(read, down, across, start, stop)
    return result
