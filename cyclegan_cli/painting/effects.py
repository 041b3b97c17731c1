"""What a user can ask of a painting: coarser strokes, less of it, the photo's colours."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from cyclegan_cli.painting.pixels import Pixels, check, to_pixels, to_tensor
from cyclegan_cli.painting.translator import Translator
from cyclegan_cli.settings import TranslateSettings

__all__ = ["paint_picture"]


def paint_picture(translator: Translator, pixels: Pixels, settings: TranslateSettings) -> Pixels:
    """Paint ``pixels`` as ``settings`` ask: resolution, strength, keep_color, compare.

    pixels: H×W×3, uint8, uint16, or float32 in [−1, 1]. Returns the same shape and dtype; with
    ``compare`` H×2W×3: the original on the left, the result on the right, with no gap.
    Raises PictureError for arrays of another shape or type.
    """
    check(pixels)
    height, width = pixels.shape[:2]
    long_side = max(height, width)
    if settings.resolution is not None and settings.resolution < long_side:
        scale = settings.resolution / long_side
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        painted = _resize(translator.paint(_resize(pixels, small)), (height, width))
    else:
        painted = translator.paint(pixels)
    if settings.keep_color:
        painted = _with_colors_of(pixels, painted)
    if settings.strength < 1.0:
        original = to_tensor(pixels, 3)
        mixed = original.lerp_(to_tensor(painted, 3), settings.strength)
        painted = to_pixels(mixed, pixels.dtype)
    return np.concatenate([pixels, painted], axis=1) if settings.compare else painted


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    picture = functional.interpolate(
        to_tensor(pixels, 3), size, mode="bicubic", align_corners=False, antialias=True
    )
    return to_pixels(picture.clamp_(-1.0, 1.0), pixels.dtype)


def _with_colors_of(photo: Pixels, painting: Pixels) -> Pixels:
    luma, own = to_tensor(painting, 1), to_tensor(photo, 1)
    picture = torch.add(to_tensor(photo, 3), luma - own).clamp_(-1.0, 1.0)
    return to_pixels(picture, photo.dtype)
