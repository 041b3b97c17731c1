"""The fastest plan for a picture that fits into memory."""

from __future__ import annotations

import shutil
from functools import partial

from cyclegan_cli.errors import PictureError
from cyclegan_cli.machine import MEMORY_MARGIN, available_memory, resident_memory
from cyclegan_cli.painting.evaluate import estimate
from cyclegan_cli.painting.strips import Cost, Plan, scratch_folder
from cyclegan_cli.settings import GeneratorSpec

_DEFAULT = 3_000_000_000  # bytes that a picture takes at most by default, if that is enough
_ALL = 2**62  # no limit
_MIB = 2**20
# By default, the first and the last full-size layer of a larger picture are computed twice instead
# of kept: half of the memory, for 4 % of the time.
_LARGEST_KEPT = 64 * _MIB
# MiB of strips that suit the processor's caches (resnet9's of 256² is one of the first) and the
# allocator, largest first.
_STRIPS = {"cpu": (18, 4, 1), "cuda": (256, 64, 16), "mps": (64, 16, 4)}
# At least so many rows: about 10 rows of halo are computed again for most layers, and strips of 5
# rows of a picture 11,500 wide took 2.5 times as long as strips of 16 to 64 rows.
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
    """The plans that fit, fastest first; the later ones are for when memory turns out short.

    size: height and width, multiples of 4. ``device``: PyTorch's name. ``itemsize``: bytes of a
    value. ``threads``: of the kernels, each of which has memory of its own; 0 without them.
    ``max_memory``: bytes that this process may use; None: what is free, but no more than 3 GB if
    that is enough. ``extra``: bytes that the caller will use. Raises PictureError if none fits.
    """
    costs = partial(estimate, spec, itemsize, *size, threads=threads)
    on_card = device.startswith("cuda")
    host = _host_budget(max_memory) - extra
    budget = usual = _cuda_budget(device, max_memory) if on_card else host
    disk = MEMORY_MARGIN * shutil.disk_usage(scratch_folder()).free
    kept_elsewhere = (host if on_card else 0.0, disk)
    if not on_card and max_memory is None:
        usual = min(budget, _DEFAULT - resident_memory() - extra)
    row = spec.width * size[1] * itemsize
    fast, small = _candidates(costs(Plan(_MIB, 0)), row, device.partition(":")[0])
    large = len(fast) > 1 and fast[0].keep > _LARGEST_KEPT
    if device == "cpu" and max_memory is None and large:
        del fast[0]
    plans = [plan for plan in fast if _fits(costs(plan), plan, (usual, 0, 0))]
    plans += [plan for plan in small if _fits(costs(plan), plan, (budget, *kept_elsewhere))]
    if not plans:
        least = costs(small[-1])
        raise PictureError(
            f"A picture of {size[1]}×{size[0]} pixels needs at least {_gb(least.strips)} of memory "
            f"and {_gb(least.kept)} of disk under {scratch_folder()}; there is "
            f"{_gb(max(0.0, min(budget, host)))} of memory left for it.",
            hint="Raise --max-memory, or paint it smaller: --resolution 2048.",
        )
    return plans


def _candidates(cost: Cost, row: int, kind: str) -> tuple[list[Plan], list[Plan]]:
    """Plans that keep more than the trunk, and smaller ones that do not; each fastest first."""
    sizes = _STRIPS.get(kind, _STRIPS["cuda"])
    strips = [max(mib * _MIB, rows * row) for mib, rows in zip(sizes, _ROWS, strict=True)]
    levels = sorted({s for s in cost.sizes if s > cost.middle}, reverse=True)
    whole = [Plan(_ALL, _ALL)] if kind != "cpu" else []
    fast = [*whole, *(Plan(strips[0], level) for level in levels)]
    small = [Plan(strip, cost.middle) for strip in strips]
    if kind == "cuda":
        small += [Plan(strip, cost.middle, "host") for strip in strips[1:]]
    small += [Plan(strip, cost.middle, "disk") for strip in strips[1:]]
    return fast, small


def _fits(cost: Cost, plan: Plan, limits: tuple[float, float, float]) -> bool:
    """Whether strips and kept arrays fit into ``limits``: bytes of device, host and disk."""
    device, host, disk = limits
    if plan.place == "device":
        return cost.strips + cost.kept <= device
    return cost.strips <= device and cost.kept <= (host if plan.place == "host" else disk)


def check_memory(what: str, needed: int, max_memory: int | None) -> None:
    """Raise PictureError if ``needed`` bytes are more than this process may use.

    ``what``: the sentence's subject. ``max_memory``: as for ``choose``.
    """
    free = max(0.0, _host_budget(max_memory))
    if needed > free:
        raise PictureError(
            f"{what} needs {_gb(needed)} of memory; {_gb(free)} is left for it.",
            hint="--resolution 2048 needs less.",
        )


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _host_budget(max_memory: int | None) -> float:
    """Bytes that this process may use in addition."""
    free = MEMORY_MARGIN * available_memory()
    return free if max_memory is None else min(free, max_memory - resident_memory())


def _cuda_budget(device: str, max_memory: int | None) -> float:
    """Bytes that this process may use on the card, with those that torch holds unused."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    usable = MEMORY_MARGIN * (free + unused)
    return usable if max_memory is None else min(usable, max_memory)
