"""Depths that Pillow decodes to 8 bits, or wrongly: PNG in and out, JPEG 2000 in, TIFF out.

imagecodecs reads and writes the pixels; metadata are Pillow's. TIFFs are written by Pillow: a row
of W 16-bit pixels is, byte for byte, a row of 2W 8-bit pixels; width and depth are corrected
in the file's directory.
"""

from __future__ import annotations

import io
import re
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from cyclegan_cli.media.colour import to_16_bits

__all__ = ["is_deep_png", "png_of", "read_jpeg2000", "read_png", "widen_tiff"]

_HEADER = 8 + 25  # bytes of a PNG's signature and IHDR
_SIZ = b"\xff\x4f\xff\x51"  # the beginning of a JPEG 2000 codestream
_SYCC = re.compile(rb"colr\x01..\0\0\0\x12", re.DOTALL)  # the box that says so, in a JP2


def is_deep_png(image: Image.Image) -> bool:
    """Whether an opened, not decoded, file is a still PNG of 16-bit colour or grey with alpha."""
    if image.format != "PNG" or getattr(image, "is_animated", False):
        return False
    assert isinstance(image, ImageFile.ImageFile)
    return any(tile.args in ("RGB;16B", "RGBA;16B", "LA;16B") for tile in image.tile)


def read_png(image: Image.Image) -> NDArray[np.uint16]:
    """H×W×3 (RGB), H×W×4 (RGBA) or H×W×2 (grey, alpha) uint16 of a 16-bit PNG, which is loaded."""
    import imagecodecs

    data = _bytes_of(image)
    image.load()  # for what follows the pixels, and for Pillow's words where they are cut short
    values: NDArray[np.uint16] = imagecodecs.png_decode(data)
    return values


def read_jpeg2000(image: Image.Image) -> NDArray[np.uint16] | None:
    """H×W×channels uint16 of an opened JPEG 2000 of other depths than 8 bits, white at 65535.

    Pillow turns white into black where there are more, into grey where there are fewer. None for 8.
    """
    if image.format != "JPEG2000" or image.mode in ("P", "PA"):
        return None
    data = _bytes_of(image)
    start = data.index(_SIZ)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    depths = {data[start + 42 + 3 * index] for index in range(channels)}
    if depths <= {7, 0x87}:  # bits less 1, and whether the numbers are signed
        return None
    if len(depths) > 1 or _SYCC.search(data[:start]):
        raise NotImplementedError("JPEG 2000 with channels of different kinds is not supported")
    import imagecodecs

    (depth,) = depths
    values = imagecodecs.jpeg2k_decode(data)
    white = 2.0 ** ((depth & 0x7F) + 1) - 1
    low = -(white + 1) / 2 if depth & 0x80 else 0.0
    return to_16_bits(np.atleast_3d(values), low, low + white)


def _bytes_of(image: Image.Image) -> bytes:
    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    here = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(here)
    return data


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
