"""A style of the catalogue: downloaded, checked, converted, and added to the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cyclegan_cli import errors
from cyclegan_cli.errors import DownloadError, NoNetworkError, StoreError, command_line
from cyclegan_cli.files import digest_of
from cyclegan_cli.styles.catalogue import (
    Row,
    Style,
    Way,
    entries,
    file_digests,
    obtainable,
    offline,
)
from cyclegan_cli.styles.fetch import Download, Patience, Tell, alone, part_file
from cyclegan_cli.styles.store import downloaded_style, list_styles, weights_file


@dataclass(frozen=True)
class Downloaded:
    """``fetched``: directions that were downloaded now; ``failed``: those that could not be."""

    style: Style
    fetched: tuple[Way, ...]
    failed: dict[Way, DownloadError] = field(default_factory=dict)


def download_style(
    name: str, *, force: bool = False, tell: Tell | None = None, patience: Patience | None = None
) -> Downloaded:
    """Download every direction of the catalogue's style ``name`` that can be had.

    What is in the cache with its digest is not downloaded again, unless ``force``. Two processes
    share one download. A file must have its digest, load, and translate a test picture. Raises
    UnknownNameError; StoreError; DownloadError if nothing came, or with CYCLEGAN_OFFLINE.
    """
    rows = rows_of(name)
    tell = tell or (lambda _: None)
    if not force and set(rows) <= set(_intact(name)):
        return _present(name)
    if offline():
        raise DownloadError(
            f"The style '{name}' would have to be downloaded, and CYCLEGAN_OFFLINE is set.",
            hint=f"{_on_this_machine()} {_way_round(name)}",
        )
    with alone(name, tell):
        here = _intact(name)
        if not force and set(rows) <= set(here):
            return _present(name)  # the other process has done it
        wanted = [row for way, row in rows.items() if force or way not in here]
        first = next(iter(rows.values()))
        return _download(first.x, first.y, wanted, here, tell, patience or Patience())


def rows_of(name: str) -> dict[Way, Row]:
    """What the catalogue has of the style ``name``. Raises UnknownNameError."""
    known = entries()
    if name not in known:
        hint = "cyclegan pretrained list"
        raise errors.UnknownNameError("downloadable style", name, known, hint=hint)
    return known[name]


def ensure(
    style: Style, reverse: bool, tell: Tell | None = None, patience: Patience | None = None
) -> Path:
    """The file of G, or of F with ``reverse``; downloaded if missing (``download_style``)."""
    way: Way = "yx" if reverse else "xy"
    if not obtainable(style, way):
        return weights_file(style, reverse)  # or raises what there is
    done = download_style(style.name, tell=tell, patience=patience)
    if way in done.failed:
        raise done.failed[way]
    return weights_file(done.style, reverse)


def _present(name: str) -> Downloaded:
    style = downloaded_style(name)
    if style is None:
        raise StoreError(f"The style '{name}' was removed meanwhile.")
    return Downloaded(style, ())


def _intact(name: str) -> dict[Way, Path]:
    """The directions in the cache that have their digests."""
    try:
        style = downloaded_style(name)
        return {
            way: direction.file
            for way, direction in (style.directions if style else {}).items()
            if digest_of(direction.file) == (direction.sha256, direction.size)
        }
    except (StoreError, OSError):
        return {}


def _download(
    x: str, y: str, wanted: list[Row], here: Mapping[Way, Path], tell: Tell, patience: Patience
) -> Downloaded:
    """Download ``wanted`` and make a style of it, with the intact directions that are ``here``."""
    import torch  # noqa: F401 - which tries what comes: if it is missing, that is said first

    from cyclegan_cli.styles.convert import import_style

    name = wanted[0].style
    before = downloaded_style(name) if here else None
    sources = dict(before.card.get("sources", {})) if before else {}
    done: dict[Way, Download] = {}
    failed: dict[Way, DownloadError] = {}
    for row in wanted:
        download = _of_row(row, tell, patience)
        try:
            address = download.fetch()
        except DownloadError as error:
            failed[row.way] = error
            if isinstance(error, NoNetworkError):
                break  # it would be the same for the other direction
            continue
        done[row.way] = download
        digests = file_digests(download.part)
        sources[row.way] = {"file": row.file, "address": address, **digests}
    if not done:
        if any(isinstance(error, NoNetworkError) for error in failed.values()):
            raise next(iter(failed.values()))
        reasons = " ".join(str(error) for error in failed.values())
        raise DownloadError(reasons, hint=_way_round(name))
    row = wanted[0]
    try:
        style = import_style(
            name,
            {**here, **{way: download.part for way, download in done.items()}},
            x=x,
            y=y,
            origin="downloaded",
            card={"licence": row.licence, "source": row.source, "sources": sources},
            replace=True,
        )
    except errors.WeightsError:
        for download in done.values():
            download.reject()
        raise
    for download in done.values():
        download.accept()
    return Downloaded(style, tuple(done), failed)


def _of_row(row: Row, tell: Tell, patience: Patience) -> Download:
    """The row's file, which must hold a generator."""
    from cyclegan_cli.styles.convert import read_generator

    def wrong(file: Path) -> str:
        try:
            read_generator(file)
        except errors.WeightsError as error:
            return str(error).replace(str(file), "what it sent").rstrip(".")
        return ""

    return Download(
        *(f"The style '{row.style}'", row.file, f"{row.style} {row.way} {row.file}"),
        part_file(f"{row.style}-{row.way}-{row.file}"),
        *(row.addresses, row.size_limit, wrong),
        hints=(_way_round(row.style), f"{_on_this_machine()} {_way_round(row.style)}"),
        tell=tell,
        patience=patience,
        digest=row.digest,
    )


def _way_round(name: str) -> str:
    command = command_line("pretrained", "import", "FILE", "--name", name)
    return f"With the file from elsewhere: {command}"


def _on_this_machine() -> str:
    try:
        names = [style.name for style in list_styles(available=False)]
    except errors.CycleganError:
        names = []
    return f"On this machine: {', '.join(names) or 'no style'}."
