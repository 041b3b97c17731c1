"""Grain: noise that is added to a picture before it is painted.

Where its input is constant, so is the output of a convolutional network: of a clear sky it can make
only a clear sky, or a pattern with the period of its strides. Noise breaks this symmetry, as the
noise inputs of Karras et al. do (StyleGAN, CVPR 2019, section 3.2); coarse noise is what dabs of
paint can grow from, which are larger than a pixel. In training both are drawn again for every crop;
paintings have one canvas, which depends on row and column only, so that strips, machines and the
frames of a video all see the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.machine import Part
from cyclegan_cli.settings import GeneratorSpec

if TYPE_CHECKING:
    from torch import Tensor

PERIOD = 1024  # pixels after which the canvas repeats
CENTRE, SPREAD = 127.156, 36.96  # mean and deviation of the tile's bytes
COARSE = 4  # pixels between two values of the coarse noise
_BAND = 32  # rows of the tile that are made at a time: a small picture needs few of them


def grained(spec: GeneratorSpec) -> bool:
    """Whether generators of ``spec`` read a canvas."""
    return spec.grain > 0 or spec.coarse > 0 or spec.code > 0


def canvas(
    spec: GeneratorSpec, start: int, stop: int, columns: int, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.float32]:
    """Rows ``start`` … ``stop`` of the canvas: channels×(stop − start)×columns.

    One channel for generators that have a ``code``, else the picture's. It depends on row, column
    and channel alone. ``origin``: the canvas's row and column that lie in the picture's corner.
    """
    top, left = origin
    rows, channels = np.arange(start + top, stop + top), 1 if spec.code > 0 else spec.in_channels
    grain: NDArray[np.float32] = np.float32(spec.grain) * _normal(_fine(rows % PERIOD, channels))
    if spec.coarse > 0:
        grain += np.float32(spec.coarse) * _between(_coarse_rows(), rows)
    if columns != PERIOD or left % PERIOD:
        grain = grain.take(np.arange(left, left + columns) % PERIOD, axis=2)
    return grain


def coarse_tile() -> NDArray[np.float32]:
    """The coarse noise at a quarter of the size: a square of PERIOD / COARSE, deviation 1."""
    side = PERIOD // COARSE
    return _normal(_fine(np.arange(side), 2)[1, :, :side])


@lru_cache(maxsize=1)
def _coarse_rows() -> NDArray[np.float32]:
    """Every fourth row of the coarse noise: PERIOD / COARSE rows of PERIOD."""
    return np.ascontiguousarray(_between(coarse_tile().T, np.arange(PERIOD)).T)


def _between(values: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """``values``, which repeat, at a quarter of ``places``: linear between one row and the next."""
    place = places + np.int64(COARSE // 2 - COARSE)  # the first value lies in the middle of 4 rows
    share = ((place % COARSE + np.float32(0.5)) / np.float32(COARSE)).astype(np.float32)[:, None]
    first = place // COARSE % len(values)
    rows: NDArray[np.float32] = (1 - share) * values[first]
    rows += share * values[(first + 1) % len(values)]
    return rows


def drawn(like: Tensor, seed: int, part: Part | None = None) -> Tensor:
    """Noise of deviation 1 with the shape, device and dtype of ``like``, determined by ``seed``.

    ``part``: the rows of a batch that ``like`` has, which get what one process would give them.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    if part is None:
        return torch.randn(like.shape, generator=draw).to(like.device, like.dtype)
    noise = torch.randn((part.whole, *like.shape[1:]), generator=draw)
    rows = part.rows or range(len(like))  # without any, a picture of weight 0
    return noise[rows.start : rows.stop].to(like.device, like.dtype)


def fresh(spec: GeneratorSpec, like: Tensor, seed: int, part: Part | None = None) -> Tensor:
    """The grain of N×C×H×W pictures in training, determined by ``seed``: of the canvas's channels.

    ``part``: as of ``drawn``.
    """
    import torch.nn.functional as F

    noise = spec.grain * drawn(like[:, :1] if spec.code > 0 else like, seed, part)
    if spec.coarse == 0:
        return noise
    height, width = like.shape[2:]
    small = like[:, :1, :1, :1].expand(-1, -1, -(-height // COARSE), -(-width // COARSE))
    coarse = F.interpolate(drawn(small, seed ^ 1, part), scale_factor=COARSE, mode="bilinear")
    return noise + spec.coarse * coarse[:, :, :height, :width]


def on_canvas(spec: GeneratorSpec, network: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """``network``, a generator of ``spec``, of N×C×H×W under the grain of a painting."""
    import torch

    if not grained(spec):
        return network(pictures)
    values = torch.from_numpy(canvas(spec, 0, pictures.shape[2], pictures.shape[3]))
    grain = values.to(pictures.device)
    if spec.code == 0:
        return network(pictures + grain)
    beside = grain.expand(len(pictures), -1, -1, -1)
    return network(torch.cat([pictures, beside], dim=1)).clamp(-1, 1)


def tile() -> NDArray[np.uint8]:
    """The canvas as 3×PERIOD×PERIOD bytes, mean ``CENTRE`` and deviation ``SPREAD``, nearly normal.

    Whole-number arithmetic, so that it is the same everywhere and always.
    """
    return np.concatenate([_band(band) for band in range(PERIOD // _BAND)], axis=1)


def _normal(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes of the tile as numbers of mean 0 and deviation 1."""
    normal: NDArray[np.float32] = (values - np.float32(CENTRE)) / np.float32(SPREAD)
    return normal


def _fine(places: NDArray[np.int64], channels: int) -> NDArray[np.uint8]:
    """Rows ``places`` of the tile, each below PERIOD: channels×rows×PERIOD."""
    bands, which = np.unique(places // _BAND, return_inverse=True)
    some = np.concatenate([_band(int(band)) for band in bands], axis=1)
    return some[:channels, which * _BAND + places % _BAND]


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
