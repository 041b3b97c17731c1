"""Winograd's filtering of ``winograd`` in PyTorch's own operations, where there are no kernels.

A pixel's channels lie side by side: then every 4th row or column of a picture is made of long runs,
and the transforms are few additions of large tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


# The points of the kernels: 0, ±A, ±B and infinity.
_A, _B = 0.625, 1.5
_OF_A, _OF_B = 1 / (2 * _A**2 * (_A**2 - _B**2)), 1 / (2 * _B**2 * (_B**2 - _A**2))
_WEIGHTS = (
    (1 / (_A**2 * _B**2), 0.0, 0.0),
    (_OF_A, _A * _OF_A, _A**2 * _OF_A),
    (_OF_A, -_A * _OF_A, _A**2 * _OF_A),
    (_OF_B, _B * _OF_B, _B**2 * _OF_B),
    (_OF_B, -_B * _OF_B, _B**2 * _OF_B),
    (0.0, 0.0, 1.0),
)


def matrices(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """O×I×3×3 as ``convolve`` takes it: 36 transformed O×I, in P parts: P×36×O×(I / P), float32.

    ``dtype``: what they are computed in.
    """
    outputs, inputs = weight.shape[:2]
    flat = weight.reshape(outputs * inputs, 9).t().to(dtype)
    found = (_both_ways(dtype) @ flat).float().view(36, outputs, inputs)
    parts = -(-inputs // _INPUTS) if _onednn() else 1
    if inputs % parts:
        return found[None]
    return found.view(36, outputs, parts, -1).permute(2, 0, 1, 3).contiguous()


@lru_cache(maxsize=2)
def _both_ways(dtype: torch.dtype) -> Tensor:
    """``_WEIGHTS`` applied to the rows and the columns of a square that is given as one vector."""
    one = torch.tensor(_WEIGHTS, dtype=torch.float64)
    return torch.kron(one, one).to(dtype).contiguous()


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
        products = _products(values, weights).view(6, 6, high * across, outputs)
        half = _room("half", 4, 6, high * across, outputs)
        _four(products, half)
        part = y[first : first + high]
        _four(half.view(4, 6, high, across, -1).movedim(1, 0), _by_place(part))
        if bias is not None:
            part += bias
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

    That is x2 − B² x0 and x4 − A² x2 of them in sums that share what they can:
    A² B² x0 − (A² + B²) x2 + x4, ±A (x3 − B² x1) + x4 − B² x2, ±B (x3 − A² x1) + x4 − A² x2.
    """
    shape = list(x.shape)
    shape[axis] -= 2
    x = x.movedim(axis, 0)
    room = _room("differences", *shape).movedim(axis, 0)
    torch.sub(x[2:], x[:-2], alpha=_B**2, out=room)
    a, b, c, d = (room[i::4] for i in range(4))
    torch.sub(c, a, alpha=_A**2, out=out[0])
    torch.add(c, b, alpha=_A, out=out[1])
    torch.sub(c, b, alpha=_A, out=out[2])
    torch.sub(d, b, alpha=_A**2, out=out[5])
    odd = torch.sub(x[3::4], x[1:-2:4], alpha=_A**2, out=b)
    even = torch.sub(x[4::4], x[2:-2:4], alpha=_A**2, out=c)
    torch.add(even, odd, alpha=_B, out=out[3])
    torch.sub(even, odd, alpha=_B, out=out[4])


def _by_place(y: Tensor) -> Tensor:
    """d×4×a×4×O with the place in a tile's row first, then that in its column: 4×4×d×a×O."""
    return y.permute(3, 1, 0, 2, 4)


def _four(x: Tensor, out: Tensor) -> None:
    """Of 6 values along the first axis 4: powers of ±A and ±B, whose sums are shared."""
    room = _room("sums", *x[0].shape)
    low, high = torch.add(x[1], x[2], out=out[2]), torch.add(x[3], x[4], out=room)
    torch.add(x[0], low, out=out[0]).add_(high)
    low.mul_(_A**2).add_(high, alpha=_B**2)
    low, high = torch.sub(x[1], x[2], out=out[1]), torch.sub(x[3], x[4], out=room)
    torch.add(x[5], low, alpha=_A**3, out=out[3]).add_(high, alpha=_B**3)
    low.mul_(_A).add_(high, alpha=_B)


# -- products --------------------------------------------------------------------------------------


def _products(values: Tensor, weights: Tensor) -> Tensor:
    """36 of tiles×I with transposed O×I, both in parts: 36×tiles×O."""
    product = _onednn()
    out = _room("products", 36, values.shape[2], weights.shape[2])
    if product is None:
        return torch.bmm(values[0], weights[0].transpose(1, 2), out=out)
    for matrix in range(36):
        to, total = out[matrix], product(values[0, matrix], weights[0, matrix])
        for part in range(1, weights.shape[0] - 1):
            total += product(values[part, matrix], weights[part, matrix])
        if weights.shape[0] == 1:
            to.copy_(total)
        else:
            torch.add(total, product(values[-1, matrix], weights[-1, matrix]), out=to)
    return out


@lru_cache(maxsize=1)
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """oneDNN's x @ wᵀ, which torch.compile calls for a linear layer; None where it would not pay.

    The products of torch.bmm are those of MKL, which takes AVX-512 on Intel's processors only.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return None

    def product(x: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return found

    # It is no part of the public interface: what it does is seen by trying.
    random = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 24, generator=random) for rows in (40, 32))
    try:
        found = product(x, weight)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return None
    right = (x.double() @ weight.double().t()).float()
    return product if torch.allclose(found, right, rtol=1e-5, atol=1e-5) else None
