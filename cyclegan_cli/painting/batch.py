"""Many pictures and videos: read, painted and written in order, whatever fails.

One thread reads a picture ahead, one writes behind, the caller's thread paints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np

from cyclegan_cli.errors import CycleganError, PictureError, reason_of
from cyclegan_cli.media.colour import Array
from cyclegan_cli.media.encoding import write_picture
from cyclegan_cli.media.formats import is_video
from cyclegan_cli.media.pictures import Frame, Picture, read_picture
from cyclegan_cli.media.plan import Job
from cyclegan_cli.media.video import Motion, probe, read_frames, transcoded, write_frames
from cyclegan_cli.painting.effects import Steady
from cyclegan_cli.settings import TranslateSettings

# H×W×3 uint8 or uint16 in, the same (or wider) out. Videos also give override_stats and origin.
Paint: TypeAlias = Callable[..., Array]
_PATIENCE = 10.0  # seconds to wait, when stopped, for a reader that may hang on a pipe


@dataclass(frozen=True)
class Done:
    """``size``: (width, height) of the first frame; ``seconds``: spent on it, waiting left out."""

    job: Job
    size: tuple[int, int]
    frames: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """``job`` could not be done; its target is untouched."""

    job: Job
    error: CycleganError


@dataclass(frozen=True)
class FramePainted:
    """Frame ``number`` (from 1) of about ``frames`` of a video is painted and handed on."""

    job: Job
    number: int
    frames: int


@dataclass(frozen=True)
class Sounds:
    """The sound is converted to ``codec``, since the container cannot hold it as it is."""

    job: Job
    codec: str


Event: TypeAlias = Done | Failed | FramePainted | Sounds


@dataclass(frozen=True)
class _Step:
    """A job with its picture or error so far."""

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
    """Do ``jobs``; yields one ``Done`` or ``Failed`` a job, in their order.

    ``paint`` is called in this thread, once a frame. ``stdin``: the bytes of the job without a
    source; ``stdout``: for the job without a target. If the iterator is closed or an exception
    passes through it, the current file is finished or removed, and the threads end. Raises
    BrokenPipeError of ``stdout`` and what iterating ``jobs`` raises.
    """
    stop = threading.Event()
    before = threading.Semaphore(2)
    to_paint: queue.SimpleQueue[_Step | BaseException | None] = queue.SimpleQueue()
    writing: Future[Event] | None = None

    def read_ahead() -> None:
        try:
            for job in jobs:
                before.acquire()
                if stop.is_set():
                    return
                to_paint.put(_read(job, stdin, settings))
            to_paint.put(None)
        except BaseException as error:  # else the main thread would wait forever
            to_paint.put(error)

    # A daemon, since it may hang on a pipe; the writer finishes its file when the program ends.
    reader = threading.Thread(target=read_ahead, name="read-ahead", daemon=True)
    writer = ThreadPoolExecutor(1, "write-behind")
    try:
        reader.start()
        while (step := to_paint.get()) is not None:
            if isinstance(step, BaseException):
                raise step
            step = _paint(step, paint)
            before.release()
            written = None if writing is None else writing.result()
            writing = writer.submit(_write, step, settings, stdout)
            del step
            if written is not None:
                yield written
        if writing is not None:
            yield writing.result()
    finally:
        stop.set()
        before.release()
        writer.shutdown()
        if reader.ident is not None:
            reader.join(_PATIENCE)


@contextlib.contextmanager
def _unforeseen(name: object, verb: str) -> Iterator[None]:
    """An error that no one raises on purpose becomes a PictureError of the file ``name``."""
    try:
        yield
    except (CycleganError, BrokenPipeError):
        raise
    except Exception as error:
        raise PictureError(f"{name} could not be {verb}: {reason_of(error)}.") from error


def _read(job: Job, stdin: bytes, settings: TranslateSettings) -> _Step:
    start = time.perf_counter()
    outcome: Picture | CycleganError
    try:
        with _unforeseen(job.source or "stdin", "read"):
            source = stdin if job.source is None else job.source
            outcome = read_picture(source, settings.max_pixels)
    except CycleganError as error:
        outcome = error
    return _Step(job, outcome, time.perf_counter() - start)


def _paint(step: _Step, paint: Paint) -> _Step:
    picture, name, start = step.outcome, step.job.source or "stdin", time.perf_counter()
    if not isinstance(picture, Picture):
        return step
    outcome: Picture | CycleganError
    try:
        with _unforeseen(name, "painted"):
            try:
                frames = tuple(_paint_frame(frame, paint) for frame in picture.frames)
            except CycleganError as error:
                raise PictureError(f"{name}: {error}", hint=error.hint) from error
            outcome = dataclasses.replace(picture, frames=frames)
    except CycleganError as error:
        outcome = error
    return _Step(step.job, outcome, step.seconds + time.perf_counter() - start)


def _paint_frame(frame: Frame, paint: Paint) -> Frame:
    painted, alpha = paint(frame.pixels), frame.alpha
    if alpha is not None and painted.shape[1] != alpha.shape[1]:
        alpha = np.concatenate([alpha, alpha], axis=1)  # original and result, side by side
    return Frame(painted, alpha, frame.duration)


def _write(step: _Step, settings: TranslateSettings, stdout: BinaryIO | None) -> Event:
    job, picture, start = step.job, step.outcome, time.perf_counter()
    if not isinstance(picture, Picture):
        return Failed(job, picture)
    try:
        with _unforeseen(job.target or "stdout", "written"):
            if (destination := job.target or stdout) is None:
                raise PictureError("There is no stdout to write to.")
            count = write_picture(
                *(picture, destination, job.format),
                quality=settings.quality,
                strip_metadata=settings.strip_metadata,
            )
    except CycleganError as error:
        return Failed(job, error)
    height, width = picture.frames[0].pixels.shape[:2]
    return Done(job, (width, height), count, step.seconds + time.perf_counter() - start)


def translate_media(
    jobs: Sequence[Job],
    paint: Paint,
    settings: TranslateSettings,
    *,
    stdin: bytes = b"",
    stdout: BinaryIO | None = None,
) -> Generator[Event, None, None]:
    """``translate_pictures``, and videos, which give a ``FramePainted`` for each frame.

    If the iterator is closed or an exception passes through it, no incomplete file is left.
    """
    for video, group in itertools.groupby(jobs, lambda job: is_video(job.source)):
        if not video:
            events = translate_pictures(list(group), paint, settings, stdin=stdin, stdout=stdout)
            with contextlib.closing(events):
                yield from events
            continue
        for job in group:
            yield from _translate_video(job, paint, settings)


def _translate_video(
    job: Job, paint: Paint, settings: TranslateSettings
) -> Generator[Event, None, None]:
    start = time.perf_counter()
    try:
        with _unforeseen(job.source, "painted"):
            assert job.source is not None
            motion = probe(job.source)
            pixels = motion.width * motion.height
            if pixels > settings.max_pixels:
                raise PictureError(
                    f"{job.source} has {pixels} pixels a frame, more than --max-pixels.",
                    hint=f"--max-pixels {pixels}",
                )
            count, size = yield from _frames(job, motion, paint, settings)
    except CycleganError as error:
        yield Failed(job, error)
    else:
        yield Done(job, size, count, time.perf_counter() - start)


def _frames(
    job: Job, motion: Motion, paint: Paint, settings: TranslateSettings
) -> Generator[Event, None, tuple[int, tuple[int, int]]]:
    """Paint and write each frame; returns their number and (width, height)."""
    assert job.target is not None
    assert job.format is not None
    codec = transcoded(motion, job.format)
    if codec is not None:
        yield Sounds(job, codec)
    steady = Steady(float(motion.rate)) if settings.steady else None
    writer = write_frames(
        *(job.target, job.format, motion),
        quality=settings.quality,
        strip_metadata=settings.strip_metadata,
    )
    before = painted = np.empty((0, 0, 3), np.uint8)
    count = 0
    with contextlib.closing(read_frames(motion)) as frames, writer as write:
        for frame in frames:
            # A frame that is shown again, as in a video of variable rate, is painted once.
            if not np.array_equal(frame, before):
                if steady is None:
                    painted = paint(frame)
                else:
                    steady.look(frame)
                    painted = paint(frame, steady.override_stats, steady.origin)
                before = frame
            write(painted)
            count += 1
            yield FramePainted(job, count, max(count, motion.frames))
    return count, (painted.shape[1], painted.shape[0])
