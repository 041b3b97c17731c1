"""cyclegan pretrained: styles, and where they are stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cyclegan_cli.cli.common import Debug, Json, Quiet
from cyclegan_cli.cli.completion import complete_local_style, complete_style
from cyclegan_cli.cli.console import Console, printable
from cyclegan_cli.cli.importing import import_command
from cyclegan_cli.cli.styleview import facts, record_of, row
from cyclegan_cli.errors import CycleganError, UsageError, command_line
from cyclegan_cli.styles.catalogue import Style
from cyclegan_cli.styles.store import (
    damaged_styles,
    find_style,
    list_styles,
    remove_style,
    weights_file,
)

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    short_help="List, fetch, import, export and check styles.",
    help="""Named styles: list, fetch, import, export, check and remove them.

    \b
    Examples:
      cyclegan pretrained list
      cyclegan pretrained download cezanne
    """,
)

StyleName = Annotated[
    str,
    typer.Argument(
        metavar="STYLE", help="A style's name, or its path.", autocompletion=complete_style
    ),
]
Reverse = Annotated[bool, typer.Option("--reverse", help="The direction Y → X instead of X → Y.")]


@app.command("list")
def list_command(
    local: Annotated[bool, typer.Option("--local", help="Only installed styles.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List all styles, installed and available.

    Trained, imported, bundled, downloaded, or available for download. On a pipe: one style a
    line, tab-separated: name, domains, origin, size, licence.

    \b
    Examples:
      cyclegan pretrained list
      cyclegan pretrained list --json | jq -r .name
    """
    console = Console(as_json=json_, quiet=quiet)
    styles = list_styles(available=not local)
    console.table(
        ("name", "domains", "origin", "size", "licence"),
        [row(style) for style in styles],
        [record_of(style) for style in styles],
    )
    for style in styles:
        for origin in style.hides:
            console.note(
                f"note: '{style.name}' ({style.origin}) hides the {origin} style '{style.name}'."
            )
    for _, error in damaged_styles():
        console.warn(f"{error} To remove it: {error.hint}")
    if not styles:
        console.note("There are no styles yet. To make one: cyclegan train X_DIR Y_DIR")


@app.command()
def show(style: StyleName, json_: Json = False, debug: Debug = False) -> None:
    """One style in full: how it was made, licence, digests.

    \b
    Examples:
      cyclegan pretrained show monet
      cyclegan pretrained show ./monet.safetensors --json
    """
    found = find_style(style)
    Console(as_json=json_).table((), facts(found), [record_of(found)])


@app.command()
def path(
    style: Annotated[
        str | None,
        typer.Argument(
            metavar="STYLE",
            help="A style's name; without one, the folder of your own styles.",
            autocompletion=complete_local_style,
        ),
    ] = None,
    reverse: Reverse = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="The file of weights, not the style's folder.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Print where a style is stored, for scripts.

    \b
    Examples:
      ls "$(cyclegan pretrained path monet)"
      cyclegan pretrained path monet --weights --reverse
    """
    from cyclegan_cli.places import styles_dir

    console = Console(as_json=json_)
    if style is None:
        if weights or reverse:
            raise UsageError(
                "--weights and --reverse need a style.", hint="cyclegan pretrained list"
            )
        console.result(str(styles_dir()), {"path": str(styles_dir())})
        return
    found = find_style(style)
    file = weights_file(found, reverse)
    place = file if weights or reverse or found.folder is None else found.folder
    console.result(str(place), {"name": found.name, "path": str(place)})


@app.command()
def remove(
    styles: Annotated[
        list[str],
        typer.Argument(
            metavar="STYLE", help="Names of styles.", autocompletion=complete_local_style
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove styles. Runs stay: a trained style can be imported again from its run.

    Without a terminal nothing is asked and nothing removed, unless -y is given.

    \b
    Examples:
      cyclegan pretrained remove monet --dry-run
      cyclegan pretrained remove monet vangogh -y
    """
    console = Console(as_json=json_, quiet=quiet)
    places = {name: remove_style(name, dry_run=True) for name in dict.fromkeys(styles)}
    if dry_run:
        for name, place in places.items():
            console.result(str(place), {"name": name, "path": str(place), "removed": False})
        return
    if not yes and not _agreed(places):
        return
    for name in places:
        place = remove_style(name)
        console.result(str(place), {"name": name, "path": str(place), "removed": True})


def _agreed(places: dict[str, Path]) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "Nothing was removed: there is no terminal to ask at.",
            hint=command_line("pretrained", "remove", *places, "-y"),
        )
    listed = "\n".join(f"  {printable(str(place))}" for place in places.values())
    return typer.confirm(f"This removes\n{listed}\nContinue?", err=True)


@app.command()
def verify(
    styles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STYLE",
            help="Names or paths; without any, every installed style.",
            autocompletion=complete_local_style,
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check digests, and try every direction on a picture.

    \b
    Examples:
      cyclegan pretrained verify
      cyclegan pretrained verify monet vangogh
    """
    from cyclegan_cli.styles.convert import verify_style

    console = Console(as_json=json_, quiet=quiet)
    broken = [] if styles else [(folder.name, error) for folder, error in damaged_styles()]
    wanted = [_here(name) for name in styles] if styles else list_styles(available=False)
    failed = 0
    for style in wanted:
        problems = verify_style(style)
        failed += bool(problems)
        verdict = "bad" if problems else "ok"
        record = {"name": style.name, "ok": not problems, "problems": problems}
        console.result(f"{style.name}\t{verdict}", record)
        for problem in problems:
            console.error(CycleganError(f"{problem}.", hint=_cure(style)))
    for name, error in broken:
        console.result(f"{name}\tbad", {"name": name, "ok": False, "problems": [str(error)]})
        console.error(error)
    if failed or broken:
        raise typer.Exit(1)


def _here(name: str) -> Style:
    """The style of that name, which must be on this machine."""
    style = find_style(name)
    weights_file(style, "xy" not in style.directions and bool(style.directions))
    return style


def _cure(style: Style) -> str:
    """What to do about a style that is not what it was."""
    name = style.name
    again = {
        "downloaded": command_line("pretrained", "download", name, "--force"),
        "trained": "From its run: "
        + command_line("pretrained", "import", "--run", name, "--overwrite"),
        "imported": command_line("pretrained", "import", "FILE", "--name", name, "--overwrite"),
        "bundled": "Reinstall cyclegan.",
    }
    return again.get(style.origin, "cyclegan pretrained list")


@app.command()
def download(
    styles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STYLE", help="Names from the catalogue.", autocompletion=complete_style
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every style of the catalogue.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Download again.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch styles: resumed, retried, checked by digest.

    Styles that are installed and intact need no network. CYCLEGAN_MIRROR names a server to ask
    first, CYCLEGAN_OFFLINE=1 forbids every request, and proxies are those of the environment.

    \b
    Examples:
      cyclegan pretrained download cezanne vangogh
      cyclegan pretrained download --all
    """
    from cyclegan_cli.cli.downloading import download_all
    from cyclegan_cli.styles.catalogue import entries

    if bool(styles) == everything:
        raise UsageError("Name styles, or give --all.", hint="cyclegan pretrained list")
    console = Console(as_json=json_, quiet=quiet)
    names = list(entries()) if everything else list(dict.fromkeys(styles or ()))
    results = download_all(console, names, force=force)
    for result in results:
        if (style := result.style) is not None:
            console.result(str(style.folder), record_of(style) | {"fetched": result.fetched})
    failures = [error for result in results for error in result.errors]
    for error in failures:
        console.error(error)
    if failures:
        raise typer.Exit(1)


app.command("import")(import_command)


@app.command()
def export(
    style: StyleName,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Ends in .safetensors, .pth or .onnx.")
    ],
    reverse: Reverse = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing file.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one direction of a style to a file.

    .safetensors is this program's own format, .pth the public PyTorch CycleGAN's, key for key.
    .onnx takes pictures of any size, in [-1, 1] (it needs pip install 'cyclegan[onnx]').

    \b
    Examples:
      cyclegan pretrained export monet latest_net_G.pth
      cyclegan pretrained export monet monet2photo.safetensors --reverse
      cyclegan pretrained export monet monet.onnx
    """
    from cyclegan_cli.cli.downloading import ensure_weights
    from cyclegan_cli.styles.convert import check_target, export_style

    check_target(file, overwrite=overwrite)
    found = find_style(style)
    console = Console(as_json=json_, quiet=quiet)
    export_style(found, ensure_weights(console, found, reverse), file, reverse=reverse)
    way = f"{found.y} → {found.x}" if reverse else f"{found.x} → {found.y}"
    console.result(str(file), {"name": found.name, "direction": way, "path": str(file)})
