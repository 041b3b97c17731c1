"""What a run measures, written and read: losses, evaluations and warnings, in metrics.jsonl.

Each line is a JSON object with ``step``, ``epoch`` (done) and ``time`` (seconds since 1970), and
either ``lr`` and every loss, or ``evaluation``, or ``warning``.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.engine.run import Run
from cyclegan_cli.errors import UsageError, command_line, pip_extra
from cyclegan_cli.files import write_text

if TYPE_CHECKING:
    from PIL import Image

Line = Mapping[str, Any]
Points = Sequence[tuple[float, float]]


class MetricsLog:
    """Appends to ``path``. ``from_step``: lines of later steps are dropped. Raises OSError."""

    def __init__(self, path: Path, from_step: int) -> None:
        self._path = path
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= from_step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``path`` in order, without incomplete ones."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


@dataclass(frozen=True)
class Best:
    """The best evaluation. ``swd``: its sliced Wasserstein distance."""

    step: int
    epoch: int
    swd: float


@dataclass(frozen=True)
class Record:
    """The lines of metrics.jsonl by kind, each in the order of their steps."""

    measured: tuple[Line, ...]
    evaluations: tuple[Line, ...]
    warnings: tuple[Line, ...]

    @property
    def last(self) -> Line | None:
        """The line of the latest step; None before the first."""
        lines = [*self.measured[-1:], *self.evaluations[-1:], *self.warnings[-1:]]
        return max(lines, key=lambda line: int(line["step"]), default=None)

    def losses(self, name: str) -> list[tuple[float, float]]:
        """(step, value) wherever ``name`` was measured."""
        pairs = ((float(line["step"]), value(line, name)) for line in self.measured)
        return [(step, found) for step, found in pairs if found is not None]

    def scores(self, *path: str) -> list[tuple[float, float]]:
        """(step, value) of what evaluations have under ``path``, as ``("y", "swd")``."""
        pairs = ((float(e["step"]), value(e, "evaluation", *path)) for e in self.evaluations)
        return [(step, found) for step, found in pairs if found is not None]

    @property
    def speed(self) -> float:
        """Pictures a second, of late; 0 where that is not known."""
        found = [value(line, "pictures_per_s") for line in self.measured[-5:]]
        known = [speed for speed in found if speed is not None]
        return sum(known) / max(len(known), 1)

    def seconds(self, batch_size: int) -> float:
        """Seconds of training, without pauses, from the pictures per second of each line."""
        total, before = 0.0, 0
        for line in self.measured:
            speed = value(line, "pictures_per_s")
            if speed:
                total += (int(line["step"]) - before) * batch_size / speed
            before = int(line["step"])
        return total


def read_record(folder: Path) -> Record:
    """The record in a run's ``folder``; an empty one before its first line."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        lines = read_metrics(folder / "metrics.jsonl")
    return Record(
        measured=tuple(line for line in lines if "lr" in line),
        evaluations=tuple(line for line in lines if isinstance(line.get("evaluation"), dict)),
        warnings=tuple(line for line in lines if isinstance(line.get("warning"), dict)),
    )


def value(line: Line, *path: str) -> float | None:
    """The finite number under ``path``; None where there is none."""
    found: Any = line
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def best_of(evaluations: Sequence[Line], *domains: str) -> Best | None:
    """The first evaluation with the lowest mean SWD over ``domains`` (``y``: of G(x), ``x``: F(y)).

    For both domains it is the one with the lowest ``distance``, if recorded, as for the best
    checkpoint. None if no evaluation has them.
    """
    found: list[tuple[float, Best]] = []
    for line in evaluations:
        values = [value(line, "evaluation", domain, "swd") for domain in domains]
        known = [v for v in values if v is not None]
        if known and len(known) == len(domains):
            best = Best(int(line["step"]), int(line["epoch"]), sum(known) / len(known))
            distance = value(line, "evaluation", "distance") if len(domains) > 1 else None
            found.append((best.swd if distance is None else distance, best))
    return min(found, key=lambda pair: pair[0], default=(0.0, None))[1]


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Means of the values around each point, with weights that fall exponentially on both sides.

    They fall to 1/e over a fifteenth of the points, at most 50.
    """
    weight = 1 - 1 / min(50.0, max(1.0, len(points) / 15))
    values = [y for _, y in points]
    before, after = _fading(values, weight), _fading(values[::-1], weight)[::-1]
    return [
        (x, (total + other) / (norm + rest))
        for (x, _), (total, norm), (other, rest) in zip(points, before, after, strict=True)
    ]


def _fading(values: Sequence[float], weight: float) -> list[tuple[float, float]]:
    """(sum of the values up to each, sum of their weights)."""
    total = norm = 0.0
    result = []
    for value_ in values:
        total, norm = weight * total + (1 - weight) * value_, weight * norm + (1 - weight)
        result.append((total, norm))
    return result


def train_command(run: Run) -> str:
    """The command line that starts the same training: every option that is not the default."""
    held = len(run.x_held) > len(run.x_files + run.x_held) // 10  # more than by default
    words = run.settings.options(*(["hold_out"] if held else []))
    return command_line("train", run.x_dir, run.y_dir, "--name", run.name, *words)


# -- TensorBoard's files, written by torch's own writer -----------------------------------------


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
        import numpy as np

        pixels = np.asarray(sheet)
        self._writer.add_image("samples", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still held back."""
        self._writer.close()

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, number in scalars.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()
