"""native/kernels.cpp, loaded where it was built and the processor can run it. No PyTorch here."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

__all__ = ["LONG", "Source", "library"]

LONG = ctypes.c_long


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

    Its functions take pointers, whole numbers (``LONG``), and as the last the number of threads.
    Its threads are its own until ``set_team`` names others.
    """
    folder = Path(__file__).parent
    for name in ("_kernels16", "_kernels"):
        for path in sorted(folder.glob(f"{name}.*so")):
            try:
                found = ctypes.CDLL(str(path))
                if found.runs_here():
                    return found
            except (OSError, AttributeError):  # of another machine, or of another version
                continue
    return None
