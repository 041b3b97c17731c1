"""3×3 convolutions by Winograd's minimal filtering, F(4×4, 3×3): a quarter of the multiplications.

Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016. Points 0, 1, −1, ½, −2 and infinity instead of the usual
±2, after Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
Deep Neural Networks", 2020: a third of the error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cyclegan_cli.engine.fast import kernels, winograd_in_torch
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.rooms import Rooms

__all__ = ["Transformed", "convolve", "correlate", "transformed"]

# Columns of the matrix products at a time: what lies between the transforms stays in the cache.
_TILES = 256
_APART = 16  # floats between matrices, so that the 36 do not all fall on the same lines of a cache

_WEIGHTS = (
    (1.0, 0.0, 0.0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (1 / 15, -2 / 15, 4 / 15),
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

    ``matrices``: of ``winograd_in_torch``, or in the kernels' own order where these are here.
    """

    matrices: Tensor
    outputs: int
    inputs: int


_rooms = Rooms()


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
    dtype = torch.float32 if passing else torch.float64  # twice the time, once for all pictures
    flat = weight.reshape(outputs * inputs, 9).t().to(dtype)
    matrices = (_both_ways(_WEIGHTS, dtype) @ flat).float().view(36, outputs, inputs)
    return Transformed(winograd_in_torch.matrices(matrices), outputs, inputs)


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
    if not kernels.present():
        found = winograd_in_torch.convolve(strip, rows, weight.matrices, bias)
        return found if into is None else into.copy_(found)
    start, stop = rows
    width = strip.padded[1] - 2
    out = torch.empty(1, weight.outputs, stop - start, width) if into is None else into
    kernels.winograd(strip, start, weight.matrices, bias, out, statistics)
    return out


def correlate(strip: Strip, grad: Tensor) -> Tensor:
    """The gradient of a 3×3 convolution's weight, O×I×3×3, by the adjoint transforms.

    grad: 1×O×H×W, of its output. Wants the kernels.
    """
    _, outputs, height, width = grad.shape
    inputs = strip.values.shape[1]
    across = -(-width // 4)
    total: Tensor | None = None
    for first, high in _parts(-(-height // 4), across):
        tiles = (high, across)
        values = _matrices("in", inputs, high * across)
        kernels.winograd_in(strip, 4 * first, tiles, values, values.stride(0))
        grads = _matrices("out", outputs, high * across)
        part = grad[:, :, 4 * first : 4 * (first + high)]
        kernels.winograd_grads(part, tiles, grads, grads.stride(0))
        found = kernels.winograd_correlate(grads, values)
        total = found if total is None else total.add_(found)
    assert total is not None
    back = _both_ways(_WEIGHTS, torch.float32).t() @ total.view(36, -1)
    return back.t().reshape(outputs, inputs, 3, 3)


def _parts(down: int, across: int) -> Iterator[tuple[int, int]]:
    """Rows of tiles that are computed at a time: the first, and about as many each time."""
    step = max(1, -(-down // -(-down * across // _TILES)))
    for first in range(0, down, step):
        yield first, min(step, down - first)


def _matrices(name: str, rows: int, columns: int) -> Tensor:
    """Room for 36 of them, and to be read beyond."""
    apart = rows * columns + _APART
    room = _rooms.get(name, 36 * apart)
    return room.as_strided((36, rows, columns), (apart, columns, 1))
