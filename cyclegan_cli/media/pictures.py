"""Pictures in and out: orientation, colour, alpha, metadata and depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cyclegan_cli.media.colour import to_depth8, to_srgb
from cyclegan_cli.media.decoding import MAX_PIXELS, decoding, opened
from cyclegan_cli.media.plan import PICTURE_EXTENSIONS

__all__ = ["PICTURE_EXTENSIONS", "read_rgb"]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The (first) picture in ``path`` as H×W×3 sRGB in 0..255, as a viewer shows it on white.

    Its orientation and colour profile are applied; transparency is composited on white.
    Raises PictureError, naming the file and the reason, for anything that cannot be read: missing,
    empty, cut short, not a picture, more than ``max_pixels`` pixels.
    """
    with decoding(str(path)), opened(path, str(path), max_pixels) as image:
        image.load()
        turn = orientation(image)
        rgb, alpha = to_srgb(to_depth8(image))
        if alpha is not None:
            white = Image.new("RGB", rgb.size, (255, 255, 255))
            rgb = Image.composite(rgb, white, alpha)
        if turn is not None:
            rgb = rgb.transpose(turn)
        return np.array(rgb, dtype=np.uint8)


def orientation(image: Image.Image) -> Image.Transpose | None:
    """What the EXIF orientation of a decoded image still asks for (Pillow turns TIFF itself)."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None  # EXIF that cannot be parsed has no say; parsers of it fail in many ways
