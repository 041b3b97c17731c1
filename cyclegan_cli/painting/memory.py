"""The fastest way to paint a picture that fits into the memory there is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TypeAlias

from cyclegan_cli.errors import PictureError
from cyclegan_cli.machine import MEMORY_MARGIN, available_memory, resident_memory
from cyclegan_cli.painting.evaluate import estimate
from cyclegan_cli.painting.pixels import Pixels
from cyclegan_cli.painting.strips import Cost, Plan, scratch_folder
from cyclegan_cli.settings import GeneratorSpec

__all__ = ["SHORT", "check_room", "choose", "too_small"]

SHORT = "The memory was short: painted again in smaller parts."

Estimate: TypeAlias = Callable[[Plan], Cost]

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
    spec: GeneratorSpec,
    size: tuple[int, int],
    *,
    device: str = "cpu",
    itemsize: int = 4,
    threads: int = 0,
    max_memory: int | None = None,
    extra: int = 0,
) -> list[Plan]:
    """The plans that fit, best first; the later ones are for when memory is short all the same.

    size: height and width, multiples of 4. ``device``: as PyTorch names it. ``itemsize``: bytes of
    a value. ``threads``: of the kernels, each of which has memory of its own; 0 without them.
    ``max_memory``: bytes that this process may take, None for what is free (and no more than 3 GB
    where that is enough). ``extra``: bytes that the caller is going to take besides.
    Raises PictureError where not even the smallest plan fits.
    """
    card = _cuda_budget(device, max_memory) if device.startswith("cuda") else None
    row = spec.width * size[1] * itemsize
    costs: Estimate = lambda plan: estimate(spec, itemsize, *size, plan, threads)  # noqa: E731
    return _chosen(costs, size, row, device.partition(":")[0], card, max_memory, extra)


def _chosen(
    estimate: Estimate,
    size: tuple[int, int],
    row: int,
    kind: str,
    card: float | None,
    max_memory: int | None,
    extra: int,
) -> list[Plan]:
    """``kind``: of the device; ``card``: bytes that can be taken of it, None on the host."""
    host = _host_budget(max_memory) - extra
    budget = host if card is None else card
    comfort = budget
    if card is None and max_memory is None:
        comfort = min(budget, _COMFORT - resident_memory() - extra)
    scratch = MEMORY_MARGIN * shutil.disk_usage(scratch_folder()).free
    roomy, lean = _candidates(estimate(Plan(_MIB, 0)), row, kind)
    large = len(roomy) > 1 and roomy[0].keep > _LARGEST_KEPT
    if kind == "cpu" and max_memory is None and large:
        del roomy[0]
    plans = [plan for plan in roomy if _fits(estimate(plan), plan, (comfort, 0, 0))]
    rooms = (budget, 0 if card is None else host, scratch)
    plans += [plan for plan in lean if _fits(estimate(plan), plan, rooms)]
    if not plans:
        _refuse(size, estimate(lean[-1]), min(budget, host))
    return plans


def _candidates(cost: Cost, row: int, kind: str) -> tuple[list[Plan], list[Plan]]:
    """Plans from fast to small: those that keep more than the trunk, and those that do not."""
    sizes = _STRIPS.get(kind, _STRIPS["cuda"])
    strips = [max(mib * _MIB, rows * row) for mib, rows in zip(sizes, _ROWS, strict=True)]
    levels = sorted({s for s in cost.sizes if s > cost.middle}, reverse=True)
    whole = [Plan(_ALL, _ALL)] if kind != "cpu" else []
    roomy = [*whole, *(Plan(strips[0], level) for level in levels)]
    lean = [Plan(strip, cost.middle) for strip in strips]
    if kind == "cuda":
        lean += [Plan(strip, cost.middle, "host") for strip in strips[1:]]
    lean += [Plan(strip, cost.middle, "disk") for strip in strips[1:]]
    return roomy, lean


def _fits(cost: Cost, plan: Plan, rooms: tuple[float, float, float]) -> bool:
    """Whether the strips, and what is kept, fit into what (device, host, disk) have."""
    device, host, disk = rooms
    if plan.place == "device":
        return cost.strips + cost.kept <= device
    return cost.strips <= device and cost.kept <= (host if plan.place == "host" else disk)


def _refuse(size: tuple[int, int], cost: Cost, budget: float) -> None:
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


def too_small(device: object, pixels: Pixels) -> PictureError:
    """The error that says that no plan was small enough."""
    return PictureError(
        f"The memory of {device} is too small for a picture of "
        f"{pixels.shape[1]}×{pixels.shape[0]} pixels.",
        hint="Paint it smaller: --resolution 2048.",
    )


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _host_budget(max_memory: int | None) -> float:
    """Bytes that this process may take beyond what it has."""
    free = MEMORY_MARGIN * available_memory()
    return free if max_memory is None else min(free, max_memory - resident_memory())


def _cuda_budget(device: str, max_memory: int | None) -> float:
    """Bytes that this process may take on the card, those that torch holds unused included."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    room = MEMORY_MARGIN * (free + unused)
    return room if max_memory is None else min(room, max_memory)
