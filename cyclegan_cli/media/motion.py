"""Videos in and out, a frame at a time: rate, length, orientation and sound stay.

Through imageio's ffmpeg (imageio-ffmpeg), by pipes of raw frames: no more than one frame is held
here, however long the video is.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.errors import PictureError
from cyclegan_cli.files import atomic_path
from cyclegan_cli.media.ffmpeg import Facts, Running, input_arguments, inspect, running, timeline
from cyclegan_cli.media.formats import PAINTED
from cyclegan_cli.version import __version__

__all__ = ["Motion", "probe", "read_frames", "silent", "transcoded", "write_frames"]

Frames: TypeAlias = NDArray[np.uint8]  # H×W×3

_FASTEST = 60  # frames a second, at most, that a video of variable rate becomes


@dataclass(frozen=True)
class _Container:
    """How a kind of file is written. ``quality``: (ffmpeg's option, at 95, worst)."""

    muxer: str
    codec: tuple[str, ...]
    quality: tuple[str, int, int]
    sounds: frozenset[str]  # the codecs of sound that it takes as they are; empty: all
    sound: tuple[str, ...]  # what other sound becomes
    options: tuple[str, ...] = ()


_X264 = ("libx264", "-preset", "medium")
_AAC = ("aac", "-b:a", "192k")
_FAST_START = ("-movflags", "+faststart")
_CONTAINERS = {
    "MP4": _Container(
        "mp4",
        _X264,
        ("-crf", 18, 51),
        frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}),
        _AAC,
        _FAST_START,
    ),
    "MOV": _Container(
        "mov",
        _X264,
        ("-crf", 18, 51),
        frozenset({"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le"}),
        _AAC,
        _FAST_START,
    ),
    "MKV": _Container("matroska", _X264, ("-crf", 18, 51), frozenset(), _AAC),
    "WEBM": _Container(
        "webm",
        ("libvpx-vp9", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1"),
        ("-crf", 24, 63),
        frozenset({"opus", "vorbis"}),
        ("libopus", "-b:a", "160k"),
    ),
    "AVI": _Container(
        "avi",
        ("mpeg4", "-vtag", "xvid"),
        ("-q:v", 2, 31),
        frozenset({"mp3", "ac3", "pcm_s16le", "pcm_u8"}),
        ("libmp3lame", "-b:a", "192k"),
    ),
}


@dataclass(frozen=True)
class Motion:
    """A video, as it is shown.

    ``rate``: frames a second, constant; ``variable``: whether the file's own rate is not, so that
    frames are repeated or left out to keep each moment at its time. ``frames``: how many there
    will be. ``start``: seconds from the file's start to the first. ``sounds``: codecs of sound.
    ``path``: the file, None for frames that come from none.
    """

    path: Path | None
    facts: Facts
    rate: Fraction
    frames: int
    start: Fraction
    variable: bool

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.frames / self.rate)


def probe(path: Path) -> Motion:
    """Look at a video without decoding more than a frame of it.

    Raises PictureError where it cannot be read, holds no video or is cut short.
    """
    if not path.is_file():
        raise PictureError(f"{path} is no file: a video is read twice, which a pipe cannot be.")
    facts = inspect(path)
    *times, end = timeline(path)
    rate, variable = _rate(times, facts.rate)
    if not variable:
        return Motion(path, facts, rate, len(times), times[0], False)
    return Motion(path, facts, rate, max(1, round(end * rate)), Fraction(0), True)


def silent(width: int, height: int, rate: Fraction, frames: int) -> Motion:
    """What ``write_frames`` needs for frames that come from no file."""
    facts = Facts(width, height, Fraction(1), rate, matrix=False, hdr=False, sounds=())
    return Motion(None, facts, rate, frames, Fraction(0), False)


def _rate(times: Sequence[Fraction], stated: Fraction) -> tuple[Fraction, bool]:
    """(frames a second, whether ``times`` are irregular).

    Times are stored in whole milliseconds or finer, so a millisecond either way is regular. A
    variable rate becomes that of its closest frames, so that fast motion keeps all of its frames.
    """
    steps = sorted(b - a for a, b in itertools.pairwise(times) if b > a)
    if not steps:
        return stated, False
    middle = steps[len(steps) // 2]
    slack = max(Fraction(11, 10_000), middle / 50)
    variable = len(steps) < len(times) - 1 or max(middle - steps[0], steps[-1] - middle) > slack
    if variable:
        found = min(1 / max(steps[len(steps) // 10], Fraction(1, 1000)), Fraction(_FASTEST))
    else:
        found = len(steps) / (times[-1] - times[0])
    # Near the header's rate it is the header's: times are rounded, 30000/1001 is not.
    near = abs(stated - found) <= found * max(Fraction(1, 100), Fraction(2, 1000) * found)
    return (stated if near and stated <= 1000 else found.limit_denominator(1001)), variable


def read_frames(motion: Motion) -> Generator[Frames, None, None]:
    """Yield every frame: H×W×3 uint8, sRGB, upright. Close the iterator to end ffmpeg.

    Raises PictureError where frames are missing at the end.
    """
    facts = motion.facts
    assert motion.path is not None
    filters = [f"fps=fps={motion.rate}:start_time=0:round=near"] if motion.variable else []
    filters += _to_srgb(facts)
    arguments = ["-v", "error", *input_arguments(motion.path), "-map", "0:V:0"]
    arguments += ["-vf", ",".join(filters), "-fps_mode", "passthrough"]
    count = 0
    with running([*arguments, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]) as ffmpeg:
        while (frame := _next_frame(ffmpeg, facts.height, facts.width)) is not None:
            count += 1
            yield frame
        code = ffmpeg.process.wait()
        said = ffmpeg.said()
    if code or count < motion.frames * 0.95 - 2:
        reason = f": {said}" if said else ""
        raise PictureError(
            f"{motion.path}: only {count} of {motion.frames} frames could be read{reason}."
        )


def _to_srgb(facts: Facts) -> list[str]:
    if facts.hdr:
        # White is 203 cd/m² (BT.2408); up to half of that light stays as it is, more is compressed.
        return [
            "zscale=transfer=linear:npl=203,format=gbrpf32le,zscale=primaries=bt709",
            "tonemap=mobius:param=0.5:desat=0",
            "zscale=transfer=iec61966-2-1:matrix=gbr:range=full,format=gbrp",
        ]
    # Untagged files follow the habit: BT.709 from 720 lines up, BT.601 below.
    untagged = not facts.matrix and min(facts.width, facts.height) >= 720
    matrix = ":in_color_matrix=bt709" if untagged else ""
    return [f"scale=flags=bicubic+accurate_rnd+full_chroma_int{matrix}"]


def _next_frame(ffmpeg: Running, height: int, width: int) -> Frames | None:
    assert ffmpeg.process.stdout is not None
    frame = np.empty((height, width, 3), np.uint8)
    got = ffmpeg.process.stdout.readinto(frame.reshape(-1).data)  # type: ignore[attr-defined]
    return frame if got == frame.nbytes else None


def transcoded(motion: Motion, kind: str) -> str | None:
    """The codec that the sound becomes in a file of ``kind``; None where it is copied."""
    container = _CONTAINERS[kind]
    if not container.sounds or container.sounds.issuperset(motion.facts.sounds):
        return None
    return container.sound[0].removeprefix("lib")


@contextlib.contextmanager
def write_frames(
    target: Path,
    kind: str,
    motion: Motion,
    *,
    quality: int | None = None,
    strip_metadata: bool = False,
) -> Iterator[Callable[[Frames], None]]:
    """Yield what takes the frames of ``target``, one by one: H×W×3 uint8, all of one size.

    ``kind``: MP4, MOV, MKV, WEBM or AVI. Rate, start, shape of the pixels, sound and titles are
    those of ``motion``. The file is there, whole, once the block ends cleanly; on any exception,
    Ctrl-C included, nothing is left of it. ``quality`` 1..100: 95 where it is None.

    Raises PictureError where ffmpeg cannot write it.
    """
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(atomic_path(target))
        except OSError as error:
            raise PictureError(f"{target} cannot be written: {error.strerror}.") from error
        encoders: list[Running] = []

        def write(frame: Frames) -> None:
            if not encoders:
                height, width = frame.shape[:2]
                arguments = _encoding(motion, kind, (width, height), quality, strip_metadata)
                arguments += ["-f", _CONTAINERS[kind].muxer, f"file:{temporary}"]
                encoders.append(stack.enter_context(running(arguments, feed=True)))
            pipe = encoders[0].process.stdin
            assert pipe is not None
            try:
                pipe.write(np.ascontiguousarray(frame).data)
            except OSError as error:
                encoders[0].process.wait()
                raise _unwritten(target, encoders[0]) from error

        yield write
        if not encoders:
            raise PictureError(f"{motion.path or target} has no frames.")
        _finish(target, encoders[0])


def _finish(target: Path, encoder: Running) -> None:
    assert encoder.process.stdin is not None
    try:
        encoder.process.stdin.close()
    except OSError as error:
        encoder.process.wait()
        raise _unwritten(target, encoder) from error
    if encoder.process.wait():
        raise _unwritten(target, encoder)


def _unwritten(target: Path, encoder: Running) -> PictureError:
    return PictureError(f"{target} cannot be written: {encoder.said() or 'ffmpeg failed'}.")


def _encoding(
    motion: Motion, kind: str, size: tuple[int, int], quality: int | None, strip_metadata: bool
) -> list[str]:
    """ffmpeg's arguments for frames from stdin and sound from the file that was read."""
    container, (width, height) = _CONTAINERS[kind], size
    # Half-size colour wants even sizes in H.264; an odd one keeps colour whole, and its size.
    even = width % 2 == 0 and height % 2 == 0
    layout = "yuv420p" if even or container.codec[0] != "libx264" else "yuv444p"
    late = motion.start > 1 / (2 * motion.rate)  # frames that begin after the sound
    option, best, worst = container.quality
    level = best + math.floor((95 - (quality or 95)) * (worst - best) / 94 + 0.5)
    # AVI cannot say which YUV it holds: as players guess it.
    colour = "smpte170m" if kind == "AVI" and height < 720 else "bt709"
    keep = "-1" if strip_metadata else "1"
    # By this ``media.formats.is_painting`` knows a painting; MOV has no field for it.
    mark = f"{'encoded_by' if kind == 'AVI' else 'encoding_tool'}={PAINTED.decode()} {__version__}"
    copied = transcoded(motion, kind) is None
    source: list[str] = []
    sound: list[str] = []
    if motion.path is not None:
        source = input_arguments(motion.path)
        sound = ["-map", "1:a?", "-map_metadata", keep, "-map_chapters", keep]
    return [
        *("-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-framerate", str(motion.rate)),
        *(["-itsoffset", f"{float(motion.start):.6f}"] if late else []),
        # The picture is the first track: some programs take no other for it.
        *("-i", "pipe:0", *source, "-map", "0:v:0", *sound),
        *("-vf", _to_yuv(layout, motion.facts.aspect, colour)),
        *("-c:v", *container.codec, option, str(max(1, level))),
        *("-c:a", *(("copy",) if copied else container.sound), *container.options),
        *(() if strip_metadata else ("-metadata", mark)),
    ]


def _to_yuv(layout: str, aspect: Fraction, colour: str) -> str:
    scale = f"scale=out_color_matrix={colour}:out_range=tv:flags=bicubic+accurate_rnd"
    # What the frames say of themselves is what the encoder writes, whatever its options say.
    meant = f"setparams=range=tv:colorspace={colour}:color_primaries={colour}:color_trc={colour}"
    pixel = f"setsar={aspect.numerator}/{aspect.denominator}"
    return f"{scale}+full_chroma_int,format={layout},{meant},{pixel}"
