"""cyclegan translate: options -> settings -> a plan -> pictures -> results."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.jobs import (
    Work,
    check_shareable,
    job_record,
    own_share,
    paint_by,
    source_of,
    target_of,
)
from cyclegan_cli.cli.options import (
    GPU,
    PROCESSES,
    REVERSE,
    Table,
    argument,
    command,
    complete_style,
    flag,
    one_of,
    option,
)
from cyclegan_cli.cli.processes import launch, leading, local_count, member, wait_for_others
from cyclegan_cli.errors import CycleganError, UsageError, counted
from cyclegan_cli.media.folders import parse_list, read_list
from cyclegan_cli.media.plan import Plan, make_plan
from cyclegan_cli.settings import TranslateSettings
from cyclegan_cli.styles.catalogue import Style, obtainable
from cyclegan_cli.styles.store import find_styles, list_styles, weights_file

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def _amount(option: str, kilo: int, text: str) -> int:
    match = _AMOUNT.fullmatch(str(text).strip())
    if match is None:
        raise UsageError(f"{option} {text}: write a number such as 500M or 4G.")
    return int(float(match[1]) * kilo ** " KMGT".index(match[2].upper() or " "))


_OPTIONS: Table = {
    "Painting": (
        ("strength", "0..1", "From 0, the original, to 1, the painting."),
        "resolution",
        ("keep_color", "", "Keep the photo's colours; paint the brushwork."),
        ("compare", "", "Show original and result side by side."),
        ("steady", "no", "Keep videos from flickering."),
    ),
    "Inputs": (
        "from_file",
        "null",
        "include_paintings",
        ("max_pixels", "COUNT", "Refuse pictures of more pixels. Default: 1000M."),
    ),
    "Outputs": (
        "overwrite",
        "skip_existing",
        ("format", "EXT", "jpg, png, webp, tif, gif, avif, ... Default: the input's."),
        ("quality", "1..100", "Quality. Default: 95 (JPEG, WebP), 90 (AVIF, HEIC)."),
        ("strip_metadata", "", "Leave out EXIF, XMP, GPS and resolution."),
        "print0",
    ),
    "Device": (
        "gpu",
        ("precision", "TYPE", "auto, fp32, bf16 or fp16."),
        ("max_memory", "SIZE", "Memory to use at most, such as 4G. Default: what is free."),
        "processes",
        "together",
        ("exact_reference", "", "Use PyTorch's own layers only: slower."),
    ),
}
_FORMATS = ("jpg", "png", "webp", "tif", "gif", "avif", "heic", "jp2", "bmp")
_DETAILS: dict[str, dict[str, Any]] = {
    "max_pixels": {"parser": partial(_amount, "--max-pixels", 1000), "show_default": False},
    "max_memory": {"parser": partial(_amount, "--max-memory", 1024)},
    "format": {"complete": one_of(_FORMATS)},
}


@command("json", "quiet", "verbose", settings=TranslateSettings, table=_OPTIONS, details=_DETAILS)
def translate(
    console: Console,
    inputs: list[str] | None = argument(
        None, "INPUT", "Files, folders, patterns, @list.txt, or - for stdin."
    ),
    style: list[str] | None = option(
        None,
        "STYLE",
        "A style's name, or its path; several with commas, or by repetition.",
        *("--style", "-s"),
        complete=complete_style,
    ),
    output: str | None = option(
        None,
        "PATH",
        "A file, a folder, or - for stdout. Default: beside the input.",
        *("--output", "-o"),
    ),
    reverse: bool = REVERSE,
    dry_run: bool = flag("Print what would be written, and stop."),
    resolution: str = option(
        "auto",
        "WHICH",
        "Long side to paint at: auto (the style's), native (the picture's), or a number of pixels. "
        "The output has the input's size.",
        panel="Painting",
        complete=one_of(("auto", "native")),
    ),
    from_file: str | None = option(
        None, "LIST", "Read inputs from a file, one per line; - is stdin.", panel="Inputs"
    ),
    null: bool = flag(
        "Paths in LIST end with NUL; without LIST: --print0.", "--null", "-0", panel="Inputs"
    ),
    include_paintings: bool = flag("Do not skip earlier outputs in folders.", panel="Inputs"),
    overwrite: bool = flag("Overwrite existing files.", panel="Outputs"),
    skip_existing: bool = flag("Skip inputs whose output exists.", panel="Outputs"),
    print0: bool = flag("End printed paths with NUL, for xargs -0.", panel="Outputs"),
    gpu: str = GPU,
    processes: int = PROCESSES,
    together: bool = flag("Let all processes paint each (huge) picture together.", panel="Device"),
    **chosen: Any,
) -> None:
    """Paint pictures and videos with a style; they keep their size.

    Prints the paths it has written. Existing files are not overwritten, and one bad picture does
    not stop the others.

    \b
    Examples:
      cyclegan translate img.jpg --style monet
      cyclegan translate photos/ --style monet,vangogh -o paintings/
      cyclegan translate painting.png --style monet --reverse -o photo.png
      cyclegan translate '*.tif' --style monet --resolution 1024 --compare
      cyclegan translate film.mp4 --style monet -o film-by-monet.mp4
      cat img.jpg | cyclegan translate - --style monet > out.jpg
      cyclegan translate photos/ --style monet -o paintings/ --gpu 0,1
      find . -name '*.png' -print0 |
        cyclegan translate --from-file - -0 --style monet -o out/
    """
    # Of several processes the first tells of the work; each, of what it has done itself.
    console.quiet |= not leading()
    print0 = print0 or (null and from_file is None)
    console.end = "\0" if print0 else "\n"
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other.")
    settings = TranslateSettings(resolution=_resolution(resolution), **chosen)
    styles = find_styles(style or [])
    files = [_local_weights(console, one, reverse) for one in styles]
    plan = make_plan(
        inputs or [],
        style=[one.name for one in styles],
        reverse=reverse,
        styles=_known_styles(),
        include_paintings=include_paintings,
        listed=_listed(from_file, null, inputs or []),
        output=output,
        file_format=settings.format,
        existing="overwrite" if overwrite else "skip" if skip_existing else "refuse",
        share=None if together else own_share,
    )
    if dry_run:
        _print_plan(console, plan)
        return
    _say_left_out(console, plan)
    _check_streams(plan, console.as_json, print0)
    count = local_count(gpu, processes) if member() is None else 1
    if member() is not None or count > 1:
        check_shareable(plan, from_file)
    if count > 1 and plan.jobs:
        launch(count)
    work = Work(console, len(plan.jobs), unreadable=plan.unreadable)
    for one, file in zip(styles, files, strict=True):
        jobs = [job for job in plan.jobs if job.style == one.name]
        if not (jobs or together):
            continue
        if (weights := file) is None:
            from cyclegan_cli.cli.downloading import ensure_weights  # slow to import

            weights = ensure_weights(console, one, reverse)
        if resolution == "auto":
            settings = dataclasses.replace(settings, at_most=one.resolution)
        run = partial(work.run, jobs, settings=settings)
        paint_by(console, weights, settings, gpu, run, together=together)
    work.end()
    wait_for_others()


# -- from options to a plan ------------------------------------------------------------------


def _local_weights(console: Console, style: Style, reverse: bool) -> Path | None:
    """The style's weights on this machine; None where they must be downloaded first.

    Raises UsageError where the style has no such direction.
    """
    for hidden in style.hides:
        console.note(f"'{style.name}' is your {style.origin} style; it hides the {hidden} one.")
    return None if obtainable(style, "yx" if reverse else "xy") else weights_file(style, reverse)


def _resolution(text: str) -> int | None:
    if text in ("auto", "native"):
        return None
    if not text.isdecimal():
        raise UsageError(
            f"--resolution {text}: write auto, native, or a number of pixels such as 1024."
        )
    return int(text)


def _listed(from_file: str | None, null: bool, inputs: list[str]) -> list[Path]:
    if from_file is None:
        return []
    if from_file == "-" and "-" in inputs:
        raise UsageError("stdin cannot be both a picture and the list of pictures.")
    if from_file == "-":
        listed = parse_list(sys.stdin.buffer.read(), null=null)
    else:
        listed = read_list(Path(from_file), null=null)
    if not listed and not inputs:
        name = "stdin" if from_file == "-" else from_file
        raise UsageError(f"The list of pictures is empty: {name} names none.")
    return listed


def _known_styles() -> list[str]:
    """The names of the styles on this machine, as far as they can be read."""
    try:
        return [style.name for style in list_styles(available=False)]
    except CycleganError:
        return []


def _check_streams(plan: Plan, as_json: bool, print0: bool) -> None:
    if as_json and print0:
        raise UsageError("--print0 and --json exclude each other: a line of JSON ends as one.")
    if all(job.target is not None for job in plan.jobs):
        return
    if as_json:
        raise UsageError("stdout cannot carry both the picture and JSON.", hint="-o FILE")
    if sys.stdout.isatty():
        raise UsageError("A picture would be written to the terminal.", hint="-o FILE")
    if sys.stdout.name == os.devnull:  # which safe_streams puts where there is none
        raise UsageError("A picture would be written to stdout, which is closed.", hint="-o FILE")


def _print_plan(console: Console, plan: Plan) -> None:
    for job in plan.jobs:
        console.result(f"{source_of(job)} → {target_of(job)}", job_record(job, "planned"))
    _say_left_out(console, plan)
    for error in plan.unreadable:
        console.warn(str(error))


def _say_left_out(console: Console, plan: Plan) -> None:
    if plan.ignored_files:
        what = counted(plan.ignored_files, "file")
        console.detail(f"{what} skipped: hidden, or no picture.")
    if plan.paintings:
        are = "is" if plan.paintings == 1 else "are"
        what = counted(plan.paintings, "earlier output")
        console.note(f"{what} {are} left out; --include-paintings takes them as inputs.")
    if plan.there_already:
        console.note(f"{counted(len(plan.there_already), 'input')} skipped: the output exists.")
