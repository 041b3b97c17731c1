"""Pictures in strips: the rows that a layer needs, the height of a strip, and its cost."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from cyclegan_cli.engine.layers import Layer

T = TypeVar("T", bound=Any)  # NumPy arrays, C×h×W, or tensors, 1×C×h×W
Place = Literal["device", "host", "disk"]

# Arrays of a strip's largest size that exist at once: a layer's input, padded copy and output, the
# convolution's own copies of them, and a strip that is to be written.
WORKSPACE = 6


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

    ``strip``: bytes of the largest array of a strip, which has at least one row. ``keep``: the
    input of an InstanceNorm is kept, not computed again, if it has at most so many bytes.
    ``place``: where it is kept: on the device, in the host's memory, or in a mapped temporary file.
    """

    strip: int
    keep: int
    place: Place = "device"

    def rows(self, rows: Rows[Any]) -> int:
        """The height of a strip of ``rows``."""
        return min(max(1, int((self.strip - rows.margin) // rows.cost)), rows.height)


@dataclass(frozen=True)
class Cost:
    """Bytes of a plan: ``strips`` on the device, ``kept`` at the plan's place.

    ``sizes``: of the input of each InstanceNorm outside the trunk, in order; ``middle``: of one of
    the trunk's two buffers.
    """

    strips: int
    kept: int
    sizes: tuple[int, ...]
    middle: int


def needed(
    rows: tuple[int, int], height: int, pad: int, *, mirror: bool, enlarge: bool
) -> tuple[int, int]:
    """Input rows (start, stop) needed for padded rows [start, stop) of a picture of ``height``.

    ``pad``: above and below, by reflection (``mirror``) or zeros. ``enlarge``: before it is padded,
    each row becomes two.
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
        """``count`` bytes that can be written.

        Raises OSError as the file system does, and MemoryError where no addresses are left.
        """
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
