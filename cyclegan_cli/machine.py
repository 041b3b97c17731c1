"""What the machine has: memory, processors, graphics cards; how work is divided among processes.

Nothing is imported to find out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY_MARGIN = 0.9  # of what is free: others need some, too, and estimates are not exact
# What the drivers of NVIDIA's cards (also under WSL) and of AMD's bring.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")
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


def address_space_limit() -> int | None:
    """Bytes of addresses that this process may use (``ulimit -v``), where they are limited."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such module
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        return None if limit == resource.RLIM_INFINITY else limit
    return None


def _address_space() -> list[int]:
    """What is left of the addresses that this process may use, where they are limited."""
    limit = address_space_limit()
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return [] if limit is None else [limit - pages * os.sysconf("SC_PAGE_SIZE")]
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


def may_have_accelerator() -> bool:
    """Whether PyTorch might find a GPU on this machine, or be told of none by one that is there."""
    if importlib.util.find_spec("torch") is None:
        return False
    if sys.platform != "linux" or any(Path(driver).exists() for driver in _DRIVERS):
        return True
    import ctypes

    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")  # which PyTorch needs for every card of NVIDIA's
        return True
    return False


def thread_count() -> int:
    """As many as PyTorch takes: one a core that this process may use, fewer where it is told so."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    cores = {_core(cpu) for cpu in usable}
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        wanted = os.environ.get(name, "").split(",")[0].strip()
        if wanted.isdecimal() and int(wanted) > 0:
            return min(len(cores), int(wanted))
    return len(cores)


def _core(cpu: int) -> str:
    """What tells the core apart, of whose hardware threads one is ``cpu``."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    with contextlib.suppress(OSError):
        return topology.read_text().strip()
    return str(cpu)


def normal_gpu(text: str) -> str:
    """``--gpu`` as the rest of the program reads it: ``CUDA:1`` and ``cuda:1`` are ``1``.

    ``cuda`` alone stays: it is the CUDA device with the most free memory.
    """
    names = (re.sub(r"\s+", "", name).lower() for name in text.split(","))
    return ",".join(re.sub(r"^(?:cuda|gpu):(?=\d)|(?<=^cpu|^mps):0$", "", name) for name in names)


# -- several processes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The ``rows`` that one process has of a batch of ``whole`` pictures; they may be none."""

    rows: range
    whole: int


def shares(count: int, size: int) -> list[range]:
    """``count`` things in a row, divided among ``size`` processes: as even as can be, in order.

    The first ones take one more where it does not come out even; some are empty where there are
    fewer things than processes.
    """
    least, more = divmod(count, size)
    starts = [rank * least + min(rank, more) for rank in range(size + 1)]
    return [range(a, b) for a, b in itertools.pairwise(starts)]


def balanced(weights: Sequence[int], size: int) -> list[int]:
    """The process of each weight: the heaviest first, each to whom has the least so far.

    (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969: no process gets more than 4/3 of
    the best possible.)
    """
    loads = [(0, 0)] * size  # (weight, how many): those of no weight are spread as well
    owners = [0] * len(weights)
    for index in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        rank = loads.index(min(loads))
        owners[index] = rank
        weight, count = loads[rank]
        loads[rank] = (weight + weights[index], count + 1)
    return owners
