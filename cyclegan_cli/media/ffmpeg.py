"""The ffmpeg program that imageio-ffmpeg brings: how it is run, and what it says of a file.

A program of its own rather than a library in this process: a damaged video can end it, not us.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

from cyclegan_cli.errors import PictureError
from cyclegan_cli.media.formats import sniff

__all__ = ["Facts", "Running", "input_arguments", "inspect", "running", "timeline"]

# Only files that hold a video: a playlist that calls itself .mp4 could name other files.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
_CUT_SHORT = re.compile(r"partial file|ended prematurely|truncat|premature end", re.IGNORECASE)
_STREAM = re.compile(r"^  Stream #0:\d+\S*: (Video|Audio): ([^\s,]+)(.*)$", re.MULTILINE)
_MATRICES = ("bt709", "bt470bg", "smpte170m", "bt2020nc", "bt2020ncl", "smpte240m", "fcc")
_HDR = ("smpte2084", "arib-std-b67")  # PQ and HLG


@dataclass(frozen=True)
class Facts:
    """What one decoded frame and the file's header tell.

    ``width``, ``height``: as shown, after rotation. ``aspect``: of one pixel, width over height.
    ``rate``: frames a second as the header has it. ``matrix``: whether the file says how its
    YUV is meant. ``hdr``: whether its values are those of HDR (PQ or HLG, BT.2100). ``sounds``: the
    codec of each track of sound.
    """

    width: int
    height: int
    aspect: Fraction
    rate: Fraction
    matrix: bool
    hdr: bool
    sounds: tuple[str, ...]


@dataclass(frozen=True)
class Running:
    """An ffmpeg at work; ``said()`` is the last line of what it complained of, "" for nothing."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def said(self) -> str:
        """The reason that it gives, without the address of its part that gives it."""
        self.errors.seek(0)
        lines = self.errors.read(2**16).decode("utf-8", "replace").splitlines()
        useful = [re.sub(r"^\[[^]]*\] *", "", line).strip() for line in lines]
        useful = [line.rstrip(".") for line in useful if line and "repeated" not in line]
        return next((line for line in useful if _CUT_SHORT.search(line)), (useful or [""])[0])


def input_arguments(path: Path) -> list[str]:
    """How a file is named as an input: literally, and as a container of video only."""
    return ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-i", f"file:{path}"]


@contextlib.contextmanager
def running(arguments: Sequence[str], *, feed: bool = False) -> Iterator[Running]:
    """ffmpeg with ``arguments``; its stdin is a pipe with ``feed``, else its stdout is one.

    Whatever ends the block ends the program: it never outlives it. Raises PictureError where
    there is no ffmpeg for this machine.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # in a session of its own: Ctrl-C reaches it through us
            [_program(), "-hide_banner", "-y", *arguments],
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if feed else subprocess.PIPE,
            stderr=errors,
            start_new_session=os.name != "nt",
        )
        try:
            yield Running(process, errors)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _program() -> str:
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return str(get_ffmpeg_exe())
    except RuntimeError as error:
        raise PictureError(
            "There is no ffmpeg for this machine, which videos need.",
            hint="Install ffmpeg, or name it in IMAGEIO_FFMPEG_EXE.",
        ) from error


def inspect(path: Path) -> Facts:
    """The facts of the video at ``path``. Raises PictureError where it has none to show."""
    arguments = [*input_arguments(path), "-map", "0:V:0", "-frames:v", "1", "-f", "framecrc", "-"]
    with running(arguments) as ffmpeg:
        head, _ = ffmpeg.process.communicate()
        text = head.decode("ascii", "replace")
        ffmpeg.errors.seek(0)
        log = ffmpeg.errors.read(2**20).decode("utf-8", "replace")
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)$", text, re.MULTILINE)
    if size is None or not re.search(r"^0, ", text, re.MULTILINE):
        raise PictureError(f"{path} cannot be read as a video: {_why(path, log)}.")
    base = re.search(r"^#tb 0: (\d+)/(\d+)$", text, re.MULTILINE)
    pixel = re.search(r"^#sar 0: (\d+)/(\d+)$", text, re.MULTILINE)
    streams = _STREAM.findall(log.partition("Stream mapping:")[0])
    video = next((rest for kind, _, rest in streams if kind == "Video"), "")
    return Facts(
        width=int(size[1]),
        height=int(size[2]),
        aspect=_fraction(pixel[1], pixel[2]) if pixel else Fraction(1),
        rate=_fraction(base[2], base[1]) if base else Fraction(25),
        matrix=any(name in video for name in _MATRICES),
        hdr=any(name in video for name in _HDR),
        sounds=tuple(codec for kind, codec, _ in streams if kind == "Audio"),
    )


def timeline(path: Path) -> list[Fraction]:
    """When each frame is shown: seconds from the file's start, ascending, then when the last ends.

    Reads the file once without decoding it. Raises PictureError where it is cut short.
    """
    arguments = ["-v", "error", *input_arguments(path), "-map", "0:V:0", "-c", "copy"]
    with running([*arguments, "-f", "framecrc", "-"]) as ffmpeg:
        assert ffmpeg.process.stdout is not None
        times, ends = [], []
        base = Fraction(1, 1000)
        for line in ffmpeg.process.stdout:
            if line.startswith(b"#tb 0: "):
                base = Fraction(line[7:].decode().strip())
            elif line.startswith(b"0, "):
                dts, pts, duration = (_tick(field) for field in line.split(b",")[1:4])
                shown = pts if pts is not None else dts
                if shown is not None:
                    times.append(shown * base)
                    ends.append((shown + (duration or 0)) * base)
        code = ffmpeg.process.wait()
        said = ffmpeg.said()
    if code or not times or _CUT_SHORT.search(said):
        raise PictureError(f"{path} is damaged or cut short: {said or 'it has no frames'}.")
    return [*sorted(times), max(ends)]


def _tick(field: bytes) -> int | None:
    try:
        value = int(field)
    except ValueError:
        return None
    return value if abs(value) < 2**62 else None  # ffmpeg's "no value" is the smallest integer


def _fraction(over: str, under: str) -> Fraction:
    return Fraction(int(over), int(under)) if int(over) and int(under) else Fraction(1)


def _why(path: Path, log: str) -> str:
    """What the file is instead, or the first complaint in a full log."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(16)
        if not head:
            return "it is empty"
        if sniff(head) is not None:
            return f"it is a picture ({sniff(head)})"
    if "matches no streams" in log:
        return "there is no picture in it"
    words = ("moov atom", "invalid data", "not whitelisted", "error", "no such file")
    for line in log.splitlines():
        if any(word in line.lower() for word in words):
            return re.sub(r"^\[[^]]*\] *", "", line).strip().rstrip(".")
    return "no frame could be decoded"
