"""What train and resume share: from a run and a place to the finished style, events rendered."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.preflight import first_weights
from cyclegan_cli.cli.processes import Stopped, check_processes, led, one_device
from cyclegan_cli.cli.publishing import publish
from cyclegan_cli.cli.rendering import Renderer, TrainingView
from cyclegan_cli.engine import checkpoint, training
from cyclegan_cli.engine.checkpoint import Checkpoint
from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.device import Device, memory_used, resolve_precision
from cyclegan_cli.engine.distributed import Group
from cyclegan_cli.engine.evaluation import Evaluator, Real
from cyclegan_cli.engine.run import Place, Run, checkpoint_files, evaluates, hold, sweep
from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.errors import (
    CycleganError,
    PictureError,
    ProcessesError,
    StoreError,
    TrainingError,
    UsageError,
    command_line,
    counted,
    duration,
)
from cyclegan_cli.media.dataset import UnpairedPictures, whole_views
from cyclegan_cli.randomness import choices
from cyclegan_cli.report.record import Board


@dataclass(frozen=True)
class Machine:
    """Where a training runs, and with which processes: what does not belong to the run itself."""

    gpu: str
    workers: int
    group: Group
    tensorboard: bool = False


class _StopRequest:
    """The first Ctrl-C or SIGTERM asks the loop to stop after its step; the second ends at once.

    Where several processes train, each asks after every step, and all stop if one was told to. As a
    context manager it has the signals only inside.
    """

    def __init__(self, console: Console, group: Group) -> None:
        self._console = console
        self._group = group
        self._received = 0
        self._before: dict[int, Any] = {}
        self.signum = 0  # that all have agreed on

    def __enter__(self) -> _StopRequest:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        if self._received:
            raise Stopped(signum)
        self._received = signum
        self._console.note("Stopping after this step, with a checkpoint (once more: at once) …")

    def __call__(self) -> bool:
        self.signum = self._group.check_in(self._received)
        return self.signum != 0


def train_held(
    console: Console,
    run: Run,
    machine: Machine,
    look: Callable[[], Checkpoint | None],
    commit: Callable[[Checkpoint | None], None],
) -> None:
    """Train ``run`` with its lock held, from the checkpoint that ``look()`` gives.

    Of several processes the first holds the lock and looks; the others read the same checkpoint.
    ``commit(checkpoint)`` writes, in the first process, what the run becomes: after everything that
    can be refused has been checked. Until then nothing is written.
    """
    group = machine.group
    with contextlib.ExitStack() as stack:
        new = not run.folder.exists()  # its lock lies in its folder, which is made at the end
        start: Checkpoint | None = None

        def looked() -> Path | None:
            nonlocal start
            if not new:
                stack.enter_context(hold(run))
            start = look()
            return start.path if start else None

        def published() -> None:
            try:
                publish(console, run, {"device": str(one_device(machine.gpu).torch)})
            except UsageError as error:  # no misuse: the training has been done
                raise StoreError(str(error), hint=error.hint) from error

        def committed() -> None:
            if new:
                stack.enter_context(hold(run))
            commit(start)
            sweep(run)

        path, error = led(group, looked), None
        try:
            if path is not None and start is None:
                start = checkpoint.load(path)
        except CycleganError as damaged:
            error = damaged
        group.check_in(error=error)
        with _StopRequest(console, group) as stop:
            finished = _train_run(console, run, machine, start, stop, lambda: led(group, committed))
            if finished:
                led(group, published)
            if not stop():
                return
        if not finished:
            console.suggest("To continue", command_line("resume", run.name))
        raise Stopped(stop.signum)


def _train_run(
    console: Console,
    run: Run,
    machine: Machine,
    start: Checkpoint | None,
    stop: _StopRequest,
    commit: Callable[[], None],
) -> bool:
    """Train ``run`` from ``start`` (None: from its beginning); whether it came to its end.

    Raises TrainingError where a loss is no longer finite.
    """
    group = machine.group
    device = one_device(machine.gpu)
    dtype = resolve_precision(run.settings.precision, device.torch)
    check_processes(run.settings, group.size)
    group.same("their version of PyTorch and precision", f"{torch.__version__} with {dtype}")
    model = CycleGAN(run.settings, device.torch, dtype, group)
    place = Place()
    if start is not None:
        model.load_state(start.tensors, start.plain)
        place = start.place
    elif run.settings.init is not None:
        for way, file in first_weights(run.settings).items():
            letter = "G" if way == "xy" else "F"
            model.start_from(letter, load_generator(file, device.torch))
    pictures = UnpairedPictures(
        *(run.paths("x"), run.paths("y"), run.settings),
        workers=machine.workers,
        pinned=device.torch.type == "cuda",
        part=(group.rank, group.size),
    )
    samples, evaluator = (_samples(run), _evaluator(run)) if group.leads else (None, None)
    commit()
    started = time.monotonic()
    finished = False
    try:
        with _rendering(console, run, machine, place, device) as show:
            for event in training.train(
                *(model, pictures, samples, run.checkpoints, place), evaluator=evaluator, stop=stop
            ):
                show(event)
                place = event.place
                finished = isinstance(event, training.Ended) and event.finished
    except (TrainingError, ProcessesError, PictureError) as error:
        raise _with_way_back(run, error) from error
    what = f"Done: {counted(place.step, 'step')}"
    if not finished:
        what = f"Stopped after step {place.step:,}"
    console.note(f"{what}, {duration(time.monotonic() - started)} this time.")
    return finished


@contextlib.contextmanager
def _rendering(
    console: Console, run: Run, machine: Machine, place: Place, device: Device
) -> Iterator[Callable[[training.Event], None]]:
    """What renders events; of several processes only the first does."""
    if not machine.group.leads:
        yield lambda _event: None
        return
    epochs = -(-run.steps // run.steps_per_epoch)
    view = TrainingView(
        *(console, run.name, place, run.steps, epochs), lambda: memory_used(device.torch)
    )
    board: contextlib.AbstractContextManager[Board | None] = contextlib.nullcontext()
    if machine.tensorboard:
        board = contextlib.closing(Board(run.folder / "tensorboard", place.step))
    with board as opened, view.shown(), Renderer(console, run, place, view, opened) as renderer:
        yield renderer.show


def _samples(run: Run) -> tuple[Tensor, Tensor] | None:
    """The pictures that every sample shows: held out, or, where too few, the first of the rest."""
    count = run.settings.samples
    if count == 0:
        return None
    x, y = ((run.paths(d, held=True) or run.paths(d))[:count] for d in ("x", "y"))
    return whole_views(x, run.settings), whole_views(y, run.settings)


def _evaluator(run: Run) -> Evaluator | None:
    """What measures ``run`` as it goes; None where too few pictures are held out, or for never."""
    if not evaluates(run):
        return None
    settings = run.settings

    def more(domain: str, count: int) -> list[Path]:
        """Real pictures for the floor: as many as there will be outputs to compare it with."""
        files = run.paths(domain)
        return choices(settings.seed, "floor", domain).sample(files, min(count, len(files)))

    def load() -> Real:
        x, y = run.paths("x", held=True), run.paths("y", held=True)
        four = (x, y, more("x", len(y)), more("y", len(x)))
        return Real(*(whole_views(files, settings) for files in four))

    return Evaluator(load, seed=settings.seed)


def _with_way_back(run: Run, error: CycleganError) -> CycleganError:
    """``error`` with the last good checkpoint named."""
    files = checkpoint_files(run.checkpoints)
    kept = f" The last good checkpoint is {files[0]}." if files else ""
    back = command_line("resume", run.name) if files else "cyclegan train …"
    hint = f"{error.hint or ''} Then: {back}".strip()
    told = type(error)(f"{error}{kept}", hint=hint)
    told.exit_code = error.exit_code
    return told
