"""cyclegan demo: the whole workflow on rendered pictures, in two minutes."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import argument, command, option
from cyclegan_cli.cli.processes import Stopped
from cyclegan_cli.errors import UsageError, command_line

PICTURES = 60  # in each domain
NAME = "demo"
DEFAULT = Path("cyclegan-demo")


@command("quiet")
def demo(
    console: Console,
    ctx: typer.Context,
    folder: Path = argument(DEFAULT, "FOLDER", "A new folder for the pictures."),
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
    train = ["train", str(folder / "photos"), str(folder / "paintings"), "--name", NAME]
    style = folder / "cyclegan-home" / "styles" / NAME
    result = folder / "painted.png"
    train += [*options.split(), *saving.split(), "--log-every", "25steps"]
    translate = ["translate", str(folder / "photo.png"), "--style", str(style), "-o", str(result)]
    for arguments in (train, translate):
        _run(console, ctx, folder, [*arguments, *silence])
    console.note(f"Compare {folder / 'photo.png'} with {result}.")
    console.note("Then paint a photograph of yours:")
    console.note(f"  {command_line('translate', 'PHOTO.jpg', '--style', style)}")


def _render(folder: Path) -> None:
    from cyclegan_cli.media.scenes import painting, photograph

    for name in ("photos", "paintings"):
        (folder / name).mkdir(parents=True)
    for number in range(PICTURES):
        photograph(number).save(folder / "photos" / f"{number:03}.png")
        painting(PICTURES + number).save(folder / "paintings" / f"{number:03}.png")
    photograph(10_000, (240, 180)).save(folder / "photo.png")


def _run(console: Console, ctx: typer.Context, folder: Path, arguments: list[str]) -> None:
    """The command as a user would type it, with its runs and styles kept inside ``folder``."""
    import os

    program = ctx.obj(arguments)  # build_app: the app for that command line
    console.note(f"$ {command_line(*arguments)}")
    before = os.environ.get("CYCLEGAN_HOME")
    os.environ["CYCLEGAN_HOME"] = str(folder / "cyclegan-home")
    try:
        # Not standalone: an error or a stop ends the demo, too.
        program(args=arguments, prog_name="cyclegan", standalone_mode=False)
    except Stopped:
        again = command_line("demo", *([] if folder == DEFAULT else [folder]))
        console.note("To try again:")
        console.note(f"  rm -r {shlex.quote(str(folder))}; {again}")
        raise
    finally:
        if before is None:
            del os.environ["CYCLEGAN_HOME"]
        else:
            os.environ["CYCLEGAN_HOME"] = before
