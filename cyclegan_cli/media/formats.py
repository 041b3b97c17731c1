"""What extensions and bytes say of a file's format, and what formats hold; without Pillow."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from cyclegan_cli.errors import UsageError, pip_extra

# fmt: off
_FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "MPO",
    ".png": "PNG", ".apng": "PNG", ".webp": "WEBP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".dib": "BMP", ".avif": "AVIF", ".avifs": "AVIF", ".heic": "HEIF",
    ".heif": "HEIF", ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".jpx": "JPEG2000",
    ".j2c": "JPEG2000", ".jpc": "JPEG2000", ".jpf": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM",
    ".pbm": "PPM", ".pnm": "PPM", ".tga": "TGA", ".qoi": "QOI", ".pcx": "PCX", ".sgi": "SGI",
}
# fmt: on
PICTURE_EXTENSIONS = frozenset(_FORMATS)

_VIDEOS = {
    ".mp4": "MP4", ".m4v": "MP4", ".mov": "MOV", ".mkv": "MKV", ".webm": "WEBM", ".avi": "AVI",
}  # fmt: skip
VIDEO_EXTENSIONS = frozenset(_VIDEOS)

ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})  # formats that hold frames in time
PAGED = frozenset({"TIFF"})  # formats that hold pages

HEIF_HINT = pip_extra("heif")
PAINTED = b"Painted by cyclegan"  # in the metadata of every picture and video that is written

# The first extension of a format, and what is written for one that cannot be, or that few can open.
EXTENSIONS = {name: ending for ending, name in reversed(_FORMATS.items())} | {"MPO": ".jpg"}
_REPLACED = {".mpo": ".jpg", ".heic": ".jpg", ".heif": ".jpg", ".pgm": ".ppm", ".pbm": ".ppm"}

# Cameras' raw files are TIFFs whose first picture is a preview the size of a stamp.
RAW_EXTENSIONS = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw",
})  # fmt: skip

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"),
    (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"II+\x00", "TIFF"), (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"), (b"\x00\x00\x00\x0cjP  ", "JPEG2000"), (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"qoif", "QOI"), (b"P3", "PPM"), (b"P5", "PPM"), (b"P6", "PPM"),
)  # fmt: skip
_WITHOUT_MAGIC = frozenset({".tga", ".pcx", ".sgi", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"})
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_END = 70_000  # bytes of either end of a file in which metadata lie
_VIDEO_HEAD = 2**24  # before a video's tags lies the index of its frames: hours in an MP4


def sniff(head: bytes) -> str | None:
    """The format that the first 16 bytes of a file speak of, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIF" if brand in _HEIF_BRANDS else None
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def sniff_file(path: Path) -> str | None:
    """``sniff`` of an ordinary file; None for others (a pipe would lose the bytes)."""
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            return sniff(file.read(16))
    return None


def may_be_read(path: Path) -> bool:
    """Whether ``path`` can be a picture or a video, by its first bytes where they tell."""
    tells = path.is_file() and not is_video(path) and path.suffix.lower() not in _WITHOUT_MAGIC
    return not tells or sniff_file(path) is not None


def format_of(path: Path) -> str | None:
    """The format that ``path``'s extension means, or None where it means none."""
    suffix = path.suffix.lower()
    return _FORMATS.get(suffix) or _VIDEOS.get(suffix)


def is_video(path: Path | None) -> bool:
    """Whether ``path``'s extension is that of a video; None is stdin, which is none."""
    return path is not None and path.suffix.lower() in VIDEO_EXTENSIONS


def format_by_name(name: str) -> str:
    """What ``--format NAME`` means: ``jpg``, ``png``, ``tiff``…; raises UsageError otherwise."""
    known = _FORMATS.get("." + name.lower().lstrip("."), name.upper())
    if known == "MPO" or known not in EXTENSIONS:
        raise UsageError(
            f"Pictures cannot be written as '{name}'.",
            hint="--format jpg, png, webp, tif, gif, avif, heic, bmp, jp2 or ppm.",
        )
    if known == "HEIF" and find_spec("pillow_heif") is None:
        raise UsageError("HEIC needs pillow-heif, which is not installed.", hint=HEIF_HINT)
    return known


def default_extension(path: Path) -> str:
    """Of ``path``'s translation: its own, or JPEG for HEIC; by the first bytes if not known."""
    if format_of(path) is not None:
        return _REPLACED.get(path.suffix.lower(), path.suffix)
    extension = EXTENSIONS[sniff_file(path) or "PNG"]
    return _REPLACED.get(extension, extension)


def is_painting(path: Path) -> bool:
    """Whether the metadata, at either end of the file, say that this program painted it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(_VIDEO_HEAD if is_video(path) else _END)
        if PAINTED in head:
            return True
        if sniff(head) == "WEBP":  # before an XMP packet of any length
            return any(
                PAINTED in file.read(min(length, _END))
                for name, length in riff_chunks(file)
                if name == b"EXIF"
            )
        file.seek(-_END, os.SEEK_END)  # fails where it is less than this
        return PAINTED in file.read()
    return False


def riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(name, length) of each chunk of a RIFF file, with ``file`` at the chunk's contents."""
    position = 12
    while file.seek(position) and len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        yield name, length
        position += 8 + length + length % 2


def is_lossless_webp(source: Path | bytes) -> bool:
    """Whether the (first frame of a) WebP was compressed without loss."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        for chunk, _ in riff_chunks(file):
            # A frame's own chunks follow 16 bytes of its header.
            kind = file.read(20)[16:] if chunk == b"ANMF" else chunk
            if kind in (b"VP8L", b"VP8 ", b"ALPH"):
                return kind == b"VP8L"
    return False
