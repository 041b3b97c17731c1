"""The grain that a picture gets before it is painted: what strokes in a flat sky grow from.

A convolutional network gives the same everywhere where its input is the same everywhere: from a
clear sky it can make nothing but a clear sky, or a pattern in step with its own strides. Faint
noise breaks that tie, as the noise inputs of Karras et al. do (StyleGAN, CVPR 2019, section 3.2).
In training it is drawn anew for every crop; a painting has one canvas, fixed by row and column, so
that strips, machines and the frames of a video all see the same.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CENTRE", "PERIOD", "SPREAD", "canvas", "drawn", "tile"]

PERIOD = 1024  # pixels after which the canvas begins anew
CENTRE, SPREAD = 127.156, 36.96  # mean and deviation of the tile's bytes


def canvas(
    start: int, stop: int, columns: int, channels: int, origin: tuple[int, int] = (0, 0)
) -> Tensor:
    """Rows ``start`` … ``stop`` of the canvas: 1×channels×(stop − start)×columns, float32.

    Mean 0, deviation 1; channels ≤ 3. It depends on row, column and channel alone. ``origin``: the
    canvas's row and column that lie in the picture's corner.
    """
    top, left = origin
    rows = tile()[:channels, np.arange(start + top, stop + top) % PERIOD]
    if columns != PERIOD or left % PERIOD:
        rows = rows[:, :, np.arange(left, left + columns) % PERIOD]
    return torch.from_numpy((rows[None] - np.float32(CENTRE)) / np.float32(SPREAD))


def drawn(like: Tensor, seed: int) -> Tensor:
    """Fresh noise of deviation 1 in the shape of ``like``, on its device; the same for a seed."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=draw).to(like.device, like.dtype)


@lru_cache(maxsize=1)
def tile() -> NDArray[np.uint8]:
    """The canvas as 3×PERIOD×PERIOD bytes, mean ``CENTRE`` and deviation ``SPREAD``, nearly normal.

    Whole-number arithmetic, so that it is the same everywhere and always.
    """
    places = np.arange(3 * PERIOD * PERIOD, dtype=np.uint32)
    # The finaliser of MurmurHash3 (Appleby, public domain): every bit of a place stirs all others.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        places ^= places >> np.uint32(shift)
        places *= np.uint32(factor)
    total = np.zeros(places.shape, np.uint32)
    for shift in range(0, 32, 8):
        total += (places >> np.uint32(shift)) & np.uint32(255)
    levels: NDArray[np.uint8] = (total >> np.uint32(2)).astype(np.uint8)
    return levels.reshape(3, PERIOD, PERIOD)
