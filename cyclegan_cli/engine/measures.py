"""How far two sets of pictures are from one another, without a pretrained network.

Sliced Wasserstein distance over patches of a Laplacian pyramid: Karras et al., "Progressive Growing
of GANs for Improved Quality, Stability, and Variation", ICLR 2018, section 5. One thing differs:
there each set is normalised by itself, so that washed-out colours cost nothing; here the real set's
mean and deviation are the yardstick of both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.randomness import stream_seed

__all__ = ["halve", "sliced_wasserstein"]

NEIGHBOURHOOD = 7  # pixels along a side of a patch
PATCHES = 128  # of a picture, at each level of the pyramid
DIRECTIONS = 512
COARSEST = 32  # pixels along the short side of the last level
FLATTEST = 1e-3  # a deviation below an eighth of a grey level is none
_AT_ONCE = 64  # directions: bounds the memory


def sliced_wasserstein(some: Tensor, real: Tensor, *, seed: int = 0) -> dict[str, float]:
    """How far the patches of ``some`` are from those of ``real``, times 1000: by level and "mean".

    ``some``, ``real``: float, N×3×H×W and M×3×H×W (N and M may differ, H and W not), in [−1, 1].
    The levels are named by their short side in pixels ("256", "128", …, not under 32): the finest
    says how alike the texture is, the coarsest how alike palette and large shapes are. Every level
    is in units of the real patches' deviation per channel. The same arguments give the same
    numbers; a set has distance 0 to itself. Raises ValueError for sets that cannot be compared.
    """
    a, b = some, real
    if a.ndim != 4 or a.shape[1:] != b.shape[1:] or a.shape[1] != 3 or not (len(a) and len(b)):
        raise ValueError(f"sets of {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    if min(a.shape[2:]) < COARSEST:
        raise ValueError(f"pictures of {tuple(a.shape[2:])} are smaller than {COARSEST} pixels")
    total = PATCHES * min(len(a), len(b))
    scores = {}
    rests = [a.detach().float().cpu(), b.detach().float().cpu()]
    while True:
        side = min(rests[0].shape[2:])
        last = side // 2 < COARSEST
        halves = rests if last else [halve(rest) for rest in rests]
        levels = [
            rest if last else rest - _double(half, rest.shape[2], rest.shape[3])
            for rest, half in zip(rests, halves, strict=True)
        ]
        patches = [_patches(level, total, seed, side) for level in levels]
        scores[str(side)] = 1000 * _sliced(*_normalised(*patches), seed, side)
        if last:
            break
        rests = halves
    return {**scores, "mean": sum(scores.values()) / len(scores)}


_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def _smooth(pictures: Tensor) -> Tensor:
    """N×3×H×W under the 5×5 binomial filter, mirrored at the border.

    Shifted sums along one axis, then the other: a depthwise convolution takes ten times as long.
    """
    height, width = pictures.shape[2:]
    padded = functional.pad(pictures, (2, 2, 2, 2), mode="reflect")
    wide = sum(
        (weight * padded[:, :, k : k + height] for k, weight in enumerate(_BINOMIAL)),
        start=torch.zeros(()),
    )
    return sum(
        (weight * wide[:, :, :, k : k + width] for k, weight in enumerate(_BINOMIAL)),
        start=torch.zeros(()),
    )


def halve(pictures: Tensor) -> Tensor:
    """The next coarser level: N×3×H×W -> N×3×⌈H/2⌉×⌈W/2⌉."""
    return _smooth(pictures)[:, :, ::2, ::2]


def _double(pictures: Tensor, height: int, width: int) -> Tensor:
    """A level at the size of the finer one: zeros between the pixels, smoothed."""
    spread = pictures.new_zeros(*pictures.shape[:2], height, width)
    spread[:, :, ::2, ::2] = pictures
    return 4 * _smooth(spread)


def _patches(level: Tensor, total: int, seed: int, side: int) -> Tensor:
    """``total`` patches, spread evenly over the pictures: N×3×H×W -> total×3×7×7."""
    n, _, height, width = level.shape
    draw = torch.Generator().manual_seed(stream_seed(seed, "swd-patches", side))
    which = torch.arange(total) % n
    tops = torch.randint(height - NEIGHBOURHOOD + 1, (total,), generator=draw)
    lefts = torch.randint(width - NEIGHBOURHOOD + 1, (total,), generator=draw)
    step = torch.arange(NEIGHBOURHOOD)
    rows = (tops[:, None] + step)[:, None, :, None]
    columns = (lefts[:, None] + step)[:, None, None, :]
    channels = torch.arange(3)[None, :, None, None]
    return level[which[:, None, None, None], channels, rows, columns]


def _normalised(some: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Both in units of the real patches: their mean 0, deviation 1 in a channel; a row a patch."""
    deviation, mean = torch.std_mean(real, dim=(0, 2, 3), keepdim=True, correction=0)
    deviation = deviation.clamp_min(FLATTEST)
    return ((some - mean) / deviation).flatten(1), ((real - mean) / deviation).flatten(1)


def _sliced(a: Tensor, b: Tensor, seed: int, side: int) -> float:
    """Mean over directions of the one-dimensional Wasserstein distance between projections."""
    draw = torch.Generator().manual_seed(stream_seed(seed, "swd-directions", side))
    directions = torch.randn(a.shape[1], DIRECTIONS, generator=draw)
    directions = directions / directions.norm(dim=0)
    distance = 0.0
    for some in directions.split(_AT_ONCE, dim=1):
        # NumPy's sort takes a tenth of the time of PyTorch's, which keeps track of the order.
        one, other = (np.sort((rows @ some).T.contiguous().numpy(), axis=1) for rows in (a, b))
        distance += float(np.abs(one - other).mean(axis=1, dtype=np.float64).sum())
    return distance / DIRECTIONS
