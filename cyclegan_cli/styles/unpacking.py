"""Archives of pictures from a source that is not trusted.

A zip file may name places outside its folder, hold links, or expand to fill the disk. So all is
decided from its table of contents before a byte is written: only files in a data set's folders,
only names of pictures, limits of number and size, no byte of the archive used twice. No entry gets
more bytes than it declares.
"""

from __future__ import annotations

import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from cyclegan_cli.errors import DownloadError
from cyclegan_cli.places import RESERVED

__all__ = ["FOLDERS", "Limits", "archive_size", "unpack", "what_is_wrong"]

FOLDERS = tuple(f"{part}{domain}" for part in ("train", "test", "val") for domain in "AB")
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_BLOCK = 1 << 18
_LONGEST = 200  # bytes of a name
_HEADER = 30  # bytes of a local header, before the entry's name


@dataclass(frozen=True)
class Limits:
    """``count``: entries; ``total``: bytes of all files; ``file``: bytes of one file; ``ratio``:
    unpacked to packed size (deflate's own limit is 1032, pictures have 1)."""

    count: int = 200_000
    total: int = 16_000_000_000
    file: int = 500_000_000
    ratio: float = 100.0


@dataclass(frozen=True)
class _Entry:
    """One picture of an archive, and where it goes: ``folder``/``name``."""

    info: zipfile.ZipInfo
    folder: str
    name: str


def what_is_wrong(file: Path, limits: Limits | None = None) -> str:
    """Why ``file`` cannot be unpacked safely; empty if it can."""
    try:
        with zipfile.ZipFile(file) as archive:
            _plan(archive, limits or Limits())
    except DownloadError as error:
        return str(error).rstrip(".")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return "what it sent is not a whole zip file"
    return ""


def archive_size(file: Path) -> int:
    """Bytes of all the pictures that ``unpack`` would write. Raises DownloadError."""
    with zipfile.ZipFile(file) as archive:
        return sum(entry.info.file_size for entry in _plan(archive, Limits()))


def _plan(archive: zipfile.ZipFile, limits: Limits) -> list[_Entry]:
    """What to unpack: the pictures in a data set's folders; other files are ignored.

    Raises DownloadError, naming the entry, for anything suspicious.
    """
    infos = archive.infolist()
    if len(infos) > limits.count:
        raise DownloadError(f"The archive has {len(infos)} entries; {limits.count} are allowed.")
    entries: list[_Entry] = []
    seen: set[tuple[str, str]] = set()
    for info in infos:
        parts = _parts(info)
        if info.is_dir() or not _is_picture(parts):
            continue
        _check(info, limits)
        folder, name = parts[-2], _portable(info, parts[-1])
        key = (folder, unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            raise _bad(info, "is there twice")
        seen.add(key)
        entries.append(_Entry(info, folder, name))
    if not entries:
        raise DownloadError(f"The archive has no pictures in {', '.join(FOLDERS[:4])}.")
    total = sum(entry.info.file_size for entry in entries)
    if total > limits.total:
        raise DownloadError(f"The archive holds {total} bytes; {limits.total} are allowed.")
    _refuse_overlaps(entries)
    return entries


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The folders and the name of an entry. Raises DownloadError for one that leads elsewhere."""
    name = info.orig_filename
    path = PurePosixPath(name)
    drive = re.match(r"[A-Za-z]:", name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or drive:
        raise _bad(info, "leads out of its folder")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _bad(info, "is a link or a device, not a file")
    return path.parts


def _is_picture(parts: tuple[str, ...]) -> bool:
    """Whether it is FOLDER/NAME or ANYTHING/FOLDER/NAME, and a picture by its name."""
    if not 2 <= len(parts) <= 3 or parts[-2] not in FOLDERS or parts[0] == "__MACOSX":
        return False
    name = parts[-1]
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in _PICTURES


def _portable(info: zipfile.ZipInfo, name: str) -> str:
    """``name`` as every system can write it: some public sets have times of day in names."""
    safe = re.sub(r'[<>:"|?*]', "_", name)
    if not safe.isprintable() or len(safe.encode("utf-8", "replace")) > _LONGEST:
        raise _bad(info, "has a name that not every system can write")
    stem = safe.split(".", maxsplit=1)[0].rstrip().lower()
    return f"_{safe}" if stem in RESERVED else safe


def _check(info: zipfile.ZipInfo, limits: Limits) -> None:
    if info.flag_bits & 0x1:
        raise _bad(info, "is encrypted")
    if info.compress_type not in _METHODS:
        raise _bad(info, "is packed by a method that is not used here")
    if info.file_size > limits.file:
        raise _bad(info, f"would have {info.file_size} bytes")
    if info.file_size > limits.ratio * max(info.compress_size, 1) and info.file_size > _BLOCK:
        raise _bad(info, f"grows from {info.compress_size} to {info.file_size} bytes")


def _refuse_overlaps(entries: list[_Entry]) -> None:
    """No two entries may share packed bytes: a bomb that no ratio of one entry shows."""
    ordered = sorted((entry.info for entry in entries), key=lambda info: info.header_offset)
    for one, other in pairwise(ordered):
        if one.header_offset + _HEADER + one.compress_size > other.header_offset:
            raise _bad(other, "shares its bytes with another")


def unpack(
    file: Path,
    folder: Path,
    *,
    limits: Limits | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Unpack ``file`` into ``folder``, which must exist; ``advance`` is called after each picture.

    Returns the number of pictures in each of its folders. Raises DownloadError for what
    ``what_is_wrong`` finds and for an entry that is not what it declared; OSError.
    """
    counts: dict[str, int] = {}
    with zipfile.ZipFile(file) as archive:
        for entry in _plan(archive, limits or Limits()):
            target = folder / entry.folder / entry.name
            target.parent.mkdir(exist_ok=True)
            _write(archive, entry, target)
            counts[entry.folder] = counts.get(entry.folder, 0) + 1
            advance()
    return counts


def _write(archive: zipfile.ZipFile, entry: _Entry, target: Path) -> None:
    left = entry.info.file_size
    try:
        with archive.open(entry.info) as source, target.open("xb") as out:
            while block := source.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise _bad(entry.info, "is larger than it says")
                out.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _bad(entry.info, "is damaged") from error
    if left:
        raise _bad(entry.info, "is smaller than it says")


def _bad(info: zipfile.ZipInfo, what: str) -> DownloadError:
    name = "".join(c if c.isprintable() else "?" for c in info.orig_filename)[:80]
    return DownloadError(f"The archive's entry '{name}' {what}.")
