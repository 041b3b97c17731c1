"""How much memory the machine has left, and what this process holds."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

__all__ = ["MEMORY_MARGIN", "available_memory", "resident_memory"]

MEMORY_MARGIN = 0.9  # of what is free: others need some, too, and estimates are not exact
_UNSURE = 400_000_000  # bytes: Python with torch, where the system does not say


def resident_memory() -> int:
    """Bytes of memory that this process holds now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return _UNSURE


def available_memory() -> int:
    """Bytes that can be taken without swapping: the system's, or what a limit leaves if less.

    Limits: those of the control groups, and ``ulimit -v``.
    """
    system = _meminfo()
    if system is None:
        system = _elsewhere()
    return max(0, min([system, *_control_groups(), *_address_space()]))


def _address_space() -> list[int]:
    """What is left of the addresses that this process may use, where they are limited."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            return [limit - pages * os.sysconf("SC_PAGE_SIZE")]
    return []


def _meminfo() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _elsewhere() -> int:
    """Systems without /proc: Windows says what is free; of others, half of what is built in."""
    if sys.platform == "win32":
        import ctypes

        status = (ctypes.c_ulonglong * 8)()  # MEMORYSTATUSEX: two 32-bit fields, seven 64-bit ones
        status[0] = ctypes.sizeof(status)
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(status[2])
    elif hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4_000_000_000


def _control_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """What each control group that this process is in leaves it, for versions 1 and 2."""
    left: list[int] = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                base, names = root, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                base = root / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            folder = base / path.strip("/")
            for group in [folder, *folder.parents]:
                left += _group_room(group, *names)
                if group == base:
                    break
    return left


def _group_room(group: Path, limit: str, usage: str, cache: str) -> list[int]:
    """The group's limit less what it uses; files in the cache do not count, being given up."""
    with contextlib.suppress(OSError, ValueError):
        bound = int((group / limit).read_text())  # ValueError: "max", no limit
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return [bound - int((group / usage).read_text()) + int(stat.get(cache, 0))]
    return []
