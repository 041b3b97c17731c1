"""What train and resume share: from a run and a place to the finished style, events rendered."""

from __future__ import annotations

import contextlib
import shlex
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cyclegan_cli.cli.common import Stopped, one_device
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.liveview import TrainingView
from cyclegan_cli.cli.rendering import Renderer
from cyclegan_cli.engine.run import Place, Run, checkpoint_files, remove_leftovers
from cyclegan_cli.errors import CycleganError, TrainingError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.engine.cyclegan import CycleGAN
    from cyclegan_cli.engine.device import Device
    from cyclegan_cli.engine.networks import Generator
    from cyclegan_cli.report.tensorboard import Board
    from cyclegan_cli.styles.cards import Way

__all__ = ["Machine", "hold", "train_run"]


@dataclass(frozen=True)
class Machine:
    """Where a training runs, which does not belong to the run itself."""

    gpu: str
    workers: int
    tensorboard: bool = False


class _StopRequest:
    """The first Ctrl-C or SIGTERM asks the loop to stop after its step; the second ends at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.signum = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._receive)

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum:
            raise Stopped(signum)
        self.signum = signum
        self._console.note("Stopping after this step, with a checkpoint (once more: at once) …")

    def __call__(self) -> bool:
        return self.signum != 0


def hold(run: Run) -> FileLock:
    """The lock of ``run``, taken. Raises UsageError where another process trains it."""
    lock = FileLock(run.folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"The run '{run.name}' is being trained by another process.") from error
    return lock


def train_run(console: Console, run: Run, machine: Machine, start: Checkpoint | None) -> None:
    """Train ``run`` from ``start`` (None: from its beginning) to its end, and make its style.

    Raises Stopped after an orderly stop, TrainingError where a loss is no longer finite.
    """
    from cyclegan_cli.engine import training
    from cyclegan_cli.engine.cyclegan import CycleGAN
    from cyclegan_cli.engine.device import resolve_precision
    from cyclegan_cli.media.dataset import UnpairedPictures

    stop = _StopRequest(console)
    device = one_device(machine.gpu)
    model = CycleGAN(
        run.settings, device.torch, resolve_precision(run.settings.precision, device.torch)
    )
    place = Place()
    if start is not None:
        model.load_state(start.tensors, start.plain)
        place = start.place
    elif run.settings.init is not None:
        _begin_from(model, run.settings.init)
    remove_leftovers(run)
    pictures = UnpairedPictures(
        run.paths("x"),
        run.paths("y"),
        run.settings,
        workers=machine.workers,
        pinned=device.torch.type == "cuda",
    )
    view = _view(console, run, place, pictures.steps_per_epoch, device)
    started = time.monotonic()
    try:
        with (
            _board(run, machine, place) as board,
            view.shown(),
            Renderer(console, run, place, view, board) as renderer,
        ):
            for event in training.train(
                model, pictures, _samples(run), run.checkpoints, place, stop=stop
            ):
                renderer.show(event)
                place = event.place
    except TrainingError as error:
        raise _with_way_back(run, error) from error
    if stop():
        console.note(f"Stopped after step {place.step}. To go on:")
        console.note(f"  cyclegan resume {shlex.quote(run.name)}")
        raise Stopped(stop.signum)
    _publish(console, run, model, place, time.monotonic() - started)


def _view(
    console: Console, run: Run, place: Place, steps_per_epoch: int, device: Device
) -> TrainingView:
    from cyclegan_cli.engine.usage import memory_used

    total = run.settings.epochs * steps_per_epoch
    return TrainingView(
        console,
        run.name,
        place,
        min(total, run.settings.max_steps or total),
        run.settings.epochs,
        lambda: memory_used(device.torch),
    )


@contextlib.contextmanager
def _board(run: Run, machine: Machine, place: Place) -> Iterator[Board | None]:
    """TensorBoard's files in the run's folder, where they are wanted."""
    if not machine.tensorboard:
        yield None
        return
    from cyclegan_cli.report.tensorboard import Board

    board = Board(run.folder / "tensorboard", place.step)
    try:
        yield board
    finally:
        board.close()


def _begin_from(model: CycleGAN, name: str) -> None:
    """Give G and F the weights of a style. Raises UsageError where it is of another shape."""
    from cyclegan_cli.engine.weights import load_generator
    from cyclegan_cli.styles.store import find_style, weights_file

    style = find_style(name)
    for reverse, network in ((False, model.G), (True, model.F)):
        if reverse and "yx" not in style.directions:
            continue  # F starts as it would without the style
        source = load_generator(weights_file(style, reverse), model.device)
        if replace(source.spec, name=network.spec.name) != network.spec:
            raise UsageError(
                f"'{name}' is a {source.spec.name} generator, not a {network.spec.name} one.",
                hint=f"--generator {source.spec.name}",
            )
        network.load_state_dict(source.state_dict())


def _samples(run: Run) -> tuple[Tensor, Tensor] | None:
    """The pictures that every sample shows: held out, or, where too few, the first of the rest."""
    from cyclegan_cli.media.dataset import whole_views

    count = run.settings.samples
    x = run.paths("x", held=True) or run.paths("x")[:count]
    y = run.paths("y", held=True) or run.paths("y")[:count]
    if count == 0:
        return None
    return whole_views(x, run.settings), whole_views(y, run.settings)


def _with_way_back(run: Run, error: TrainingError) -> CycleganError:
    """``error`` with the last good checkpoint named."""
    files = checkpoint_files(run.checkpoints)
    kept = f" The last good checkpoint is {files[0]}." if files else ""
    back = f"cyclegan resume {shlex.quote(run.name)}" if files else "cyclegan train …"
    hint = f"{error.hint or ''} Then: {back}".strip()
    return TrainingError(f"{error}{kept}", hint=hint)


def _publish(console: Console, run: Run, model: CycleGAN, place: Place, seconds: float) -> None:
    """Put both generators into the store under the run's name."""
    from cyclegan_cli.engine.weights import save_generator
    from cyclegan_cli.report.page import REPORT
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
    console.note(f"The run as a page: {run.folder / REPORT}")
    console.note(f"Done: {place.step} steps, {seconds / 60:.1f} min this time. Try it:")
    console.note(f"  cyclegan translate PHOTO.jpg --style {shlex.quote(run.name)}")
    console.result(run.name, {"style": run.name, "run": str(run.folder), "steps": place.step})
