"""Files that Pillow cannot make, written and read back from their specifications, byte by byte."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def png16(pixels: Array, extra: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """A 16-bit PNG of H×W (grey), H×W×2 (grey, alpha), H×W×3 or H×W×4 uint16."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), *(extra or []), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png4(levels: Array) -> bytes:
    """A grey PNG of 4 bits a pixel, from H×W values of 0 to 15."""
    height, width = levels.shape
    padded = np.pad(levels, ((0, 0), (0, width % 2)))
    packed = (padded[:, ::2] << 4 | padded[:, 1::2]).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def pcx1(ones: Array, colours: bytes, version: int = 5) -> bytes:
    """A PCX of 1 bit a pixel, from H×W booleans; ``colours``: two, 6 bytes in its header."""
    height, width = ones.shape
    rows = np.packbits(ones, axis=1)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    header = struct.pack("<4B6H", 10, version, 1, 1, 0, 0, width - 1, height - 1, 300, 300)
    header += colours.ljust(48, b"\0") + struct.pack("<2BHH", 0, 1, rows.shape[1], 1)
    return header.ljust(128, b"\0") + b"".join(b"\xc1%c" % byte for byte in rows.tobytes())


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_png16(data: bytes) -> Array:
    """H×W×C uint16 of a 16-bit PNG whose rows use no filter but None, Sub or Up."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, header, packed = 8, b"", b""
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        (crc,) = struct.unpack_from(">I", data, position + 8 + length)
        assert crc == zlib.crc32(kind + body)
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        position += 12 + length
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[colour]
    assert depth == 16
    stride = width * channels * 2
    raw = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + stride)
    rows = np.zeros((height, stride), np.uint8)
    for y in range(height):
        kind, row = raw[y, 0], raw[y, 1:]
        above = rows[y - 1] if y else np.zeros(stride, np.uint8)
        assert kind in (0, 2)
        rows[y] = row + above if kind == 2 else row
    return rows.view(">u2").astype(np.uint16).reshape(height, width, channels)


def tiff16(pixels: Array, *, order: str = "<", planar: bool = False, profile: bytes = b"") -> bytes:
    """An uncompressed TIFF of H×W×3 or H×W×4 uint16, in byte ``order``, chunky or in planes."""
    height, width, channels = pixels.shape
    values = np.moveaxis(pixels, 2, 0) if planar else pixels
    body = values.astype(f"{order}u2").tobytes()
    plane = len(body) // channels
    blobs: list[bytes] = [body]
    offsets = [8]

    def place(blob: bytes) -> int:
        offsets.append(offsets[-1] + len(blobs[-1]))
        blobs.append(blob)
        return offsets[-1]

    def shorts(*numbers: int) -> int:
        return place(struct.pack(f"{order}{len(numbers)}H", *numbers))

    def longs(*numbers: int) -> int:
        return place(struct.pack(f"{order}{len(numbers)}I", *numbers))

    strips = channels if planar else 1
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, shorts(*[16] * channels)),
        (259, 4, 1, 1), (262, 4, 1, 2),
        (273, 4, strips, longs(*(8 + i * plane for i in range(strips))) if planar else 8),
        (277, 4, 1, channels), (278, 4, 1, height),
        (279, 4, strips, longs(*[plane] * strips) if planar else len(body)),
        (284, 4, 1, 2 if planar else 1),
    ]  # fmt: skip
    if channels == 4:
        entries.append((338, 4, 1, 2))
    if profile:
        entries.append((34675, 7, len(profile), place(profile)))
    directory = place(b"")
    table = struct.pack(f"{order}H", len(entries))
    table += b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", directory)
    return start + b"".join(blobs) + table + struct.pack(f"{order}I", 0)


def tiff_packed(values: Array, bits: int, *, white_is_zero: bool = False) -> bytes:
    """A grey TIFF of H×W unsigned integers of ``bits`` bits, packed; each row begins a byte."""
    height, width = values.shape
    places = np.arange(bits)[::-1]
    rows = np.packbits((values[..., None] >> places & 1).reshape(height, -1).astype(bool), axis=1)
    entries = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1),
        (273, 8), (277, 1), (278, height), (279, rows.size),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    table = struct.pack("<H", len(entries)) + table + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + rows.size) + rows.tobytes() + table


def read_tiff16(data: bytes) -> list[Array]:
    """Every page of an uncompressed little-endian chunky TIFF as H×W×C, uint8 or uint16."""
    assert data[:4] == b"II*\0"
    pages = []
    (offset,) = struct.unpack_from("<I", data, 4)
    while offset:
        (count,) = struct.unpack_from("<H", data, offset)
        tags: dict[int, tuple[int, ...]] = {}
        for index in range(count):
            at = offset + 2 + 12 * index
            tag, kind, length = struct.unpack_from("<HHI", data, at)
            code, size = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("B", 1))
            if length * size > 4:
                (where,) = struct.unpack_from("<I", data, at + 8)
            else:
                where = at + 8
            if kind in (3, 4):
                tags[tag] = struct.unpack_from(f"<{length}{code}", data, where)
        assert tags[259] == (1,)
        body = b"".join(
            data[start : start + size] for start, size in zip(tags[273], tags[279], strict=True)
        )
        kind_of = "<u2" if tags[258][0] == 16 else "u1"
        shape = (tags[257][0], tags[256][0], tags[277][0])
        pages.append(np.frombuffer(body, kind_of).reshape(shape))
        (offset,) = struct.unpack_from("<I", data, offset + 2 + 12 * count)
    return pages


# -- profiles --------------------------------------------------------------------------------

# Adobe RGB (1998): colorants under D50, and gamma 563/256.
ADOBE_COLORANTS = (
    (0.60974, 0.31111, 0.01947),
    (0.20528, 0.62567, 0.06087),
    (0.14919, 0.06322, 0.74457),
)
ADOBE_GAMMA = 563 / 256


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC v2 profile for a display, of ``space`` (``RGB `` or ``GRAY``) and ``tags``."""
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    every = {b"desc": description, b"wtpt": white, b"cprt": b"text\0\0\0\0none\0", **tags}
    table, body = struct.pack(">I", len(every)), b""
    start = 128 + 4 + 12 * len(every)
    for name, data in every.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s4s", start + len(body), b"lcms", 0x02400000, b"mntr", space, b"XYZ ",
        struct.pack(">6H", 2020, 1, 1, 0, 0, 0), b"acsp", b"APPL",
    )  # fmt: skip
    header += b"\0" * (68 - len(header)) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def adobe_profile() -> bytes:
    tags = {}
    for name, colorant in zip((b"rXYZ", b"gXYZ", b"bXYZ"), ADOBE_COLORANTS, strict=True):
        numbers = [round(value * 65536) for value in colorant]
        tags[name] = b"XYZ \0\0\0\0" + struct.pack(">iii", *numbers)
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = gamma_curve(ADOBE_GAMMA)
    return icc(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return icc(b"GRAY", {b"kTRC": gamma_curve(gamma)})


def adobe_to_srgb(fraction: Array) -> Array:
    """H×W×3 Adobe RGB in [0, 1] to sRGB in [0, 1], from the two standards' own D65 matrices."""
    adobe = np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    )
    srgb = np.array(
        [[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156], [0.05564, -0.20403, 1.05723]]
    )
    return encode_srgb(fraction**ADOBE_GAMMA @ adobe.T @ srgb.T)


def encode_srgb(linear: Array) -> Array:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
