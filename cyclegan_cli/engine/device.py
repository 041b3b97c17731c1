"""--gpu and --precision: from what was asked to what is there.

The only place that looks at devices.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from cyclegan_cli.errors import DeviceError, counted
from cyclegan_cli.settings import Precision, normal_gpu

__all__ = ["Device", "available", "memory_used", "resolve", "resolve_precision"]


@dataclass(frozen=True)
class Device:
    """A device that exists, and what a user calls it."""

    torch: torch.device
    label: str

    @property
    def gpu(self) -> str:
        """What ``--gpu`` calls it."""
        return self.torch.type if self.torch.index is None else str(self.torch.index)


def available() -> dict[str, str]:
    """What ``--gpu`` can name on this machine: {name: description}; always at least ``cpu``."""
    found = {"cpu": f"CPU, {counted(torch.get_num_threads(), 'thread')}"}
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    for index in range(torch.cuda.device_count()):
        found[str(index)] = torch.cuda.get_device_name(index)
    return found


def resolve(gpu: str) -> list[Device]:
    """The devices that ``--gpu`` means, at least one.

    ``auto``: the CUDA device with the most free memory, else MPS, else the CPU; ``cpu``; ``mps``;
    ``cuda``; ``0``; ``0,1``; ``cuda:0``. Raises DeviceError where one that was named is not there:
    there is no silent fall back.
    """
    found = available()
    gpu = normal_gpu(gpu)
    names = _automatic(found) if gpu == "auto" else gpu.split(",")
    if gpu == "cuda" and "0" in found:
        names = _automatic(found)
    for name in names:
        if name not in found:
            there = "; ".join(f"--gpu {key} ({label})" for key, label in found.items())
            raise DeviceError(f"There is no device '{name}' here.", hint=f"There is: {there}.")
    if len(set(names)) != len(names):
        raise DeviceError(f"--gpu {gpu} names a device twice.")
    if len(names) > 1 and not all(name.isdigit() for name in names):
        raise DeviceError(f"--gpu {gpu}: only CUDA devices can be combined.")
    return [Device(_torch_device(name), found[name]) for name in names]


def _automatic(found: dict[str, str]) -> list[str]:
    indices = [name for name in found if name.isdigit()]
    if indices:
        return [max(indices, key=lambda name: torch.cuda.mem_get_info(int(name))[0])]
    return ["mps" if "mps" in found else "cpu"]


def _torch_device(name: str) -> torch.device:
    return torch.device("cuda", int(name)) if name.isdigit() else torch.device(name)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of autocast: float32 means no autocast.

    ``auto``: bfloat16 on CUDA devices that compute in it (compute capability 8.0 up), else
    float32. Raises DeviceError for fp16 anywhere but on CUDA.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float32
    if precision == "fp16" and device.type != "cuda":
        raise DeviceError("--precision fp16 needs a CUDA device.", hint="--precision fp32")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def memory_used(device: torch.device) -> int | None:
    """The most bytes taken so far: of a CUDA device's memory, else of the machine's.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes
