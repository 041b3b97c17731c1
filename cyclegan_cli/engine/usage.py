"""The memory that this process takes."""

from __future__ import annotations

import sys

import torch

__all__ = ["memory_used"]


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
