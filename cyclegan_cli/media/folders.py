"""Folders: the pictures in them, in one order; and when two paths are one place."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import deque
from pathlib import Path

from cyclegan_cli.errors import UsageError
from cyclegan_cli.media.formats import PICTURE_EXTENSIONS

__all__ = ["PlaceKeys", "exists", "find_pictures", "is_folder", "natural_key", "walk"]

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


def find_pictures(folder: Path) -> list[Path]:
    """Every picture under ``folder``, by its extension, in natural order of the path.

    Hidden files and folders (a leading dot) are skipped. Links to folders are followed, each folder
    is entered once. Raises UsageError where a folder cannot be read.
    """
    return walk(folder)[0]


def walk(
    folder: Path, without: Path | None = None, kinds: frozenset[str] = PICTURE_EXTENSIONS
) -> tuple[list[Path], int]:
    """``find_pictures``, with these extensions, and the number of files that it skipped.

    ``without``: a folder below ``folder`` that is left out, such as the one that is written to.
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
            raise UsageError(f"{current} cannot be read: {error.strerror or error}.") from error
        for entry in entries:
            hidden = entry.name.startswith(".")
            if entry.is_dir():
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
    return Path(entry.name).suffix.lower() in kinds and entry.is_file()


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
