"""Inputs to outputs, decided before any work. Torch, numpy and Pillow are not needed for it."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cyclegan_cli.errors import UsageError
from cyclegan_cli.media.folders import (
    PlaceKeys,
    Verbatim,
    check_place,
    exists,
    expand,
    find_pictures,
    fitting,
    is_folder,
    is_painting,
    listed_names,
    natural_key,
    parse_list,
    read_list,
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
    may_be_read,
)

__all__ = [
    "PICTURE_EXTENSIONS",
    "Existing",
    "Job",
    "Plan",
    "find_pictures",
    "make_plan",
    "parse_list",
    "read_list",
]

Existing = Literal["refuse", "overwrite", "skip"]
_READ = PICTURE_EXTENSIONS | VIDEO_EXTENSIONS
_REVERSE = "-reverse"  # what the name of an output in the direction Y -> X has after the style's


@dataclass(frozen=True)
class Job:
    """One translation. ``source`` None: stdin; ``target`` None: stdout; ``format`` None: as read.

    ``format`` is Pillow's name of the format to write, or MP4, MOV, MKV, WEBM or AVI. ``style``:
    the name of the one to paint with.
    """

    source: Path | None
    target: Path | None
    format: str | None
    style: str = field(default="", compare=False)


@dataclass(frozen=True)
class Plan:
    """What will be done, in order, and what will not.

    ``there_already``: outputs that exist. ``ignored_files``: hidden ones, and no pictures.
    ``paintings``: outputs of earlier runs, found where inputs were looked for. ``unreadable``:
    folders below those that were named.
    """

    jobs: list[Job]
    there_already: list[Job] = field(default_factory=list)
    ignored_files: int = 0
    paintings: int = 0
    unreadable: list[UsageError] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """One input: where it lies, and where it goes below an output folder (None: by its name)."""

    path: Path
    below: Path | None
    named: bool  # by the user or a list, not found in a folder or by a pattern

    @property
    def stem(self) -> str:
        """The name without the extension of a picture or video."""
        return self.path.stem if self.path.suffix.lower() in _READ else self.path.name


def make_plan(
    inputs: Sequence[str],
    *,
    style: str | Sequence[str],
    reverse: bool = False,
    styles: Iterable[str] = (),
    include_paintings: bool = False,
    listed: Iterable[Path] = (),
    output: str | None = None,
    file_format: str | None = None,
    existing: Existing = "refuse",
    share: Callable[[list[Job]], list[Job]] | None = None,
) -> Plan:
    """Decide what is read and what is written, before any of it.

    ``inputs``: files, folders, patterns, ``@list.txt``, ``-`` for stdin. ``listed``: paths that are
    taken literally. ``output``: a file, a folder, ``-`` for stdout, or None: beside the input, as
    ``<stem>_<style>.<ext>`` (``<stem>_<style>-reverse.<ext>`` with ``reverse``). Beneath an output
    folder, a folder's tree is mirrored with its names. ``file_format`` speaks of pictures: videos
    keep their kind, or get that of ``output``. Of several styles, ``output`` must be a folder or
    None, and the outputs in a folder are named after their style, too.

    Inputs of one folder whose outputs would have one name get names of their own: see
    ``_distinct``. Outputs of this program are left out of folders and patterns, unless
    ``include_paintings``; they are known by their metadata or, beside their original, by the name
    of one of ``styles`` or of ``style`` in theirs.

    ``share``: which of all jobs are this process's; outputs that exist are looked for only then,
    since other processes may be writing theirs.

    Raises UsageError, naming files, where an input is missing, two inputs of different folders or
    two styles would write one output, an output is an input, or one exists (unless ``existing``
    says otherwise).
    """
    wanted = format_by_name(file_format) if file_format is not None else None
    tokens = [*inputs, *(Verbatim(str(path)) for path in listed)]
    names = [style] if isinstance(style, str) else style
    several = len(names) > 1
    if not tokens:
        raise UsageError("Nothing to translate was named.", hint="cyclegan translate --help")
    if several and (output == "-" or ("-" in inputs and output is None)):
        raise UsageError("stdout takes one picture, not one of each style.", hint="-o FOLDER")
    if several and "-" in inputs:
        raise UsageError("stdin has no name: paint it with one style, -o FILE.")
    if "-" in inputs:
        return _plan_stdin(tokens, names[0], output, wanted, existing)
    unreadable: list[UsageError] = []
    folder = Path(output) if output not in (None, "-") else None
    found, ignored, many = _find(tokens, folder, unreadable)
    paintings = set() if include_paintings else _paintings(found, [*names, *styles])
    found = [item for item in found if item.path not in paintings]
    if not found:
        raise UsageError(
            f"{listed_names(sorted(paintings))}: outputs of this program, and no other pictures.",
            hint="--include-paintings takes them as inputs.",
        )
    if output == "-":
        if many or len(found) != 1:
            raise UsageError("-o - takes one picture, not several.", hint="-o FOLDER")
        if is_video(found[0].path):
            raise UsageError("A video cannot be written to stdout.", hint="-o FILE")
        return Plan([Job(found[0].path, None, wanted, names[0])], [], ignored)
    jobs = []
    for name in names:
        label = name + _REVERSE if reverse else name
        targets = _targets(found, label, output, wanted, many=many, several=several)
        jobs += [replace(job, style=name) for job in targets]
    if several:
        _refuse_shared(jobs)
    plan = _checked(jobs, existing, share)
    plan = replace(plan, ignored_files=ignored, paintings=len(paintings))
    return replace(plan, unreadable=unreadable)


def _refuse_shared(jobs: Iterable[Job]) -> None:
    """Raise UsageError where two styles would write one output."""
    keys = PlaceKeys()
    outputs: set[tuple[str, str]] = set()
    for target in (job.target for job in jobs if job.target is not None):
        key = keys.key(target)
        if key in outputs:
            raise UsageError(
                f"Two styles would write {target}.", hint="Paint with them one after the other."
            )
        outputs.add(key)


def _plan_stdin(
    tokens: Sequence[str],
    style: str,
    output: str | None,
    file_format: str | None,
    existing: Existing,
) -> Plan:
    if len(tokens) > 1:
        raise UsageError("- (stdin) is one picture, and cannot be mixed with other inputs.")
    if output in (None, "-"):
        return Plan([Job(None, None, file_format, style)])
    target = Path(str(output))
    if _means_folder(str(output)):
        raise UsageError(f"stdin has no name: -o must name a file, not the folder {target}.")
    job = Job(None, target, file_format or _known_format(target), style)
    return _checked([job], existing)


# -- inputs ----------------------------------------------------------------------------------


def _find(
    tokens: Sequence[str], output: Path | None, unreadable: list[UsageError]
) -> tuple[list[_Found], int, bool]:
    """(the inputs, how many files were ignored, whether they want a folder)."""
    paths = expand(tokens)
    found: list[_Found] = []
    ignored = 0
    any_folder = False
    for path, named in paths:
        if not is_folder(path):
            found.append(_Found(path, None, named))
            continue
        any_folder = True
        pictures, skipped = walk(path, output, _READ, unreadable)
        ignored += skipped
        # One folder alone is mirrored as it is; among others each keeps its name.
        top = Path() if len(paths) == 1 else Path(path.resolve().name)
        found += [_Found(p, top / p.relative_to(path), False) for p in pictures]
        if not pictures and len(paths) == 1:
            raise unreadable[0] if unreadable else UsageError(f"There is no picture in {path}.")
    keys = PlaceKeys()
    named_places = {keys.key(item.path) for item in found if item.named}
    unique: dict[tuple[str, str], _Found] = {}
    for item in found:
        unique.setdefault(keys.key(item.path), item)
    kept = [replace(item, named=key in named_places) for key, item in unique.items()]
    return kept, ignored, any_folder or len(paths) > 1


# -- outputs ---------------------------------------------------------------------------------


def _paintings(found: list[_Found], styles: Iterable[str]) -> set[Path]:
    """Those that were not named and that this program wrote: no new inputs."""
    endings = {f"_{name}{way}" for name in styles for way in ("", _REVERSE)}
    originals = {path for item in found for path in (item.path, item.path.with_name(item.stem))}
    return {
        item.path
        for item in found
        if not item.named
        and (_is_named_after(item.path, item.stem, endings, originals) or is_painting(item.path))
    }


def _is_named_after(path: Path, stem: str, endings: set[str], originals: set[Path]) -> bool:
    """Whether ``stem`` is that of an original beside it and a style's, or several, one by one."""
    return any(
        path.with_name(shorter) in originals or _is_named_after(path, shorter, endings, originals)
        for ending in endings
        if stem.endswith(ending) and (shorter := stem[: -len(ending)])
    )


def _targets(
    found: list[_Found],
    label: str,
    output: str | None,
    file_format: str | None,
    *,
    many: bool,
    several: bool,
) -> list[Job]:
    if output is not None and several and not _means_folder(output):
        raise UsageError(f"-o {output} is a file: several styles need a folder.", hint="-o FOLDER")
    if output is not None and not many and not _means_folder(output):
        source, target = found[0].path, Path(output)
        _refuse_other_kind(source, target)
        if is_video(source):
            file_format = format_of(target)
        return [Job(source, target, file_format or _known_format(target))]
    if output is not None:
        _refuse_file(Path(output))

    def place(item: _Found, stem: str) -> Path:
        ending = _extension(item.path, file_format)
        if output is None or several:
            ending = f"_{label}{ending}"
        path = item.path if output is None else Path(output) / (item.below or item.path.name)
        return path.with_name(fitting(stem, ending))

    targets = _distinct(found, place)
    jobs = [Job(f.path, t, file_format) for f, t in zip(found, targets, strict=True)]
    return [replace(job, format=_format_of(job, file_format)) for job in jobs]


def _distinct(found: list[_Found], place: Callable[[_Found, str], Path]) -> list[Path]:
    """An output for each input; ``place`` gives that of an input for the stem of its name.

    Where several inputs of one folder would have one output (``a.heic`` and ``a.jpg``), that whose
    extension is the output's keeps the name, or the first by name where there is none; the others
    keep their extension in the stem (``a.heic_monet.jpg``), and get a number where that name is
    taken, too. Files that cannot be pictures choose last, so they change nobody's name. Nothing of
    it depends on the order of the inputs.

    Raises UsageError where two inputs of different folders would have one output.
    """
    keys = PlaceKeys()
    first = [place(item, item.stem) for item in found]
    if len({keys.key(path) for path in first}) == len(first):
        return first
    order = [natural_key(str(item.path)) for item in found]
    chosen: dict[int, Path] = {}
    outputs: set[tuple[str, str]] = set()
    sources = {keys.key(item.path) for item in found}
    readable = [may_be_read(item.path) for item in found]
    for now in (True, False):
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, path in enumerate(first):
            if readable[index] is now:
                groups[keys.key(path)].append(index)
        left: list[int] = []
        for key, group in groups.items():
            group.sort(key=lambda i: (found[i].path.suffix != first[i].suffix, order[i]))
            if now:
                _refuse_folders([found[i].path for i in group], first[group[0]], keys)
            if key not in outputs:
                chosen[group[0]] = first[group[0]]
                left += group[1:]
            else:
                left += group
        outputs |= {keys.key(path) for path in chosen.values()}
        for index in sorted(left, key=lambda i: order[i]):
            names = (place(found[index], stem) for stem in _stems(found[index]))
            chosen[index] = next(n for n in names if keys.key(n) not in outputs | sources)
            outputs.add(keys.key(chosen[index]))
    return [chosen[index] for index in range(len(found))]


def _stems(item: _Found) -> Iterator[str]:
    """The whole name, then with a number."""
    return (item.path.name + (f"-{n}" if n > 1 else "") for n in itertools.count(1))


def _refuse_folders(sources: list[Path], target: Path, keys: PlaceKeys) -> None:
    """Raise UsageError where ``sources``, which would all write ``target``, lie in two folders."""
    one = sources[0]
    for other in sources[1:]:
        if keys.key(other)[0] != keys.key(one)[0]:
            raise UsageError(
                f"{one} and {other} would both be written to {target}.",
                hint="Translate their folders one by one, each with a folder of its own after -o.",
            )


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


# -- refusals --------------------------------------------------------------------------------


def _checked(
    jobs: list[Job],
    existing: Existing,
    share: Callable[[list[Job]], list[Job]] | None = None,
) -> Plan:
    keys = PlaceKeys()
    sources = {keys.key(job.source) for job in jobs if job.source is not None}
    for job in jobs:
        if job.target is None:
            continue
        if keys.key(job.target) in sources:
            hint = "-o FOLDER"
            if is_painting(job.target):
                hint += "; or name the folder, or a pattern in quotes, which leave out paintings"
            raise UsageError(f"{job.target} is an input, and would be written over.", hint=hint)
        check_place(job.target)
    jobs = share(jobs) if share else jobs
    there = [job for job in jobs if job.target is not None and os.path.lexists(job.target)]
    if there and existing == "refuse":
        exist = "exists" if len(there) == 1 else "exist"
        raise UsageError(
            f"{listed_names([job.target for job in there])} {exist} already.",
            hint="--overwrite replaces them, --skip-existing leaves them out.",
        )
    if existing != "skip":
        return Plan(jobs)
    left_out = set(there)
    return Plan([job for job in jobs if job not in left_out], there)
