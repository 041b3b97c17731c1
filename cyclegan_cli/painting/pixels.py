"""Between arrays of pixels (uint8, uint16, float32) and planes of values in [−1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.errors import PictureError

__all__ = [
    "LUMA",
    "Pixels",
    "Planes",
    "check",
    "from_planes",
    "padded",
    "padded_rows",
    "reflected",
    "to_planes",
]

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
    """Indices of ``size`` rows that are padded to ``padded`` rows by reflection.

    3 rows padded to 8 are 0 1 2 1 0 1 2 1. One row is repeated.
    """
    period = max(1, 2 * (size - 1))
    turn = np.arange(padded) % period
    return np.minimum(turn, period - turn) if size > 1 else turn


def padded(size: int, multiple: int = 4) -> int:
    """``size`` rounded up to a multiple of ``multiple``, at least 4 times it."""
    return max(4 * multiple, -(-size // multiple) * multiple)


def padded_rows(
    pixels: Pixels, height: int, size: tuple[int, int], first: int = 0
) -> Callable[[int, int], Pixels]:
    """A function that gives rows [start, stop) of a picture padded to ``size`` by reflection.

    pixels: rows from ``first`` on of a picture of ``height`` rows.
    """
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
    """C×H×W as H×W×3 pixels, clipped to [−1, 1] and rounded (not truncated).

    1 channel is repeated.
    """
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
