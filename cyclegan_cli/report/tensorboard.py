"""TensorBoard's files, written by torch's own writer (extra ``[tensorboard]``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cyclegan_cli.errors import UsageError, pip_extra


def require_tensorboard() -> None:
    """Raise UsageError where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs the package tensorboard, which is not installed here.",
            hint=pip_extra("tensorboard"),
        ) from error


class Board:
    """Scalars and sample sheets in ``folder``. ``from_step``: what lies there of later steps goes.

    Raises UsageError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, from_step: int) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        purge = from_step + 1 if folder.is_dir() else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def measured(self, step: int, losses: Mapping[str, float], rate: float, speed: float) -> None:
        """The losses, the learning rate, and pictures a second."""
        scalars = {f"loss/{name}": loss for name, loss in losses.items()}
        self._scalars(step, {**scalars, "training/lr": rate, "training/pictures_per_s": speed})

    def evaluated(self, step: int, scores: Mapping[str, Any]) -> None:
        """An evaluation, in the form that metrics.jsonl has."""
        scalars: dict[str, float] = {}
        for name, score in scores.items():
            inner = score if isinstance(score, Mapping) else {"": score}
            for part, number in inner.items():
                if isinstance(number, int | float):
                    scalars["/".join(filter(None, ("evaluation", name, part)))] = number
        self._scalars(step, scalars)

    def sampled(self, step: int, sheet: Image.Image) -> None:
        """A sheet of samples."""
        pixels = np.asarray(sheet)
        self._writer.add_image("samples", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still held back."""
        self._writer.close()

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, number in scalars.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()
