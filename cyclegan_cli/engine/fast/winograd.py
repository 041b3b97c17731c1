"""3×3 convolutions by Winograd's minimal filtering, F(4×4, 3×3): a quarter of the multiplications.

Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016. How exact it is hangs on the points (Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020):
0, ±⅝, ±1½ and infinity have two thirds of the error of their 0, ±1, ½, −2, less than half of that
of the usual 0, ±1, ±2, and as pairs share their sums; all constants are exact in binary.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclegan_cli.engine.fast import kernels
from cyclegan_cli.engine.fast.kernels import Strip

__all__ = ["Transformed", "convolve", "transformed"]


@dataclass(frozen=True)
class Transformed:
    """Weights as ``convolve`` multiplies with them.

    ``matrices``: in the kernels' own order.
    """

    matrices: Tensor
    outputs: int


class _Buffer(threading.local):
    """A buffer of each thread, used again: the pages of a new one would have to be cleared."""

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def get(self, size: int) -> Tensor:
        """``size`` floats or more, not cleared; valid until the next call."""
        if self._values.numel() < size:
            with torch.inference_mode(False):  # what is made in it could not be written without it
                self._values = torch.empty(size)
        return self._values


_buffer = _Buffer()


def transformed(weight: Tensor, *, turned: bool = False, passing: bool = False) -> Transformed:
    """weight: O×I×3×3, float32; ``turned``: I×O×3×3, for ``kernels.winograd_backward``.

    ``passing``: valid only until the next call with it in this thread.
    """
    outputs, inputs = weight.shape[:2][::-1] if turned else weight.shape[:2]
    size = kernels.winograd_size(outputs, inputs)
    matrices = _buffer.get(size) if passing else torch.empty(size)
    kernels.winograd_weights(weight.contiguous(), matrices, turned=turned)
    return Transformed(matrices, outputs)


def convolve(
    strip: Strip,
    rows: tuple[int, int],
    weight: Transformed,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Rows ``rows`` (from, to) of the output of a 3×3 convolution, stride 1, of the padded picture.

    ``strip`` must hold every row that they need. Returns 1×O×(to − from)×width, float32.
    ``statistics``: as in ``kernels.winograd``.
    """
    start, stop = rows
    out = torch.empty(1, weight.outputs, stop - start, strip.padded[1] - 2)
    kernels.winograd(strip, start, weight.matrices, bias, out, statistics)
    return out
