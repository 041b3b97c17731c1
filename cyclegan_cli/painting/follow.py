"""The canvas follows the camera: how far a video's picture has moved from frame to frame.

A style with grain paints each stroke where its canvas has it. On a canvas that stays with the
screen, the strokes of a panning shot stay there too, and the scene slides along behind them, as
behind the glass of a shower's door. So the canvas moves as the picture does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.painting.pixels import Pixels

__all__ = ["Follower", "movement"]

_SIDE = 512  # pixels: larger frames are reduced to about that height or width to be compared
_SMOOTH = 0.12  # cycles a pixel up to which frames are compared: above them there is mostly noise
_NOISE = 4.0  # levels of 255: the deviation of a sensor's noise
_LEAST = 1e-4  # of the sum of all frequencies: with less, nothing but noise is there to compare
_SURE = 0.25  # of the peak of a frame that is only moved: below it, it did something else
_STILL = 0.1  # of a pixel of the compared frames: less is a camera that stands still

_Field = NDArray[np.float32]


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
    """By how many rows and columns what ``before`` shows has moved in ``after``; 0, 0 if unsure.

    The peak of the phase correlation (Kuglin and Hines, 1975) of the low frequencies, to fractions
    of a pixel by a parabola. Both h×w, in levels of 255.
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
    # Frequencies in which there is no more than a sensor's noise have no say.
    weights /= np.abs(cross) + _NOISE**2 * float((window**2).sum())
    surface = np.fft.irfft2(weights * cross, (height, width))
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    agreed = np.fft.irfft2(weights * np.abs(cross), (height, width))[0, 0]
    if agreed < _LEAST or surface[row, column] < _SURE * agreed:
        return 0.0, 0.0
    found = (_peak(surface[:, column], int(row)), _peak(surface[row], int(column)))
    return found if max(map(abs, found)) > _STILL else (0.0, 0.0)


def _peak(line: NDArray[np.float64], place: int) -> float:
    """The place of the maximum around ``place``, those past the middle being negative."""
    size = len(line)
    low, top, high = line[place - 1], line[place], line[(place + 1) % size]
    bend = low - 2 * top + high
    exact = place + (0.5 * (low - high) / bend if bend < 0 else 0.0)
    return float(exact - size if exact > size / 2 else exact)


def _reduced(pixels: Pixels) -> tuple[_Field, int]:
    """(luma as means of squares of pixels, in levels of 255, the side of a square)."""
    scale = max(1, round(min(pixels.shape[:2]) / _SIDE))
    height, width = (side // scale * scale for side in pixels.shape[:2])
    shares = np.array([0.299, 0.587, 0.114], np.float32) * (255 / np.iinfo(pixels.dtype).max)
    luma = pixels[:height, :width] @ shares.astype(np.float32)
    squares = luma.reshape(height // scale, scale, width // scale, scale)
    return squares.mean((1, 3), dtype=np.float32), scale
