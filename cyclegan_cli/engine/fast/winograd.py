"""3×3 convolutions by Winograd's minimal filtering, F(4×4, 3×3): a quarter of the multiplications.

Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016. How exact it is hangs on the points (Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020):
0, ±⅝, ±1½ and infinity have two thirds of the error of their 0, ±1, ½, −2, less than half of that
of the usual 0, ±1, ±2, and as pairs share their sums; all constants are exact in binary.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip

__all__ = ["Transformed", "convolve", "transformed"]

# Columns of the matrix products at a time: what lies between the transforms stays in the cache.
_TILES = 256

_A, _B = 0.625, 1.5
_PRODUCT, _SUM = _A**2 * _B**2, _A**2 + _B**2
_OF_A, _OF_B = 1 / (2 * _A**2 * (_A**2 - _B**2)), 1 / (2 * _B**2 * (_B**2 - _A**2))
_INTO = (
    (_PRODUCT, 0.0, -_SUM, 0.0, 1.0, 0.0),
    (0.0, -_A * _B**2, -(_B**2), _A, 1.0, 0.0),
    (0.0, _A * _B**2, -(_B**2), -_A, 1.0, 0.0),
    (0.0, -_B * _A**2, -(_A**2), _B, 1.0, 0.0),
    (0.0, _B * _A**2, -(_A**2), -_B, 1.0, 0.0),
    (0.0, _PRODUCT, 0.0, -_SUM, 0.0, 1.0),
)
_OUT = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, _A, -_A, _B, -_B, 0.0),
    (0.0, _A**2, _A**2, _B**2, _B**2, 0.0),
    (0.0, _A**3, -(_A**3), _B**3, -(_B**3), 1.0),
)
_WEIGHTS = (
    (1 / _PRODUCT, 0.0, 0.0),
    (_OF_A, _A * _OF_A, _A**2 * _OF_A),
    (_OF_A, -_A * _OF_A, _A**2 * _OF_A),
    (_OF_B, _B * _OF_B, _B**2 * _OF_B),
    (_OF_B, -_B * _OF_B, _B**2 * _OF_B),
    (0.0, 0.0, 1.0),
)


@lru_cache(maxsize=3)
def _both_ways(matrix: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    """The matrix applied to the rows and the columns of a square that is given as one vector."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).to(dtype).contiguous()


@dataclass(frozen=True)
class Transformed:
    """Weights as ``convolve`` multiplies with them, of O outputs and I inputs.

    ``matrices``: 36×O×I, or in the kernels' own order where these are here.
    """

    matrices: Tensor
    outputs: int
    inputs: int


class _Rooms(threading.local):
    """Of each thread: tensors that are used again. Fresh ones would be fresh pages of memory, whose
    first touch took longer than the transforms."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def get(self, name: str, size: int) -> Tensor:
        """``size`` floats or more, not cleared; valid until the name is asked for again."""
        kept = self._kept.get(name)
        if kept is None or kept.numel() < size:
            kept = self._kept[name] = torch.empty(size)
        return kept


_rooms = _Rooms()


def transformed(weight: Tensor, *, turned: bool = False, passing: bool = False) -> Transformed:
    """weight: O×I×3×3, float32; ``turned``: I×O×3×3, to be mirrored: an input's gradient.

    ``passing``: valid only until the next call with it in this thread.
    """
    outputs, inputs = weight.shape[:2][::-1] if turned else weight.shape[:2]
    if kernels.present():
        size = kernels.winograd_size(outputs, inputs)
        room = _rooms.get("weights", size) if passing else torch.empty(size)
        kernels.winograd_weights(weight.contiguous(), room, turned=turned)
        return Transformed(room, outputs, inputs)
    if turned:
        weight = weight.flip(2, 3).transpose(0, 1)
    flat = weight.reshape(outputs * inputs, 9).t()
    matrices = (_both_ways(_WEIGHTS, torch.float32) @ flat).view(36, outputs, inputs)
    return Transformed(matrices, outputs, inputs)


def convolve(
    strip: Strip,
    rows: tuple[int, int],
    weight: Transformed,
    bias: Tensor | None,
    into: Tensor | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Rows ``rows`` (from, to) of the output of a 3×3 convolution, stride 1, of the padded picture.

    ``strip`` must hold every row that they need. Returns 1×O×(to − from)×width, float32.
    ``statistics``, by the kernels only: as in ``kernels.winograd``.
    """
    start, stop = rows
    width = strip.padded[1] - 2
    out = torch.empty(1, weight.outputs, stop - start, width) if into is None else into
    if kernels.present():
        kernels.winograd(strip, start, weight.matrices, bias, out, statistics)
        return out
    across = -(-width // 4)
    down = -(-(stop - start) // 4)
    for first, high in _parts(down, across):
        tiles = (high, across)
        top, bottom = 4 * first, min(4 * (first + tiles[0]), stop - start)
        part = out[:, :, top:bottom]
        _part_in_torch(strip, start + top, tiles, weight, bias, part)
    return out


def _parts(down: int, across: int) -> Iterator[tuple[int, int]]:
    """Rows of tiles that are computed at a time: the first, and about as many each time."""
    step = max(1, -(-down // -(-down * across // _TILES)))
    for first in range(0, down, step):
        yield first, min(step, down - first)


def _part_in_torch(
    strip: Strip,
    row: int,
    tiles: tuple[int, int],
    weight: Transformed,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    """The same without the kernels: the transforms are matrix products, too."""
    down, across = tiles
    x = realised(strip, row, 4 * down + 2, 4 * across + 2)
    channels = x.shape[1]
    squares = x[0].unfold(1, 6, 4).unfold(2, 6, 4).permute(3, 4, 0, 1, 2).reshape(36, -1)
    squares = _both_ways(_INTO, torch.float32) @ squares
    products = torch.bmm(weight.matrices, squares.view(36, channels, down * across))
    blocks = _both_ways(_OUT, torch.float32) @ products.view(36, -1)
    picture = blocks.view(4, 4, -1, down, across).permute(2, 3, 0, 4, 1)
    picture = picture.reshape(1, -1, 4 * down, 4 * across)[:, :, : out.shape[2], : out.shape[3]]
    if bias is None:
        out.copy_(picture)
    else:
        torch.add(picture, bias[:, None, None], out=out)


def realised(strip: Strip, row: int, rows: int, columns: int) -> Tensor:
    """Rows of the padded picture from ``row`` on, in PyTorch: zeros where it has ended."""
    x, pad, height = strip.values, strip.pad, strip.height
    if strip.mean is not None and strip.scale is not None:
        x = (x - strip.mean[:, None, None]).mul_(strip.scale[:, None, None])
    if strip.relu:
        x = torch.relu(x)
    wanted = torch.arange(row - pad, row - pad + rows)
    if strip.mirror:
        wanted = wanted.abs()
        below = wanted >= height
        wanted = torch.where(below, 2 * (height - 1) - wanted, wanted)
        x = functional.pad(x, (pad, pad, 0, 0), mode="reflect")
    else:
        x = functional.pad(x, (pad, pad, 0, 0))
    inside = (wanted >= strip.first) & (wanted < strip.first + x.shape[2])
    x = x[:, :, (wanted - strip.first).clamp(0, x.shape[2] - 1)]
    if not bool(inside.all()):
        x = x * inside[:, None]
    return functional.pad(x, (0, columns - x.shape[3])) if columns > x.shape[3] else x
