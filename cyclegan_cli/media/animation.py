"""Animations: durations in the steps that a format has, and the palettes of GIF."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cyclegan_cli.media.colour import to_8_bits
from cyclegan_cli.media.pictures import Frame

__all__ = ["palette_frames", "whole_steps"]

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


def palette_frames(frames: Sequence[Frame]) -> list[Image.Image]:
    """Each frame with its own palette of 256 colours, or of 255 and one that is transparent.

    Median cut without dithering: exact where a frame has no more colours than that, and without
    noise that would differ from frame to frame.
    """
    return [_palette_frame(frame) for frame in frames]


def _palette_frame(frame: Frame) -> Image.Image:
    pixels = Image.fromarray(to_8_bits(frame.pixels))
    clear = None if frame.alpha is None else to_8_bits(frame.alpha) < 128
    if clear is None or not clear.any():
        return pixels.quantize(256, Image.Quantize.MEDIANCUT)
    quantized = pixels.quantize(_CLEAR, Image.Quantize.MEDIANCUT)
    indices = np.where(clear, np.uint8(_CLEAR), np.asarray(quantized))
    image = Image.fromarray(indices).convert("L")
    colours = (quantized.getpalette() or [])[: 3 * _CLEAR]
    image.putpalette(colours + [0] * (768 - len(colours)))
    image.info["transparency"] = _CLEAR
    return image
