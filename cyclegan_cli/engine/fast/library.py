"""native/kernels.cpp, loaded if it was built and the processor can run it. Imports no PyTorch."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

LONG = ctypes.c_long
_VERSION = 5  # of what the functions take and return: that of native/kernels.cpp
_NO_MEMORY = 1  # the enum Status of native/common.h; 0: done

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**25  # bytes: the largest threshold that glibc takes
_KEPT = 2**28  # bytes that may stay free at the end of the heap


class Source(ctypes.Structure):
    """The struct Source of native/common.h."""

    _fields_: ClassVar = [
        ("values", ctypes.c_void_p),
        *((name, LONG) for name in ("plane", "first", "rows", "height", "width", "channels")),
        *((name, LONG) for name in ("pad", "mirror")),
        *((name, ctypes.c_void_p) for name in ("mean", "scale")),
        ("relu", LONG),
        ("enlarge", LONG),
        ("order", LONG),
    ]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernels, in the build for the widest registers of this processor; None if there are none.

    Its functions (``call``) take pointers, integers (``LONG``), and last the number of threads, and
    return a status. It starts threads of its own until ``set_team`` gives it others.
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
    """Call a function of ``library``.

    It runs in PyTorch's threads, once that is loaded. Raises MemoryError if it gets no memory; its
    outputs are undefined then.
    """
    if "torch" in sys.modules:
        found.set_team(_team())
    status = getattr(found, name)(*arguments)
    if status == _NO_MEMORY:
        raise MemoryError(f"no memory for {name}")
    if status:
        raise RuntimeError(f"{name} failed")


@lru_cache(maxsize=1)
def _team() -> ctypes.c_void_p:
    """What starts threads in the OpenMP runtime that PyTorch has loaded; null if there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return ctypes.c_void_p(None)


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep the memory of large arrays for the next ones, from now on.

    By default it returns each at once, and the system clears every page of the next: a fifth to a
    third of the time of a convolution at a quarter of a megapixel. False without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    return bool(taken) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
