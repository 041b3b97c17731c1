"""native/kernels.cpp, loaded where it was built and the processor can run it. No PyTorch here."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

__all__ = ["LONG", "Source", "call", "library"]

LONG = ctypes.c_long
_VERSION = 3  # of what the functions take and return: that of native/kernels.cpp
_NO_MEMORY = 1  # the enum Status of native/common.h; 0: done


class Source(ctypes.Structure):
    """The struct Source of native/common.h."""

    _fields_: ClassVar = [
        ("values", ctypes.c_void_p),
        *((name, LONG) for name in ("plane", "first", "rows", "height", "width", "channels")),
        *((name, LONG) for name in ("pad", "mirror")),
        *((name, ctypes.c_void_p) for name in ("mean", "scale")),
        ("relu", LONG),
        ("enlarge", LONG),
    ]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernels: the build for the widest registers that this processor has; None: none is here.

    Its functions (``call``) take pointers, whole numbers (``LONG``), and as the last the number of
    threads, and return a status. Its threads are its own until ``set_team`` names others.
    """
    folder = Path(__file__).parent
    for name in ("_kernels16", "_kernels"):
        for path in sorted(folder.glob(f"{name}.*so")):
            try:
                found = ctypes.CDLL(str(path))
                if found.version() == _VERSION and found.runs_here():
                    return found
            except (OSError, AttributeError):  # of another machine, or of another version
                continue
    return None


def call(found: ctypes.CDLL, name: str, *arguments: object) -> None:
    """One of the functions of ``library``.

    Raises MemoryError where it gets no memory; what it was to write is then undefined.
    """
    status = getattr(found, name)(*arguments)
    if status == _NO_MEMORY:
        raise MemoryError(f"no memory for {name}")
    if status:
        raise RuntimeError(f"{name} failed")
