"""The fastest way to paint a picture that fits into the memory there is."""

from __future__ import annotations

import shutil

import torch

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import PictureError
from cyclegan_cli.machine import MEMORY_MARGIN, available_memory, resident_memory
from cyclegan_cli.painting.streaming import Plan, estimate, scratch_folder

__all__ = ["check_room", "choose"]

_COMFORT = 3_000_000_000  # bytes: a picture that can be painted within takes no more by default
_ALL = 2**62  # no bound
_MIB = 2**20
# Where nobody asked for more, the first and the last full-size layer of a larger picture are
# computed twice rather than kept: half of the memory, for 4 % of the time.
_LARGEST_KEPT = 64 * _MIB
# Strips that the processor's caches and the allocator like (resnet9's of 256² is one of the first);
# the smaller ones cost halos.
_STRIPS = {"cpu": (18, 4, 1), "cuda": (256, 64, 16), "mps": (64, 16, 4)}
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
    scratch = MEMORY_MARGIN * shutil.disk_usage(scratch_folder()).free
    roomy, lean = _candidates(network, size, device)
    if not on_card and max_memory is None and len(roomy) > 1 and roomy[0].keep > _LARGEST_KEPT:
        del roomy[0]
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


def check_room(what: str, needed: int, max_memory: int | None) -> None:
    """Raise PictureError where ``needed`` bytes of memory are more than this process may take.

    ``what``: the sentence's subject. ``max_memory``: as for ``choose``.
    """
    room = max(0.0, _host_budget(max_memory))
    if needed > room:
        raise PictureError(
            f"{what} needs {_gb(needed)} of memory; {_gb(room)} is left for it.",
            hint="--resolution 2048 needs less.",
        )


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _host_budget(max_memory: int | None) -> float:
    """Bytes that this process may take beyond what it has."""
    free = MEMORY_MARGIN * available_memory()
    return free if max_memory is None else min(free, max_memory - resident_memory())


def _cuda_budget(device: torch.device, max_memory: int | None) -> float:
    """Bytes that this process may take on the card, those that torch holds unused included."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    room = MEMORY_MARGIN * (free + unused)
    return room if max_memory is None else min(room, max_memory)
