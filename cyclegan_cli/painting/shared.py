"""One picture painted by several processes, each a band of its rows.

Every InstanceNorm's statistics are pooled over the bands by all-reduce, and what is kept on the way
has the neighbours' rows beside it. So the result is that of one process.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.engine.distributed import Group
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import CycleganError, PictureError, ProcessesError
from cyclegan_cli.painting.memory import choose
from cyclegan_cli.painting.moments import Moments, Settle
from cyclegan_cli.painting.pixels import Pixels, check, padded
from cyclegan_cli.painting.plans import Plan
from cyclegan_cli.painting.streaming import evaluate
from cyclegan_cli.painting.tensors import to_pixels
from cyclegan_cli.painting.translator import Translator, source_rows
from cyclegan_cli.shares import shares

__all__ = ["SharedTranslator", "help_paint"]

HALO = 4  # rows of a neighbour's: more than any layers between two kept tensors reach
_MARGIN = 32  # rows of the picture around a band: more than the encoder reaches
_LEAST = 16  # rows of the picture that a process has at least: a halo at a quarter of them


@dataclass(frozen=True)
class _Task:
    """One picture: its shape and dtype, the plans that the first process could use."""

    shape: tuple[int, ...]
    dtype: str
    size: tuple[int, int]  # padded
    plans: list[Plan]
    settled: bool  # the first process decides the statistics
    origin: tuple[int, int]  # of the canvas


class _Band:
    """The rows of one process: at every resolution, the same part of the height."""

    def __init__(self, group: Group, height: int) -> None:
        self._group = group
        self._height = height
        # In units of 4 rows, which are one row of the trunk; small pictures want fewer processes.
        units = height // 4
        busy = min(group.size, max(1, height // _LEAST))
        self._bounds = [part.start for part in shares(units, busy)] + [units]
        self._bounds += [units] * (group.size - busy)
        self.busy = busy

    def of(self, rank: int, height: int) -> tuple[int, int]:
        """First row and the one after the last, of a tensor ``height`` rows high."""
        scale = height * 4 // self._height
        low, high = self._bounds[rank], self._bounds[rank + 1]
        return low * scale, high * scale

    def rows(self, height: int) -> tuple[int, int]:
        """Of this process."""
        return self.of(self._group.rank, height)

    def exchange(self, buffer: Tensor) -> None:
        """Bring the neighbours' rows into ``buffer``, 1×C×h×w, beside this process's own."""
        rank = self._group.rank
        low, high = self.rows(buffer.shape[2])
        # Even ones speak first, so that of two neighbours one always listens.
        for turn in (0, 1):
            for other in (rank - 1, rank + 1):
                if not 0 <= other < self.busy or rank >= self.busy:
                    continue
                if (rank % 2 == 0) == (turn == 0):
                    own = slice(low, low + HALO) if other < rank else slice(high - HALO, high)
                    self._group.send(buffer[:, :, own], other)
                else:
                    theirs = slice(low - HALO, low) if other < rank else slice(high, high + HALO)
                    halo = torch.empty_like(buffer[:, :, theirs]).contiguous()
                    self._group.receive(halo, other)
                    buffer[:, :, theirs] = halo

    def pooled(self, settle: Settle | None, settled: bool) -> Settle:
        """The statistics of the whole picture; then what the first process makes of them."""

        def pool(number: int, own: Moments) -> Moments:
            count = torch.tensor([float(own.count)], dtype=torch.float64)
            sums = own.mean * own.count
            self._group.sum_([count, sums])
            mean = sums / count
            m2 = own.m2 + own.count * (own.mean - mean) ** 2
            self._group.sum_([m2])
            moments = Moments(int(count), mean, m2)
            if not settled:
                return moments
            if settle is not None:
                moments = settle(number, moments)
            return self._group.first(moments)

        return pool


class SharedTranslator(Translator):
    """A Translator whose pictures all processes of ``group`` paint; this one is the first.

    The others call ``help_paint``, until ``finish``.
    """

    def __init__(
        self,
        network: Generator,
        *,
        group: Group,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_memory: int | None = None,
        exact_reference: bool = False,
    ) -> None:
        super().__init__(
            network,
            device=device,
            dtype=dtype,
            max_memory=max_memory,
            exact_reference=exact_reference,
        )
        self._group = group
        self._broken: CycleganError | None = None

    @torch.inference_mode()
    def paint(
        self,
        pixels: Pixels,
        *,
        settle: Settle | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Pixels:
        """As ``Translator.paint``. Raises ProcessesError where another process has failed."""
        check(pixels)
        if self._broken is not None:
            raise self._broken
        size = (padded(pixels.shape[0]), padded(pixels.shape[1]))
        plans = choose(self.network, size, self.device, self.max_memory, extra=pixels.nbytes)
        task = _Task(pixels.shape, str(pixels.dtype), size, plans, settle is not None, origin)
        try:
            return self._paint_all(task, pixels, settle)
        except PictureError:  # agreed on by all: they wait for the next picture
            raise
        except BaseException as error:  # the others are somewhere on the way: it ends for all
            self._group.report(error)
            self._broken = ProcessesError(f"The processes cannot go on: {error}")
            raise

    def _paint_all(self, task: _Task, pixels: Pixels, settle: Settle | None) -> Pixels:
        group, band = self._group, _Band(self._group, task.size[0])
        group.first(task)
        for rank in range(1, group.size):
            low, high = _needed(band, rank, task)
            group.send(_tensor(pixels[low:high]), rank)
        painted = np.empty_like(pixels, order="C")
        own = _paint_band(self, group, task, band, pixels, settle)
        painted[: len(own)] = own
        for rank in range(1, group.size):
            low, high = _shown(band, rank, task)
            part = torch.empty(painted[low:high].nbytes, dtype=torch.uint8)
            group.receive(part, rank)
            painted[low:high] = part.numpy().view(pixels.dtype).reshape(painted[low:high].shape)
        return painted

    def finish(self) -> None:
        """Let the others go. Raises ProcessesError where they had to be given up."""
        if self._broken is not None:
            raise self._broken
        self._group.first(None)


@torch.inference_mode()
def help_paint(translator: Translator, group: Group) -> None:
    """Paint this process's bands of the pictures that the first process has, until it is done."""
    while (task := group.first(_none())) is not None:
        band = _Band(group, task.size[0])
        low, high = _needed(band, group.rank, task)
        width, channels = task.shape[1:]
        dtype = np.dtype(task.dtype)
        data = torch.empty((high - low) * width * channels * dtype.itemsize, dtype=torch.uint8)
        group.receive(data, 0)
        pixels = data.numpy().view(dtype).reshape(high - low, width, channels)
        with contextlib.suppress(PictureError):
            own = _paint_band(translator, group, task, band, pixels, None)
            group.send(_tensor(own), 0)


def _none() -> _Task | None:
    return None


def _paint_band(
    translator: Translator,
    group: Group,
    task: _Task,
    band: _Band,
    pixels: Pixels,
    settle: Settle | None,
) -> Pixels:
    """This process's rows of the result. ``pixels``: what ``_needed`` says of the picture."""
    plan = _agreed(translator, group, task)
    first, _ = _needed(band, group.rank, task)
    low, high = _shown(band, group.rank, task)
    painted = np.empty((high - low, *task.shape[1:]), dtype=task.dtype)

    def write(row: int, strip: Tensor) -> None:
        stop = min(row + strip.shape[2], high)
        if row < stop:
            shown = strip[:, :, : stop - row, : task.shape[1]]
            painted[row - low : stop - low] = to_pixels(shown, painted.dtype)

    source = source_rows(translator, pixels, task.shape[0], task.size, first, task.origin)
    network, device = translator.network, translator.device
    pool = band.pooled(settle, task.settled)
    evaluate(network, source, plan, device, write, settle=pool, band=band)
    return painted


def _agreed(translator: Translator, group: Group, task: _Task) -> Plan:
    """The first plan that all processes have the memory for."""
    plans: list[Plan] = []
    with contextlib.suppress(PictureError):
        extra = task.shape[0] * task.shape[1] * task.shape[2]
        plans = choose(
            translator.network, task.size, translator.device, translator.max_memory, extra
        )
    # Each says which is its first; what all have is, if anything, the last of these.
    fits = [plan in plans for plan in task.plans]
    vote = group.check_in(fits.index(True) if any(fits) else len(fits))
    if group.check_in(int(vote == len(fits) or not fits[vote])):
        raise PictureError(
            "One of the processes has too little memory for its part of the picture.",
            hint="Raise --max-memory, or paint it smaller: --resolution 2048.",
        )
    return task.plans[vote]


def _needed(band: _Band, rank: int, task: _Task) -> tuple[int, int]:
    """The picture's own rows that process ``rank`` paints from."""
    low, high = band.of(rank, task.size[0])
    return max(0, min(low, task.shape[0]) - _MARGIN), min(task.shape[0], high + _MARGIN)


def _shown(band: _Band, rank: int, task: _Task) -> tuple[int, int]:
    """The picture's own rows that process ``rank`` paints: without the padding."""
    low, high = band.of(rank, task.size[0])
    return min(low, task.shape[0]), min(high, task.shape[0])


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))
