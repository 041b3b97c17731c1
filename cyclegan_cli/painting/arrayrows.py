"""The layers of ``engine.arrays``' generators, evaluated only where they are asked.

As ``rows`` and ``quick`` do for networks: each works out which rows of its source it needs, asks
for them, and mirrors only at the picture's own border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cyclegan_cli.engine.arrays import Array, ArrayGenerator
from cyclegan_cli.engine.fast.arrays import Layer, Strip, convolve, separable
from cyclegan_cli.painting.halo import needed
from cyclegan_cli.painting.plans import Plan

__all__ = ["ITEM", "ArrayRows", "Layers", "source_of", "stored", "unread"]

ITEM = 4  # bytes of a float32


@dataclass(frozen=True)
class ArrayRows:
    """As ``rows.Rows``: ``read(start, stop)`` gives channels×(stop − start)×width values.

    To read n rows, the largest array on the way has about n · ``cost`` + ``margin`` bytes.
    """

    channels: int
    height: int
    width: int
    cost: float
    read: Callable[[int, int], Array]
    margin: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def bytes(self) -> int:
        return self.channels * self.height * self.width * ITEM

    def strip(self, plan: Plan) -> int:
        """The rows of a strip that ``plan`` allows."""
        return min(max(1, int((plan.strip - self.margin) // self.cost)), self.height)

    def strips(self, plan: Plan) -> Iterator[tuple[int, int]]:
        step = self.strip(plan)
        for start in range(0, self.height, step):
            yield start, min(start + step, self.height)

    def after(self, channels: int, height: int, width: int, extra: int = 0) -> ArrayRows:
        """What is computed of these, n rows of it of n · self.height / height + ``extra``."""
        cost = max(float(channels * width * ITEM), self.cost * self.height / height)
        return ArrayRows(channels, height, width, cost, unread, self.margin + extra * self.cost)


def unread(start: int, stop: int) -> Array:
    """For rows of which only the sizes are asked."""
    raise NotImplementedError


def source_of(height: int, width: int, read: Callable[[int, int], Array]) -> ArrayRows:
    return ArrayRows(3, height, width, 3 * width * ITEM, read)


def stored(values: Array) -> ArrayRows:
    channels, height, width = values.shape
    cost = channels * width * ITEM
    return ArrayRows(channels, height, width, cost, lambda a, b: values[:, a:b])


class Layers:
    """The parts of a generator, each up to where a ReLU, which whoever reads on puts before."""

    def __init__(self, generator: ArrayGenerator, threads: int) -> None:
        self._weights, self._threads = generator.weights, threads
        self._width = generator.spec.width

    def encoder(self, source: ArrayRows) -> ArrayRows:
        w = self._width
        rows = self._whole("encoder.1", source, w, pad=3)
        rows = self._whole("encoder.4", rows, 2 * w, pad=1, stride=2, relu=True)
        return self._whole("encoder.7", rows, 4 * w, pad=1, stride=2, relu=True)

    def block(self, source: ArrayRows, number: int) -> ArrayRows:
        """The branch of a residual block, without the sum."""
        rows = self._separable(f"trunk.{number}.branch", 1, source, 4 * self._width)
        return self._separable(f"trunk.{number}.branch", 5, rows, 4 * self._width, relu=True)

    def decoder(self, source: ArrayRows) -> ArrayRows:
        """Up to the tanh."""
        w = self._width
        rows = self._separable("decoder", 2, source, 2 * w, enlarge=True)
        rows = self._separable("decoder", 7, rows, w, enlarge=True, relu=True)
        return self._whole("decoder.11", rows, 3, pad=3, relu=True)

    def _layer(self, name: str) -> Layer:
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]

    def _whole(
        self,
        name: str,
        source: ArrayRows,
        outputs: int,
        *,
        pad: int,
        stride: int = 1,
        relu: bool = False,
    ) -> ArrayRows:
        """A (2 pad + 1)² convolution of what mirrors around itself."""
        kernel, layer = 2 * pad + 1, self._layer(name)
        around = source.after(source.channels, source.height + 2 * pad, source.width + 2 * pad)
        size = (outputs, source.height // stride, source.width // stride)

        def read(start: int, stop: int) -> Array:
            wanted = (start * stride, (stop - 1) * stride + kernel)
            strip = _strip(source, wanted, pad, relu=relu, enlarge=False)
            out = np.empty((outputs, stop - start, size[2]), np.float32)
            convolve(strip, start, layer, stride, out, self._threads)
            return out

        return replace(around.after(*size, extra=kernel - stride), read=read)

    def _separable(
        self,
        room: str,
        number: int,
        source: ArrayRows,
        outputs: int,
        *,
        relu: bool = False,
        enlarge: bool = False,
    ) -> ArrayRows:
        """A depthwise 3×3 and a pointwise convolution of what mirrors around itself."""
        depth, point = self._layer(f"{room}.{number}"), self._layer(f"{room}.{number + 1}")
        channels, height, width = source.shape
        rows = source
        if enlarge:
            height, width = 2 * height, 2 * width
            rows = rows.after(channels, height, width, extra=1)
        rows = rows.after(channels, height + 2, width + 2)
        rows = rows.after(channels, height, width, extra=2).after(outputs, height, width)

        def read(start: int, stop: int) -> Array:
            strip = _strip(source, (start, stop + 2), 1, relu=relu, enlarge=enlarge)
            out = np.empty((outputs, stop - start, width), np.float32)
            separable(strip, start, depth, point, out, self._threads)
            return out

        return replace(rows, read=read)


def _strip(
    source: ArrayRows, rows: tuple[int, int], pad: int, *, relu: bool, enlarge: bool
) -> Strip:
    """What ``rows`` (from, to) of the padded picture come of, read."""
    low, high = needed(rows, source.height, pad, mirror=True, enlarge=enlarge)
    return Strip(source.read(low, high), low, source.height, pad, relu, enlarge)
