"""Memory that is used again and again."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

__all__ = ["Rooms"]


class Rooms(threading.local):
    """Of each thread: tensors that are used again. Fresh ones would be fresh pages of memory, whose
    first touch took longer than the transforms."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def get(self, name: str, size: int) -> Tensor:
        """``size`` floats or more, not cleared; valid until the name is asked for again."""
        kept = self._kept.get(name)
        if kept is None or kept.numel() < size:
            with torch.inference_mode(False):  # what is made in it could not be written without it
                kept = self._kept[name] = torch.empty(size)
        return kept
