"""Inputs to outputs, decided before any work. Torch, numpy and Pillow are not needed for it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cyclegan_cli.errors import UsageError
from cyclegan_cli.machine import balanced
from cyclegan_cli.media import folders, formats
from cyclegan_cli.media.folders import Input, PlaceKeys, is_folder, listed_names
from cyclegan_cli.media.formats import format_of, is_painting, is_video

Existing = Literal["refuse", "overwrite", "skip"]
_REVERSE = "-reverse"  # what the name of an output in the direction Y -> X has after the style's
_VIDEO = 100  # pixels a byte, about: reading a video's frames to count them would take long


@dataclass(frozen=True)
class Job:
    """One translation with ``style``. ``source`` None: stdin; ``target`` None: stdout.

    ``format``: Pillow's name of the format to write, MP4, MOV, MKV, WEBM or AVI; None: as read.
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

    ``inputs``: files, folders, patterns, ``@list.txt``, ``-`` for stdin; ``listed``: paths, taken
    literally. ``output``: a file, a folder (where a folder's tree is mirrored), ``-`` for stdout,
    or None: beside the input, as ``<stem>_<style>.<ext>`` (``<style>-reverse`` with ``reverse``).
    Outputs of this program are left out of folders and patterns unless ``include_paintings``; they
    are known by metadata or by the name of one of ``styles``. ``share``: which of all jobs are this
    process's. Raises UsageError where an input is missing, two would write one output, an output is
    an input, or one exists and ``existing`` is "refuse".
    """
    wanted = formats.format_by_name(file_format) if file_format is not None else None
    tokens = [*inputs, *(folders.Verbatim(str(path)) for path in listed)]
    names = [style] if isinstance(style, str) else style
    several = len(names) > 1
    if not tokens:
        raise UsageError("Nothing to translate was named.", hint="cyclegan translate --help")
    if several and (output == "-" or ("-" in inputs and output is None)):
        raise UsageError("stdout takes one picture, not one of each style.", hint="-o FOLDER")
    if "-" in inputs:
        if several:
            raise UsageError("stdin has no name: paint it with one style, -o FILE.")
        if len(tokens) > 1:
            raise UsageError("- (stdin) is one picture, and cannot be mixed with other inputs.")
        return _checked([_stdin_job(names[0], output, wanted)], existing)
    unreadable: list[UsageError] = []
    folder = Path(output) if output not in (None, "-") else None
    found, ignored, many = folders.find_inputs(tokens, folder, unreadable)
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
    plan = _checked(jobs, existing, share)
    return replace(plan, ignored_files=ignored, paintings=len(paintings), unreadable=unreadable)


def _stdin_job(style: str, output: str | None, file_format: str | None) -> Job:
    if output is None or output == "-":
        return Job(None, None, file_format, style)
    if _means_folder(output):
        raise UsageError(f"stdin has no name: -o must name a file, not the folder {Path(output)}.")
    return Job(None, Path(output), file_format or _known_format(Path(output)), style)


def _paintings(found: list[Input], styles: Iterable[str]) -> set[Path]:
    """Those that were not named and that this program wrote: no new inputs."""
    endings = {f"_{name}{way}" for name in styles for way in ("", _REVERSE)}
    originals = {path for item in found for path in (item.path, item.path.with_name(item.stem))}

    def is_named_after(path: Path, stem: str) -> bool:
        """Whether ``stem`` is that of an original beside it and a style's, or several in a row."""
        return any(
            path.with_name(shorter) in originals or is_named_after(path, shorter)
            for ending in endings
            if stem.endswith(ending) and (shorter := stem[: -len(ending)])
        )

    return {
        item.path
        for item in found
        if not item.named and (is_named_after(item.path, item.stem) or is_painting(item.path))
    }


def _targets(
    found: list[Input],
    label: str,
    output: str | None,
    file_format: str | None,
    *,
    many: bool,
    several: bool,
) -> list[Job]:
    names_file = output is not None and not _means_folder(output)
    if names_file and several:
        raise UsageError(f"-o {output} is a file: several styles need a folder.", hint="-o FOLDER")
    if output is not None and names_file and not many:
        source, target = found[0].path, Path(output)
        if is_video(source) and not is_video(target):
            hint = "-o FILE.mp4, .mov, .mkv, .webm, .avi"
            raise UsageError(f"{target} holds no video.", hint=hint)
        if is_video(target) and not is_video(source):
            raise UsageError(f"{source} is no video, and {target} is one.", hint="-o FILE.png")
        if is_video(source):
            file_format = format_of(target)
        return [Job(source, target, file_format or _known_format(target))]
    path = Path(output or "")
    if output is not None and not is_folder(path) and (folders.exists(path) or format_of(path)):
        raise UsageError(
            f"-o {path} is a file: several inputs, or a folder, want a folder.", hint="-o FOLDER"
        )

    def place(item: Input, stem: str) -> Path:
        ending = formats.default_extension(item.path)
        if file_format is not None and not is_video(item.path):
            same = format_of(item.path) == file_format
            ending = item.path.suffix if same else formats.EXTENSIONS[file_format]
        if output is None or several:
            ending = f"_{label}{ending}"
        path = item.path if output is None else Path(output) / (item.below or item.path.name)
        return path.with_name(folders.fitting(stem, ending))

    return [
        Job(item.path, target, (None if is_video(item.path) else file_format) or format_of(target))
        for item, target in zip(found, _distinct(found, place), strict=True)
    ]


def _distinct(found: list[Input], place: Callable[[Input, str], Path]) -> list[Path]:
    """An output for each input; ``place`` gives that of an input for the stem of its name.

    Where several inputs of one folder would have one output (``a.heic`` and ``a.jpg``), that whose
    extension is the output's keeps the name, or the first by name; the others keep their extension
    in the stem (``a.heic_monet.jpg``), and get a number where that is taken, too. Files that cannot
    be pictures choose last, so they change nobody's name. The order of the inputs does not matter.
    Raises UsageError where two inputs of different folders would have one output.
    """
    keys = PlaceKeys()
    first = [place(item, item.stem) for item in found]
    if len({keys.key(path) for path in first}) == len(first):
        return first
    order = [folders.natural_key(str(item.path)) for item in found]
    sources = {keys.key(item.path) for item in found}
    readable = [formats.may_be_read(item.path) for item in found]
    chosen: dict[int, Path] = {}
    owners: dict[tuple[str, str], int] = {}  # of each output
    for now in (True, False):
        left: list[int] = []
        by_preference = sorted(
            (index for index in range(len(found)) if readable[index] is now),
            key=lambda i: (found[i].path.suffix != first[i].suffix, order[i]),
        )
        for index in by_preference:
            owner = owners.setdefault(keys.key(first[index]), index)
            if owner == index:
                chosen[index] = first[index]
                continue
            left.append(index)
            one, other = found[owner].path, found[index].path
            if now and keys.key(one)[0] != keys.key(other)[0]:
                raise UsageError(
                    f"{one} and {other} would both be written to {first[owner]}.",
                    hint="Translate their folders one by one, each with a folder of its own "
                    "after -o.",
                )
        taken = sources | set(owners)
        for index in sorted(left, key=lambda i: order[i]):
            name = found[index].path.name
            stems = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
            paths = (place(found[index], stem) for stem in stems)
            chosen[index] = next(path for path in paths if keys.key(path) not in taken)
            owners[keys.key(chosen[index])] = index
            taken.add(keys.key(chosen[index]))
    return [chosen[index] for index in range(len(found))]


def _means_folder(output: str) -> bool:
    """An existing folder, a name that ends in a separator, or one without an extension."""
    if is_folder(output) or output.endswith((os.sep, os.altsep or os.sep)):
        return True
    return not Path(output).suffix and not folders.exists(output)


def _known_format(target: Path) -> str:
    known = format_of(target)
    if known is None:
        raise UsageError(
            f"{target}: the extension does not say which kind of picture to write.",
            hint="Name it .png or .jpg, or add --format png.",
        )
    return formats.format_by_name(known)


def _checked(
    jobs: list[Job], existing: Existing, share: Callable[[list[Job]], list[Job]] | None = None
) -> Plan:
    keys = PlaceKeys()
    sources = {keys.key(job.source) for job in jobs if job.source is not None}
    outputs: set[tuple[str, str]] = set()
    for target in (job.target for job in jobs if job.target is not None):
        key = keys.key(target)
        if key in outputs:
            raise UsageError(
                f"Two styles would write {target}.", hint="Paint with them one after the other."
            )
        outputs.add(key)
        if key in sources:
            hint = "-o FOLDER"
            if is_painting(target):
                hint += "; or name the folder, or a pattern in quotes, which leave out paintings"
            raise UsageError(f"{target} is an input, and would be written over.", hint=hint)
        folders.check_place(target)
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


def share_of_jobs(jobs: Sequence[Job], rank: int, size: int) -> list[Job]:
    """The jobs of process ``rank`` of ``size``, in order, balanced by pixels; always the same."""
    owners = balanced([_pixels(job) for job in jobs], size)
    return [job for job, owner in zip(jobs, owners, strict=True) if owner == rank]


def _pixels(job: Job) -> int:
    """How much there is to paint, by the header: width × height × frames; 0: it cannot be read."""
    from cyclegan_cli.media.decoding import MAX_PIXELS, held_pillow, opened

    if job.source is None:
        return 0
    try:
        if is_video(job.source):
            return job.source.stat().st_size * _VIDEO
        with held_pillow(), opened(job.source, "", MAX_PIXELS) as image:
            frames: int = getattr(image, "n_frames", 1)
            return int(image.width) * int(image.height) * frames
    except Exception:  # whoever gets it will say what is wrong with it
        return 0
