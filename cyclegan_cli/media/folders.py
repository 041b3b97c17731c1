"""Inputs: files, lists, patterns, and folders with the pictures in them; and places of outputs."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import operator
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cyclegan_cli.errors import UsageError, reason_of
from cyclegan_cli.files import is_special
from cyclegan_cli.media.formats import PICTURE_EXTENSIONS, VIDEO_EXTENSIONS

_READ = PICTURE_EXTENSIONS | VIDEO_EXTENSIONS
_NAME_LIMIT = 255  # bytes of a file name, on nearly every file system
_SHOWN = 5  # names in one error
_DIGITS = re.compile(r"(\d+)")
_identity = operator.attrgetter("st_dev", "st_ino")  # of what stat says: the same for one folder


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
        raise UsageError(f"The list {path} cannot be read: {reason_of(error)}.") from error


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
        if token and exists(token):
            paths.append((Path(token), True))
        elif isinstance(token, Verbatim):
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
        raise UsageError(f"No such file: {listed_names(missing)}")
    return paths


@dataclass(frozen=True)
class Input:
    """One file to read. ``below``: its place below an output folder, None: its name alone.
    ``named``: by the user or a list, not found in a folder or by a pattern.
    """

    path: Path
    below: Path | None
    named: bool

    @property
    def stem(self) -> str:
        """The name without the extension of a picture or video."""
        return self.path.stem if self.path.suffix.lower() in _READ else self.path.name


def find_inputs(
    tokens: Sequence[str], output: Path | None, unreadable: list[UsageError]
) -> tuple[list[Input], int, bool]:
    """The files that ``tokens`` mean, each once; see ``expand`` and ``walk``.

    ``output``: a folder that is not looked into. Returns (them, how many files were ignored,
    whether they want an output folder). Raises UsageError where there is none.
    """
    paths = expand(tokens)
    found: list[Input] = []
    ignored, any_folder = 0, False
    for path, named in paths:
        if not is_folder(path):
            found.append(Input(path, None, named))
            continue
        any_folder = True
        pictures, skipped = walk(path, output, _READ, unreadable)
        ignored += skipped
        # One folder alone is mirrored as it is; among others each keeps its name.
        top = Path() if len(paths) == 1 else Path(path.resolve().name)
        found += [Input(p, top / p.relative_to(path), False) for p in pictures]
        if not pictures and len(paths) == 1:
            raise unreadable[0] if unreadable else UsageError(f"There is no picture in {path}.")
    keys = PlaceKeys()
    unique: dict[tuple[str, str], Input] = {}
    for item in found:
        first = unique.setdefault(keys.key(item.path), item)
        unique[keys.key(item.path)] = replace(first, named=first.named or item.named)
    return list(unique.values()), ignored, any_folder or len(paths) > 1


def find_pictures(folder: Path) -> list[Path]:
    """Every picture under ``folder``, in natural order; see ``walk``. Raises UsageError."""
    return walk(folder)[0]


def walk(
    folder: Path,
    without: Path | None = None,
    kinds: frozenset[str] = PICTURE_EXTENSIONS,
    unreadable: list[UsageError] | None = None,
) -> tuple[list[Path], int]:
    """Files under ``folder`` with these extensions, in natural order, and how many it skipped.

    Hidden files and folders are skipped; links to folders are followed, each folder is entered
    once. ``without``: a folder that is left out. ``unreadable``: takes the errors (UsageError) of
    folders below ``folder``, which are raised where it is None.
    """
    found, skipped = list[Path](), 0
    seen: set[tuple[int, int]] = set()
    with contextlib.suppress(OSError):
        seen = {_identity(without.stat())} - {_identity(folder.stat())} if without else seen
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        # Links last, so that a folder is found under its own name where it has one here.
        current = folders.popleft() if folders else links.popleft()
        try:
            if (identity := _identity(current.stat())) in seen:
                continue
            seen.add(identity)
            with os.scandir(current) as scan:
                entries = list(scan)
        except OSError as error:
            failure = UsageError(f"{current} cannot be read: {reason_of(error)}.")
            if unreadable is None or current == folder:
                raise failure from error
            unreadable.append(failure)
            continue
        for entry in entries:
            hidden = entry.name.startswith(".")
            if _is(entry.is_dir):
                if not hidden:
                    (links if entry.is_symlink() else folders).append(current / entry.name)
            elif hidden or Path(entry.name).suffix.lower() not in kinds or not _is(entry.is_file):
                skipped += 1
            else:
                found.append(current / entry.name)
        links = deque(sorted(links, key=lambda path: natural_key(str(path))))
    found.sort(key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts])
    return found, skipped


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
        if path.parent not in self._folders:
            real = os.path.realpath(path.parent)
            self._folders[path.parent] = real, ignores_case(Path(real))
        real, folds = self._folders[path.parent]
        return (_fold(real), _fold(path.name)) if folds else (real, path.name)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def ignores_case(folder: Path) -> bool:
    """Whether names that differ only in case are one in ``folder``, or nothing there can tell."""
    while not is_folder(folder):
        if folder == folder.parent:
            return True
        folder = folder.parent
    device = folder.stat().st_dev
    for place in (folder, *folder.parents):
        if place.stat().st_dev != device:
            break
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                swapped = place / entry.name.swapcase()
                if swapped.name != entry.name:
                    # Where both spellings exist as two files, case matters.
                    there = os.path.lexists(swapped)
                    own = entry.stat(follow_symlinks=False)
                    return there and os.path.samestat(swapped.lstat(), own)
    return True


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
