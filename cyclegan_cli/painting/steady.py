"""Videos without flicker: statistics that change slowly, and a canvas that follows the camera.

InstanceNorm measures every frame, so an object that enters changes the colours of the whole
picture. Here statistics are exponential averages over a scene's frames. The strokes of a style with
grain are tied to its canvas, which moves with the picture, not with the screen.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.painting.pixels import LUMA, Pixels
from cyclegan_cli.painting.statistics import Moments

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
