"""How much memory there is, and the fastest plan that fits into it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

import torch

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import PictureError
from cyclegan_cli.painting.streaming import Plan, estimate, scratch_folder

__all__ = ["available_memory", "choose", "resident_memory"]

_MARGIN = 0.9  # of what is free: others need some, too, and estimates are not exact
_COMFORT = 3_000_000_000  # bytes: a picture that can be painted within takes no more by default
_UNSURE = 400_000_000  # bytes: Python with torch, where the system does not say
_ALL = 2**62  # no bound
_MIB = 2**20
# Strips that the processor's caches and the allocator like; the smaller ones cost halos.
_STRIPS = {"cpu": (16, 4, 1), "cuda": (256, 64, 16), "mps": (64, 16, 4)}
# A strip's halo is computed again, some 10 rows for most layers: 5 rows of a picture 11,500 wide
# took 2.5 times as long as 16 to 64 rows. So wide pictures get larger strips.
_ROWS = (32, 8, 1)


def choose(
    network: Generator,
    size: tuple[int, int],
    device: torch.device,
    max_memory: int | None,
    extra: int = 0,
) -> list[Plan]:
    """The plans that fit, best first; the later ones are for when memory is short all the same.

    size: height and width, multiples of 4. ``max_memory``: bytes that this process may take, or
    None for what is free (and no more than 3 GB where that is enough). ``extra``: bytes that the
    caller is going to take besides. Raises PictureError where not even the smallest plan fits.
    """
    host = _host_budget(max_memory) - extra
    on_card = device.type == "cuda"
    budget = _cuda_budget(device, max_memory) if on_card else host
    comfort = budget
    if not on_card and max_memory is None:
        comfort = min(budget, _COMFORT - resident_memory() - extra)
    scratch = _MARGIN * shutil.disk_usage(scratch_folder()).free
    roomy, lean = _candidates(network, size, device)
    plans = [plan for plan in roomy if _fits(network, size, plan, (comfort, 0, 0))]
    rooms = (budget, host if on_card else 0, scratch)
    plans += [plan for plan in lean if _fits(network, size, plan, rooms)]
    if not plans:
        _refuse(network, size, lean[-1], budget if not on_card else min(budget, host))
    return plans


def _candidates(
    network: Generator, size: tuple[int, int], device: torch.device
) -> tuple[list[Plan], list[Plan]]:
    """Plans from fast to small: those that keep more than the trunk, and those that do not."""
    cost = estimate(network, *size, Plan(_MIB, 0))
    # Bytes of one row at the full resolution.
    row = network.spec.width * size[1] * next(network.parameters()).element_size()
    sizes = _STRIPS.get(device.type, _STRIPS["cuda"])
    strips = [max(mib * _MIB, rows * row) for mib, rows in zip(sizes, _ROWS, strict=True)]
    levels = sorted({s for s in cost.sizes if s > cost.middle}, reverse=True)
    whole = [Plan(_ALL, _ALL)] if device.type != "cpu" else []
    roomy = [*whole, *(Plan(strips[0], level) for level in levels)]
    lean = [Plan(strip, cost.middle) for strip in strips]
    if device.type == "cuda":
        lean += [Plan(strip, cost.middle, "host") for strip in strips[1:]]
    lean += [Plan(strip, cost.middle, "disk") for strip in strips[1:]]
    return roomy, lean


def _fits(
    network: Generator, size: tuple[int, int], plan: Plan, rooms: tuple[float, float, float]
) -> bool:
    """Whether the strips, and what is kept, fit into what (device, host, disk) have."""
    cost = estimate(network, *size, plan)
    device, host, disk = rooms
    if plan.place == "device":
        return cost.strips + cost.kept <= device
    return cost.strips <= device and cost.kept <= (host if plan.place == "host" else disk)


def _refuse(network: Generator, size: tuple[int, int], plan: Plan, budget: float) -> None:
    cost = estimate(network, *size, plan)
    raise PictureError(
        f"A picture of {size[1]}×{size[0]} pixels needs at least {_gb(cost.strips)} of memory and "
        f"{_gb(cost.kept)} of disk under {scratch_folder()}; there is {_gb(max(0.0, budget))} of "
        "memory left for it.",
        hint="Raise --max-memory, or paint it smaller: --resolution 2048.",
    )


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _host_budget(max_memory: int | None) -> float:
    """Bytes that this process may take beyond what it has."""
    free = _MARGIN * available_memory()
    return free if max_memory is None else min(free, max_memory - resident_memory())


def _cuda_budget(device: torch.device, max_memory: int | None) -> float:
    """Bytes that this process may take on the card, those that torch holds unused included."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    room = _MARGIN * (free + unused)
    return room if max_memory is None else min(room, max_memory)


def resident_memory() -> int:
    """Bytes of memory that this process holds now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return _UNSURE


def available_memory() -> int:
    """Bytes that can be taken without swapping: the system's, and the control group's if less."""
    system = _meminfo()
    if system is None:
        system = _elsewhere()
    return max(0, min([system, *_control_groups()]))


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
