"""Matrix products in parts that NumPy's BLAS computes at once, in the caller's thread.

Larger ones it divides among threads of its own. They take longer to wake than such a part to
compute, spin for a while afterwards, and so take the processor from whatever paints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.painting.pixels import Planes

__all__ = ["from_left", "from_right"]

_LARGEST = 2**18  # multiplications of a product that OpenBLAS does not divide


def from_left(matrix: NDArray[np.float32], x: Planes, out: Planes) -> None:
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


def from_right(x: Planes, matrix: NDArray[np.float32], out: Planes) -> None:
    """Each plane of ``x`` (C×h×k) times ``matrix`` (k×n), into ``out`` (C×h×n)."""
    (k, n), (count, height, _) = matrix.shape, x.shape
    part = max(1, _LARGEST // (n * k))
    whole = height // part * part
    if whole:
        parts = x[:, :whole].reshape(count, -1, part, k)
        np.matmul(parts, matrix, out=out[:, :whole].reshape(count, -1, part, n))
    if whole < height:
        np.matmul(x[:, whole:], matrix, out=out[:, whole:])
