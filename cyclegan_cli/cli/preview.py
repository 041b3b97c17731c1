"""cyclegan preview: one sheet of several styles, or of one at several settings, to choose from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import (
    GPU,
    OVERWRITE,
    REVERSE,
    argument,
    command,
    complete_local_style,
    flag,
    option,
)
from cyclegan_cli.errors import PictureError, UsageError, reason_of
from cyclegan_cli.settings import TranslateSettings, fraction
from cyclegan_cli.styles.catalogue import Style
from cyclegan_cli.styles.store import find_styles, list_styles, weights_file

if TYPE_CHECKING:
    from PIL import Image

    from cyclegan_cli.painting.painter import Painter

Resolution = int | str  # the long side in pixels, auto or native

_STRENGTHS = (0.4, 0.7, 1.0)  # shown for one style, unless others are named
_RESOLUTIONS = (512, 1024)  # of a style without one; those below the photograph's own size
_COLUMNS = 3  # of a sheet of styles, the photograph among them
_GAP, _CAPTION = 12, 26  # pixels


Cell = tuple[str, Style, TranslateSettings]  # a painting of the sheet and its caption


@command("json", "quiet")
def preview(
    console: Console,
    image: Path = argument(..., "IMAGE", "A photograph."),
    style: list[str] | None = option(
        None,
        "STYLE",
        "Only these styles, separated by commas. Default: all installed.",
        *("--style", "-s"),
        complete=complete_local_style,
    ),
    strength: str | None = option(None, "LIST", "Strengths to compare, such as 0.3,0.6,1."),
    resolution: str | None = option(
        None, "LIST", "Resolutions to compare, such as 512,1024,native."
    ),
    keep_color: bool = flag("Compare with the photo's own colours."),
    reverse: bool = REVERSE,
    crop: bool = flag("Show the middle at full size, to see the strokes."),
    size: int = option(480, "PIXELS", "Long side of each picture on the sheet."),
    output: Path | None = option(
        None, "FILE", "The sheet. Default: <stem>_preview.jpg.", "--output", "-o"
    ),
    overwrite: bool = OVERWRITE,
    gpu: str = GPU,
) -> None:
    """Make one sheet to choose from: every style, or one style at several settings.

    With one --style, the sheet compares strengths (across) and resolutions (down), unless other
    settings are named. The photograph comes first. Pictures are painted at full size and shown
    small; --crop shows the middle at full size.

    \b
    Examples:
      cyclegan preview garden.jpg
      cyclegan preview garden.jpg --crop
      cyclegan preview garden.jpg --style monet --strength 0.5,1
      cyclegan preview garden.jpg --keep-color
    """
    if not 64 <= size <= 4096:
        raise UsageError("--size must lie between 64 and 4096.")
    target = _target(image, output, overwrite)
    styles, resolutions = _styles(style, reverse), _resolutions(resolution)
    strengths = [fraction("--strength", part) for part in _parts(strength)]
    from PIL import Image

    from cyclegan_cli.media.pictures import read_rgb
    from cyclegan_cli.painting.effects import paint_picture

    photo = Image.fromarray(pixels := read_rgb(image))
    if style is not None and len(styles) == 1 and not (strengths or resolutions or keep_color):
        strengths = list(_STRENGTHS)
        usual = styles[0].resolution  # strokes are larger at a lower one
        sides = _RESOLUTIONS if usual is None else (usual * 5 // 8, usual)
        resolutions = [*(side for side in sides if side < max(photo.size)), "native"]
    cells, across = _plan(styles, strengths or [1.0], resolutions or ["auto"], keep_color)
    shown = [("photograph", _shown(photo, size, crop=crop))]
    with console.progress("Painting", len(cells)) as bar:
        for caption, one, settings in cells:
            painter = _painter(weights_file(one, reverse), gpu)
            painted = Image.fromarray(paint_picture(painter, pixels, settings))
            shown.append((caption, _shown(painted, size, crop=crop)))
            bar.advance(text=caption)
    _write(_sheet(shown, across), target)
    console.result(str(target), {"sheet": str(target), "pictures": [name for name, _ in shown]})


def _target(image: Path, output: Path | None, overwrite: bool) -> Path:
    target = output or image.with_name(f"{image.stem}_preview.jpg")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already.", hint="Use --overwrite, or another -o.")
    if not target.parent.is_dir():
        raise UsageError(f"No such folder: {target.parent}")
    if not image.is_file():
        raise UsageError(f"No such file: {image}")
    return target


def _plan(
    styles: list[Style],
    strengths: Sequence[float],
    resolutions: Sequence[Resolution],
    keep_color: bool,
) -> tuple[list[Cell], int]:
    """What is painted, and how many settings stand in a row; 1: only styles are compared."""
    colors = (False, True) if keep_color else (False,)
    cells = []
    for style, side, value, keep in itertools.product(styles, resolutions, strengths, colors):
        words = [style.name]
        words += [f"strength {value:g}"] * (len(strengths) > 1)
        words += [f"resolution {side}"] * (len(resolutions) > 1)
        words += ["photo's colours"] * keep
        settings = TranslateSettings(
            resolution=None if isinstance(side, str) else side,
            at_most=style.resolution if side == "auto" else None,
            strength=value,
            keep_color=keep,
        )
        cells.append((", ".join(words), style, settings))
    across = len(strengths) * len(colors)
    return cells, across if across > 1 else len(resolutions)


def _styles(given: list[str] | None, reverse: bool) -> list[Style]:
    if given is not None:
        found = find_styles(given)
        for style in found:
            weights_file(style, reverse)  # raises where that direction is not here
        return found
    way = "yx" if reverse else "xy"
    found = [style for style in list_styles(available=False) if way in style.directions]
    if not found:
        raise UsageError("No style is installed.", hint="cyclegan pretrained list")
    return found


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _resolutions(text: str | None) -> list[Resolution]:
    found: list[Resolution] = []
    for word in map(str.lower, _parts(text)):
        if word in ("auto", "native"):
            found.append(word)
        elif word.isdecimal() and 16 <= int(word) <= 20_000:
            found.append(int(word))
        else:
            raise UsageError(
                f"--resolution {text}: auto, native, or pixels (16 to 20000), such as 512,native."
            )
    return found


@lru_cache(maxsize=1)
def _painter(weights: Path, gpu: str) -> Painter:
    from cyclegan_cli.painting.painter import open_painter

    return open_painter(weights, gpu)


def _shown(picture: Image.Image, size: int, *, crop: bool) -> Image.Image:
    """The whole picture with its long side at most ``size``, or its middle at full size."""
    from PIL import Image

    if not crop:
        small = picture.copy()
        small.thumbnail((size, size), Image.Resampling.LANCZOS)
        return small
    width, height = min(size, picture.width), min(size * 3 // 4, picture.height)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _sheet(shown: list[tuple[str, Image.Image]], across: int) -> Image.Image:
    """The photograph, then the paintings, each under its caption.

    ``across``: settings in a row, right of the photograph; 1: the paintings are rows of styles.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = shown[0][1].size
    places = [divmod(index, _COLUMNS) for index in range(len(shown))]
    if across > 1:
        grid = (divmod(index, across) for index in range(len(shown) - 1))
        places = [(0, 0), *((row, column + 1) for row, column in grid)]
    down, wide = (max(numbers) + 1 for numbers in zip(*places, strict=True))
    sheet = Image.new(
        "RGB", (_GAP + wide * (width + _GAP), _GAP + down * (height + _CAPTION + _GAP)), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for (caption, picture), (row, column) in zip(shown, places, strict=True):
        left = _GAP + column * (width + _GAP)
        top = _GAP + row * (height + _CAPTION + _GAP)
        draw.text((left, top), caption, fill="black", font=font)
        sheet.paste(picture, (left, top + _CAPTION))
    return sheet


def _write(sheet: Image.Image, target: Path) -> None:
    from cyclegan_cli.files import atomic_path
    from cyclegan_cli.media.pictures import tagged

    try:
        with atomic_path(target) as temporary:
            sheet.save(temporary, quality=92, exif=tagged(b""))  # no input of a folder's
    except (OSError, ValueError) as error:
        raise PictureError(f"{target} cannot be written: {reason_of(error)}.") from error
