"""How a picture is evaluated in strips, and what that takes; files for what memory cannot hold."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["WORKSPACE", "Cost", "Place", "Plan", "Scratch", "scratch_folder"]

Place = Literal["device", "host", "disk"]

# How many tensors of a strip's largest size are alive at once: a layer's input, padded copy and
# output, the convolution's own copies of them, and a strip that waits to be written.
WORKSPACE = 6


@dataclass(frozen=True)
class Plan:
    """How a picture is evaluated; every plan gives the same result.

    ``strip``: bytes that the largest tensor of a strip may have (a strip has at least one row).
    ``keep``: what lies before an InstanceNorm is kept, rather than computed again, where it has at
    most so many bytes. ``place``: where it is kept: on the device, in the host's memory, or in a
    temporary file that is mapped into it.
    """

    strip: int
    keep: int
    place: Place = "device"


@dataclass(frozen=True)
class Cost:
    """What a plan takes, in bytes: ``strips`` on the device, ``kept`` where the plan says.

    ``sizes``: of what lies before each InstanceNorm outside of the trunk, in order;
    ``middle``: of one of the trunk's two buffers.
    """

    strips: int
    kept: int
    sizes: tuple[int, ...]
    middle: int


def scratch_folder() -> str:
    """Where what does not fit into memory goes: not /tmp, which often lies in memory itself."""
    chosen = tempfile.gettempdir()
    large = Path("/var/tmp")
    return str(large) if chosen == "/tmp" and os.access(large, os.W_OK) else chosen


class Scratch:
    """Files without a name, mapped into memory: nothing is ever left behind."""

    def __init__(self) -> None:
        self._mappings: list[mmap.mmap] = []

    def room(self, count: int) -> mmap.mmap:
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
        """What was read from or written to the files need not stay in memory."""
        for mapping in self._mappings:
            if sys.platform == "linux":
                mapping.madvise(mmap.MADV_DONTNEED)
