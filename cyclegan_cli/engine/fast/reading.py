"""Rows of a picture read through normalising, ReLU and padding, in PyTorch's own operations."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclegan_cli.engine.fast.kernels import Strip

__all__ = ["by_channel", "realised", "realised_by_pixel"]


def realised(strip: Strip, row: int, rows: int) -> Tensor:
    """Rows of the padded picture from ``row`` on, zeros where it has ended: 1×C×rows×(W + 2 pad).

    ``strip`` does not enlarge.
    """
    channels, width = strip.values.shape[1], strip.padded[1]
    low, high = _span(strip, row, rows)
    x = torch.empty(1, channels, high - low, width)
    _fill(x[0].permute(1, 2, 0), strip, low, strip.values[0].permute(1, 2, 0))
    return x[:, :, row - low : row - low + rows]


def realised_by_pixel(strip: Strip, row: int, rows: int, columns: int | None = None) -> Tensor:
    """The same in channels_last, a pixel's values side by side; zeros up to ``columns``, too."""
    channels, high, width = strip.values.shape[1:]
    turned = torch.empty(high, width, channels)
    turned.view(-1, channels).copy_(strip.values[0].reshape(channels, -1).t())  # so it is fast
    low, end = _span(strip, row, rows)
    shape = (end - low, columns or strip.padded[1], channels)
    x = turned if turned.shape == shape else torch.empty(shape)
    _fill(x, strip, low, turned)
    return x[None, row - low : row - low + rows].permute(0, 3, 1, 2)


def by_channel(x: Tensor) -> Tensor:
    """N×C×H×W of any strides, contiguous; the way from channels_last is short where N is 1."""
    if x.is_contiguous() or x.shape[0] != 1:
        return x.contiguous()
    flat = x[0].permute(1, 2, 0).reshape(-1, x.shape[1])
    return flat.t().contiguous().view(x.shape)


def _span(strip: Strip, row: int, rows: int) -> tuple[int, int]:
    """From where to where: with all of the strip, since what is mirrored may be any of its rows."""
    first = strip.first + strip.pad
    return min(row, first), max(row + rows, first + strip.values.shape[2])


def _fill(x: Tensor, strip: Strip, low: int, values: Tensor) -> None:
    """x: rows×columns×C, of the padded picture from row ``low`` on; values: h×W×C."""
    high, width, _ = values.shape
    pad, top = strip.pad, strip.first + strip.pad - low
    inner = x[top : top + high, pad : pad + width]
    if strip.mean is not None and strip.scale is not None:
        torch.sub(values, strip.mean, out=inner).mul_(strip.scale)
        if strip.relu:
            inner.relu_()
    elif strip.relu:
        torch.clamp_min(values, 0.0, out=inner)
    else:
        inner.copy_(values)
    x[:, :pad] = 0.0
    x[:, pad + width :] = 0.0
    if strip.mirror:
        for i in range(1, pad + 1):
            x[:, pad - i] = x[:, pad + i]
            x[:, pad + width - 1 + i] = x[:, pad + width - 1 - i]
    for at in [*range(top), *range(top + high, x.shape[0])]:
        source = _mirrored(low + at - pad, strip) - strip.first
        if 0 <= source < high:
            x[at] = x[top + source]
        else:
            x[at] = 0.0


def _mirrored(row: int, strip: Strip) -> int:
    """Which row of the picture is read for ``row``; −1 for none."""
    if not strip.mirror or row >= strip.height + strip.pad:
        return row if 0 <= row < strip.height else -1
    return abs(row) if row < strip.height else 2 * (strip.height - 1) - row
