"""cyclegan timelapse: the samples of a run, one after another, as an animation or a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclegan_cli.cli.common import Debug, Json, Quiet, RunName
from cyclegan_cli.cli.console import Console
from cyclegan_cli.errors import PictureError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from cyclegan_cli.engine.run import Run
    from cyclegan_cli.report.samples import Sheet

__all__ = ["timelapse"]

_LINGER = 2.0  # seconds that the last frame stays


def timelapse(
    run: RunName,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A gif, webp, png, mp4, mov, mkv, webm or avi."
        ),
    ] = None,
    fps: Annotated[
        float, typer.Option(min=0.1, max=60, metavar="RATE", help="Samples shown per second.")
    ] = 6.0,
    picture: Annotated[
        int | None,
        typer.Option(min=1, metavar="NUMBER", help="Only this held-out picture, from 1 on."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing file.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show how a training went: its held-out pictures, painted at every sample, as a film.

    Each frame has x, G(x), y and F(y), and says the step. Without --output it is timelapse.gif in
    the run's folder, replaced each time. Many samples are thinned out to 120.

    \b
    Examples:
      cyclegan timelapse photos2vangogh
      cyclegan timelapse photos2vangogh -o film.mp4 --fps 12
      cyclegan timelapse photos2vangogh -o one.webp --picture 2
    """
    console = Console(as_json=json_, quiet=quiet)
    from cyclegan_cli.engine.run import find_run
    from cyclegan_cli.report.samples import list_sheets
    from cyclegan_cli.report.timelapse import spread

    found = find_run(run)
    target = found.folder / "timelapse.gif" if output is None else output
    kind = _kind(target)
    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} exists already.", hint="Use --overwrite, or another -o.")
    sheets = spread(list_sheets(found.folder / "samples"))
    if not sheets:
        raise UsageError(
            f"The run '{found.name}' has no samples.",
            hint="They come at every --sample-every of a training with --samples 1 or more.",
        )
    frames: list[Image.Image] = []
    with console.progress("reading samples", len(sheets)) as bar:
        for sheet in sheets:
            try:
                frames.append(_frame(found, sheet, sheets[-1].step, picture))
            except PictureError as error:
                console.warn(f"left out: {error}")
            bar.advance()
    if not frames:
        raise PictureError("None of the samples could be read.")
    frames = [frame for frame in frames if frame.size == frames[-1].size]
    _write(frames, target, kind, fps)
    record = {"run": found.name, "timelapse": str(target), "frames": len(frames)}
    console.result(str(target), record)


def _kind(target: Path) -> str:
    """The format that the name asks for. Raises UsageError where it holds no moving pictures."""
    from cyclegan_cli.media.formats import ANIMATED, format_of, is_video

    kind = format_of(target)
    if kind is None or not (is_video(target) or kind in ANIMATED):
        raise UsageError(
            f"{target} names no format of moving pictures.",
            hint="Choose a name that ends in .gif, .webp, .png, .mp4, .mov, .mkv, .webm or .avi.",
        )
    return kind


def _frame(run: Run, sheet: Sheet, last: int, picture: int | None) -> Image.Image:
    from cyclegan_cli.report.samples import read_sheet
    from cyclegan_cli.report.timelapse import frame_of

    label = f"step {sheet.step:,}, epoch {sheet.step / run.steps_per_epoch:.1f}"
    return frame_of(read_sheet(sheet.path), label, sheet.step / max(last, 1), picture)


def _write(frames: list[Image.Image], target: Path, kind: str, fps: float) -> None:
    from fractions import Fraction

    import numpy as np

    from cyclegan_cli.media.encoding import write_picture
    from cyclegan_cli.media.formats import is_video
    from cyclegan_cli.media.pictures import Frame, Metadata, Picture
    from cyclegan_cli.media.video import Motion, write_frames

    pixels = [np.asarray(frame) for frame in frames]
    if is_video(target):
        rate = Fraction(fps).limit_denominator(1000)
        pixels += pixels[-1:] * round(_LINGER * fps)
        motion = Motion(None, *frames[0].size, rate, len(pixels))
        with write_frames(target, kind, motion) as write:
            for frame in pixels:
                write(frame)
        return
    shown = [1000 / fps] * len(pixels)
    shown[-1] += 1000 * _LINGER
    made = tuple(Frame(p, None, time) for p, time in zip(pixels, shown, strict=True))
    picture = Picture(made, "RGB", kind, plays=0, poster=False, lossless=False, metadata=Metadata())
    write_picture(picture, target, kind)
