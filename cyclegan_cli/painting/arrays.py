"""Pictures painted without PyTorch: generators of ``engine.arrays``, by the kernels, on the CPU.

The same numbers as ``Translator`` gives there, by the same kernels in the same strips. Nothing is
measured over the whole picture, so it is swept once; the trunk, at a quarter of the resolution, is
kept in two buffers, the sums before and after a block. What lies between is computed where it is
asked, with its halo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from cyclegan_cli.engine.arrays import Array, ArrayGenerator
from cyclegan_cli.engine.fast.allocator import keep_freed_memory
from cyclegan_cli.engine.fast.arrays import Strip, prepare
from cyclegan_cli.engine.grain import canvas
from cyclegan_cli.painting.arrayrows import (
    ITEM,
    ArrayRows,
    Layers,
    source_of,
    stored,
    unread,
)
from cyclegan_cli.painting.memory import SHORT, choose_on_host, too_small
from cyclegan_cli.painting.pixels import (
    Pixels,
    Planes,
    check,
    from_planes,
    padded,
    padded_rows,
    to_planes,
)
from cyclegan_cli.painting.plans import WORKSPACE, Cost, Plan, Scratch

if TYPE_CHECKING:
    from cyclegan_cli.painting.moments import Settle

__all__ = ["ArrayTranslator", "estimate"]


class ArrayTranslator:
    """``generator`` applied to arrays of pixels, in ``threads`` threads.

    ``max_memory`` and ``notes``: as those of ``Translator``.
    """

    def __init__(
        self, generator: ArrayGenerator, *, threads: int, max_memory: int | None = None
    ) -> None:
        self.generator = generator
        self.threads = threads
        self.max_memory = max_memory
        self.notes: list[str] = []
        keep_freed_memory()

    def paint(
        self, pixels: Pixels, *, settle: Settle | None = None, origin: tuple[int, int] = (0, 0)
    ) -> Pixels:
        """As ``Translator.paint``; ``settle`` is never asked, since there is no InstanceNorm."""
        del settle
        check(pixels)
        self.notes = []
        size = (padded(pixels.shape[0]), padded(pixels.shape[1]))
        plans = choose_on_host(
            lambda plan: estimate(self.generator, *size, plan),
            size,
            row=self.generator.spec.width * size[1] * ITEM,
            max_memory=self.max_memory,
            extra=pixels.nbytes,
        )
        for plan in plans:
            try:
                return self._evaluate(pixels, size, plan, origin)
            except MemoryError:
                self.notes = [SHORT]
        raise too_small("cpu", pixels)

    def _evaluate(
        self, pixels: Pixels, size: tuple[int, int], plan: Plan, origin: tuple[int, int]
    ) -> Pixels:
        height, width = pixels.shape[:2]
        spec = self.generator.spec
        around = padded_rows(pixels, height, size)

        def read(start: int, stop: int) -> Planes:
            values = to_planes(around(start, stop), 3)
            if spec.grain > 0:
                values += np.float32(spec.grain) * canvas(start, stop, size[1], 3, origin)
            return values

        painted = np.empty_like(pixels, order="C")
        for row, strip in _painted(self.generator, read, size, plan, self.threads):
            stop = min(row + strip.shape[1], height)
            if row < stop:
                painted[row:stop] = from_planes(strip[:, : stop - row, :width], pixels.dtype)
        return painted


def estimate(generator: ArrayGenerator, height: int, width: int, plan: Plan) -> Cost:
    """What a plan takes for a picture of that size; nothing is computed."""
    layers = Layers(generator, 1)
    encoded = layers.encoder(source_of(height, width, unread))
    trunk = ArrayRows(*encoded.shape, cost=encoded.width * encoded.channels * ITEM, read=unread)
    swept = [encoded, layers.decoder(trunk)]
    if generator.spec.blocks:
        swept.append(layers.block(trunk, 0))
    strips = [rows.strip(plan) * rows.cost + rows.margin for rows in swept]
    kept = encoded.bytes * (2 if generator.spec.blocks else 1)
    return Cost(int(max(strips) * WORKSPACE), kept, (), encoded.bytes)


def _painted(
    generator: ArrayGenerator,
    read: Callable[[int, int], Planes],
    size: tuple[int, int],
    plan: Plan,
    threads: int,
) -> Iterator[tuple[int, Planes]]:
    """The first row of each strip of the result, in order, and the strip.

    ``read`` gives rows (from, to) of the padded picture of ``size``, 3×h×W.
    """
    layers, scratch = Layers(generator, threads), Scratch()

    def new(rows: ArrayRows) -> Array:
        if plan.place == "disk":
            return np.frombuffer(scratch.room(rows.bytes), np.float32).reshape(rows.shape)
        return np.empty(rows.shape, np.float32)

    rows = layers.encoder(source_of(*size, read))
    total, spare = new(rows), new(rows) if generator.spec.blocks else None
    for start, stop in rows.strips(plan):
        strip = Strip(rows.read(start, stop), start, rows.height, relu=True)
        part = np.empty(strip.values.shape, np.float32)
        prepare(strip, start, part, threads)
        total[:, start:stop] = part
        scratch.forget()
    for number in range(generator.spec.blocks):
        assert spare is not None
        rows = layers.block(stored(total), number)
        for start, stop in rows.strips(plan):
            part = rows.read(start, stop)
            np.add(part, total[:, start:stop], out=spare[:, start:stop])
            scratch.forget()
        total, spare = spare, total
    rows = layers.decoder(stored(total))
    for start, stop in rows.strips(plan):
        part = rows.read(start, stop)
        np.tanh(part, out=part)
        if generator.spec.residual:
            part += read(start, stop)
        yield start, part
        scratch.forget()
