"""Animations: durations in the steps that a format has, palettes of GIF, frames that repeat.

Pillow and libwebp merge a frame with one before it that looks the same. Here each stays a frame.
"""

from __future__ import annotations

import io
import struct
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cyclegan_cli.media.colour import to_8_bits
from cyclegan_cli.media.formats import riff_chunks
from cyclegan_cli.media.pictures import Frame

__all__ = ["apng_disposals", "gif_frames", "unmerged_webp", "whole_steps"]

_CLEAR = 255  # the palette's last entry, where a frame has transparent pixels


def whole_steps(durations: Sequence[float], step: int) -> list[int]:
    """Milliseconds as multiples of ``step``; what is rounded off one frame goes to the next.

    So the sum, and each frame's start, is off by half a step at most. A frame that was shown at
    all is shown for one step or more.
    """
    result: list[int] = []
    exact = given = 0.0
    for duration in durations:
        exact += duration
        shown = max(step if duration > 0 else 0, round((exact - given) / step) * step)
        result.append(shown)
        given += shown
    return result


def gif_frames(frames: Sequence[Frame]) -> tuple[list[Image.Image], list[int]]:
    """Each frame with its own palette of 256 colours, or of 255 and one that is transparent; and
    what happens to it before the next (1: it stays, 2: it is cleared).

    Median cut without dithering: exact where a frame has no more colours than that, and without
    noise that would differ from frame to frame. One that repeats is transparent, over that before.
    """
    made = [_palette_frame(frame) for frame in frames]
    repeats = [False]
    for (image, clear), (following, clear_then) in pairwise(made):
        alike = _look_alike(image, following) and np.array_equal(clear, clear_then)
        repeats.append(alike)
    # What is transparent must not show the frame before: clear the canvas between the two.
    after = 2 if any(clear.any() for _, clear in made) else 1
    images = []
    for index, (image, clear) in enumerate(made):
        images.append(Image.new("P", image.size, _CLEAR) if repeats[index] else image)
        if repeats[index]:  # in a colour that the transparent image before it has not
            images[-1].putpalette([0] * 3 * _CLEAR + [1 + index % 2] * 3)
        if repeats[index] or clear.any():
            images[-1].info["transparency"] = _CLEAR
    return images, [1 if stays else after for stays in [*repeats[1:], False]]


def _look_alike(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a.convert("RGBA")), np.asarray(b.convert("RGBA")))


def apng_disposals(images: Sequence[Image.Image]) -> list[int]:
    """What happens to each frame before the next: 0, it stays, or 2, what was before it comes back.

    For one that repeats the two are the same. Pillow merges repeats of one disposal only.
    """
    disposals = [0]
    for pair in pairwise(images):
        disposals.append(2 if _look_alike(*pair) and disposals[-1] == 0 else 0)
    return disposals


def _palette_frame(frame: Frame) -> tuple[Image.Image, NDArray[np.bool_]]:
    """A palette image, and H×W: where it is to be transparent, by the palette's last entry."""
    pixels = Image.fromarray(to_8_bits(frame.pixels))
    clear = np.zeros(frame.pixels.shape[:2], bool)
    if frame.alpha is not None:
        clear = to_8_bits(frame.alpha) < 128
    if not clear.any():
        return pixels.quantize(256, Image.Quantize.MEDIANCUT), clear
    quantized = pixels.quantize(_CLEAR, Image.Quantize.MEDIANCUT)
    indices = np.where(clear, np.uint8(_CLEAR), np.asarray(quantized))
    image = Image.fromarray(indices).convert("L")
    colours = (quantized.getpalette() or [])[: 3 * _CLEAR]
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image, clear


# -- WebP, by its container specification ------------------------------------------------------

_IMAGE_DATA = (b"ALPH", b"VP8 ", b"VP8L")
_ANIMATED, _HAS_ALPHA = 0x02, 0x10  # flags of VP8X
_CLEARED = 0x01  # flag of ANMF: its rectangle is cleared after it. Without 0x02 it is blended


def unmerged_webp(data: bytes, durations: Sequence[int], plays: int) -> bytes:
    """A WebP with ICC profile that Pillow wrote of frames of ``durations`` (milliseconds), where
    libwebp has merged some, or all into a still picture: with a frame for each.

    One that was merged is shown for its own time, then transparent frames over it for the rest.
    """
    chunks = _chunks(data)
    header = bytearray(chunks[0][1])  # VP8X: flags, and from 4 the canvas less 1
    if not any(kind == b"ANMF" for kind, _ in chunks):
        still = b"".join(_chunk(*chunk) for chunk in chunks if chunk[0] in _IMAGE_DATA)
        frame = bytes(6) + header[4:10] + sum(durations).to_bytes(3, "little") + b"\2" + still
        first = next(index for index, chunk in enumerate(chunks) if chunk[0] in _IMAGE_DATA)
        chunks = [chunk for chunk in chunks if chunk[0] not in _IMAGE_DATA]
        chunks[first:first] = [(b"ANIM", bytes(4) + struct.pack("<H", plays)), (b"ANMF", frame)]
        header[0] |= _ANIMATED
    left, body, merged = deque(durations), b"", sum(kind == b"ANMF" for kind, _ in chunks)
    for kind, payload in chunks[1:]:
        times = [0]
        if kind == b"ANMF":
            merged -= 1
            shown = int.from_bytes(payload[12:15], "little")
            times = [left.popleft()]
            while left and (sum(times) < shown or not merged):
                times.append(left.popleft())
        if len(times) == 1:
            body += _chunk(kind, payload)
            continue
        header[0] |= _HAS_ALPHA
        stays = payload[15] & ~_CLEARED
        body += _timed(payload[:12], times[0], stays, payload[16:])
        width, height = (int.from_bytes(payload[at : at + 3], "little") + 1 for at in (6, 9))
        nothing = _transparent(width, height)
        for time in times[1:-1]:
            body += _timed(payload[:12], time, 0, nothing)
        body += _timed(payload[:12], times[-1], payload[15] & _CLEARED, nothing)
    body = b"WEBP" + _chunk(b"VP8X", bytes(header)) + body
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _timed(place: bytes, time: int, flags: int, image: bytes) -> bytes:
    return _chunk(b"ANMF", place + time.to_bytes(3, "little") + bytes([flags]) + image)


def _transparent(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height)).save(buffer, "WEBP", lossless=True)
    chunks = _chunks(buffer.getvalue())
    return b"".join(_chunk(*chunk) for chunk in chunks if chunk[0] in _IMAGE_DATA)


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    file = io.BytesIO(data)
    return [(kind, file.read(length)) for kind, length in riff_chunks(file)]
