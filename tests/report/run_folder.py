"""A run's folder as a training leaves it, without the training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cyclegan_cli.engine.run import Run
from cyclegan_cli.report.samples import CAPTION, GAP, sheet_name
from cyclegan_cli.settings import GeneratorSpec, TrainSettings

SIDE = 32
SETTINGS = TrainSettings(generator=GeneratorSpec.named("mobile"), epochs=4, crop_size=SIDE)


def make_run(folder: Path, *, name: str = "cats2dogs", **changes: Any) -> Run:
    """A run of 4 epochs of 10 steps, two held-out pictures in X and one in Y; no lines, no samples.

    ``changes``: of the run's fields.
    """
    run = Run(
        folder=folder,
        name=name,
        settings=SETTINGS,
        x_dir=Path("/pictures/cats"),
        y_dir=Path("/pictures/dogs"),
        x_files=tuple(f"{n}.png" for n in range(10)),
        y_files=tuple(f"{n}.png" for n in range(7)),
        x_held=("a.png", "b.png"),
        y_held=("c.png",),
        created=1_700_000_000.0,
    )
    run = dataclasses.replace(run, **changes)
    run.write()
    return run


def losses(step: int, **more: Any) -> dict[str, Any]:
    """A line of metrics.jsonl: G falls, D rises."""
    at = {"step": step, "epoch": step // 10, "time": 1_700_000_000.0 + 10 * step}
    values = {"G": 1 / (1 + step), "F": 2 / (1 + step), "D_X": 0.2, "D_Y": step / 100}
    rest = {f"{kind}_{domain}": 1.5 for kind in ("cycle", "identity") for domain in "XY"}
    return {**at, "lr": 2e-4, "pictures_per_s": 4.0, **values, **rest, **more}


def evaluation(step: int, y: float, x: float) -> dict[str, Any]:
    """An evaluation: the sliced Wasserstein distances of both directions."""
    scores = {
        domain: {"swd": swd, "swd_floor": 40.0, "classifier": 0.9, "classifier_floor": 0.5}
        for domain, swd in (("y", y), ("x", x))
    }
    at = {"step": step, "epoch": step // 10, "time": 1_700_000_000.0 + 10 * step}
    return {**at, "evaluation": {**scores, "cycle_l1": 0.1}}


def warning(step: int, message: str, hint: str) -> dict[str, Any]:
    """A warning of a watchdog."""
    at = {"step": step, "epoch": step // 10, "time": 1_700_000_000.0 + 10 * step}
    return {**at, "warning": {"kind": "collapse", "message": message, "hint": hint}}


def write_lines(run: Run, *lines: dict[str, Any]) -> None:
    """metrics.jsonl."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def colour(step: int, column: int, row: int) -> tuple[int, int, int]:
    """The one colour of a picture on a sheet; those of x and y do not change."""
    return (40 * column + 10, 100 * row + 20, 0 if column in (0, 3) else min(250, 5 * step))


def write_sheet(run: Run, step: int, *, rows: tuple[int, int] = (2, 1), side: int = SIDE) -> Path:
    """A sheet at ``step`` with so many pictures of X and of Y."""
    pixels = np.full(
        (CAPTION + GAP + max(rows) * (side + GAP), GAP + 6 * (side + GAP), 3), 255, np.uint8
    )
    for column in range(6):
        for row in range(rows[column // 3]):
            top, left = CAPTION + GAP + row * (side + GAP), GAP + column * (side + GAP)
            pixels[top : top + side, left : left + side] = colour(step, column, row)
    folder = run.folder / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / sheet_name(step)
    Image.fromarray(pixels).save(path)
    return path


def whole_run(folder: Path) -> Run:
    """A run with lines, an evaluation each epoch, a warning, and samples at every tenth step."""
    run = make_run(folder)
    write_lines(
        run,
        *(losses(step) for step in range(1, 11)),
        evaluation(10, 90.0, 80.0),
        *(losses(step) for step in range(11, 21)),
        evaluation(20, 60.0, 70.0),
        warning(20, "D_Y's loss has been near 0.", "Lower --lr."),
        *(losses(step) for step in range(21, 31)),
        evaluation(30, 65.0, 75.0),
    )
    for step in (10, 20, 30):
        write_sheet(run, step)
    return run
