"""Winograd's filtering of ``winograd`` in PyTorch's own operations, where there are no kernels.

A pixel's channels lie side by side: then every 4th row or column of a picture is made of long runs,
and the transforms are few additions of large tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cyclegan_cli.engine.fast.kernels import Strip
from cyclegan_cli.engine.fast.reading import by_channel, realised_by_pixel
from cyclegan_cli.engine.fast.rooms import Rooms

__all__ = ["convolve", "matrices"]

# Values of one of the 36 matrices at a time, for the cache: a trunk's of a picture of 256², and its
# gradients', which are a row and a column of tiles more.
_PART = 75_000
# Inputs of one product of oneDNN, whose sums are made one by one: of 256 they lost a third of their
# accuracy. MKL adds up such parts by itself.
_INPUTS = 128

_rooms = Rooms()


def matrices(weight: Tensor) -> Tensor:
    """36×O×I transformed weights as ``convolve`` takes them: P×36×O×(I / P)."""
    inputs = weight.shape[2]
    parts = -(-inputs // _INPUTS) if _onednn() else 1
    if inputs % parts:
        return weight[None]
    split = weight.view(36, weight.shape[1], parts, -1)
    return split.permute(2, 0, 1, 3).contiguous()


def convolve(strip: Strip, rows: tuple[int, int], weights: Tensor, bias: Tensor | None) -> Tensor:
    """As ``winograd.convolve``; ``weights``: P×36×O×(I / P), of ``matrices``."""
    start, stop = rows
    parts, _, outputs, inputs = weights.shape
    height, width = stop - start, strip.padded[1] - 2
    down, across = -(-height // 4), -(-width // 4)
    x = realised_by_pixel(strip, start, 4 * down + 2, 4 * across + 2)[0].permute(1, 2, 0)
    y = torch.empty(down, 4, across, 4, outputs)
    for first, high in _parts(down, across, max(parts * inputs, outputs)):
        values = _transformed(x[4 * first : 4 * (first + high) + 2], parts)
        half = _room("half", 4, 6, high * across, outputs)
        for column in range(6):
            _four(_products(values, weights, column, bias), half[:, column])
        _four(half.view(4, 6, high, across, -1).movedim(1, 0), _by_place(y[first : first + high]))
    del x
    picture = y.view(4 * down, 4 * across, outputs).permute(2, 0, 1)[None]
    return by_channel(picture[:, :, :height, :width])


def _parts(down: int, across: int, channels: int) -> Iterator[tuple[int, int]]:
    """Rows of tiles that are computed at a time: the first, and about as many each time."""
    step = max(1, -(-down // -(-down * across * channels // _PART)))
    for first in range(0, down, step):
        yield first, min(step, down - first)


def _room(name: str, *shape: int) -> Tensor:
    size = 1
    for length in shape:
        size *= length
    return _rooms.get(name, size)[:size].view(shape)


# -- transforms ------------------------------------------------------------------------------------


def _transformed(x: Tensor, parts: int) -> Tensor:
    """(4·d + 2)×(4·a + 2)×C to 36 matrices in parts: P×36×(d·a)×(C / P)."""
    down, across, channels = x.shape[0] // 4, x.shape[1] // 4, x.shape[2]
    half = _room("half", 6, down, *x.shape[1:])
    _six(x, 0, half)
    whole = _room("values", parts, 6, 6, down, across, channels // parts)
    _six(half.view(6, down, -1, parts, channels // parts), 2, whole.permute(2, 4, 1, 3, 0, 5))
    return whole.view(parts, 36, down * across, -1)


def _six(x: Tensor, axis: int, out: Tensor) -> None:
    """Of each 6 values, 4 apart along ``axis``, 6 others: ``out``, 6×tiles×the other axes.

    The matrix is that of native/winograd.h; most of its rows share differences of x.
    """
    shape = list(x.shape)
    shape[axis] -= 2
    x = x.movedim(axis, 0)
    apart = torch.sub(x[2:], x[:-2], out=_room("differences", *shape).movedim(axis, 0))
    a, b, c, d = (apart[i::4] for i in range(4))
    low, high = x[2::4][: out.shape[1]], x[3::4]
    torch.sub(c, a, out=out[0]).add_(b, alpha=1.5)
    torch.add(b, torch.add(high, low, out=out[1]), alpha=1.5, out=out[1]).add_(c)
    torch.add(c, torch.sub(high, low, out=out[2]), alpha=1.5, out=out[2]).sub_(b)
    torch.add(c, b, alpha=2.0, out=out[3])
    torch.add(c, b, alpha=-0.5, out=out[4])
    torch.sub(d, b, out=out[5]).add_(c, alpha=1.5)


def _by_place(y: Tensor) -> Tensor:
    """d×4×a×4×O with the place in a tile's row first, then that in its column: 4×4×d×a×O."""
    return y.permute(3, 1, 0, 2, 4)


def _four(x: Sequence[Tensor] | Tensor, out: Tensor) -> None:
    """Of 6 values along the first axis 4."""
    torch.add(x[1], x[2], out=out[2])
    torch.sub(x[1], x[2], out=out[1])
    torch.add(out[2], x[0], out=out[0]).add_(x[3]).add_(x[4])
    torch.add(out[1], x[5], out=out[3]).add_(x[3], alpha=0.125).sub_(x[4], alpha=8.0)
    out[1].add_(x[3], alpha=0.5).sub_(x[4], alpha=2.0)
    out[2].add_(x[3], alpha=0.25).add_(x[4], alpha=4.0)


# -- products --------------------------------------------------------------------------------------


def _products(
    values: Tensor, weights: Tensor, column: int, bias: Tensor | None
) -> Sequence[Tensor] | Tensor:
    """Of one column of the 6×6 tiles: 6×tiles×O.

    What is added to the product of row 1 and column 1 is added to each value of a tile.
    """
    product = _onednn()
    values, weights = values[:, column::6], weights[:, column::6]
    if product is None:
        found = torch.bmm(values[0], weights[0].transpose(1, 2))
        if bias is not None and column == 1:
            found[1] += bias
        return found
    sums = []
    for row in range(6):
        more = bias if (row, column) == (1, 1) else None
        total = product(values[0, row], weights[0, row], more)
        for part in range(1, weights.shape[0]):
            total += product(values[part, row], weights[part, row], None)
        sums.append(total)
    return sums


@lru_cache(maxsize=1)
def _onednn() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """oneDNN's x @ wᵀ + bias, which torch.compile calls for a linear layer; None: it would not pay.

    The products of torch.bmm are those of MKL, which takes AVX-512 on Intel's processors only.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return None

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found

    # It is no part of the public interface: what it does is seen by trying.
    random = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=random) for size in ((40, 24), (32, 24), (32,)))
    try:
        found = product(x, weight, bias)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return None
    right = (x.double() @ weight.double().t() + bias).float()
    return product if torch.allclose(found, right, rtol=1e-5, atol=1e-5) else None
