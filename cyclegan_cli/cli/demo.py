"""cyclegan demo: the whole workflow on landscapes that are drawn here."""

from __future__ import annotations

import os
import random
import shlex
from pathlib import Path

import typer
from PIL import Image, ImageDraw, ImageFilter

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import argument, command, option
from cyclegan_cli.cli.processes import Stopped
from cyclegan_cli.errors import UsageError, command_line
from cyclegan_cli.randomness import choices

Colour = tuple[int, int, int]

_DEMO = Path("cyclegan-demo")
_PICTURES = 60  # in each domain


@command("quiet")
def demo(
    console: Console,
    ctx: typer.Context,
    folder: Path = argument(_DEMO, "FOLDER", "A new folder for the pictures."),
    steps: int = option(300, "COUNT", "Training steps: the more, the better.", min=1),
) -> None:
    """Try the whole workflow: make pictures, train, paint.

    Draws landscapes as photographs and as paintings, trains a small style on them, and paints a
    photograph that it was not trained on. Each command is shown as you would type it. The run and
    the style are kept in FOLDER: delete it when you are done.

    \b
    Examples:
      cyclegan demo
      cyclegan demo /tmp/try --steps 1000
    """
    silence = ["--quiet"] * console.quiet
    if folder.exists():
        raise UsageError(f"{folder} exists already.", hint="cyclegan demo ANOTHER_FOLDER")
    _render(folder)
    options = "--generator mobile --crop-size 64 --load-size 72 --lr 1e-3 --lambda-identity 0.1"
    saving = f"--max-steps {steps} --checkpoint-every 100steps --sample-every 100steps"
    train = ["train", str(folder / "photos"), str(folder / "paintings"), "--name", "demo"]
    style = folder / "cyclegan-home" / "styles" / "demo"
    result = folder / "painted.png"
    train += [*options.split(), *saving.split(), "--log-every", "25steps"]
    translate = ["translate", str(folder / "photo.png"), "--style", str(style), "-o", str(result)]
    for arguments in (train, translate):
        _run(console, ctx, folder, [*arguments, *silence])
    console.note(f"Compare {folder / 'photo.png'} with {result}.")
    again = command_line("translate", "PHOTO.jpg", "--style", style)
    console.suggest("Then paint a photograph of yours", again)


def _render(folder: Path) -> None:
    for name in ("photos", "paintings"):
        (folder / name).mkdir(parents=True)
    for number in range(_PICTURES):
        photograph(number).save(folder / "photos" / f"{number:03}.png")
        painting(_PICTURES + number).save(folder / "paintings" / f"{number:03}.png")
    photograph(10_000, (240, 180)).save(folder / "photo.png")


def _run(console: Console, ctx: typer.Context, folder: Path, arguments: list[str]) -> None:
    """The command as a user would type it, with its runs and styles kept inside ``folder``."""
    program = ctx.obj(arguments)  # build_app: the app for that command line
    console.note(f"$ {command_line(*arguments)}")
    before = os.environ.get("CYCLEGAN_HOME")
    os.environ["CYCLEGAN_HOME"] = str(folder / "cyclegan-home")
    try:
        # Not standalone: an error or a stop ends the demo, too.
        program(args=arguments, prog_name="cyclegan", standalone_mode=False)
    except Stopped:
        again = command_line("demo", *([] if folder == _DEMO else [folder]))
        console.suggest("To try again", f"rm -r {shlex.quote(str(folder))}; {again}")
        raise
    finally:
        if before is None:
            del os.environ["CYCLEGAN_HOME"]
        else:
            os.environ["CYCLEGAN_HOME"] = before


# -- landscapes, as a camera and as a painter might see them ---------------------------------------


def photograph(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Landscape ``number``: sky, sun, hills and water, smooth, in cool colours. ``size``: W, H."""
    choice = choices(number, "scene")
    width, height = 2 * size[0], 2 * size[1]  # drawn at twice the size, then reduced: smooth edges
    image = _gradient((width, height), (70, 120, 190), (190, 210, 230), choice)
    draw = ImageDraw.Draw(image)
    horizon = round(height * choice.uniform(0.45, 0.7))
    radius = round(width * choice.uniform(0.03, 0.07))
    x, y = choice.randrange(width), choice.randrange(horizon)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(250, 240, 200))
    for depth in range(3):
        base = horizon + round((depth - 1) * height * 0.09)
        rise = height * 0.12
        line = [(width * i / 8, round(base + choice.uniform(-rise, rise))) for i in range(9)]
        ridge = [(0, height), *((round(x), y) for x, y in line), (width, height)]
        draw.polygon(ridge, fill=_hill(depth, choice))
    water = (width, max(2, round(height * choice.uniform(0.1, 0.25))))
    image.paste(_gradient(water, (90, 130, 160), (40, 70, 110), choice), (0, height - water[1]))
    return image.resize(size, Image.Resampling.LANCZOS)


def painting(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Landscape ``number`` painted: short strokes in warm colours on a toned canvas."""
    scene = photograph(number, size).filter(ImageFilter.GaussianBlur(1))
    choice = choices(number, "strokes")
    canvas = Image.new("RGB", size, (196, 150, 92))
    draw = ImageDraw.Draw(canvas)
    for _ in range(size[0] * size[1] // 9):
        x, y = choice.randrange(size[0]), choice.randrange(size[1])
        dx, dy = choice.uniform(3, 7), choice.uniform(-2.5, 2.5)
        colour = _warm(scene.getpixel((x, y)), choice)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=choice.choice((2, 3)))
    return canvas


def _gradient(
    size: tuple[int, int], top: Colour, low: Colour, choice: random.Random
) -> Image.Image:
    shift = choice.randint(-20, 20)
    column = Image.new("RGB", (1, 2))
    column.putdata([tuple(_level(c + shift) for c in top), tuple(_level(c - shift) for c in low)])
    return column.resize(size, Image.Resampling.BILINEAR)


def _hill(depth: int, choice: random.Random) -> Colour:
    pairs = zip((110, 135, 150), (45, 85, 55), strict=True)  # far and near
    r, g, b = (_level(a + (c - a) * (depth / 2) + choice.randint(-12, 12)) for a, c in pairs)
    return r, g, b


def _warm(colour: object, choice: random.Random) -> Colour:
    """The photograph's colour, warmer and richer, with the unevenness of a loaded brush."""
    r, g, b = colour if isinstance(colour, tuple) else (0, 0, 0)
    light = choice.randint(-22, 22)
    return _level(1.15 * r + 30 + light), _level(0.95 * g + 8 + light), _level(0.7 * b - 8 + light)


def _level(value: float) -> int:
    return max(0, min(255, round(value)))
