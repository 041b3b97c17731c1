"""When a picture can be painted without PyTorch, whose import takes longer than all the rest.

Only where nothing would come out otherwise: where in doubt, PyTorch is asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan_cli.cli.common import importing
from cyclegan_cli.cli.processes import member
from cyclegan_cli.engine.fast.library import library
from cyclegan_cli.engine.generatorfile import needs_torch
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.files import read_safetensors_header
from cyclegan_cli.settings import TranslateSettings
from cyclegan_cli.styles.cards import read_generator_header

if TYPE_CHECKING:
    from cyclegan_cli.painting.arrays import ArrayTranslator

__all__ = ["array_translator", "device_label", "may_have_accelerator", "threads"]

# What the drivers of NVIDIA's cards (also under WSL) and of AMD's bring.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")
_TYPES = ("F16", "F32", "F64")  # that NumPy has


def array_translator(
    weights: Path, settings: TranslateSettings, gpu: str
) -> ArrayTranslator | None:
    """What paints with ``weights`` as PyTorch would, without it; None where that cannot be.

    Raises WeightsError where the file is damaged.
    """
    plain = settings.precision in ("auto", "fp32") and not settings.exact_reference
    if not plain or member() is not None or sys.platform != "linux":
        return None
    # Without PyTorch no accelerator can be used, whatever drivers there are.
    if gpu != "cpu" and (gpu != "auto" or (may_have_accelerator() and _has_torch())):
        return None
    if not _is_for_arrays(weights) or library() is None:
        return None
    # NumPy's BLAS starts threads when it is loaded; nothing here is large enough to need them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with importing():
        from cyclegan_cli.engine.arrays import load_arrays
        from cyclegan_cli.painting.arrays import ArrayTranslator

    network = load_arrays(weights)
    return ArrayTranslator(network, threads=threads(), max_memory=settings.max_memory)


def device_label() -> str:
    """The CPU, as ``engine.device.available`` calls it."""
    return f"CPU, {threads()} threads"


def may_have_accelerator() -> bool:
    """Whether PyTorch might find a GPU on this machine, or be told of none by one that is there."""
    if any(Path(driver).exists() for driver in _DRIVERS):
        return True
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")  # which PyTorch needs for every card of NVIDIA's
        return True
    return False


def _has_torch() -> bool:
    """Whether PyTorch is installed; it is not imported."""
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):
        return False


def threads() -> int:
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


def _is_for_arrays(weights: Path) -> bool:
    """Whether the file's head says that it holds what ``engine.arrays`` takes."""
    try:
        spec, _ = read_generator_header(weights)
        _, tensors = read_safetensors_header(weights)
    except (OSError, ValueError, WeightsError):
        return False  # whoever reads all of it says what is wrong
    return not needs_torch(spec) and all(tensor["dtype"] in _TYPES for tensor in tensors.values())
