"""The grain that a picture gets before it is painted: what strokes in a flat sky grow from.

A convolutional network gives the same everywhere where its input is the same everywhere: from a
clear sky it can make nothing but a clear sky, or a pattern in step with its own strides. Faint
noise breaks that tie, as the noise inputs of Karras et al. do (StyleGAN, CVPR 2019, section 3.2).
In training it is drawn anew for every crop; a painting has one canvas, fixed by row and column, so
that strips, machines and the frames of a video all see the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CENTRE", "PERIOD", "SPREAD", "canvas", "drawn", "tile"]

PERIOD = 1024  # pixels after which the canvas begins anew
CENTRE, SPREAD = 127.156, 36.96  # mean and deviation of the tile's bytes
_BAND = 32  # rows of the tile that are made at a time: a small picture needs few of them


def canvas(
    start: int, stop: int, columns: int, channels: int, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.float32]:
    """Rows ``start`` … ``stop`` of the canvas: channels×(stop − start)×columns.

    Mean 0, deviation 1; channels ≤ 3. It depends on row, column and channel alone. ``origin``: the
    canvas's row and column that lie in the picture's corner.
    """
    top, left = origin
    places = np.arange(start + top, stop + top) % PERIOD
    bands, which = np.unique(places // _BAND, return_inverse=True)
    some = np.concatenate([_band(int(band)) for band in bands], axis=1)
    rows = some[:channels, which * _BAND + places % _BAND]
    if columns != PERIOD or left % PERIOD:
        rows = rows[:, :, np.arange(left, left + columns) % PERIOD]
    grain: NDArray[np.float32] = (rows - np.float32(CENTRE)) / np.float32(SPREAD)
    return grain


def drawn(like: Tensor, seed: int) -> Tensor:
    """Fresh noise of deviation 1 in the shape of ``like``, on its device; the same for a seed."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=draw).to(like.device, like.dtype)


def tile() -> NDArray[np.uint8]:
    """The canvas as 3×PERIOD×PERIOD bytes, mean ``CENTRE`` and deviation ``SPREAD``, nearly normal.

    Whole-number arithmetic, so that it is the same everywhere and always.
    """
    return np.concatenate([_band(band) for band in range(PERIOD // _BAND)], axis=1)


@lru_cache(maxsize=PERIOD // _BAND)
def _band(number: int) -> NDArray[np.uint8]:
    """Rows ``number`` · _BAND and on of the tile: 3×_BAND×PERIOD."""
    row = np.arange(_BAND * PERIOD, dtype=np.uint32) + np.uint32(number * _BAND * PERIOD)
    channel = np.arange(3, dtype=np.uint32) * np.uint32(PERIOD * PERIOD)
    places = channel[:, None] + row
    # The finaliser of MurmurHash3 (Appleby, public domain): every bit of a place stirs all others.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        places ^= places >> np.uint32(shift)
        places *= np.uint32(factor)
    total = np.zeros(places.shape, np.uint32)
    for shift in range(0, 32, 8):
        total += (places >> np.uint32(shift)) & np.uint32(255)
    levels: NDArray[np.uint8] = (total >> np.uint32(2)).astype(np.uint8)
    return levels.reshape(3, _BAND, PERIOD)
