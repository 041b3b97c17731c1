"""16 bits a channel, in and out, with a Pillow that has only 8-bit colour.

In: Pillow decodes a 16-bit colour file to the high byte of each number. Decoded a second time with
its bytes taken in the other order it gives the low byte, and the two make the number: so every
compression and layout that Pillow knows is read, with no second reader of files. Out: a row of W
16-bit pixels is, byte for byte, a row of 2W 8-bit pixels. TIFF and its metadata are written by
Pillow at twice the width, and the width and depth are corrected in the file's directory; for PNG
the metadata are Pillow's, the pixels are compressed here.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

__all__ = ["deep_channels", "png_of", "read_deep", "widen_tiff"]

_BASES = ("RGB", "RGBA", "LA", "RGBX")
_PNG = b"\x89PNG\r\n\x1a\n"
_STRIP = 256  # rows at a time


def deep_channels(image: Image.Image) -> str | None:
    """The channels of an opened, not decoded, file of 16-bit colour: RGB, RGBA, LA or RGBX."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    base, _, depth = _raw_mode(image.tile[0]).partition(";")
    # Separate planes of an uncompressed TIFF are named by a letter; what depth tag_v2 says.
    if base == "R" and not depth and image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        return "RGB" if set(bits) == {16} and image.mode == "RGB" else None
    return base if depth in ("16B", "16L", "16N") and base in _BASES else None


def read_deep(first: Image.Image, second: Image.Image) -> NDArray[np.uint16]:
    """H×W×3 (RGB) or H×W×4 (RGBA) uint16, from one frame of a file that was opened twice."""
    if deep_channels(first) == "LA" and first.format == "PNG":
        # Two numbers of two bytes: as four 8-bit channels they are grey high, low, alpha high, low.
        data = _decoded(first, lambda _: "RGBA").astype(np.uint16)
        grey, alpha = data[..., 0] * 256 + data[..., 1], data[..., 2] * 256 + data[..., 3]
        return np.stack([grey, grey, grey, alpha], axis=2)
    little = first.format == "TIFF" and first.tag_v2.prefix == b"II"  # type: ignore[attr-defined]
    high = _decoded(first, lambda raw: _byte_mode(raw, little, low=False)).astype(np.uint16)
    high *= 256
    high += _decoded(second, lambda raw: _byte_mode(raw, little, low=True))
    return high


def _decoded(image: Image.Image, change: Callable[[str], str]) -> NDArray[np.uint8]:
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [_with_raw_mode(tile, change(_raw_mode(tile))) for tile in image.tile]
    image.load()
    return np.asarray(image)


def _byte_mode(raw: str, little: bool, *, low: bool) -> str:
    """The raw mode that reads the high byte of each number, or the ``low`` one."""
    base, _, order = raw.partition(";")
    if not order:  # one plane of an uncompressed TIFF
        order = "16L" if little else "16B"
    if not low:
        return f"{base};{order}"
    native_is_little = struct.pack("=H", 1) == b"\1\0"
    is_little = order == "16L" or (order == "16N" and native_is_little)
    return f"{base};{'16B' if is_little else '16L'}"


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _with_raw_mode(tile: Any, raw: str) -> Any:
    arguments = tile[3]
    changed = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
    return tile._replace(args=changed)


# -- out -------------------------------------------------------------------------------------


def png_of(pixels: NDArray[np.uint16], metadata: dict[str, Any], file: BinaryIO) -> None:
    """Write H×W×3 or H×W×4 uint16 as a 16-bit PNG. ``metadata``: what Pillow's save would take."""
    height, width, channels = pixels.shape
    file.write(_PNG)
    colour_type = {3: 2, 4: 6}[channels]
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    carrier = io.BytesIO()
    Image.new("RGB", (1, 1)).save(carrier, "PNG", **metadata)
    for kind, data in _chunks(carrier.getvalue()):
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            _chunk(file, kind, data)
    compressor = zlib.compressobj(4)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for top in range(0, height, _STRIP):
        rows = pixels[top : top + _STRIP].astype(">u2")
        bytes_ = rows.view(np.uint8).reshape(len(rows), -1)
        # Filter 2, "Up": each byte less the one above it (PNG specification, section 9).
        filtered = np.empty((len(rows), 1 + bytes_.shape[1]), np.uint8)
        filtered[:, 0] = 2
        np.subtract(bytes_, np.concatenate([above, bytes_[:-1]]), out=filtered[:, 1:])
        above = bytes_[-1:]
        if data := compressor.compress(filtered.tobytes()):
            _chunk(file, b"IDAT", data)
    _chunk(file, b"IDAT", compressor.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data)
    file.write(struct.pack(">I", zlib.crc32(kind + data)))


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], len(_PNG)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        found.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


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
