"""Inputs to outputs, decided before any work. Torch, numpy and Pillow are not needed for it."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path

from cyclegan_cli.errors import UsageError

__all__ = ["PICTURE_EXTENSIONS", "find_pictures", "natural_key"]

# fmt: off
PICTURE_EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff",
    ".bmp", ".dib", ".avif", ".avifs", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".j2c", ".jpc",
    ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi", ".pcx", ".sgi",
})
# fmt: on

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts ``img2`` before ``img10``, whatever the case; equal ones by their exact spelling."""
    pieces = _DIGITS.split(name.casefold())
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in pieces if p], name


def find_pictures(folder: Path) -> list[Path]:
    """Every picture under ``folder``, by its extension, in natural order of the path.

    Hidden files and folders (a leading dot) are skipped. Links to folders are followed, each folder
    is entered once. Raises UsageError where a folder cannot be read.
    """
    return walk(folder)[0]


def walk(folder: Path) -> tuple[list[Path], int]:
    """``find_pictures``, and the number of files that it skipped."""
    found: list[Path] = []
    skipped = 0
    seen: set[tuple[int, int]] = set()
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        # Links last, so that a folder is found under its own name where it has one here.
        current = folders.popleft() if folders else links.popleft()
        try:
            about = current.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(current) as entries:
                listing = sorted(entries, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            raise UsageError(f"{current} cannot be read: {error.strerror or error}.") from error
        for entry in listing:
            hidden = entry.name.startswith(".")
            if entry.is_dir():
                if not hidden:
                    (links if entry.is_symlink() else folders).append(current / entry.name)
            elif hidden or not _is_picture(entry):
                skipped += 1
            else:
                found.append(current / entry.name)
    found.sort(key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts])
    return found, skipped


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in PICTURE_EXTENSIONS and entry.is_file()
