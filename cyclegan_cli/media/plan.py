"""Inputs to outputs, decided before any work. Torch, numpy and Pillow are not needed for it."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import is_special
from cyclegan_cli.media.folders import (
    PlaceKeys,
    exists,
    find_pictures,
    is_folder,
    natural_key,
    walk,
)
from cyclegan_cli.media.formats import (
    PICTURE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    default_extension,
    extension_of,
    format_by_name,
    format_of,
    is_video,
)

__all__ = ["PICTURE_EXTENSIONS", "Existing", "Job", "Plan", "find_pictures", "make_plan"]

Existing = Literal["refuse", "overwrite", "skip"]
_READ = PICTURE_EXTENSIONS | VIDEO_EXTENSIONS
_SHOWN = 5  # names in one error
_NAME_LIMIT = 255  # bytes of a file name, on nearly every file system


@dataclass(frozen=True)
class Job:
    """One translation. ``source`` None: stdin; ``target`` None: stdout; ``format`` None: as read.

    ``format`` is Pillow's name of the format to write, or MP4, MOV, MKV, WEBM or AVI.
    """

    source: Path | None
    target: Path | None
    format: str | None


@dataclass(frozen=True)
class Plan:
    """What will be done, in order; and what will not: files that are no pictures, outputs there."""

    jobs: list[Job]
    there_already: list[Job] = field(default_factory=list)
    ignored_files: int = 0


@dataclass(frozen=True)
class _Found:
    """One input: where it lies, and where it goes below an output folder (None: by its name)."""

    path: Path
    below: Path | None
    scanned: bool  # found in a folder, not named


def make_plan(
    inputs: Sequence[str],
    *,
    style: str,
    listed: Iterable[Path] = (),
    output: str | None = None,
    file_format: str | None = None,
    existing: Existing = "refuse",
    share: Callable[[list[Job]], list[Job]] | None = None,
) -> Plan:
    """Decide what is read and what is written, before any of it.

    ``inputs``: files, folders, patterns, ``@list.txt``, ``-`` for stdin. ``listed``: paths that are
    taken literally. ``output``: a file, a folder, ``-`` for stdout, or None: beside the input, as
    ``<stem>_<style>.<ext>``. Beneath an output folder, a folder's tree is mirrored with its names.
    ``file_format`` speaks of pictures: videos keep their kind, or get that of ``output``.
    ``share``: which of all jobs are this process's; outputs that exist are looked for only then,
    since other processes may be writing theirs.

    Raises UsageError, naming files, where an input is missing, two inputs would write one output,
    an output is an input, or an output exists (unless ``existing`` says otherwise).
    """
    wanted = format_by_name(file_format) if file_format is not None else None
    tokens = [*inputs, *(_Literal(str(path)) for path in listed)]
    if not tokens:
        raise UsageError("Nothing to translate was named.", hint="cyclegan translate --help")
    if "-" in inputs:
        return _plan_stdin(tokens, output, wanted, existing)
    found, ignored, many = _find(tokens, Path(output) if output not in (None, "-") else None)
    if output == "-":
        if many or len(found) != 1:
            raise UsageError("-o - takes one picture, not several.", hint="-o FOLDER")
        if is_video(found[0].path):
            raise UsageError("A video cannot be written to stdout.", hint="-o FILE")
        return Plan([Job(found[0].path, None, wanted)], [], ignored)
    if output is None:
        results = _earlier_results(found, style)
        found = [item for item in found if item.path not in results]
        ignored += len(results)
    jobs = _targets(found, style, output, wanted, many)
    return _checked(jobs, existing, ignored, share)


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


class _Literal(str):
    """A path from a list: never a pattern, a list or stdin."""

    __slots__ = ()


def _plan_stdin(
    tokens: Sequence[str], output: str | None, file_format: str | None, existing: Existing
) -> Plan:
    if len(tokens) > 1:
        raise UsageError("- (stdin) is one picture, and cannot be mixed with other inputs.")
    if output in (None, "-"):
        return Plan([Job(None, None, file_format)])
    target = Path(str(output))
    if _means_folder(str(output)):
        raise UsageError(f"stdin has no name: -o must name a file, not the folder {target}.")
    return _checked([Job(None, target, file_format or _known_format(target))], existing, 0)


# -- inputs ----------------------------------------------------------------------------------


def _find(tokens: Sequence[str], output: Path | None) -> tuple[list[_Found], int, bool]:
    """(the inputs, how many files were ignored, whether they want a folder)."""
    paths = _expand(tokens)
    found: list[_Found] = []
    ignored = 0
    any_folder = False
    for path in paths:
        if not is_folder(path):
            found.append(_Found(path, None, False))
            continue
        any_folder = True
        pictures, skipped = walk(path, output, _READ)
        ignored += skipped
        # One folder alone is mirrored as it is; among others each keeps its name.
        top = Path() if len(paths) == 1 else Path(path.resolve().name)
        found += [_Found(p, top / p.relative_to(path), True) for p in pictures]
        if not pictures and len(paths) == 1:
            raise UsageError(f"There is no picture in {path}.")
    keys = PlaceKeys()
    unique = {keys.key(item.path): item for item in reversed(found)}
    kept = [item for item in found if unique[keys.key(item.path)] is item]
    return kept, ignored, any_folder or len(paths) > 1


def _expand(tokens: Sequence[str]) -> list[Path]:
    paths: list[Path] = []
    missing: list[str] = []
    for token in tokens:
        path = Path(token)
        if token and exists(token):
            paths.append(path)
        elif isinstance(token, _Literal) or not token:
            missing.append(token)
        elif token.startswith("@"):
            paths += (entries := read_list(Path(token[1:])))
            missing += [str(entry) for entry in entries if not exists(entry)]
        elif glob.has_magic(token):
            matches = sorted(glob.glob(token, recursive=True), key=natural_key)  # noqa: PTH207
            paths += (Path(match) for match in matches)
            missing += [] if matches else [token]
        else:
            missing.append(token)
    if missing:
        raise UsageError(f"There is no {_names(missing)}.")
    return paths


# -- outputs ---------------------------------------------------------------------------------


def _earlier_results(found: list[_Found], style: str) -> set[Path]:
    """Those found in folders that an earlier run wrote beside their inputs: no new inputs."""
    ending = f"_{style}"
    originals = {item.path.with_suffix("") for item in found}
    return {
        item.path
        for item in found
        if item.scanned
        and item.path.stem.endswith(ending)
        and item.path.with_name(item.path.stem[: -len(ending)]) in originals
    }


def _targets(
    found: list[_Found], style: str, output: str | None, file_format: str | None, many: bool
) -> list[Job]:
    if output is None:
        jobs = [Job(f.path, _beside(f.path, style, file_format), file_format) for f in found]
    elif many or _means_folder(output):
        _refuse_file(Path(output))
        jobs = [Job(f.path, Path(output) / _within(f, file_format), file_format) for f in found]
    else:
        source, target = found[0].path, Path(output)
        _refuse_other_kind(source, target)
        if is_video(source):
            file_format = format_of(target)
        return [Job(source, target, file_format or _known_format(target))]
    return [replace(job, format=_format_of(job, file_format)) for job in jobs]


def _format_of(job: Job, file_format: str | None) -> str | None:
    if job.target is None:
        return None
    return format_of(job.target) if is_video(job.source) else file_format or format_of(job.target)


def _refuse_other_kind(source: Path, target: Path) -> None:
    """Raise UsageError where a video would become a picture, or a picture a video."""
    if is_video(source) and not is_video(target):
        raise UsageError(f"{target} holds no video.", hint="-o FILE.mp4, .mov, .mkv, .webm, .avi")
    if is_video(target) and not is_video(source):
        raise UsageError(f"{source} is no video, and {target} is one.", hint="-o FILE.png")


def _refuse_file(output: Path) -> None:
    """Raise UsageError where ``output`` is or looks like a file, and a folder is wanted."""
    if is_folder(output):
        return
    if exists(output) or format_of(output) is not None:
        raise UsageError(
            f"-o {output} is a file: several inputs, or a folder, want a folder.", hint="-o FOLDER"
        )


def _means_folder(output: str) -> bool:
    """An existing folder, a name that ends in a separator, or one without an extension."""
    separators = tuple(s for s in (os.sep, os.altsep) if s)
    path = Path(output)
    return is_folder(path) or output.endswith(separators) or (not path.suffix and not exists(path))


def _known_format(target: Path) -> str:
    known = format_of(target)
    if known is None:
        raise UsageError(
            f"{target}: the extension does not say which kind of picture to write.",
            hint="Name it .png or .jpg, or add --format png.",
        )
    return format_by_name(known)


def _extension(path: Path, file_format: str | None) -> str:
    if file_format is None or is_video(path):
        return default_extension(path)
    return path.suffix if format_of(path) == file_format else extension_of(file_format)


def _beside(path: Path, style: str, file_format: str | None) -> Path:
    stem = path.stem if path.suffix.lower() in _READ else path.name
    return path.with_name(f"{stem}_{style}{_extension(path, file_format)}")


def _within(item: _Found, file_format: str | None) -> Path:
    below = item.below or Path(item.path.name)
    stem = below.stem if below.suffix.lower() in _READ else below.name
    return below.with_name(stem + _extension(item.path, file_format))


# -- refusals --------------------------------------------------------------------------------


def _checked(
    jobs: list[Job],
    existing: Existing,
    ignored: int,
    share: Callable[[list[Job]], list[Job]] | None = None,
) -> Plan:
    keys = PlaceKeys()
    sources = {keys.key(job.source): job.source for job in jobs if job.source is not None}
    writers: dict[tuple[str, str], Job] = {}
    for job in jobs:
        if job.target is None:
            continue
        key = keys.key(job.target)
        if key in sources:
            raise UsageError(
                f"{job.target} is an input, and would be written over.", hint="-o FOLDER"
            )
        if key in writers:
            raise UsageError(
                f"{writers[key].source} and {job.source} would both be written to {job.target}.",
                hint="Translate them into different folders: -o FOLDER",
            )
        writers[key] = job
        _check_place(job.target)
    jobs = share(jobs) if share else jobs
    there = [job for job in jobs if job.target is not None and os.path.lexists(job.target)]
    if there and existing == "refuse":
        raise UsageError(
            f"{_names([str(job.target) for job in there])} exist{'s' * (len(there) == 1)} already.",
            hint="--overwrite writes them anew, --skip-existing leaves them out.",
        )
    if existing != "skip":
        return Plan(jobs, [], ignored)
    left_out = set(there)
    return Plan([job for job in jobs if job not in left_out], there, ignored)


def _check_place(target: Path) -> None:
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


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
