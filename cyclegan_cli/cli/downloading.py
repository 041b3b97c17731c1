"""Downloads as a user sees them, and cyclegan datasets: the public CycleGAN data sets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cyclegan_cli.cli.console import Console, ProgressBar
from cyclegan_cli.cli.options import argument, command, complete_dataset, option
from cyclegan_cli.errors import command_line, counted
from cyclegan_cli.styles.catalogue import Style
from cyclegan_cli.styles.datasets import (
    DataSet,
    Here,
    datasets,
    download_dataset,
    find_dataset,
    here,
    location,
)
from cyclegan_cli.styles.download import ensure
from cyclegan_cli.styles.fetch import Event, Failed, Received, Tell, Trying, Waiting

_UNIT = 1_000_000  # progress counts megabytes

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""List, show and download the public CycleGAN data sets.

    \b
    Examples:
      cyclegan datasets list
      cyclegan datasets download horse2zebra
    """,
)

NAME = argument(..., "NAME", "A data set's name.", complete_dataset)


@app.command("list")
@command("json")
def list_command(console: Console) -> None:
    """List all data sets, downloaded and available.

    When piped: one per line, tab-separated: name, domains, pictures of each, folder.

    \b
    Examples:
      cyclegan datasets list
      cyclegan datasets list --json | jq -r .name
    """
    rows, records = [], []
    for one in datasets().values():
        found = here(one.name)
        counts = "-" if one.pictures is None else f"{one.pictures[0]} / {one.pictures[1]}"
        rows.append((one.name, f"{one.x} ↔ {one.y}", counts, str(found.folder) if found else "-"))
        records.append(_record(one, found))
    console.table(("name", "domains", "pictures", "folder"), rows, records)


@app.command()
@command("json")
def show(console: Console, name: str = NAME) -> None:
    """Show a data set in full: its source, and where it is stored.

    \b
    Examples:
      cyclegan datasets show monet2photo
    """
    one = find_dataset(name)
    found = here(name)
    rows = [("name", one.name), ("X (A)", one.x), ("Y (B)", one.y)]
    if one.pictures:
        rows.append(
            ("in the paper", f"{one.pictures[0]} and {counted(one.pictures[1], 'picture')}")
        )
    rows += [("source", one.source), ("licence", one.licence)]
    rows += [("address", address) for address in one.addresses]
    if found:
        rows += [(part, counted(count, "picture")) for part, count in found.counts.items()]
        rows += [("folder", str(found.folder)), ("next", _next(one, found))]
    else:
        rows.append(("next", command_line("datasets", "download", name)))
    console.table((), rows, [_record(one, found)])


@app.command()
@command("json", "quiet")
def download(
    console: Console,
    name: str = NAME,
    to: Path | None = option(None, "FOLDER", "Store it in FOLDER/NAME instead of the cache."),
) -> None:
    """Download a data set, and print the command that trains on it.

    It is stored in CYCLEGAN_CACHE/datasets/NAME, as trainA, trainB, testA and testB. Interrupted
    downloads are resumed; a complete data set is not downloaded again. CYCLEGAN_MIRROR names a
    server to ask first, CYCLEGAN_OFFLINE=1 forbids all requests.

    \b
    Examples:
      cyclegan datasets download horse2zebra
      cyclegan datasets download maps --to ./data
    """
    one = find_dataset(name)
    with telling(console) as tell:
        found = download_dataset(name, to, tell=tell)
    if not found.fetched:
        console.note(f"'{name}' is here already.")
    parts = ", ".join(f"{part} {counted(n, 'picture')}" for part, n in found.counts.items())
    console.note(f"{name}: {parts}. Licence: {one.licence}.")
    console.result(str(found.folder), _record(one, found) | {"fetched": found.fetched})
    console.suggest("Next", _next(one, found))


def _next(one: DataSet, found: Here) -> str:
    """The command to type now."""
    x, y = found.folder / "trainA", found.folder / "trainB"
    if {"trainA", "trainB"} <= set(found.counts):
        return command_line("train", x, y, "--name", one.name)
    folder = found.folder / next(iter(found.counts))
    return command_line("translate", folder, "--style", "monet", "-o", "painted")


def _record(one: DataSet, found: Here | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": one.name,
        "x": one.x,
        "y": one.y,
        "paper_pictures": one.pictures,
        "source": one.source,
        "licence": one.licence,
        "addresses": one.addresses,
        "here": found is not None,
        "folder": str(found.folder if found else location(one.name)),
    }
    return record | ({"pictures": found.counts, "next": _next(one, found)} if found else {})


# -- downloads as they go -----------------------------------------------------------------------


def ensure_weights(console: Console, style: Style, reverse: bool) -> Path:
    """The file of one direction of ``style``; if it must be downloaded, stderr says so.

    Raises UsageError where there is no such direction, DownloadError, StoreError.
    """
    with telling(console) as tell:
        return ensure(style, reverse, tell)


@contextlib.contextmanager
def telling(console: Console) -> Iterator[Tell]:
    """What tells of downloads as they go: notes for what happens, a bar for what comes."""
    said: set[Trying] = set()
    bar: ProgressBar | None = None
    shown = 0  # megabytes
    with contextlib.ExitStack() as bars:

        def tell(event: Event) -> None:
            nonlocal bar, shown
            if isinstance(event, Received):
                if bar is None:
                    total = None if event.total is None else -(-event.total // _UNIT)
                    bar, shown = bars.enter_context(console.progress("Downloading, MB", total)), 0
                rest = _UNIT - 1 if event.count == event.total else 0
                now = (event.count + rest) // _UNIT
                if now > shown:
                    bar.advance(now - shown)
                    shown = now
                return
            bars.close()
            bar = None
            if isinstance(event, Trying):
                if event not in said:  # that it is tried again was said
                    more = f", from byte {event.start}" if event.start else ""
                    console.note(f"Downloading {event.address}{more}")
                    said.add(event)
            elif isinstance(event, Failed):
                end = "; trying again" if event.again else ""
                console.note(f"{event.address}: {event.reason}{end}.")
            elif isinstance(event, Waiting):
                console.note(f"Another process is downloading '{event.style}': waiting for it.")
            else:
                console.note(
                    f"No digest of {event.file} was known. Its SHA-256 is {event.sha256}; "
                    "it is recorded, and later downloads must match it."
                )

        yield tell
