"""3×3 convolutions by Winograd's minimal filtering, F(4×4, 3×3): a quarter of the multiplications.

Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016. How exact it is hangs on the points (Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020):
0, ±⅝, ±1½ and infinity have two thirds of the error of their 0, ±1, ½, −2, less than half of that
of the usual 0, ±1, ±2, and as pairs share their sums; all constants are exact in binary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cyclegan_cli.engine.fast import kernels, winograd_in_torch
from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.rooms import Rooms

__all__ = ["Transformed", "convolve", "transformed"]


@dataclass(frozen=True)
class Transformed:
    """Weights as ``convolve`` multiplies with them.

    ``matrices``: of ``winograd_in_torch``, or in the kernels' own order where these are here.
    """

    matrices: Tensor
    outputs: int


_rooms = Rooms()


def transformed(weight: Tensor, *, turned: bool = False, passing: bool = False) -> Transformed:
    """weight: O×I×3×3, float32; ``turned``: I×O×3×3, for the gradient of a convolution's input.

    ``turned``, they are for ``kernels.winograd_backward``, or without the kernels mirrored, for
    ``convolve`` of the output's gradient.

    ``passing``: valid only until the next call with it in this thread.
    """
    outputs, inputs = weight.shape[:2][::-1] if turned else weight.shape[:2]
    if kernels.present():
        size = kernels.winograd_size(outputs, inputs)
        room = _rooms.get("weights", size) if passing else torch.empty(size)
        kernels.winograd_weights(weight.contiguous(), room, turned=turned)
        return Transformed(room, outputs)
    if turned:
        weight = weight.flip(2, 3).transpose(0, 1)
    dtype = torch.float32 if passing else torch.float64  # twice the time, once for all pictures
    return Transformed(winograd_in_torch.matrices(weight, dtype), outputs)


def convolve(
    strip: Strip,
    rows: tuple[int, int],
    weight: Transformed,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Rows ``rows`` (from, to) of the output of a 3×3 convolution, stride 1, of the padded picture.

    ``strip`` must hold every row that they need. Returns 1×O×(to − from)×width, float32.
    ``statistics``, by the kernels only: as in ``kernels.winograd``.
    """
    if not kernels.present():
        return winograd_in_torch.convolve(strip, rows, weight.matrices, bias)
    start, stop = rows
    out = torch.empty(1, weight.outputs, stop - start, strip.padded[1] - 2)
    kernels.winograd(strip, start, weight.matrices, bias, out, statistics)
    return out
