"""16 bits a channel where Pillow has only 8-bit colour: PNG in and out, TIFF out.

libpng reads and writes the pixels, by imagecodecs; a PNG's metadata are Pillow's. TIFFs are written
by Pillow: a row of W 16-bit pixels is, byte for byte, a row of 2W 8-bit pixels, and the width and
depth are corrected in the file's directory.
"""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

__all__ = ["is_deep_png", "png_of", "read_png", "widen_tiff"]

_HEADER = 8 + 25  # bytes of a PNG's signature and IHDR


def is_deep_png(image: Image.Image) -> bool:
    """Whether an opened, not decoded, file is a still PNG of 16-bit colour or grey with alpha."""
    if image.format != "PNG" or getattr(image, "is_animated", False):
        return False
    assert isinstance(image, ImageFile.ImageFile)
    return any(tile.args in ("RGB;16B", "RGBA;16B", "LA;16B") for tile in image.tile)


def read_png(image: Image.Image) -> NDArray[np.uint16]:
    """H×W×3 (RGB), H×W×4 (RGBA) or H×W×2 (grey, alpha) uint16 of a 16-bit PNG, which is loaded."""
    import imagecodecs

    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    here = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(here)
    image.load()  # for what follows the pixels, and for Pillow's words where they are cut short
    values: NDArray[np.uint16] = imagecodecs.png_decode(data)
    return values


def png_of(pixels: NDArray[np.uint16], metadata: dict[str, Any], file: BinaryIO) -> None:
    """Write H×W×3 or H×W×4 uint16 as a 16-bit PNG. ``metadata``: what Pillow's save would take."""
    import imagecodecs

    carrier = io.BytesIO()
    Image.new("RGB", (1, 1)).save(carrier, "PNG", **metadata)
    chunks = carrier.getvalue()[_HEADER:]
    encoded = imagecodecs.png_encode(pixels, level=4, filter=imagecodecs.PNG.FILTER.UP)
    file.write(encoded[:_HEADER] + chunks[: chunks.rindex(b"IDAT") - 4] + encoded[_HEADER:])


def widen_tiff(file: BinaryIO, deep_pages: list[bool]) -> None:
    """Make pages of 2W 8-bit pixels, in a little-endian TIFF that Pillow wrote, W 16-bit ones."""
    file.seek(4)
    (offset,) = struct.unpack("<I", file.read(4))
    for deep in deep_pages:
        file.seek(offset)
        (count,) = struct.unpack("<H", file.read(2))
        entries = file.read(12 * count)
        (following,) = struct.unpack("<I", file.read(4))
        for index in range(count if deep else 0):
            tag, _, length, value = struct.unpack_from("<HHII", entries, 12 * index)
            if tag == 256:  # ImageWidth, a SHORT or a LONG: a small one lies in the low bytes
                file.seek(offset + 2 + 12 * index + 8)
                file.write(struct.pack("<I", value // 2))
            elif tag == 258:  # BitsPerSample: three or four SHORTs lie elsewhere
                file.seek(value)
                file.write(struct.pack("<H", 16) * length)
        offset = following
