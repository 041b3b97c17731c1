"""A run's folder: its settings, pictures and checkpoints. Imports no torch.

<CYCLEGAN_HOME>/runs/NAME/
  run.json          settings, folders, and which pictures train and which are held out
  checkpoints/      step-000001234.safetensors, the newest few; best.safetensors
  metrics.jsonl     a line per logging interval
  samples/          a sheet per sampling interval
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.errors import (
    CheckpointError,
    UnknownNameError,
    UsageError,
    WeightsError,
    command_line,
    reason_of,
    writing,
)
from cyclegan_cli.files import read_safetensors_header, remove_leftovers, runs_dir, write_text
from cyclegan_cli.settings import TrainSettings

if TYPE_CHECKING:
    from filelock import FileLock

CHECKPOINT_FORMAT = "cyclegan-checkpoint-1"
BEST = "best.safetensors"  # the best checkpoint by the measures; no interval drops it

# Raised by reading a description that is damaged or of another version of this program.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError),
    *(UsageError, WeightsError),
)

MINIMUM_HELD = 8  # pictures held out in each domain: the figures of fewer say nothing


@dataclass(frozen=True)
class Place:
    """Progress of a training: steps and epochs done, and batches of the current epoch done."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Run:
    """A training. Files are relative to ``x_dir`` and ``y_dir``; ``…_held`` are not trained on."""

    folder: Path
    name: str
    settings: TrainSettings
    x_dir: Path
    y_dir: Path
    x_files: tuple[str, ...]
    y_files: tuple[str, ...]
    x_held: tuple[str, ...]
    y_held: tuple[str, ...]
    created: float

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-max(len(self.x_files), len(self.y_files)) // self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training: those of its epochs, or those of --max-steps if fewer."""
        scheduled = self.steps_per_epoch * self.settings.epochs
        return min(scheduled, self.settings.max_steps or scheduled)

    def ends_at(self, place: Place) -> bool:
        """Whether its last epoch, or --max-steps, is reached at ``place``."""
        last = self.settings.max_steps
        return place.epoch >= self.settings.epochs or (last is not None and place.step >= last)

    def paths(self, domain: str, *, held: bool = False) -> list[Path]:
        """The pictures of domain ``x`` or ``y`` for training, or those held out."""
        if domain == "x":
            return [self.x_dir / name for name in (self.x_held if held else self.x_files)]
        return [self.y_dir / name for name in (self.y_held if held else self.y_files)]

    def write(self) -> None:
        """Write run.json. Raises StoreError where that cannot be done."""
        data: dict[str, Any] = {
            "name": self.name,
            "created": self.created,
            "x_dir": str(self.x_dir),
            "y_dir": str(self.y_dir),
            "settings": self.settings.to_json(),
            "x_files": self.x_files,
            "y_files": self.y_files,
            "x_held": self.x_held,
            "y_held": self.y_held,
        }
        with _writing(self):
            write_text(self.folder / "run.json", json.dumps(data, indent=1) + "\n")


@dataclass(frozen=True)
class RunState:
    """State of a run for a list; ``place`` is None before the first checkpoint."""

    run: Run
    place: Place | None
    losses: dict[str, float]
    written: float

    @property
    def finished(self) -> bool:
        """Whether it has reached its end."""
        return self.place is not None and self.run.ends_at(self.place)


def refuse_existing_run(name: str, folder: Path) -> None:
    """Raise UsageError where ``folder`` holds a run already."""
    if (folder / "run.json").exists():
        raise UsageError(
            f"The run '{name}' exists already, in {folder}.",
            hint=f"Give the new one another --name, or: {command_line('resume', name)}",
        )


def create_run(run: Run) -> None:
    """Make the folder of a new run. Raises UsageError where a run of that name exists."""
    refuse_existing_run(run.name, run.folder)
    run.write()


def open_run(folder: Path) -> Run:
    """The run in ``folder``. Raises CheckpointError if run.json is missing, damaged or too new."""
    path = folder / "run.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data["name"], str):
            raise TypeError("its name is no text")
        return Run(
            folder=folder,
            name=data["name"],
            settings=TrainSettings.from_json(data["settings"]),
            x_dir=Path(data["x_dir"]),
            y_dir=Path(data["y_dir"]),
            x_files=tuple(data["x_files"]),
            y_files=tuple(data["y_files"]),
            x_held=tuple(data["x_held"]),
            y_held=tuple(data["y_held"]),
            created=float(data["created"]),
        )
    except UNREADABLE as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise CheckpointError(
            f"{path} is damaged, or of another version of this program: {why}."
        ) from error


def find_run(name: str) -> Run:
    """The run of that name, or in the folder ``name``. Raises UnknownNameError, CheckpointError."""
    named = runs_dir() / name
    is_name = Path(name).name == name and name not in (".", "..")
    for folder in (named, Path(name)) if is_name else (Path(name),):
        if (folder / "run.json").is_file():
            return open_run(folder.resolve())
    known = [state.run.name for state in list_runs()]
    raise UnknownNameError("run", name, known, hint=command_line("runs"))


def list_runs() -> list[RunState]:
    """All readable runs, the one written last first."""
    return sorted(_scan()[0], key=lambda state: state.written, reverse=True)


def unreadable_runs() -> list[tuple[Path, CheckpointError]]:
    """The folders of runs that cannot be read, each with the reason."""
    return _scan()[1]


def _scan() -> tuple[list[RunState], list[tuple[Path, CheckpointError]]]:
    states: list[RunState] = []
    unreadable: list[tuple[Path, CheckpointError]] = []
    folders: list[Path] = []
    with contextlib.suppress(OSError):
        folders = sorted(runs_dir().iterdir())
    for folder in folders:
        try:
            if (folder / "run.json").is_file():
                states.append(run_state(open_run(folder)))
        except CheckpointError as error:
            unreadable.append((folder, error))
        except OSError as error:
            told = CheckpointError(f"{folder} cannot be read: {reason_of(error)}.")
            unreadable.append((folder, told))
    return states, unreadable


def run_state(run: Run) -> RunState:
    """The state of ``run`` by the header of its newest checkpoint, whose digest is not checked."""
    for path in checkpoint_files(run.checkpoints):
        with contextlib.suppress(*UNREADABLE):
            state = read_state(path)
            losses = {str(name): float(value) for name, value in state["losses"].items()}
            return RunState(run, Place(**state["place"]), losses, float(state["written"]))
    return RunState(run, None, {}, run.created)


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint's header says of the run. Raises any of ``UNREADABLE``."""
    state: dict[str, Any] = json.loads(read_safetensors_header(path)[0]["state"])
    return state


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def checkpoint_name(place: Place) -> str:
    """File name of the checkpoint at ``place``; names sort by step."""
    return f"step-{place.step:09}.safetensors"


def evaluates(run: Run) -> bool:
    """Whether ``run`` is evaluated while it trains: if wanted, and enough pictures are held out."""
    held = min(len(run.x_held), len(run.y_held))
    return run.settings.evaluate_every != "never" and held >= MINIMUM_HELD


def best_of(run: Run) -> Path:
    """The best checkpoint of ``run``. Raises UsageError if nothing was measured yet."""
    path = run.checkpoints / BEST
    if not path.is_file():
        raise UsageError(
            f"{run.name} has no best checkpoint: nothing was measured on held-out pictures.",
            hint="See --evaluate-every and --hold-out in: cyclegan train --help",
        )
    return path


def sweep(run: Run) -> None:
    """Delete what an interrupted write left behind; the caller holds the run's lock."""
    for folder in (run.folder, run.checkpoints, run.folder / "samples"):
        remove_leftovers(folder)


# -- its lock ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing(run: Run) -> Iterator[None]:
    """With the folder of ``run``, which is made. Raises StoreError where that cannot be written."""
    hint = "Set CYCLEGAN_HOME to a folder that can be written."
    with writing(f"The run's folder {run.folder}", hint=hint):
        run.folder.mkdir(parents=True, exist_ok=True)
        yield


def hold(run: Run) -> FileLock:
    """The lock of ``run``, taken. Raises UsageError where another process trains it."""
    from filelock import FileLock, Timeout

    lock = FileLock(run.folder / "run.lock")
    with _writing(run):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise being_trained(run) from error
    return lock


def is_held(run: Run) -> bool:
    """Whether another process holds the lock of ``run``."""
    from filelock import FileLock, Timeout

    path = run.folder / "run.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def being_trained(run: Run) -> UsageError:
    """The error for a run that another process holds."""
    return UsageError(f"The run '{run.name}' is being trained by another process.")
