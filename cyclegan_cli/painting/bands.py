"""One picture painted by several processes, each a band of its rows, with the result of one.

InstanceNorm's statistics are pooled by all-reduce, and rows at the bands' borders are exchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.engine.distributed import Group
from cyclegan_cli.errors import CycleganError, PictureError, ProcessesError
from cyclegan_cli.machine import shares
from cyclegan_cli.painting.painter import Painter
from cyclegan_cli.painting.pixels import Pixels
from cyclegan_cli.painting.statistics import Array, Moments, OverrideStats
from cyclegan_cli.painting.strips import TILE, Plan

HALO = 4  # rows of a neighbour: more than the layers between two kept tensors need
_MARGIN = 32  # rows of the picture around a band: more than the encoder needs
_LEAST = 16  # rows of the picture that a process has at least: a halo at a quarter of the size


@dataclass(frozen=True)
class _Task:
    """One picture, as the first process describes it to the others."""

    shape: tuple[int, ...]
    dtype: str
    size: tuple[int, int]  # padded
    overridden: bool  # the first process decides the statistics
    origin: tuple[int, int]  # of the canvas
    deep: bool
    code: Array | None  # of the scene, which no band sees whole
    plans: list[Plan]


class _Band:
    """The rows of one process: at every resolution, the same part of the height."""

    def __init__(self, painter: Painter, group: Group, task: _Task) -> None:
        self._painter, self._group, self.task = painter, group, task
        height, unit = task.size[0], painter.unit
        self._units = units = (
            height // unit
        )  # rows of the smallest layer, of which a band has tiles
        busy = min(group.size, max(1, height // _LEAST))
        self._bounds = [TILE * part.start for part in shares(-(-units // TILE), busy)] + [units]
        self._bounds += [units] * (group.size - busy)
        self._busy = busy  # small pictures want fewer processes

    def _of(self, rank: int, height: int) -> tuple[int, int]:
        """[start, stop) of the rows of process ``rank``, of an array ``height`` rows high."""
        scale = height // self._units
        low, high = self._bounds[rank], self._bounds[rank + 1]
        return low * scale, high * scale

    def rows(self, height: int) -> tuple[int, int]:
        """Of this process."""
        return self._of(self._group.rank, height)

    def needed(self, rank: int) -> tuple[int, int]:
        """The picture's own rows that process ``rank`` paints from."""
        (low, high), height = self._of(rank, self.task.size[0]), self.task.shape[0]
        return max(0, min(low, height) - _MARGIN), min(height, high + _MARGIN)

    def shown(self, rank: int) -> tuple[int, int]:
        """The picture's own rows that process ``rank`` paints: without the padding."""
        (low, high), height = self._of(rank, self.task.size[0]), self.task.shape[0]
        return min(low, height), min(high, height)

    def send(self, pixels: Pixels, rank: int) -> None:
        """Send rows of the picture or of the painting."""
        values = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        self._group.send(torch.from_numpy(values), rank)

    def receive(self, rows: tuple[int, int], rank: int) -> Pixels:
        """Rows [start, stop) that process ``rank`` sends."""
        shape, dtype = (rows[1] - rows[0], *self.task.shape[1:]), np.dtype(self.task.dtype)
        data = torch.empty(int(np.prod(shape)) * dtype.itemsize, dtype=torch.uint8)
        self._group.receive(data, rank)
        return data.numpy().view(dtype).reshape(shape)

    def paint(self, pixels: Pixels, override: OverrideStats | None = None) -> Pixels:
        """This process's rows of the result. ``pixels``: those that ``needed`` gives."""
        task, rank = self.task, self._group.rank
        backend = self._painter.backend_for(task.deep, task.code)
        return self._painter.paint_rows(
            *(backend, pixels, task.shape[0], self._agreed(backend), self.shown(rank)),
            first=self.needed(rank)[0],
            override_stats=self._pooled(override),
            origin=task.origin,
            band=self,
        )

    def _agreed(self, backend: Any) -> Plan:
        """The first plan that all processes have the memory for."""
        task, plans = self.task, list[Plan]()
        with contextlib.suppress(PictureError):
            nbytes = int(np.prod(task.shape)) * np.dtype(task.dtype).itemsize
            plans = self._painter.plans(backend, task.shape, nbytes)
        # The largest of each process's first possible plan is possible for all, if any is.
        fits = [plan in plans for plan in task.plans]
        vote = self._group.check_in(fits.index(True) if any(fits) else len(fits))
        if self._group.check_in(int(vote == len(fits) or not fits[vote])):
            raise PictureError(
                "One of the processes has too little memory for its part of the picture.",
                hint="Raise --max-memory, or paint it smaller: --resolution 2048.",
            )
        return task.plans[vote]

    def exchange(self, buffer: Any) -> None:
        """Fill the neighbours' rows into ``buffer``, …×h×w, beside this process's own."""
        rank = self._group.rank
        tensor = buffer if isinstance(buffer, Tensor) else torch.from_numpy(buffer)
        low, high = self.rows(tensor.shape[-2])
        # Even ranks send first, so that one of two neighbours always receives.
        for turn in (0, 1):
            for other in (rank - 1, rank + 1):
                if not 0 <= other < self._busy or rank >= self._busy:
                    continue
                if (rank % 2 == 0) == (turn == 0):
                    own = slice(low, low + HALO) if other < rank else slice(high - HALO, high)
                    self._group.send(tensor[..., own, :], other)
                else:
                    theirs = slice(low - HALO, low) if other < rank else slice(high, high + HALO)
                    halo = torch.empty_like(tensor[..., theirs, :]).contiguous()
                    self._group.receive(halo, other)
                    tensor[..., theirs, :] = halo

    def _pooled(self, override: OverrideStats | None) -> OverrideStats:
        """Gives the statistics of the whole picture, as the first process overrides them."""

        def pool(number: int, own: Moments) -> Moments:
            count = torch.tensor([float(own.count)], dtype=torch.float64)
            own_mean, own_m2 = torch.from_numpy(own.mean), torch.from_numpy(own.m2)
            sums = own_mean * own.count
            self._group.sum_([count, sums])
            mean = sums / count
            m2 = own_m2 + own.count * (own_mean - mean) ** 2
            self._group.sum_([m2])
            moments = Moments(int(count), mean.numpy(), m2.numpy())
            if not self.task.overridden:
                return moments
            if override is not None:
                moments = override(number, moments)
            return self._group.first(moments)

        return pool


@contextlib.contextmanager
def together(painter: Painter, group: Group) -> Iterator[None]:
    """``painter`` paints each picture by all processes of ``group``, of which this is the first.

    The others call ``help_paint`` until the block ends. ``painter.paint``, and the end of the
    block, raise ProcessesError where another process has failed.
    """
    broken: CycleganError | None = None

    def paint(pixels: Pixels, override: OverrideStats | None, *facts: Any) -> Pixels:
        """``facts``: the last fields of ``_Task``."""
        nonlocal broken
        if broken is not None:
            raise broken
        size = painter.padded_size(pixels.shape)
        task = _Task(pixels.shape, str(pixels.dtype), size, override is not None, *facts)
        try:
            band = _Band(painter, group, task)
            group.first(task)
            for rank in range(1, group.size):
                low, high = band.needed(rank)
                band.send(pixels[low:high], rank)
            painted = np.empty_like(pixels, order="C")
            own = band.paint(pixels, override)
            painted[: len(own)] = own
            for rank in range(1, group.size):
                low, high = band.shown(rank)
                painted[low:high] = band.receive((low, high), rank)
            return painted
        except PictureError:  # raised by all, which go on with the next picture
            raise
        except BaseException as error:  # the others are in the middle of it: all end
            group.report(error)
            broken = ProcessesError(f"The processes cannot go on: {error}")
            raise

    painter.by_processes = paint
    try:
        yield
    finally:
        painter.by_processes = None
        if broken is not None:
            raise broken
        group.first(None)


def help_paint(painter: Painter, group: Group) -> None:
    """Paint this process's bands of the first process's pictures, until it finishes."""
    while (task := group.first(cast("_Task | None", None))) is not None:
        band = _Band(painter, group, task)
        pixels = band.receive(band.needed(group.rank), 0)
        with contextlib.suppress(PictureError):
            band.send(band.paint(pixels), 0)
