"""cyclegan pretrained: styles, and where they are stored."""

from __future__ import annotations

from pathlib import Path

import typer

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import (
    DRY_RUN,
    OVERWRITE,
    REVERSE,
    STYLE,
    YES,
    argument,
    command,
    complete_local_style,
    complete_style,
    flag,
)
from cyclegan_cli.cli.publishing import import_command, record_of
from cyclegan_cli.errors import (
    CycleganError,
    DownloadError,
    NoNetworkError,
    UsageError,
    command_line,
    size_text,
)
from cyclegan_cli.files import runs_dir, styles_dir
from cyclegan_cli.settings import TrainSettings
from cyclegan_cli.styles.catalogue import Style, plain
from cyclegan_cli.styles.store import (
    damaged_styles,
    find_style,
    list_styles,
    remove_style,
    weights_file,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""List, download, import, export, check and remove styles.

    \b
    Examples:
      cyclegan pretrained list
      cyclegan pretrained download cezanne
    """,
)


@app.command("list")
@command("json", "quiet")
def list_command(console: Console, local: bool = flag("List installed styles only.")) -> None:
    """List all styles, installed and available.

    Installed styles are trained, imported, downloaded, or bundled with the program. When piped: one
    style per line, tab-separated: name, domains, origin, size, licence.

    \b
    Examples:
      cyclegan pretrained list
      cyclegan pretrained list --json | jq -r .name
    """
    styles = list_styles(available=not local)
    console.table(
        ("name", "domains", "origin", "size", "licence"),
        [_row(style) for style in styles],
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
@command("json")
def show(console: Console, style: str = STYLE) -> None:
    """Show a style in full: how it was made, licence, digests.

    A sample of it is drawn in terminals that can show pictures: kitty, Ghostty, iTerm2, WezTerm and
    mintty. The path of the sample is printed everywhere.

    \b
    Examples:
      cyclegan pretrained show monet
      cyclegan pretrained show ./monet.safetensors --json
    """
    found = find_style(style)
    sample = _sample(found)
    rows = _facts(found) + ([("sample", str(sample))] if sample else [])
    console.table((), rows, [{**record_of(found), "sample": str(sample) if sample else None}])
    if sample:
        console.picture(sample)


def _sample(style: Style) -> Path | None:
    """A picture of what the style does: its own, or the newest samples of the run that made it."""
    own = style.folder / "sample.jpg" if style.folder else None
    if own and own.is_file():
        return own
    run = style.card.get("run") if style.origin == "trained" else None
    sheets = sorted((runs_dir() / str(run) / "samples").glob("step-*.png")) if run else []
    return sheets[-1] if sheets else None


def _row(style: Style) -> tuple[str, ...]:
    size = size_text(style.size) if style.directions else "-"
    licence = _shown(style.card.get("licence")) or "-"
    return (style.name, _domains(style), style.origin, size, licence)


def _facts(style: Style) -> list[tuple[str, str]]:
    """All that is known of a style, as (what, value) rows."""
    rows = [("name", style.name), ("domains", _domains(style)), ("origin", style.origin)]
    for way, direction in style.directions.items():
        spec = direction.generator
        arrow = f"{style.x} → {style.y}" if way == "xy" else f"{style.y} → {style.x}"
        what = f"{plain(spec.name)}, {spec.blocks} blocks, width {spec.width}"
        rows += [(arrow, f"{what}, {size_text(direction.size)}"), ("  sha256", direction.sha256)]
    for key, value in style.card.items():
        if key == "settings":
            rows.append(("options", _options(value)))
        elif value not in (None, ""):
            rows.append((key, _shown(value)))
    if style.folder is not None:
        rows.append(("folder", str(style.folder)))
    if style.hides:
        rows.append(("hides", ", ".join(style.hides)))
    return rows


def _domains(style: Style) -> str:
    arrow = "↔" if len(style.ways) == 2 else "→" if "xy" in style.ways else "←"
    return f"{style.x} {arrow} {style.y}"


def _options(settings: object) -> str:
    """The options of a training that are not the defaults, as they would be typed."""
    try:
        chosen = TrainSettings.from_json(settings) if isinstance(settings, dict) else None
    except CycleganError:
        chosen = None
    if chosen is None:
        return _shown(settings)
    return _shown(" ".join(chosen.options())) or "all as the defaults"


def _shown(value: object) -> str:
    """A card's value in one line; what a stranger wrote must not steer the terminal."""
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    elif isinstance(value, list):
        value = ", ".join(_shown(inner) for inner in value)
    elif value is None:
        value = ""
    return "".join(c for c in str(value) if c.isprintable())[:2000]


@app.command()
@command("json")
def path(
    console: Console,
    style: str | None = argument(
        None,
        "STYLE",
        "A style's name; without one, the folder of your own styles.",
        complete_local_style,
    ),
    reverse: bool = REVERSE,
    weights: bool = flag("Print the file of weights, not the folder."),
) -> None:
    """Print where a style is stored, for scripts.

    \b
    Examples:
      ls "$(cyclegan pretrained path monet)"
      cyclegan pretrained path monet --weights --reverse
    """
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
@command("json", "quiet")
def remove(
    console: Console,
    styles: list[str] = argument(..., "STYLE", "Names of styles.", complete_local_style),
    dry_run: bool = DRY_RUN,
    yes: bool = YES,
) -> None:
    """Remove styles. Runs stay: a trained style can be imported again from its run.

    Where there is no terminal to ask at, nothing is removed without -y.

    \b
    Examples:
      cyclegan pretrained remove monet --dry-run
      cyclegan pretrained remove monet vangogh -y
    """
    places = {name: remove_style(name, dry_run=True) for name in dict.fromkeys(styles)}
    again = command_line("pretrained", "remove", *places, "-y")
    if not (dry_run or yes or console.confirm_removal([str(p) for p in places.values()], again)):
        return
    for name in places:
        place = remove_style(name, dry_run=dry_run)
        console.result(str(place), {"name": name, "path": str(place), "removed": not dry_run})


@app.command()
@command("json", "quiet")
def verify(
    console: Console,
    styles: list[str] | None = argument(
        None, "STYLE", "Names or paths; without any, every installed style.", complete_local_style
    ),
) -> None:
    """Check the files of styles, and paint a small picture with each.

    \b
    Examples:
      cyclegan pretrained verify
      cyclegan pretrained verify monet vangogh
    """
    from cyclegan_cli.styles.convert import verify_style

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
@command("json", "quiet")
def download(
    console: Console,
    styles: list[str] | None = argument(
        None, "STYLE", "Names of styles, from the catalogue.", complete_style
    ),
    everything: bool = flag("Download all styles of the catalogue.", "--all"),
    force: bool = flag("Download again what is installed."),
) -> None:
    """Download styles.

    Interrupted downloads are resumed, failed ones retried, and files checked by their digests.
    Styles that are installed and intact need no network. CYCLEGAN_MIRROR names a server to ask
    first, CYCLEGAN_OFFLINE=1 forbids all requests; proxies are those of the environment.

    \b
    Examples:
      cyclegan pretrained download cezanne vangogh
      cyclegan pretrained download --all
    """
    from cyclegan_cli.cli.downloading import telling
    from cyclegan_cli.styles.catalogue import entries
    from cyclegan_cli.styles.download import download_style, rows_of

    if bool(styles) == everything:
        raise UsageError("Name styles, or give --all.", hint="cyclegan pretrained list")
    failures: list[CycleganError] = []
    names = list(entries()) if everything else list(dict.fromkeys(styles or ()))
    for name in names:
        rows_of(name)  # raises before anything is fetched
    for name in names:
        try:
            with telling(console) as tell:
                done = download_style(name, force=force, tell=tell)
        except DownloadError as error:
            failures.append(error)
            if isinstance(error, NoNetworkError):
                break  # of the others the same would be said
            continue
        if not done.fetched:
            console.note(f"'{name}' is here already.")
        console.result(str(done.style.folder), record_of(done.style) | {"fetched": done.fetched})
        failures += done.failed.values()
    for failure in failures:
        console.error(failure)
    if failures:
        raise typer.Exit(1)


app.command("import")(import_command)


@app.command()
@command("json", "quiet")
def export(
    console: Console,
    style: str = STYLE,
    file: Path = argument(..., "FILE", "A file that ends in .safetensors, .pth or .onnx."),
    reverse: bool = REVERSE,
    overwrite: bool = OVERWRITE,
) -> None:
    """Write one direction of a style to a file.

    .safetensors is this program's own format; .pth is that of the public PyTorch CycleGAN, with
    the same keys; .onnx takes pictures of any size, in [-1, 1], and needs
    pip install "cyclegan[onnx]".

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
    export_style(found, ensure_weights(console, found, reverse), file, reverse=reverse)
    way = f"{found.y} → {found.x}" if reverse else f"{found.x} → {found.y}"
    console.result(str(file), {"name": found.name, "direction": way, "path": str(file)})
