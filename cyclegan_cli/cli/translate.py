"""cyclegan translate: options -> settings -> a plan -> pictures -> results."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from cyclegan_cli.cli.common import (
    Debug,
    Gpu,
    Json,
    Processes,
    Quiet,
    Stopped,
    Verbose,
    arguments,
    importing,
)
from cyclegan_cli.cli.completion import complete_style
from cyclegan_cli.cli.console import SIGPIPE, Console
from cyclegan_cli.cli.liveview import VideoPace
from cyclegan_cli.cli.processes import launch, leading, local_count, member, wait_for_others
from cyclegan_cli.cli.sharing import check_shareable, own_share, paint_together, painter
from cyclegan_cli.errors import CycleganError, UsageError
from cyclegan_cli.media.plan import Existing, Job, Plan, make_plan, parse_list, read_list
from cyclegan_cli.settings import Precision, TranslateSettings
from cyclegan_cli.styles.catalogue import obtainable
from cyclegan_cli.styles.store import find_style, list_styles, weights_file

if TYPE_CHECKING:
    from cyclegan_cli.painting.batch import Done, Event, Failed, PaintFrame

__all__ = ["translate"]

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def translate(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Files, folders, patterns, @list.txt, or - for stdin.",
            show_default=False,
        ),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(
            "--style",
            "-s",
            metavar="STYLE",
            help="A style's name, or the path to its file.",
            autocompletion=complete_style,
        ),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Y → X instead of X → Y.")] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file, a folder, or - for stdout. Default: <stem>_<style>.<ext> beside it.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write outputs that exist anew.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose output exists.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, do nothing.")] = False,
    from_file: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="A file that lists inputs, one a line; - is stdin."),
    ] = None,
    null: Annotated[
        bool,
        typer.Option("--null", "-0", help="LIST ends paths by NUL; without LIST, as --print0."),
    ] = False,
    print0: Annotated[
        bool, typer.Option("--print0", help="End each path on stdout by NUL (xargs -0).")
    ] = False,
    include_paintings: Annotated[
        bool,
        typer.Option("--include-paintings", help="Of folders, take earlier outputs as inputs."),
    ] = False,
    resolution: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Long side to paint at: auto (the style's), native, or pixels. The size stays.",
        ),
    ] = "auto",
    strength: Annotated[
        float, typer.Option(metavar="0..1", help="1: the painting; 0: the original.")
    ] = 1.0,
    keep_color: Annotated[
        bool, typer.Option("--keep-color", help="Only the brushwork, in the photo's colours.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Original and result side by side.")
    ] = False,
    steady: Annotated[
        bool,
        typer.Option("--steady/--no-steady", help="Keep videos from flickering, frame to frame."),
    ] = True,
    format: Annotated[
        str | None, typer.Option(metavar="EXT", help="jpg, png, webp, tif, gif, avif...")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(metavar="1..100", help="Of JPEG and WebP (95), AVIF (90).")
    ] = None,
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Leave out EXIF, XMP, GPS and resolution.")
    ] = False,
    gpu: Gpu = "auto",
    processes: Processes = 1,
    together: Annotated[
        bool,
        typer.Option("--together", help="Processes paint each picture together, for huge ones."),
    ] = False,
    precision: Annotated[
        str, typer.Option(metavar="WHICH", help="auto, fp32, bf16 or fp16.")
    ] = "auto",
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Such as 4G. Default: what is free.")
    ] = None,
    exact_reference: Annotated[
        bool, typer.Option("--exact-reference", help="Plain PyTorch layers, slower.")
    ] = False,
    max_pixels: Annotated[
        str, typer.Option(metavar="COUNT", help="Refuse larger pictures: 100M.")
    ] = "1000M",
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Translate pictures and videos with a style, at their size.

    The paths written go to stdout, everything else to stderr. All outputs are
    decided before any work; one bad picture never stops the others.

    \b
    Examples:
      cyclegan translate img.jpg --style monet
      cyclegan translate photos/ --style monet -o paintings/
      cyclegan translate painting.png --style monet --reverse -o photo.png
      cyclegan translate '*.tif' --style monet --resolution 1024 --compare
      cyclegan translate film.mp4 --style monet -o film-by-monet.mp4
      cat img.jpg | cyclegan translate - --style monet > out.jpg
      cyclegan translate photos/ --style monet -o paintings/ --gpu 0,1
      find . -name '*.png' -print0 |
        cyclegan translate --from-file - -0 --style monet -o out/
    """
    # Of several processes the first tells of the work; each, of what it has done itself.
    silent = quiet or not leading()
    print0 = print0 or (null and from_file is None)
    console = Console(as_json=json_, quiet=silent, verbose=verbose, end="\0" if print0 else "\n")
    settings = TranslateSettings(
        precision=_precision(precision),
        resolution=_resolution(resolution),
        strength=strength,
        keep_color=keep_color,
        compare=compare,
        steady=steady,
        format=format,
        quality=quality,
        strip_metadata=strip_metadata,
        max_memory=None if max_memory is None else _amount("--max-memory", max_memory, 1024),
        exact_reference=exact_reference,
        max_pixels=_amount("--max-pixels", max_pixels, 1000),
    )
    found = find_style(_one_style(style or []))
    if resolution == "auto":
        settings = dataclasses.replace(settings, at_most=found.resolution)
    weights = None
    if not obtainable(found, "yx" if reverse else "xy"):
        weights = weights_file(found, reverse)  # what is missing is said before any work
    for hidden in found.hides:
        console.note(f"'{found.name}' is your {found.origin} style; it hides the {hidden} one.")
    plan = make_plan(
        inputs or [],
        style=found.name,
        reverse=reverse,
        styles=_known_styles(),
        include_paintings=include_paintings,
        listed=_listed(from_file, null, inputs or []),
        output=output,
        file_format=format,
        existing=_existing(overwrite, skip_existing),
        share=None if together else own_share,
    )
    if dry_run:
        _print_plan(console, plan)
        return
    _say_left_out(console, plan)
    _check_streams(plan, json_, print0)
    count = local_count(gpu, processes) if member() is None else 1
    if member() is not None or count > 1:
        check_shareable(plan, from_file)
    if count > 1 and plan.jobs:
        launch(arguments(), count)
    if plan.jobs or together:
        if weights is None:
            from cyclegan_cli.cli.downloading import ensure_weights

            weights = ensure_weights(console, found, reverse)
        if together:
            paint_together(
                *(console, weights, settings, gpu),
                lambda paint: _run(console, plan, paint, settings),
            )
        else:
            _run(console, plan, painter(console, weights, settings, gpu), settings)
    wait_for_others()


# -- from options to a plan ------------------------------------------------------------------


def _one_style(given: list[str]) -> str:
    names = list(dict.fromkeys(given))
    if not names:
        raise UsageError(
            "No style was named.", hint="--style NAME; cyclegan pretrained list shows the names."
        )
    if len(names) > 1:
        raise UsageError(
            f"--style was given for {len(names)} styles: {', '.join(names)}. One is painted with.",
            hint="One command for each: outputs are named after their style.",
        )
    return names[0]


def _precision(text: str) -> Precision:
    for name in get_args(Precision):
        if text == name:
            return name  # type: ignore[no-any-return]
    raise UsageError(f"--precision {text}: it must be auto, fp32, bf16 or fp16.")


def _resolution(text: str) -> int | None:
    if text in ("auto", "native"):
        return None
    if not text.isdecimal():
        raise UsageError(
            f"--resolution {text}: write auto, native, or a number of pixels such as 1024."
        )
    return int(text)


def _amount(option: str, text: str, kilo: int) -> int:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text}: write a number such as 500M or 4G.")
    return int(float(match[1]) * kilo ** " KMGT".index(match[2].upper() or " "))


def _existing(overwrite: bool, skip: bool) -> Existing:
    if overwrite and skip:
        raise UsageError("--overwrite and --skip-existing exclude each other.")
    return "overwrite" if overwrite else "skip" if skip else "refuse"


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
        console.result(f"{_source(job)} → {_target(job)}", _record(job, "planned"))
    _say_left_out(console, plan)
    for error in plan.unreadable:
        console.warn(str(error))


def _say_left_out(console: Console, plan: Plan) -> None:
    if plan.ignored_files:
        console.detail(f"{plan.ignored_files} files that are hidden or no pictures are left out.")
    if plan.paintings:
        count = plan.paintings
        what = "1 earlier output is" if count == 1 else f"{count} earlier outputs are"
        console.note(f"{what} left out; --include-paintings takes them as inputs.")
    if plan.there_already:
        count = len(plan.there_already)
        what = (
            "1 output exists already and is"
            if count == 1
            else f"{count} outputs exist already and are"
        )
        console.note(f"{what} left as {'it is' if count == 1 else 'they are'}.")


# -- the work --------------------------------------------------------------------------------


def _run(console: Console, plan: Plan, paint: PaintFrame, settings: TranslateSettings) -> None:
    """Do the plan and render its events. Raises typer.Exit(1) at its end where some failed."""
    with importing():
        from cyclegan_cli.painting.batch import Done, FramePainted, Sounds, translate_media

    stdin = b""
    if any(job.source is None for job in plan.jobs):
        stdin = sys.stdin.buffer.read()
    failures: list[Failed] = []
    done = 0
    events = translate_media(plan.jobs, paint, settings, stdin=stdin, stdout=sys.stdout.buffer)
    pace = VideoPace()
    total = len(plan.jobs)
    try:
        with contextlib.closing(events), console.progress("Translating", total) as bar:
            for event in events:
                if isinstance(event, FramePainted):
                    bar.advance(0, pace.text(event))
                    continue
                if isinstance(event, Sounds):
                    console.note(f"{_source(event.job)}: its sound becomes {event.codec}.")
                    continue
                if isinstance(event, Done):
                    done += 1
                else:
                    failures.append(event)
                _report(console, event)
                bar.advance(text=f"{len(failures)} failed" if failures else "")
    except BrokenPipeError:
        raise Stopped(SIGPIPE) from None  # the reader of -o - has what it wanted
    except Stopped as stop:
        if stop.signum != SIGPIPE:
            console.note(f"{done} of {total} were done; --skip-existing goes on from there.")
        raise
    if failures or plan.unreadable:
        if failures and total > 1:
            console.warn(f"{len(failures)} of {total} failed; the others are done:")
        for error in [*(failure.error for failure in failures), *plan.unreadable]:
            console.error(error)
        wait_for_others()
        raise typer.Exit(1)


def _report(console: Console, event: Event) -> None:
    from cyclegan_cli.painting.batch import Done

    if isinstance(event, Done):
        _report_done(console, event)
    else:
        console.detail(f"failed: {event.error}")
        if console.as_json:
            extra = {"error": str(event.error), "hint": event.error.hint}
            console.result("", _record(event.job, "failed") | extra)


def _report_done(console: Console, event: Done) -> None:
    width, height = event.size
    frames = f", {event.frames} frames" if event.frames > 1 else ""
    console.detail(f"{_source(event.job)}: {width}×{height}{frames}, {event.seconds:.1f} s")
    if event.job.target is not None:
        facts = {"width": width, "height": height, "frames": event.frames}
        record = _record(event.job, "done") | facts | {"seconds": round(event.seconds, 3)}
        console.result(_target(event.job), record)


def _record(job: Job, status: str) -> dict[str, Any]:
    return {"input": _source(job), "output": _target(job), "status": status}


def _source(job: Job) -> str:
    return "-" if job.source is None else str(job.source)


def _target(job: Job) -> str:
    return "-" if job.target is None else str(job.target)
