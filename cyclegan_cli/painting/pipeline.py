"""Read, paint, write: overlapped, in order, and never stopped by one bad file.

One thread reads ahead, one writes behind, the caller's thread paints. At most one decoded picture
waits to be painted and one painted picture to be written, however many there are.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from cyclegan_cli.errors import CycleganError, PictureError
from cyclegan_cli.media.encoding import write_picture
from cyclegan_cli.media.pictures import Array, Frame, Picture, read_picture
from cyclegan_cli.media.plan import Job
from cyclegan_cli.settings import TranslateSettings

__all__ = ["Done", "Event", "Failed", "Paint", "translate_pictures"]

Paint: TypeAlias = Callable[[Array], Array]  # H×W×3 uint8 or uint16 in, the same (or wider) out
_PATIENCE = 10.0  # seconds to wait, when stopped, for a reader that may hang on a pipe


@dataclass(frozen=True)
class Done:
    """``job`` is written. ``size``: (width, height) of the first frame written, in pixels;
    ``frames``: how many there are in the file.

    ``seconds``: the time spent on it, waiting left out.
    """

    job: Job
    size: tuple[int, int]
    frames: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """``job`` could not be done; its target is untouched."""

    job: Job
    error: CycleganError


Event: TypeAlias = Done | Failed


@dataclass(frozen=True)
class _Step:
    """A job on its way, with what became of it so far."""

    job: Job
    outcome: Picture | CycleganError
    seconds: float


def translate_pictures(
    jobs: Iterable[Job],
    paint: Paint,
    settings: TranslateSettings,
    *,
    stdin: bytes = b"",
    stdout: BinaryIO | None = None,
) -> Generator[Event, None, None]:
    """Do ``jobs``; yields one event a job, in their order.

    ``paint`` is called in this thread, once a frame. ``stdin``: the bytes of the job without a
    source; ``stdout``: where the job without a target goes. Close the iterator (as
    ``contextlib.closing`` does) or let an exception pass through it: the file in hand is finished
    or removed, and the threads end. Whatever goes wrong with one file, in whichever thread, is that
    file's ``Failed``; what concerns no single file is raised here: BrokenPipeError where the reader
    of ``stdout`` has gone, and anything that iterating ``jobs`` raises.
    """
    stop = threading.Event()
    before, behind = threading.Semaphore(2), threading.Semaphore(1)
    to_paint: queue.SimpleQueue[_Step | BaseException | None] = queue.SimpleQueue()
    to_write: queue.SimpleQueue[_Step | None] = queue.SimpleQueue()
    events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()

    def read_ahead() -> None:
        try:
            for job in jobs:
                before.acquire()
                if stop.is_set():
                    return
                to_paint.put(_read(job, stdin, settings))
            to_paint.put(None)
        except BaseException as error:  # the main thread would wait for ever
            to_paint.put(error)

    def write_behind() -> None:
        while (step := to_write.get()) is not None:
            try:
                events.put(_write(step, settings, stdout))
            except BaseException as error:
                events.put(error)
            del step
            behind.release()

    # The writer is waited for even when the program ends: what it writes is whole or gone.
    reader = threading.Thread(target=read_ahead, name="read-ahead", daemon=True)
    writer = threading.Thread(target=write_behind, name="write-behind")
    try:
        reader.start()
        writer.start()
        while (step := to_paint.get()) is not None:
            if isinstance(step, BaseException):
                raise step
            step = _paint(step, paint)
            before.release()
            behind.acquire()
            to_write.put(step)
            del step
            yield from _ready(events)
        behind.acquire()  # the last one is written
        yield from _ready(events)
    finally:
        stop.set()
        before.release()
        to_write.put(None)
        if writer.ident is not None:
            writer.join()
        if reader.ident is not None:
            reader.join(_PATIENCE)


def _ready(events: queue.SimpleQueue[Event | BaseException]) -> Iterator[Event]:
    while not events.empty():
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        yield event


def _read(job: Job, stdin: bytes, settings: TranslateSettings) -> _Step:
    start = time.perf_counter()
    outcome: Picture | CycleganError
    try:
        outcome = read_picture(stdin if job.source is None else job.source, settings.max_pixels)
    except CycleganError as error:
        outcome = error
    except Exception as error:
        outcome = _failure(job.source or "stdin", "read", error)
    return _Step(job, outcome, time.perf_counter() - start)


def _failure(name: Path | str, verb: str, error: Exception) -> PictureError:
    """An error that nobody foresaw, as that of one file."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    failure = PictureError(f"{name} could not be {verb}: {reason or type(error).__name__}.")
    failure.__cause__ = error
    return failure


def _paint(step: _Step, paint: Paint) -> _Step:
    if not isinstance(step.outcome, Picture):
        return step
    start = time.perf_counter()
    outcome: Picture | CycleganError
    try:
        frames = tuple(_paint_frame(frame, paint) for frame in step.outcome.frames)
        outcome = dataclasses.replace(step.outcome, frames=frames)
    except CycleganError as error:
        outcome = PictureError(f"{step.job.source or 'stdin'}: {error}", hint=error.hint)
        outcome.__cause__ = error
    except Exception as error:
        outcome = _failure(step.job.source or "stdin", "painted", error)
    return _Step(step.job, outcome, step.seconds + time.perf_counter() - start)


def _paint_frame(frame: Frame, paint: Paint) -> Frame:
    painted = paint(frame.pixels)
    alpha = frame.alpha
    if alpha is not None and painted.shape[1] != alpha.shape[1]:
        alpha = np.concatenate([alpha, alpha], axis=1)  # original and result, side by side
    return Frame(painted, alpha, frame.duration)


def _write(step: _Step, settings: TranslateSettings, stdout: BinaryIO | None) -> Event:
    job, picture = step.job, step.outcome
    if not isinstance(picture, Picture):
        return Failed(job, picture)
    start = time.perf_counter()
    destination = job.target or stdout
    if destination is None:
        return Failed(job, PictureError("There is no stdout to write to."))
    try:
        count = write_picture(
            picture,
            destination,
            job.format,
            quality=settings.quality,
            strip_metadata=settings.strip_metadata,
        )
    except BrokenPipeError:
        raise
    except PictureError as error:
        return Failed(job, error)
    except Exception as error:
        return Failed(job, _failure(job.target or "stdout", "written", error))
    height, width = picture.frames[0].pixels.shape[:2]
    seconds = step.seconds + time.perf_counter() - start
    return Done(job, (width, height), count, seconds)
