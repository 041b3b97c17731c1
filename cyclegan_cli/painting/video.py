"""Pictures and videos together: read, paint, write, in order; videos a frame at a time."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np

from cyclegan_cli.errors import CycleganError, PictureError
from cyclegan_cli.media.formats import is_video
from cyclegan_cli.media.motion import Motion, probe, read_frames, transcoded, write_frames
from cyclegan_cli.media.pictures import Array
from cyclegan_cli.media.plan import Job
from cyclegan_cli.painting.pipeline import Done, Failed, translate_pictures
from cyclegan_cli.painting.statistics import OverrideStats
from cyclegan_cli.painting.steady import Steady
from cyclegan_cli.settings import TranslateSettings

__all__ = ["FramePainted", "MediaEvent", "PaintFrame", "Sounds", "translate_media"]


class PaintFrame(Protocol):
    """Paints H×W×3 uint8 or uint16 pixels; the same, or wider, comes out."""

    def __call__(
        self,
        pixels: Array,
        override_stats: OverrideStats | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Array: ...


@dataclass(frozen=True)
class FramePainted:
    """Frame ``number`` (from 1) of about ``frames`` of a video is painted and handed on."""

    job: Job
    number: int
    frames: int


@dataclass(frozen=True)
class Sounds:
    """The video's sound is encoded anew, as ``codec``: the container cannot hold it as it is."""

    job: Job
    codec: str


MediaEvent: TypeAlias = Done | Failed | FramePainted | Sounds


def translate_media(
    jobs: Sequence[Job],
    paint: PaintFrame,
    settings: TranslateSettings,
    *,
    stdin: bytes = b"",
    stdout: BinaryIO | None = None,
) -> Generator[MediaEvent, None, None]:
    """``translate_pictures`` for pictures and videos, in the order of ``jobs``.

    One ``Done`` or ``Failed`` a job; videos give a ``FramePainted`` for each frame before it.
    Close the iterator, or let an exception pass through it: nothing half-written and no ffmpeg
    is left.
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
    job: Job, paint: PaintFrame, settings: TranslateSettings
) -> Generator[MediaEvent, None, None]:
    start = time.perf_counter()
    try:
        assert job.source is not None
        motion = probe(job.source)
        pixels = motion.facts.width * motion.facts.height
        if pixels > settings.max_pixels:
            raise PictureError(
                f"{job.source} has {pixels} pixels a frame, more than --max-pixels.",
                hint=f"--max-pixels {pixels}",
            )
        count, size = yield from _frames(job, motion, paint, settings)
    except CycleganError as error:
        yield Failed(job, error)
    except (Exception, RecursionError) as error:
        failure = PictureError(f"{job.source} could not be painted: {error}.")
        failure.__cause__ = error
        yield Failed(job, failure)
    else:
        yield Done(job, size, count, time.perf_counter() - start)


def _frames(
    job: Job, motion: Motion, paint: PaintFrame, settings: TranslateSettings
) -> Generator[MediaEvent, None, tuple[int, tuple[int, int]]]:
    """Paint and write each frame; returns their number and (width, height)."""
    assert job.target is not None
    assert job.format is not None
    codec = transcoded(motion, job.format)
    if codec is not None:
        yield Sounds(job, codec)
    steady = Steady(float(motion.rate)) if settings.steady else None
    writer = write_frames(
        job.target,
        job.format,
        motion,
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
