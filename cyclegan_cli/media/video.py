"""Videos in and out, a frame at a time: rate, length, orientation and sound stay.

Through pipes to the ffmpeg program of imageio-ffmpeg: a damaged video can end that, not this one.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli import __version__
from cyclegan_cli.errors import PictureError, counted, reason_of
from cyclegan_cli.files import atomic_path
from cyclegan_cli.media.formats import PAINTED, sniff_file

Frames: TypeAlias = NDArray[np.uint8]  # H×W×3

_NO_TIME = -(2**62)  # ffmpeg's "no value" is the smallest integer
_FASTEST = 60  # frames a second, at most, that a video of variable rate becomes
# Only files that hold a video are read: a playlist that calls itself .mp4 could name other files.
_READ = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
_CUT_SHORT = re.compile(r"partial file|ended prematurely|truncat|premature end", re.IGNORECASE)
_COMPLAINT = re.compile(r"moov atom|invalid data|not whitelisted|error|no such file", re.IGNORECASE)
_STREAM = re.compile(r"^  Stream #0:\d+\S*: (Video|Audio): ([^\s,]+)(.*)$", re.MULTILINE)
_FACT = re.compile(r"^#(dimensions|tb|sar) 0: (\d+)[x/](\d+)$", re.MULTILINE)
_MATRICES = ("bt709", "bt470bg", "smpte170m", "bt2020nc", "bt2020ncl", "smpte240m", "fcc")
_HDR = ("smpte2084", "arib-std-b67")  # PQ and HLG


@dataclass(frozen=True)
class _Container:
    """How a kind of file is written. ``sounds``: the codecs of sound that it takes as they are, ""
    for all; ``sound``: what others become. ``quality``: (ffmpeg's option, at 95, worst).
    """

    muxer: str
    sounds: str
    codec: tuple[str, ...] = ("libx264", "-preset", "medium")
    quality: tuple[str, int, int] = ("-crf", 18, 51)
    sound: tuple[str, ...] = ("aac", "-b:a", "192k")
    options: tuple[str, ...] = ()


_FAST = ("-movflags", "+faststart")
_VP9 = ("libvpx-vp9", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1")
_OPUS, _MP3 = ("libopus", "-b:a", "160k"), ("libmp3lame", "-b:a", "192k")
_XVID = ("mpeg4", "-vtag", "xvid")
_MOV_SOUNDS = "aac mp3 ac3 eac3 alac pcm_s16le pcm_s16be pcm_s24le"
_CONTAINERS = {
    "MP4": _Container("mp4", "aac mp3 ac3 eac3 alac opus flac", options=_FAST),
    "MOV": _Container("mov", _MOV_SOUNDS, options=_FAST),
    "MKV": _Container("matroska", ""),
    "WEBM": _Container("webm", "opus vorbis", _VP9, ("-crf", 24, 63), _OPUS),
    "AVI": _Container("avi", "mp3 ac3 pcm_s16le pcm_u8", _XVID, ("-q:v", 2, 31), _MP3),
}


@dataclass(frozen=True)
class Motion:
    """A video, as it is shown. ``path``: the file, None for frames that come from none.

    ``width``, ``height``: after rotation. ``rate``: frames a second, constant; ``frames``: how many
    there will be. ``aspect``: of one pixel, width over height. ``start``: seconds to the first
    frame. ``variable``: the file's own rate is not constant, so frames are repeated or left out.
    ``matrix``: the file says how its YUV is meant. ``hdr``: its values are PQ or HLG (BT.2100).
    ``sounds``: the codec of each track of sound.
    """

    path: Path | None
    width: int
    height: int
    rate: Fraction
    frames: int
    aspect: Fraction = Fraction(1)
    start: Fraction = Fraction(0)
    variable: bool = False
    matrix: bool = False
    hdr: bool = False
    sounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Running:
    """An ffmpeg at work."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def log(self) -> list[str]:
        """What it said so far, line by line, without the addresses of the parts that said it."""
        self.errors.seek(0)
        lines = self.errors.read(2**20).decode("utf-8", "replace").splitlines()
        return [re.sub(r"^\[[^]]*\] *", "", line) for line in lines]

    def said(self) -> str:
        """The reason that it gives for a failure, "" for none."""
        lines = [line.strip().rstrip(".") for line in self.log() if "repeated" not in line]
        return next(filter(_CUT_SHORT.search, lines), next(filter(None, lines), ""))


def ffmpeg_program() -> str:
    """That of imageio-ffmpeg, else the system's. Raises PictureError where there is neither."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:  # a painting-only installation
        program = shutil.which("ffmpeg")
        if program is not None:
            return program
        raise PictureError(
            "Videos need ffmpeg, which is not installed.", hint="pip install imageio-ffmpeg"
        ) from error
    try:
        return str(get_ffmpeg_exe())
    except RuntimeError as error:
        raise PictureError(
            "There is no ffmpeg for this machine, which videos need.",
            hint="Install ffmpeg, or name it in IMAGEIO_FFMPEG_EXE.",
        ) from error


@contextlib.contextmanager
def _running(*arguments: str, feed: bool = False) -> Iterator[_Running]:
    """ffmpeg with ``arguments``; its stdin is a pipe with ``feed``, else its stdout.

    It ends with the block. Raises PictureError where there is no ffmpeg.
    """
    program = ffmpeg_program()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # in a session of its own: Ctrl-C reaches it through us
            [program, "-hide_banner", "-y", *arguments],
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if feed else subprocess.PIPE,
            stderr=errors,
            start_new_session=os.name != "nt",
        )
        try:
            yield _Running(process, errors)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _input(path: Path) -> list[str]:
    """How a file is named as an input: literally, and as a container of video only."""
    return ["-protocol_whitelist", "file", "-format_whitelist", _READ, "-i", f"file:{path}"]


def probe(path: Path) -> Motion:
    """A video's facts. Raises PictureError where it cannot be read, holds none or is cut short."""
    if not path.is_file():
        raise PictureError(f"{path} is no file: a video is read twice, which a pipe cannot be.")
    seen = _first_frame(path)
    *times, end = _timeline(path)
    rate, variable = _rate(times, seen.rate)
    if variable:
        return replace(seen, rate=rate, frames=max(1, round(end * rate)), variable=True)
    return replace(seen, rate=rate, frames=len(times), start=times[0])


def _first_frame(path: Path) -> Motion:
    """What one decoded frame and the file's header tell; ``rate`` is the header's."""
    arguments = (*_input(path), "-map", "0:V:0", "-frames:v", "1", "-f", "framecrc", "-")
    with _running(*arguments) as ffmpeg:
        text = ffmpeg.process.communicate()[0].decode("ascii", "replace")
        log = ffmpeg.log()
    facts = {name: (int(a), int(b)) for name, a, b in _FACT.findall(text)}
    if "dimensions" not in facts or not re.search(r"^0, ", text, re.MULTILINE):
        complaints = (line.strip().rstrip(".") for line in log if _COMPLAINT.search(line))
        if (kind := sniff_file(path)) is not None:
            reason = f"it is a picture ({kind})"
        elif not path.stat().st_size:
            reason = "it is empty"
        elif any("matches no streams" in line for line in log):
            reason = "there is no picture in it"
        else:
            reason = next(complaints, "no frame could be decoded")
        raise PictureError(f"{path} cannot be read as a video: {reason}.")
    streams = _STREAM.findall("\n".join(log).partition("Stream mapping:")[0])
    video = next((rest for kind, _, rest in streams if kind == "Video"), "")
    ticks, seconds = facts.get("tb", (1, 25))
    across, down = facts.get("sar", (1, 1))
    return Motion(
        path,
        *facts["dimensions"],
        rate=Fraction(seconds, ticks) if seconds and ticks else Fraction(25),
        frames=1,
        aspect=Fraction(across, down) if across and down else Fraction(1),
        matrix=any(name in video for name in _MATRICES),
        hdr=any(name in video for name in _HDR),
        sounds=tuple(codec for kind, codec, _ in streams if kind == "Audio"),
    )


def _timeline(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds, ascending, then when the last ends; not decoded."""
    times, ends, base = [], [], Fraction(1, 1000)
    arguments = ("-v", "error", *_input(path), "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-")
    with _running(*arguments) as ffmpeg:
        assert ffmpeg.process.stdout is not None
        for line in ffmpeg.process.stdout:
            if line.startswith(b"#tb 0: "):
                base = Fraction(line[7:].decode().strip())
            elif line.startswith(b"0, "):
                dts, pts, duration = (int(field) for field in line.split(b",")[1:4])
                shown = pts if pts > _NO_TIME else dts
                if shown > _NO_TIME:
                    times.append(shown * base)
                    ends.append((shown + max(duration, 0)) * base)
        code = ffmpeg.process.wait()
        said = ffmpeg.said()
    if code or not times or _CUT_SHORT.search(said):
        raise PictureError(f"{path} is damaged or cut short: {said or 'it has no frames'}.")
    return [*sorted(times), max(ends)]


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
    """Yield every frame: H×W×3 uint8, sRGB, upright. Raises PictureError where some are missing."""
    assert motion.path is not None
    filters = [f"fps=fps={motion.rate}:start_time=0:round=near"] if motion.variable else []
    arguments = ["-v", "error", *_input(motion.path), "-map", "0:V:0"]
    arguments += ["-vf", ",".join([*filters, *_to_srgb(motion)]), "-fps_mode", "passthrough"]
    count = 0
    with _running(*arguments, "-pix_fmt", "rgb24", "-f", "rawvideo", "-") as ffmpeg:
        assert ffmpeg.process.stdout is not None
        while True:
            frame = np.empty((motion.height, motion.width, 3), np.uint8)
            got = ffmpeg.process.stdout.readinto(frame.reshape(-1).data)  # type: ignore[attr-defined]
            if got != frame.nbytes:
                break
            count += 1
            yield frame
        code = ffmpeg.process.wait()
        said = ffmpeg.said()
    if code or count < motion.frames * 0.95 - 2:
        reason = f"only {count} of {counted(motion.frames, 'frame')} could be read"
        raise PictureError(f"{motion.path}: {reason}{': ' if said else ''}{said}.")


def _to_srgb(motion: Motion) -> list[str]:
    if motion.hdr:
        # White is 203 cd/m² (BT.2408); up to half of that light stays as it is, more is compressed.
        return [
            "zscale=transfer=linear:npl=203,format=gbrpf32le,zscale=primaries=bt709",
            "tonemap=mobius:param=0.5:desat=0",
            "zscale=transfer=iec61966-2-1:matrix=gbr:range=full,format=gbrp",
        ]
    # Untagged files follow the habit: BT.709 from 720 lines up, BT.601 below.
    untagged = not motion.matrix and min(motion.width, motion.height) >= 720
    matrix = ":in_color_matrix=bt709" if untagged else ""
    return [f"scale=flags=bicubic+accurate_rnd+full_chroma_int{matrix}"]


def transcoded(motion: Motion, kind: str) -> str | None:
    """The codec that the sound becomes in a file of ``kind``; None where it is copied."""
    container = _CONTAINERS[kind]
    copied = not container.sounds or set(motion.sounds) <= set(container.sounds.split())
    return None if copied else container.sound[0].removeprefix("lib")


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
            raise PictureError(f"{target} cannot be written: {reason_of(error)}.") from error
        encoders: list[_Running] = []

        def write(frame: Frames) -> None:
            if not encoders:
                height, width = frame.shape[:2]
                arguments = _encoding(motion, kind, (width, height), quality, strip_metadata)
                arguments += ["-f", _CONTAINERS[kind].muxer, f"file:{temporary}"]
                encoders.append(stack.enter_context(_running(*arguments, feed=True)))
            with _feeding(target, encoders[0]) as pipe:
                pipe.write(np.ascontiguousarray(frame).data)

        yield write
        if not encoders:
            raise PictureError(f"{motion.path or target} has no frames.")
        with _feeding(target, encoders[0]) as pipe:
            pipe.close()
            if encoders[0].process.wait():
                raise OSError


@contextlib.contextmanager
def _feeding(target: Path, encoder: _Running) -> Iterator[IO[bytes]]:
    """The pipe to ``encoder``; where that has failed, a PictureError with its reason."""
    assert encoder.process.stdin is not None
    try:
        yield encoder.process.stdin
    except OSError as error:
        encoder.process.wait()
        reason = encoder.said() or "ffmpeg failed"
        raise PictureError(f"{target} cannot be written: {reason}.") from error


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
    sound_codec = ("copy",) if transcoded(motion, kind) is None else container.sound
    scale = f"scale=out_color_matrix={colour}:out_range=tv:flags=bicubic+accurate_rnd"
    # What the frames say of themselves is what the encoder writes, whatever its options say.
    meant = f"setparams=range=tv:colorspace={colour}:color_primaries={colour}:color_trc={colour}"
    pixel = f"setsar={motion.aspect.numerator}/{motion.aspect.denominator}"
    source = _input(motion.path) if motion.path is not None else []
    sound = ["-map", "1:a?", "-map_metadata", keep, "-map_chapters", keep] if source else []
    return [
        *("-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-framerate", str(motion.rate)),
        *(["-itsoffset", f"{float(motion.start):.6f}"] if late else []),
        # The picture is the first track: some programs take no other for it.
        *("-i", "pipe:0", *source, "-map", "0:v:0", *sound),
        *("-vf", f"{scale}+full_chroma_int,format={layout},{meant},{pixel}"),
        *("-c:v", *container.codec, option, str(max(1, level))),
        *("-c:a", *sound_codec, *container.options),
        *(() if strip_metadata else ("-metadata", mark)),
    ]
