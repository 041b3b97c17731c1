"""A generator of a whole picture, without seams, in bounded memory.

The picture is gone through in strips once for each InstanceNorm, to measure its input. The layers
between are computed with halos, and again in the next sweep unless the plan keeps their output. The
trunk is always kept, in two buffers that are updated in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from cyclegan_cli.engine.fast.kernels import uses_winograd, winograd_workspace
from cyclegan_cli.engine.layers import Layer, Trunk, layers, source_channels
from cyclegan_cli.painting.statistics import Moments, OverrideStats, smooth_rows
from cyclegan_cli.painting.strips import EVERY, WORKSPACE, Cost, Place, Plan, Rows, Scratch
from cyclegan_cli.settings import GeneratorSpec

T = TypeVar("T", bound=Any)  # NumPy arrays, C×h×W, or tensors, 1×C×h×W


class Backend(Protocol[T]):
    """What computes the layers of one generator.

    ``itemsize``: bytes of one value; 4 in arrays of ``wide_from`` channels or more.
    """

    @property
    def itemsize(self) -> int: ...
    @property
    def wide_from(self) -> int: ...
    @property
    def sum_itemsize(self) -> int: ...  # of a trunk's sum

    # The output of a layer (TypeError for a kind that it cannot compute), and of InstanceNorm.
    def apply(self, layer: Layer, source: Rows[T]) -> Rows[T]: ...
    def normalised(self, source: Rows[T], moments: Moments) -> Rows[T]: ...
    # The statistics of rows that were read last.
    def measure(self, strip: T) -> Moments: ...
    # Rows of a buffer, which may be on another device or in a mapped file.
    def on_device(self, strip: T) -> T: ...
    # Rows from ``start`` on added to ``total``, in place.
    def accumulate(self, total: T, source: Rows[T], start: int) -> None: ...
    # All of ``rows``, without gaps in memory; a buffer for them, not cleared; rows written to it.
    def whole(self, rows: Rows[T]) -> T: ...
    def empty(self, rows: Rows[T], place: Place, scratch: Scratch) -> T: ...
    def write(self, buffer: T, start: int, strip: T) -> None: ...
    # Rows of a picture without their fine detail (``statistics.smoothed``).
    def smoothed(self, picture: T) -> T: ...
    # The result of a strip: float32, added to the picture's rows (recoloured by the scene), if any.
    def finish(self, strip: T, source: T | None) -> T: ...


class Band(Protocol):
    """The rows of one of several processes."""

    # [start, stop) of an array of ``height`` rows; fill in the rows around them from the others.
    def rows(self, height: int) -> tuple[int, int]: ...
    def exchange(self, buffer: Any) -> None: ...


def evaluate(
    spec: GeneratorSpec,
    backend: Backend[T],
    source: Rows[T],
    plan: Plan,
    write: Callable[[int, T], None],
    *,
    override_stats: OverrideStats | None = None,
    band: Band | None = None,
) -> None:
    """Compute the generator ``spec`` of ``source`` by ``backend``, in strips.

    source: float32, channels×H×W in [−1, 1], with one of grain if ``spec.code`` is not 0, padded.
    ``write(row, strip)`` is called in order with float32 rows from ``row`` on. ``band``: the rows
    of this process, which alone are written and measured. Raises MemoryError or torch's errors.
    """
    _Evaluation(spec, backend, plan, override_stats, band).run(source, write)


@lru_cache(maxsize=256)  # for many small pictures of one size
def estimate(
    spec: GeneratorSpec,
    itemsize: int,
    height: int,
    width: int,
    plan: Plan,
    threads: int = 0,
    wide_from: int = EVERY,
) -> Cost:
    """Bytes that ``evaluate`` needs. ``threads``: of the kernels, with memory of their own.

    ``itemsize``, ``wide_from``: the backend's.
    """
    sizes = _Sizes(itemsize, threads, wide_from)
    dry_run: _Evaluation[Any] = _Evaluation(spec, sizes, plan, dry_run=True)
    channels = source_channels(spec)
    row = channels * width * itemsize
    source: Rows[Any] = Rows(channels, height, width, itemsize, cost=row, fresh=True)
    dry_run.run(source, lambda _row, _strip: None)
    strips = int(dry_run.widest * WORKSPACE) + sizes.workspace
    return Cost(strips, dry_run.peak, tuple(dry_run.sizes), dry_run.middle)


class _Sizes:
    """A backend that computes only sizes."""

    def __init__(self, itemsize: int, threads: int, wide_from: int) -> None:
        self.itemsize, self.wide_from = itemsize, wide_from
        self.sum_itemsize = 4 if threads else itemsize
        self.workspace = 0  # bytes of the kernels' own memory
        self._threads = threads

    def apply(self, layer: Layer, source: Rows[Any]) -> Rows[Any]:
        rows = source.output_of(layer)
        if self._threads and uses_winograd(layer):
            size = (layer.outputs, layer.inputs, rows.width, self._threads)
            self.workspace = max(self.workspace, winograd_workspace(*size))
        return rows

    def normalised(self, source: Rows[Any], _moments: Moments) -> Rows[Any]:
        return source.derived(*source.shape)

    def empty(self, rows: Rows[Any], _place: Place, _scratch: Scratch) -> Any:
        item = np.zeros((), f"V{rows.itemsize}")
        return np.broadcast_to(item, rows.shape)  # one item of memory, however many are shown

    def _not_computed(self, *_arguments: Any) -> Any:
        raise NotImplementedError("only sizes are known")

    on_device = measure = accumulate = whole = write = smoothed = finish = _not_computed


class _Evaluation(Generic[T]):
    """One picture. ``dry_run``: nothing is computed, only sizes."""

    def __init__(
        self,
        spec: GeneratorSpec,
        backend: Backend[T],
        plan: Plan,
        override_stats: OverrideStats | None = None,
        band: Band | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        self._spec, self._backend, self._plan, self._band = spec, backend, plan, band
        self._override, self._dry_run = override_stats, dry_run
        self._norms = 0  # InstanceNorms done
        # The output of the layers done. The only reference: another would keep old buffers.
        self._rows: Rows[T]
        self._kept: T | None = None  # the buffer that ``_rows`` is computed from
        self._second: T | None = None  # the trunk's second buffer
        self._saved: dict[str, Rows[T]] = {}  # for skip connections
        self._scratch = Scratch()
        self._alive = 0  # bytes kept now
        self.peak, self.widest, self.middle = 0, 0.0, 0
        self.sizes: list[int] = []

    def run(self, source: Rows[T], write: Callable[[int, T], None]) -> None:
        self._rows = source
        for part in layers(self._spec):
            if isinstance(part, Trunk):
                self._run_trunk(part)
            elif part.kind == "instance_norm":
                self._run_norm()
            elif part.kind == "save":
                self._save(part.slot)
            elif part.kind == "add":
                self._rows = _added(self._rows, self._saved[part.slot])
            else:
                self._rows = self._applied(part, self._rows)
        for start, stop in self._strips(self._rows):
            strip = self._rows.read(start, stop)
            write(start, self._backend.finish(strip, self._behind(source, start, stop)))
            self._scratch.forget()

    def _behind(self, source: Rows[T], start: int, stop: int) -> T | None:
        """What the result is added to."""
        if not self._spec.residual:
            return None
        if self._spec.code == 0:
            return source.read(start, stop)
        low, high = smooth_rows(start, stop, source.height)
        picture = source.read(low, high)[..., : self._spec.in_channels, :, :]
        smooth: T = self._backend.smoothed(picture)[..., start - low : stop - low, :]
        return smooth

    def _run_norm(self) -> None:
        """An InstanceNorm outside the trunk."""
        self.sizes.append(self._rows.bytes)
        if self._rows.bytes <= self._plan.keep:
            buffer, moments = self._filled(self._new(self._rows), self._rows)
            self._keep(buffer)
        else:
            moments = self._sweep(self._rows)
        self._rows = self._backend.normalised(self._rows, self._used_stats(moments))

    def _save(self, slot: str) -> None:
        """For a skip connection: kept if the plan allows, else computed again."""
        if self._rows.bytes <= self._plan.keep:
            self._keep(self._filled(self._new(self._rows), self._rows, measured=False)[0])
        self._kept = None  # no trunk may overwrite the buffer that they are computed from
        self._saved[slot] = self._rows

    def _run_trunk(self, trunk: Trunk) -> None:
        """All residual blocks, in two buffers: the sum, and a branch (or the next sum)."""
        total, wide = self._kept, self._backend.sum_itemsize
        other = wide != self._itemsize(self._rows.channels)
        if total is None or tuple(total.shape[-3:]) != self._rows.shape or other:
            total = self._new(dataclasses.replace(self._rows, itemsize=wide))
        total, _ = self._filled(total, self._rows, measured=False)
        if total is not self._kept:
            self._keep(total)
        self.middle = max(self.middle, self._rows.bytes)
        self._rows = self._in_memory(total)
        self._second = self._new(self._rows) if trunk.blocks else None
        for block in trunk.blocks:
            if any(layer.kind == "instance_norm" for layer in block):
                self._accumulate(total, self._branch(block, self._rows))
                continue
            summed = _added(self._branch(block, self._rows), self._rows)
            assert self._second is not None
            filled, _ = self._filled(self._second, summed, measured=False)
            total, self._second = filled, total
            self._kept, self._rows = total, self._in_memory(total)
        self._drop(self._second)
        self._second = None

    def _branch(self, block: Iterable[Layer], rows: Rows[T]) -> Rows[T]:
        """A block's layers; the input of either InstanceNorm is kept in the second buffer."""
        for layer in block:
            if layer.kind == "instance_norm":
                assert self._second is not None
                self._second, moments = self._filled(self._second, rows)
                kept = self._in_memory(self._second)
                rows = self._backend.normalised(kept, self._used_stats(moments))
            else:
                rows = self._applied(layer, rows)
        return rows

    def _applied(self, layer: Layer, rows: Rows[T]) -> Rows[T]:
        """The output of ``layer``, with the size that its values have."""
        out = self._backend.apply(layer, rows)
        size = self._itemsize(out.channels)
        if size == out.itemsize:
            return out
        cost = max(out.cost, float(out.channels * out.width * size))
        return dataclasses.replace(out, itemsize=size, cost=cost)

    def _itemsize(self, channels: int) -> int:
        return 4 if channels >= self._backend.wide_from else self._backend.itemsize

    def _accumulate(self, total: T, rows: Rows[T]) -> None:
        for start, stop in self._strips(rows):
            self._backend.accumulate(total[..., start:stop, :], rows, start)
            self._scratch.forget()
        self._exchange(total)

    def _filled(
        self, buffer: T, rows: Rows[T], *, measured: bool = True
    ) -> tuple[T, Moments | None]:
        """Compute and measure ``rows``; returns ``buffer``, or what was read if one strip."""
        strips = list(self._strips(rows))
        whole = rows.fresh and self._plan.place == "device" and strips == [(0, rows.height)]
        if not whole or self._band is not None:
            return buffer, self._sweep(rows, into=buffer, measured=measured)
        values = self._backend.whole(rows)
        return values, self._backend.measure(values) if measured else None

    def _sweep(
        self, rows: Rows[T], into: T | None = None, *, measured: bool = True
    ) -> Moments | None:
        """Go through ``rows`` once, measure them, and write them to ``into``.

        That may be what they are computed from: a strip is written after the next is computed,
        whose halo reaches back into it.
        """
        total: Moments | None = None
        waiting: tuple[int, T] | None = None
        for start, stop in self._strips(rows):
            strip = rows.read(start, stop)
            if measured:
                part = self._backend.measure(strip)
                total = part if total is None else total.merge(part)
            if into is not None:
                if waiting is not None:
                    self._backend.write(into, *waiting)
                waiting = (start, strip)
            del strip
            self._scratch.forget()
        if into is not None and waiting is not None:
            self._backend.write(into, *waiting)
        self._exchange(into)
        if total is None and measured and not self._dry_run:  # a band without rows
            total = Moments(0, np.zeros(rows.channels), np.zeros(rows.channels))
        return total

    def _exchange(self, buffer: T | None) -> None:
        """Fill in the rows around this process's band, which the next layers read."""
        if self._band is not None and buffer is not None:
            self._band.exchange(buffer)

    def _strips(self, rows: Rows[T]) -> Iterator[tuple[int, int]]:
        """The strips of ``rows`` by the plan, from the top; none in a dry run."""
        height = self._plan.rows(rows)
        self.widest = max(self.widest, height * rows.cost + rows.margin)
        if not self._dry_run:
            first, end = self._band.rows(rows.height) if self._band else (0, rows.height)
            for start in range(first, end, height):
                yield start, min(start + height, end)

    def _used_stats(self, moments: Moments | None) -> Moments:
        """The statistics that the next InstanceNorm uses."""
        if moments is None:  # a dry run
            return Moments(1, np.zeros(1), np.zeros(1))
        if self._override is not None:
            moments = self._override(self._norms, moments.on_host())
        self._norms += 1
        return moments

    def _in_memory(self, values: T) -> Rows[T]:
        """The rows of a buffer."""
        channels, height, width = values.shape[-3:]
        size, on_device = self._itemsize(channels), self._backend.on_device

        def read(start: int, stop: int) -> T:  # without ``self``: it would live as long as rows do
            return on_device(values[..., start:stop, :])

        return Rows(channels, height, width, size, channels * width * size, read=read)

    def _keep(self, buffer: T) -> None:
        """Continue from ``buffer``, and free the one before it."""
        self._drop(self._kept)
        self._kept = buffer
        self._rows = self._in_memory(buffer)

    def _new(self, rows: Rows[T]) -> T:
        self._alive += rows.bytes
        self.peak = max(self.peak, self._alive)
        return self._backend.empty(rows, self._plan.place, self._scratch)

    def _drop(self, buffer: T | None) -> None:
        if buffer is not None:
            self._alive -= buffer.nbytes


def _added(source: Rows[T], other: Rows[T]) -> Rows[T]:
    """The sum of two of the same shape."""

    def read(start: int, stop: int) -> T:
        rows = source.read(start, stop)
        rows += other.read(start, stop)
        return rows

    return dataclasses.replace(source.derived(*source.shape), read=read)
