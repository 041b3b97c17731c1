"""Small videos that tell their frames apart, made by imageio's ffmpeg."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from cyclegan_cli.media.video import Motion, probe, read_frames

RATE = 12


def ffmpeg(*arguments: str, data: bytes | None = None) -> bytes:
    """Run ffmpeg; its stdout."""
    command = [get_ffmpeg_exe(), "-hide_banner", "-v", "error", "-y", *arguments]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


def levels(count: int) -> list[int]:
    """The grey of each frame: far enough apart for any codec."""
    return [40 + (k * 53) % 160 for k in range(count)]


def frames(count: int, width: int = 64, height: int = 48) -> Any:
    """Grey frames, each of its own level, with a red top left and a blue bottom right."""
    made = np.empty((count, height, width, 3), np.uint8)
    for frame, level in zip(made, levels(count), strict=True):
        frame[:] = level
        frame[: height // 2, : width // 2] = (220, 30, 30)
        frame[height // 2 :, width // 2 :] = (30, 30, 220)
    return made


def make_clip(
    path: Path,
    count: int = 12,
    size: tuple[int, int] = (64, 48),
    *options: str,
    rate: str = str(RATE),
    sound: bool = True,
    seconds: float | None = None,
) -> Path:
    """A video of ``frames``, with a tone as long as it (or ``seconds``); ``options`` come last."""
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    numerator, _, denominator = rate.partition("/")
    length = seconds or count * int(denominator or 1) / int(numerator)
    tone = ["-f", "lavfi", "-i", f"sine=440:duration={length}"] if sound else []
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-"),
        *(*tone, "-pix_fmt", "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"),
        *options,
        str(path),
        data=frames(count, width, height).tobytes(),
    )
    return path


def decoded(path: Path) -> tuple[Motion, Any]:
    """What a video is, and its frames: N×H×W×3."""
    motion = probe(path)
    with contextlib.closing(read_frames(motion)) as found:
        return motion, np.stack(list(found))


def sound_of(path: Path) -> Any:
    """The sound as 8000 Hz mono samples; empty where there is none."""
    data = ffmpeg("-i", str(path), "-map", "0:a?", "-ac", "1", "-ar", "8000", "-f", "s16le", "-")
    return np.frombuffer(data, np.int16)
