"""What train and resume share: from a run and a place to the finished style, events rendered."""

from __future__ import annotations

import contextlib
import shlex
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cyclegan_cli.cli.common import Stopped, one_device
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.processes import led
from cyclegan_cli.cli.rendering import Renderer
from cyclegan_cli.engine.run import Place, Run, checkpoint_files, remove_leftovers
from cyclegan_cli.errors import (
    CycleganError,
    PictureError,
    ProcessesError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.engine.cyclegan import CycleGAN
    from cyclegan_cli.engine.distributed import Group
    from cyclegan_cli.engine.networks import Generator
    from cyclegan_cli.styles.cards import Way

__all__ = ["Machine", "hold", "train_held", "train_run"]


@dataclass(frozen=True)
class Machine:
    """Where a training runs, and with which processes: what does not belong to the run itself."""

    gpu: str
    workers: int
    group: Group


class _StopRequest:
    """The first Ctrl-C or SIGTERM asks the loop to stop after its step; the second ends at once.

    Where several processes train, each asks after every step, and all stop if one was told to.
    """

    def __init__(self, console: Console, group: Group) -> None:
        self._console = console
        self._group = group
        self._received = 0
        self.signum = 0  # that all have agreed on
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._receive)

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        if self._received:
            raise Stopped(signum)
        self._received = signum
        self._console.note("Stopping after this step, with a checkpoint (once more: at once) …")

    def __call__(self) -> bool:
        self.signum = self._group.check_in(self._received)
        return self.signum != 0


def hold(run: Run) -> FileLock:
    """The lock of ``run``, taken. Raises UsageError where another process trains it."""
    lock = FileLock(run.folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"The run '{run.name}' is being trained by another process.") from error
    return lock


def train_held(
    console: Console,
    run: Run,
    machine: Machine,
    begin: Callable[[], Path | None] = lambda: None,
) -> None:
    """Train ``run`` with its lock held, from the checkpoint that ``begin()`` names.

    Of several processes the first holds the lock and begins; all read the same checkpoint.
    """
    group = machine.group
    with contextlib.ExitStack() as stack:

        def begun() -> Path | None:
            stack.enter_context(hold(run))
            return begin()

        path = led(group, begun)
        start = error = None
        try:
            if path is not None:
                from cyclegan_cli.engine import checkpoint

                start = checkpoint.load(path)
        except CycleganError as damaged:
            error = damaged
        group.check_in(error=error)
        train_run(console, run, machine, start)


def train_run(console: Console, run: Run, machine: Machine, start: Checkpoint | None) -> None:
    """Train ``run`` from ``start`` (None: from its beginning) to its end, and make its style.

    Raises Stopped after an orderly stop, TrainingError where a loss is no longer finite.
    """
    import torch

    from cyclegan_cli.engine import training
    from cyclegan_cli.engine.cyclegan import CycleGAN
    from cyclegan_cli.engine.device import resolve_precision
    from cyclegan_cli.media.dataset import UnpairedPictures

    group = machine.group
    stop = _StopRequest(console, group)
    device = one_device(machine.gpu)
    dtype = resolve_precision(run.settings.precision, device.torch)
    _check_processes(run, group, start)
    group.same("their version of PyTorch and precision", f"{torch.__version__} with {dtype}")
    model = CycleGAN(run.settings, device.torch, dtype, group)
    place = Place()
    if start is not None:
        model.load_state(start.tensors, start.plain)
        place = start.place
    if group.leads:
        remove_leftovers(run)
    pictures = UnpairedPictures(
        *(run.paths("x"), run.paths("y"), run.settings),
        workers=machine.workers,
        part=(group.rank, group.size),
    )
    renderer = Renderer(console, run, place) if group.leads else None
    samples = _samples(run) if group.leads else None
    total = run.settings.epochs * pictures.steps_per_epoch
    started = time.monotonic()
    try:
        with console.progress("training", min(total, run.settings.max_steps or total)) as bar:
            bar.advance(place.step)
            for event in training.train(
                model, pictures, samples, run.checkpoints, place, stop=stop
            ):
                if renderer is not None:
                    renderer.show(event, bar)
                place = event.place
    except (TrainingError, ProcessesError, PictureError) as error:
        raise _with_way_back(run, error) from error
    if stop():
        console.note(f"Stopped after step {place.step}. To go on:")
        console.note(f"  cyclegan resume {shlex.quote(run.name)}")
        raise Stopped(stop.signum)
    if group.leads:
        _publish(console, run, model, place, time.monotonic() - started)
    group.check_in()


def _check_processes(run: Run, group: Group, start: Checkpoint | None) -> None:
    """Raise UsageError where there are more processes than pictures in a batch.

    The batch stays that of the run, whatever the number of processes: so does the training.
    """
    batch = run.settings.batch_size
    if group.size > batch:
        raise UsageError(
            f"A step of {run.name} takes {batch} pictures: {group.size} processes would not all "
            "have one.",
            hint=f"Use {batch} at most." if start else "A larger --batch-size.",
        )


def _samples(run: Run) -> tuple[Tensor, Tensor] | None:
    """The pictures that every sample shows: held out, or, where too few, the first of the rest."""
    from cyclegan_cli.media.dataset import whole_views

    count = run.settings.samples
    x = run.paths("x", held=True) or run.paths("x")[:count]
    y = run.paths("y", held=True) or run.paths("y")[:count]
    if count == 0:
        return None
    return whole_views(x, run.settings), whole_views(y, run.settings)


def _with_way_back(run: Run, error: CycleganError) -> CycleganError:
    """``error`` with the last good checkpoint named."""
    files = checkpoint_files(run.checkpoints)
    kept = f" The last good checkpoint is {files[0]}." if files else ""
    back = f"cyclegan resume {shlex.quote(run.name)}" if files else "cyclegan train …"
    hint = f"{error.hint or ''} Then: {back}".strip()
    told = type(error)(f"{error}{kept}", hint=hint)
    told.exit_code = error.exit_code
    return told


def _publish(console: Console, run: Run, model: CycleGAN, place: Place, seconds: float) -> None:
    """Put both generators into the store under the run's name."""
    from cyclegan_cli.engine.weights import save_generator
    from cyclegan_cli.styles.store import add_style

    card = {
        "run": run.name,
        "steps": place.step,
        "epochs": place.epoch,
        "pictures": {"x": len(run.x_files), "y": len(run.y_files)},
        "device": str(model.device),
        "settings": run.settings.to_json(),
    }
    x, y = run.x_dir.name, run.y_dir.name
    with tempfile.TemporaryDirectory(dir=run.folder) as folder:
        files: dict[Way, Path] = {}
        networks: dict[Way, Generator] = {"xy": model.G, "yx": model.F}
        for way, network in networks.items():
            files[way] = Path(folder, f"{way}.safetensors")
            about = {"style": run.name, "x": x, "y": y, "direction": way, "steps": place.step}
            save_generator(files[way], network, about)
        add_style(run.name, x=x, y=y, origin="trained", weights=files, card=card, replace=True)
    console.note(f"Done: {place.step} steps, {seconds / 60:.1f} min this time. Try it:")
    console.note(f"  cyclegan translate PHOTO.jpg --style {shlex.quote(run.name)}")
    console.result(run.name, {"style": run.name, "run": str(run.folder), "steps": place.step})
