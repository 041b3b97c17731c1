"""What a user's words mean: files, lists, patterns, and folders with the pictures in them.

And when two paths are one place, and which pictures this program painted.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import struct
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import is_special
from cyclegan_cli.media.formats import PAINTED, PICTURE_EXTENSIONS, is_video, sniff

__all__ = [
    "PlaceKeys",
    "Verbatim",
    "check_place",
    "exists",
    "expand",
    "find_pictures",
    "fitting",
    "is_folder",
    "is_painting",
    "listed_names",
    "natural_key",
    "parse_list",
    "read_list",
    "walk",
]

_NAME_LIMIT = 255  # bytes of a file name, on nearly every file system
_SHOWN = 5  # names in one error
_PROCESSING_SOFTWARE = 11  # the tag of EXIF
_HEAD = 70_000  # bytes in which the metadata of most formats lie
_DIGITS = re.compile(r"(\d+)")


def exists(path: Path | str) -> bool:
    """Whether something is there; False too for what may not be looked at or can be no name."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for those


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there; False as ``exists`` is."""
    return os.path.isdir(path)  # noqa: PTH112


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts ``img2`` before ``img10``, whatever the case; equal ones by their exact spelling."""
    pieces = [piece for piece in _DIGITS.split(name.casefold()) if piece]
    # The length of the digits, then the digits, sort as the number does, however long it is.
    return [
        (0, len(p.lstrip("0")), p.lstrip("0")) if p.isdecimal() else (1, 0, p) for p in pieces
    ], name


def parse_list(data: bytes, *, null: bool = False) -> list[Path]:
    """The paths of a list: one a line, or ended by NUL with ``null``; empty ones are left out."""
    pieces = data.split(b"\0") if null else [line.rstrip(b"\r") for line in data.split(b"\n")]
    return [Path(os.fsdecode(piece)) for piece in pieces if piece]


def read_list(path: Path, *, null: bool = False) -> list[Path]:
    """``parse_list`` of a file. Raises UsageError where it cannot be read."""
    try:
        return parse_list(path.read_bytes(), null=null)
    except OSError as error:
        raise UsageError(f"The list {path} cannot be read: {error.strerror}.") from error


class Verbatim(str):
    """A path from a list: never a pattern, a list or stdin."""

    __slots__ = ()


def expand(tokens: Sequence[str]) -> list[tuple[Path, bool]]:
    """The paths that files, folders, patterns and ``@list.txt`` mean, each with whether it was
    named itself. Raises UsageError, naming those that are not there.
    """
    paths: list[tuple[Path, bool]] = []
    missing: list[str] = []
    for token in tokens:
        path = Path(token)
        if token and exists(token):
            paths.append((path, True))
        elif isinstance(token, Verbatim) or not token:
            missing.append(token)
        elif token.startswith("@"):
            entries = read_list(Path(token[1:]))
            paths += [(entry, True) for entry in entries]
            missing += [str(entry) for entry in entries if not exists(entry)]
        elif glob.has_magic(token):
            matches = sorted(glob.glob(token, recursive=True), key=natural_key)  # noqa: PTH207
            paths += [(Path(match), False) for match in matches]
            missing += [] if matches else [token]
        else:
            missing.append(token)
    if missing:
        raise UsageError(f"There is no {listed_names(missing)}.")
    return paths


def find_pictures(folder: Path) -> list[Path]:
    """Every picture under ``folder``, by its extension, in natural order of the path.

    Hidden files and folders (a leading dot) are skipped. Links to folders are followed, each folder
    is entered once. Raises UsageError where a folder cannot be read.
    """
    return walk(folder)[0]


def walk(
    folder: Path,
    without: Path | None = None,
    kinds: frozenset[str] = PICTURE_EXTENSIONS,
    unreadable: list[UsageError] | None = None,
) -> tuple[list[Path], int]:
    """``find_pictures``, with these extensions, and the number of files that it skipped.

    ``without``: a folder below ``folder`` that is left out, such as the one that is written to.
    ``unreadable``: takes the errors of folders below ``folder``, which are raised where it is None.
    """
    found: list[Path] = []
    skipped = 0
    seen = set() if without is None or same_folder(folder, without) else _identity(without)
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        # Links last, so that a folder is found under its own name where it has one here.
        current = folders.popleft() if folders else links.popleft()
        try:
            about = current.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(current) as scan:
                entries = list(scan)
        except OSError as error:
            failure = UsageError(f"{current} cannot be read: {error.strerror or error}.")
            if unreadable is None or current == folder:
                raise failure from error
            unreadable.append(failure)
            continue
        for entry in entries:
            hidden = entry.name.startswith(".")
            if _is(entry.is_dir):
                if not hidden:
                    (links if entry.is_symlink() else folders).append(current / entry.name)
            elif hidden or not _is_one_of(kinds, entry):
                skipped += 1
            else:
                found.append(current / entry.name)
        links = deque(sorted(links, key=lambda path: natural_key(str(path))))
    found.sort(key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts])
    return found, skipped


def same_folder(one: Path, other: Path) -> bool:
    """Whether both exist and are one folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _identity(folder: Path) -> set[tuple[int, int]]:
    try:
        about = folder.stat()
    except OSError:
        return set()
    return {(about.st_dev, about.st_ino)}


def _is_one_of(kinds: frozenset[str], entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in kinds and _is(entry.is_file)


def _is(asked: Callable[[], bool]) -> bool:
    """What a DirEntry answers; False where it fails, as for a link that leads to itself."""
    try:
        return asked()
    except OSError:
        return False


class PlaceKeys:
    """Keys of paths that are equal where the paths are one place, also where case is ignored."""

    def __init__(self) -> None:
        self._folders: dict[Path, tuple[str, bool]] = {}

    def key(self, path: Path) -> tuple[str, str]:
        """(the real folder, the name), folded where the folder's file system ignores case."""
        folder, folds = self._folder(path.parent)
        return (folder, _fold(path.name)) if folds else (folder, path.name)

    def _folder(self, folder: Path) -> tuple[str, bool]:
        if folder not in self._folders:
            real = os.path.realpath(folder)
            folds = ignores_case(Path(real))
            self._folders[folder] = (_fold(real) if folds else real, folds)
        return self._folders[folder]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def ignores_case(folder: Path) -> bool:
    """Whether names that differ only in case are one name in ``folder``, which need not exist.

    Nothing is written to find out: an entry of the folder, or of one above it on the same device,
    is looked up in the other case. True where nothing there can tell.
    """
    while not is_folder(folder):
        if folder == folder.parent:
            return True
        folder = folder.parent
    device = folder.stat().st_dev
    while True:
        answer = _probe(folder)
        parent = folder.parent
        if answer is not None or parent == folder or parent.stat().st_dev != device:
            return answer is not False
        folder = parent


def _probe(folder: Path) -> bool | None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                other = entry.name.swapcase()
                if other != entry.name:
                    # Where both spellings exist as two files, case matters.
                    swapped = folder / other
                    return os.path.lexists(swapped) and os.path.samestat(
                        swapped.lstat(), entry.stat(follow_symlinks=False)
                    )
    except OSError:
        return None
    return None


def is_painting(path: Path) -> bool:
    """Whether the metadata say that this program painted the picture or video in ``path``.

    Only the metadata are read, without Pillow. Formats that hold none never say so.
    """
    with contextlib.suppress(OSError, struct.error), path.open("rb") as file:
        head = file.read(_HEAD)
        if PAINTED in head:
            return True
        kind = "MP4" if is_video(path) else sniff(head)
        if kind == "WEBP":  # behind the pixels
            return PAINTED in _chunk(file, b"EXIF")
        if kind == "TIFF":
            return PAINTED in _tiff_text(file, "<" if head[:2] == b"II" else ">")
        if kind == "MP4":
            return PAINTED in _box(file, [b"moov", b"udta"])
    return False


def _chunk(file: BinaryIO, name: bytes) -> bytes:
    """What the chunk ``name`` of a RIFF file holds, or nothing."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        (size,) = struct.unpack("<I", header[4:])
        if header[:4] == name:
            return file.read(min(size, _HEAD))
        file.seek(size + size % 2, os.SEEK_CUR)
    return b""


def _tiff_text(file: BinaryIO, order: str) -> bytes:
    """What the tag 11 (ProcessingSoftware) of a TIFF's first page says, or nothing."""
    file.seek(4)
    file.seek(struct.unpack(f"{order}I", file.read(4))[0])
    for _ in range(struct.unpack(f"{order}H", file.read(2))[0]):
        tag, _, count, offset = struct.unpack(f"{order}HHII", file.read(12))
        if tag == _PROCESSING_SOFTWARE:
            file.seek(offset)
            return file.read(min(count, _HEAD))
    return b""


def _box(file: BinaryIO, names: Sequence[bytes], end: float = float("inf")) -> bytes:
    """What the box ``names[-1]`` in the box before it, and so on, of an MP4 holds, or nothing."""
    while file.tell() < end and len(header := file.read(8)) == 8:
        size, start = int.from_bytes(header[:4], "big"), file.tell() - 8
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:
            break
        if header[4:] == names[0]:
            if len(names) == 1:
                return file.read(min(size, _HEAD))
            return _box(file, names[1:], start + size)
        file.seek(start + size)
    return b""


def check_place(target: Path) -> None:
    """Raise UsageError where no file of that name can be written."""
    if len(os.fsencode(target.name)) > _NAME_LIMIT:
        raise UsageError(f"{target}: the name is too long.", hint="-o FILE names it otherwise.")
    if is_folder(target):
        raise UsageError(f"{target} is a folder, where a file would be written.")
    if is_special(target):
        raise UsageError(f"{target} is no ordinary file.", hint="-o - writes to stdout.")
    parent = target.parent
    while not exists(parent) and parent != parent.parent:
        parent = parent.parent
    if not is_folder(parent):
        raise UsageError(f"{parent} is a file, where a folder is wanted.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"The folder {parent} cannot be written to.", hint="-o FOLDER")


def fitting(stem: str, ending: str) -> str:
    """``stem + ending``; a stem that is too long for a file name ends in a digest of itself."""
    if len(os.fsencode(stem + ending)) <= _NAME_LIMIT:
        return stem + ending
    digest = hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    while stem and len(os.fsencode(f"{stem}~{digest}{ending}")) > _NAME_LIMIT:
        stem = stem[:-1]
    return f"{stem}~{digest}{ending}"


def listed_names(names: Sequence[Path | str | None]) -> str:
    """The first of ``names``, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
