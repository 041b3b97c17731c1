"""Videos without flicker: statistics that change slowly, and a canvas that follows the camera.

InstanceNorm measures every channel anew in every frame, so that noise, or an object that comes in
at the edge, changes the colours of the whole picture. Here each statistic is an exponential average
over the frames of a scene. It is two numbers a channel, with no place in the picture, so that
nothing of an earlier frame can be seen in a later one; at a cut it begins anew. What the canvas of
a style with grain does is in ``follow``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.painting.follow import Follower
from cyclegan_cli.painting.pixels import Pixels
from cyclegan_cli.painting.statistics import Moments

__all__ = ["Steady"]

_SECONDS = 1.0  # the time constant of the average
_GRID = 12  # a frame is compared with the one before by the means of 12×12 fields
_CUT = 0.09  # of the range of values: by how much fields change, on average, at a cut
_OUTLIER = 3.0  # and how many times what they changed by before


class Steady:
    """The statistics of a video's scenes: ``look`` at each frame, then paint it.

    Painting takes ``override_stats`` and ``origin``.

    ``rate``: frames a second.
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
        """Take the next frame: H×W×3, uint8 or uint16. Whether a scene begins with it.

        A cut is where the frame's 12×12 mean colours differ from the frame before by 9% of the
        range on average, and by 3 times what is usual in this scene: noise has no share in such
        means, and a pan changes them by a little in every frame.
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
        """The statistics that InstanceNorm ``number`` shall use in this frame.

        A scene's first frames weigh alike, so that the noise of the first one does not last. A
        frame that is painted twice, as when memory was short, is counted once.
        """
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
