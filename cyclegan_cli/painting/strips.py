"""Pictures in strips: the rows that a layer needs, plans of strips, and the fastest that fits."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from cyclegan_cli.engine.layers import Layer
from cyclegan_cli.errors import PictureError
from cyclegan_cli.machine import MEMORY_MARGIN, available_memory, resident_memory

T = TypeVar("T", bound=Any)  # NumPy arrays, C×h×W, or tensors, 1×C×h×W
Place = Literal["device", "host", "disk"]

# Arrays of a strip's largest size that exist at once: a layer's input, padded copy and output, the
# convolution's own copies, and a strip that is to be written.
WORKSPACE = 6
TILE = 4  # rows that Winograd's filtering computes together; cut elsewhere, they are rounded alike
EVERY = 2**31  # more channels than there are


def _unread(_start: int, _stop: int) -> Any:
    raise NotImplementedError("only the sizes of these rows are known")


@dataclass(frozen=True)
class Rows(Generic[T]):
    """channels×height×width values, of which any rows can be read.

    ``read(start, stop)`` gives rows [start, stop). ``fresh``: the caller may change them. To read n
    rows, the largest array on the way has about n · ``cost`` + ``margin`` bytes. ``deferred``:
    layers that a backend left to the next one.
    """

    channels: int
    height: int
    width: int
    itemsize: int
    cost: float
    margin: float = 0.0
    read: Callable[[int, int], T] = _unread
    fresh: bool = False
    deferred: object = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def bytes(self) -> int:
        """Of all values together."""
        return self.channels * self.height * self.width * self.itemsize

    def derived(self, channels: int, height: int, width: int, extra: int = 0) -> Rows[T]:
        """Sizes of rows computed from these; n rows need n · self.height / height + ``extra``."""
        cost = max(float(channels * width * self.itemsize), self.cost * self.height / height)
        margin = self.margin + extra * self.cost
        return Rows(channels, height, width, self.itemsize, cost, margin, fresh=True)

    def output_of(self, layer: Layer) -> Rows[T]:
        """Sizes of the output of ``layer`` with these rows as its input."""
        _, height, width = self.shape
        if layer.kind == "reflect":
            border = 2 * layer.padding
            return self.derived(self.channels, height + border, width + border)
        if layer.kind == "upsample":
            return self.derived(self.channels, 2 * height, 2 * width, extra=1)
        extra = layer.kernel - layer.stride
        if layer.kind == "conv_transpose":
            return self.derived(layer.outputs, 2 * height, 2 * width, extra)
        if layer.kind == "conv":
            border = 2 * layer.padding - layer.kernel
            high, wide = ((n + border) // layer.stride + 1 for n in (height, width))
            return self.derived(layer.outputs, high, wide, extra)
        return self.derived(*self.shape)


@dataclass(frozen=True)
class Plan:
    """How a picture is evaluated; every plan gives the same result.

    ``strip``: bytes of the largest array of a strip. ``keep``: the input of an InstanceNorm is
    kept, not computed again, up to so many bytes. ``place``: on the device, in the host's memory,
    or in a mapped temporary file.
    """

    strip: int
    keep: int
    place: Place = "device"

    def rows(self, rows: Rows[Any]) -> int:
        """The height of a strip of ``rows``, in whole tiles if it has as many."""
        height = min(max(1, int((self.strip - rows.margin) // rows.cost)), rows.height)
        return height if height in (*range(TILE), rows.height) else height - height % TILE


@dataclass(frozen=True)
class Cost:
    """Bytes of a plan: ``strips`` on the device, ``kept`` at the plan's place.

    ``sizes``: of the InstanceNorms' inputs outside the trunk; ``middle``: of a buffer of the trunk.
    """

    strips: int
    kept: int
    sizes: tuple[int, ...]
    middle: int


def needed(
    rows: tuple[int, int], height: int, pad: int, *, mirror: bool, enlarge: bool
) -> tuple[int, int]:
    """Input rows (start, stop) needed for padded rows [start, stop) of a picture of ``height``.

    ``pad``: by reflection (``mirror``) or zeros. ``enlarge``: each row becomes two before that.
    """
    scale = 2 if enlarge else 1
    first, end = rows[0] - pad, rows[1] - pad
    low, high = max(first, 0), min(end, scale * height)
    if mirror:
        last = scale * height - 1
        high = max(high, min(1 - first, scale * height)) if first < 0 else high
        low = min(low, max(2 * last - (end - 1), 0)) if end - 1 > last else low
    return min(low, high - 1) // scale, -(-high // scale)


def scratch_folder() -> str:
    """The folder of temporary files: not /tmp, which is often in memory itself."""
    chosen = tempfile.gettempdir()
    large = Path("/var/tmp")
    return str(large) if chosen == "/tmp" and os.access(large, os.W_OK) else chosen


class Scratch:
    """Files without a name, mapped into memory."""

    def __init__(self) -> None:
        self._mappings: list[mmap.mmap] = []

    def buffer(self, count: int) -> mmap.mmap:
        """``count`` bytes to write to. Raises OSError, MemoryError without free addresses."""
        with tempfile.TemporaryFile(prefix="cyclegan-", dir=scratch_folder()) as file:
            file.truncate(count)
            try:
                mapping = mmap.mmap(file.fileno(), count)  # which outlives the handle
            except OSError as error:
                if error.errno == errno.ENOMEM:
                    raise MemoryError("no addresses for a file") from error
                raise
        self._mappings.append(mapping)
        return mapping

    def forget(self) -> None:
        """Let the system drop the files' pages from memory."""
        for mapping in self._mappings:
            if sys.platform == "linux":
                mapping.madvise(mmap.MADV_DONTNEED)


# -- the fastest plan that fits into memory ---------------------------------------------------

_DEFAULT = 3_000_000_000  # bytes that a picture takes at most by default, if that is enough
_ALL = 2**62  # no limit
_MIB = 2**20
# By default, larger full-size layers are computed twice: half of the memory, for 4 % of the time.
_LARGEST_KEPT = 64 * _MIB
# MiB of strips that suit the processor's caches and the allocator, largest first.
_STRIPS = {"cpu": (18, 4, 1), "cuda": (256, 64, 16), "mps": (64, 16, 4)}
# At least so many rows: about 10 rows of halo are computed again for most layers.
_ROWS = (32, 8, 1)


def choose(
    costs: Callable[[Plan], Cost],
    size: tuple[int, int],
    row: int,
    device: str = "cpu",
    *,
    max_memory: int | None = None,
    extra: int = 0,
) -> list[Plan]:
    """The plans that fit, fastest first; the later ones are for when memory turns out short.

    size: height and width. ``row``: bytes of a row after the first convolution. ``max_memory``:
    bytes that this process may use; None: what is free, but no more than 3 GB if that is enough.
    ``extra``: bytes that the caller will use. Raises PictureError if none fits.
    """
    on_card = device.startswith("cuda")
    host = _host_budget(max_memory) - extra
    budget = usual = _cuda_budget(device, max_memory) if on_card else host
    disk = MEMORY_MARGIN * shutil.disk_usage(scratch_folder()).free
    kept_elsewhere = (host if on_card else 0.0, disk)
    if not on_card and max_memory is None:
        usual = min(budget, _DEFAULT - resident_memory() - extra)
    fast, small = _candidates(costs(Plan(_MIB, 0)), row, device.partition(":")[0])
    large = len(fast) > 1 and fast[0].keep > _LARGEST_KEPT
    if device == "cpu" and max_memory is None and large:
        del fast[0]
    plans = [plan for plan in fast if _fits(costs(plan), plan, (usual, 0, 0))]
    plans += [plan for plan in small if _fits(costs(plan), plan, (budget, *kept_elsewhere))]
    if not plans:
        least = costs(small[-1])
        raise PictureError(
            f"A picture of {size[1]}×{size[0]} pixels needs at least {_gb(least.strips)} of memory "
            f"and {_gb(least.kept)} of disk under {scratch_folder()}; there is "
            f"{_gb(max(0.0, min(budget, host)))} of memory left for it.",
            hint="Raise --max-memory, or paint it smaller: --resolution 2048.",
        )
    return plans


def _candidates(cost: Cost, row: int, kind: str) -> tuple[list[Plan], list[Plan]]:
    """Plans that keep more than the trunk, and smaller ones that do not; each fastest first."""
    sizes = _STRIPS.get(kind, _STRIPS["cuda"])
    strips = [max(mib * _MIB, rows * row) for mib, rows in zip(sizes, _ROWS, strict=True)]
    levels = sorted({s for s in cost.sizes if s > cost.middle}, reverse=True)
    whole = [Plan(_ALL, _ALL)] if kind != "cpu" else []
    fast = [*whole, *(Plan(strips[0], level) for level in levels)]
    small = [Plan(strip, cost.middle) for strip in strips]
    if kind == "cuda":
        small += [Plan(strip, cost.middle, "host") for strip in strips[1:]]
    small += [Plan(strip, cost.middle, "disk") for strip in strips[1:]]
    return fast, small


def _fits(cost: Cost, plan: Plan, limits: tuple[float, float, float]) -> bool:
    """Whether strips and kept arrays fit into ``limits``: bytes of device, host and disk."""
    device, host, disk = limits
    if plan.place == "device":
        return cost.strips + cost.kept <= device
    return cost.strips <= device and cost.kept <= (host if plan.place == "host" else disk)


def check_memory(what: str, needed: int, max_memory: int | None) -> None:
    """Raise PictureError if ``needed`` bytes are too many. ``what``: the sentence's subject."""
    free = max(0.0, _host_budget(max_memory))
    if needed > free:
        raise PictureError(
            f"{what} needs {_gb(needed)} of memory; {_gb(free)} is left for it.",
            hint="--resolution 2048 needs less.",
        )


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _host_budget(max_memory: int | None) -> float:
    """Bytes that this process may use in addition."""
    free = MEMORY_MARGIN * available_memory()
    return free if max_memory is None else min(free, max_memory - resident_memory())


def _cuda_budget(device: str, max_memory: int | None) -> float:
    """Bytes that this process may use on the card, with those that torch holds unused."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    usable = MEMORY_MARGIN * (free + unused)
    return usable if max_memory is None else min(usable, max_memory)
