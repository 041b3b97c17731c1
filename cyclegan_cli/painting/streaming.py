"""A generator evaluated in strips: the result of the whole picture, seam-free, in bounded memory.

InstanceNorm makes every pixel depend on the whole picture. So a picture is swept in strips once
for each InstanceNorm, to measure it (``moments``); what lies between is computed where it is asked
(``rows``), with halos, and computed again in the next sweep, unless the plan keeps it. The trunk,
at a quarter of the resolution, always is kept, in two buffers, whose strips are replaced in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.networks import Generator, ResidualBlock
from cyclegan_cli.painting.moments import Moments, Settle, measure
from cyclegan_cli.painting.plans import WORKSPACE, Cost, Plan, Scratch
from cyclegan_cli.painting.quick import Quick, workspace
from cyclegan_cli.painting.rows import Rows, added, after, normalised, stored

__all__ = ["Band", "estimate", "evaluate"]


class Band(Protocol):
    """The rows of a picture that one of several processes evaluates."""

    def rows(self, height: int) -> tuple[int, int]:
        """The first row and the one after the last, of a tensor that is ``height`` rows high."""

    def exchange(self, buffer: Tensor) -> None:
        """Bring the rows around them into ``buffer``, 1×C×height×w, from other processes."""


def evaluate(
    network: Generator,
    source: Rows,
    plan: Plan,
    device: torch.device,
    write: Callable[[int, Tensor], None],
    *,
    settle: Settle | None = None,
    quick: Quick | None = None,
    band: Band | None = None,
) -> None:
    """``network`` of the whole of ``source``, strip by strip.

    source: 1×in_channels×H×W in [−1, 1], H and W multiples of 4 and at least 16. ``write(row, y)``
    is called in order with strips of the result, 1×out_channels×h×W in (−1, 1), from row ``row``.
    ``settle``, where given, decides the statistics of each InstanceNorm. ``quick``, where given, is
    the fast way through the layers. ``band``: other processes evaluate the rest; then only its rows
    are written, and measured before ``settle`` is asked.

    Raises where memory is short MemoryError, torch.OutOfMemoryError or RuntimeError.
    """
    _Evaluation(network, plan, device, settle, quick, band=band).run(source, write)


def estimate(network: Generator, height: int, width: int, plan: Plan) -> Cost:
    """What ``evaluate`` would take for a picture of that size; nothing is computed."""
    known = _estimates.setdefault(network, {})
    item = next(network.parameters()).element_size()
    key = (item, height, width, plan)
    if key not in known:
        if len(known) >= _ESTIMATES:
            known.clear()
        known[key] = _rehearsed(network, item, height, width, plan)
    return known[key]


# Pictures of one size often follow each other, and many small ones would wait for their plans.
_ESTIMATES = 256
_estimates: WeakKeyDictionary[Generator, dict[tuple[int, int, int, Plan], Cost]]
_estimates = WeakKeyDictionary()


def _rehearsed(network: Generator, item: int, height: int, width: int, plan: Plan) -> Cost:
    channels = network.spec.in_channels
    row = channels * width * item

    def read(start: int, stop: int) -> Tensor:
        return torch.empty(1, channels, stop - start, width, device="meta")

    source = Rows(channels, height, width, item, read, True, cost=row)
    rehearsal = _Evaluation(network, plan, torch.device("meta"), None, rehearse=True)
    rehearsal.run(source, lambda _row, _y: None)
    return Cost(
        int(rehearsal.widest * WORKSPACE) + rehearsal.workspace,
        rehearsal.peak,
        tuple(rehearsal.sizes),
        rehearsal.middle,
    )


class _Evaluation:
    """One picture under way. With ``rehearse`` nothing is computed, only sizes are noted."""

    def __init__(
        self,
        network: Generator,
        plan: Plan,
        device: torch.device,
        settle: Settle | None,
        quick: Quick | None = None,
        *,
        rehearse: bool = False,
        band: Band | None = None,
    ) -> None:
        self._band = band
        self._network, self._plan, self._device, self._settle = network, plan, device, settle
        self._rehearse = rehearse
        self._quick = quick
        self._after = self._rehearsed if rehearse else quick.after if quick else after
        self._normalised = quick.normalised if quick else normalised
        self._measure = quick.measure if quick else measure
        self._dtype = next(network.parameters()).dtype
        self._norms = 0  # InstanceNorms passed
        # What has been reached. Here and nowhere else: a second reference would keep old buffers.
        self._rows: Rows
        self._kept: Tensor | None = None  # the buffer that ``_rows`` is computed from
        self._beside: Tensor | None = None  # the trunk's second buffer
        self._scratch = Scratch()
        self._alive = 0  # bytes kept now
        self.peak, self.widest, self.middle, self.workspace = 0, 0.0, 0, 0
        self.sizes: list[int] = []

    def run(self, source: Rows, write: Callable[[int, Tensor], None]) -> None:
        self._rows = source
        self._through(self._network.encoder)
        self._trunk()
        self._through(self._network.decoder)
        residual = self._network.spec.residual
        for start, stop in self._strips(self._rows):
            strip = self._rows.read(start, stop)
            write(start, strip.add_(source.read(start, stop)) if residual else strip)
            self._scratch.forget()

    def _through(self, layers: Iterable[nn.Module]) -> None:
        """An encoder's or decoder's layers: each InstanceNorm is measured as it is met."""
        for layer in layers:
            if not isinstance(layer, nn.InstanceNorm2d):
                self._rows = self._after(layer, self._rows)
                continue
            self.sizes.append(self._rows.bytes)
            if self._rows.bytes <= self._plan.keep:
                buffer, moments = self._filled(self._new(self._rows), self._rows)
                self._keep(buffer)
            else:
                moments = self._sweep(self._rows)
            self._rows = self._normalised(self._rows, self._settled(moments), layer.eps)

    def _trunk(self) -> None:
        """All residual blocks, in two buffers: the sum so far, and the branch of one block.

        Without InstanceNorm nothing lies between a block's sum and the next: the buffers are the
        sums before and after the block.
        """
        total = self._kept
        if total is None or total.shape != self._rows.shape:
            total = self._new(self._rows)
        # From total itself, or from before.
        total, _ = self._filled(total, self._rows, measured=False)
        if total is not self._kept:
            self._keep(total)
        self.middle = self._rows.bytes
        self._rows = stored(total, self._device)
        self._beside = self._new(self._rows) if len(self._network.trunk) else None
        for block in self._network.trunk:
            if not isinstance(block, ResidualBlock) or self._beside is None:
                continue
            if self._network.spec.norm == "none":
                grown = added(self._branch(block.branch, self._rows), self._rows)
                filled, _ = self._filled(self._beside, grown, measured=False)
                total, self._beside = filled, total
                self._kept, self._rows = total, stored(total, self._device)
            else:
                self._add(total, self._branch(block.branch, self._rows))
        self._drop(self._beside)
        self._beside = None

    def _keep(self, buffer: Tensor) -> None:
        """Go on from ``buffer``; the one before it is given back."""
        self._drop(self._kept)
        self._kept = buffer
        self._rows = stored(buffer, self._device)

    def _branch(self, layers: Iterable[nn.Module], rows: Rows) -> Rows:
        """A block's layers; what lies before either InstanceNorm is kept in the second buffer."""
        for layer in layers:
            if isinstance(layer, nn.InstanceNorm2d) and self._beside is not None:
                self._beside, moments = self._filled(self._beside, rows)
                kept = stored(self._beside, self._device)
                rows = self._normalised(kept, self._settled(moments), layer.eps)
            else:
                rows = self._after(layer, rows)
        return rows

    def _add(self, total: Tensor, rows: Rows) -> None:
        for start, stop in self._strips(rows):
            kept = total[:, :, start:stop]
            if self._quick and self._quick.add_normalised(kept, rows, start, stop):
                self._scratch.forget()
                continue
            part = rows.read(start, stop)
            kept.copy_(part.add_(kept)) if kept.device != part.device else kept.add_(part)
            self._scratch.forget()
        self._exchange(total)

    def _filled(
        self, buffer: Tensor, rows: Rows, *, measured: bool = True
    ) -> tuple[Tensor, Moments | None]:
        """``rows`` kept, in ``buffer`` or as they are read, and measured: what now holds them.

        A picture that is one strip need not be copied.
        """
        strips = list(self._strips(rows))
        whole = rows.fresh and self._plan.place == "device" and strips == [(0, rows.height)]
        if not whole or self._band is not None:
            return buffer, self._sweep(rows, into=buffer, measured=measured)
        values = rows.read(0, rows.height).contiguous()
        return values, self._measure(values) if measured else None

    def _sweep(
        self, rows: Rows, into: Tensor | None = None, *, measured: bool = True
    ) -> Moments | None:
        """Go through ``rows`` once, measure them, and write them to ``into``.

        ``into`` may be what they are computed from: each strip is written only when the next has
        been computed, whose halo reaches back into it, and by less than a strip's height.
        """
        total: Moments | None = None
        waiting: tuple[int, Tensor] | None = None
        for start, stop in self._strips(rows):
            strip = rows.read(start, stop)
            if measured:
                part = self._measure(strip)
                total = part if total is None else total.merge(part)
            if into is not None:
                _write(into, waiting)
                waiting = (start, strip)
            del strip
            self._scratch.forget()
        _write(into, waiting)
        self._exchange(into)
        if total is None and measured and not self._rehearse:  # a band without rows
            none = torch.zeros(rows.channels, dtype=torch.float64)
            total = Moments(0, none, none)
        return total

    def _exchange(self, buffer: Tensor | None) -> None:
        """What is kept is read with rows around it, which another process may have."""
        if self._band is not None and buffer is not None:
            self._band.exchange(buffer)

    def _strips(self, rows: Rows) -> Iterator[tuple[int, int]]:
        """The strips of ``rows`` that the plan allows, from the top; none in a rehearsal."""
        height = int((self._plan.strip - rows.margin) // rows.cost)
        height = min(max(1, height), rows.height)
        self.widest = max(self.widest, height * rows.cost + rows.margin)
        if not self._rehearse:
            first, end = self._band.rows(rows.height) if self._band else (0, rows.height)
            for start in range(first, end, height):
                yield start, min(start + height, end)

    def _rehearsed(self, layer: nn.Module, rows: Rows) -> Rows:
        """``after``, and what ``Quick`` takes there besides."""
        behind = after(layer, rows)
        if isinstance(layer, nn.Conv2d) and Quick.suits(self._network, layer.weight.device):
            self.workspace = max(self.workspace, workspace(layer, behind.width))
        return behind

    def _settled(self, moments: Moments | None) -> Moments:
        if moments is None:  # a rehearsal
            return Moments(1, torch.zeros(1), torch.zeros(1))
        if self._settle is not None:
            moments = self._settle(self._norms, moments.on_host())
        self._norms += 1
        return moments

    def _new(self, rows: Rows) -> Tensor:
        self._alive += rows.bytes
        self.peak = max(self.peak, self._alive)
        if self._rehearse or self._plan.place == "device":
            return torch.empty(rows.shape, dtype=self._dtype, device=self._device)
        if self._plan.place == "host":
            return torch.empty(rows.shape, dtype=self._dtype)
        room = self._scratch.room(rows.bytes)
        return torch.frombuffer(room, dtype=self._dtype).view(rows.shape)

    def _drop(self, buffer: Tensor | None) -> None:
        if buffer is not None:
            self._alive -= buffer.numel() * buffer.element_size()


def _write(into: Tensor | None, strip: tuple[int, Tensor] | None) -> None:
    if into is not None and strip is not None:
        start, values = strip
        into[:, :, start : start + values.shape[2]].copy_(values)
