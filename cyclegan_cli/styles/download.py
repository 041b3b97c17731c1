"""A style of the catalogue: downloaded, checked, converted, and added to the store.

Also what downloads of styles and data sets share: partial files, the lock, recorded digests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cyclegan_cli.errors import (
    CycleganError,
    DownloadError,
    NoNetworkError,
    StoreError,
    UnknownNameError,
    WeightsError,
    command_line,
    writing,
)
from cyclegan_cli.files import digest_of, remove_leftovers, write_text
from cyclegan_cli.places import cache_dir, check_name, home_dir, mirror, offline
from cyclegan_cli.styles.catalogue import Digest, Entry, Row, Style, Way, entries, obtainable
from cyclegan_cli.styles.fetch import Event, Patience, Transfer, file_digests
from cyclegan_cli.styles.store import downloaded_style, list_styles, weights_file

_LOCK_SECONDS = 3600.0


@dataclass(frozen=True)
class Waiting:
    """Another process is downloading the same style (or data set)."""

    style: str


@dataclass(frozen=True)
class Learned:
    """A file without a published digest: from now on it must have this one."""

    file: str
    sha256: str


Tell = Callable[[Event | Waiting | Learned], None]


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

    What is in the cache with its digest is not downloaded again, unless ``force``, and needs no
    network. Two processes that want one style share one download. A file must have its digest,
    load, and translate a test picture before it becomes a style.

    Raises UnknownNameError; DownloadError if no direction came, or CYCLEGAN_OFFLINE is set and
    something is missing; StoreError if the cache cannot be written.
    """
    catalogue = entries()
    if name not in catalogue:
        raise UnknownNameError(
            "downloadable style", name, catalogue, hint="cyclegan pretrained list"
        )
    entry = catalogue[check_name(name)]
    tell = tell or (lambda _: None)
    if not force and set(entry.rows) <= set(_intact(name)):
        return _present(name)
    if offline():
        raise DownloadError(
            f"The style '{name}' would have to be downloaded, and CYCLEGAN_OFFLINE is set.",
            hint=f"{_on_this_machine()} {_way_round(name)}",
        )
    with alone(name, tell):
        here = _intact(name)
        if not force and set(entry.rows) <= set(here):
            return _present(name)  # the other process has done it
        wanted = [row for way, row in entry.rows.items() if force or way not in here]
        return _download(entry, wanted, here, tell, patience or Patience())


def ensure(
    style: Style, reverse: bool, tell: Tell | None = None, patience: Patience | None = None
) -> Path:
    """The file of G: X→Y (F: Y→X with ``reverse``); downloaded first if the catalogue has it.

    A file in the cache needs no network. Raises UsageError if there is no such direction, and what
    ``download_style`` raises.
    """
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
    entry: Entry, wanted: list[Row], here: Mapping[Way, Path], tell: Tell, patience: Patience
) -> Downloaded:
    """Download ``wanted`` and make a style of it, with the intact directions that are ``here``."""
    import torch  # noqa: F401 - which tries what comes: if it is missing, that is said first

    from cyclegan_cli.styles.convert import import_style

    before = downloaded_style(entry.name) if here else None
    sources = dict(before.card.get("sources", {})) if before else {}
    done: dict[Way, Download] = {}
    failed: dict[Way, DownloadError] = {}
    for row in wanted:
        download = _of_row(row)
        try:
            address = download.fetch(tell, patience)
        except NoNetworkError as error:
            failed[row.way] = error
            break  # it would be the same for the other direction
        except DownloadError as error:
            failed[row.way] = error
            continue
        done[row.way] = download
        digests = file_digests(download.part)
        sources[row.way] = {"file": row.file, "address": address, **digests}
    if any(isinstance(error, NoNetworkError) for error in failed.values()) and not done:
        raise next(iter(failed.values()))
    if not done:
        raise DownloadError(
            " ".join(str(error) for error in failed.values()), hint=_way_round(entry.name)
        )
    row = wanted[0]
    try:
        style = import_style(
            entry.name,
            {**here, **{way: download.part for way, download in done.items()}},
            x=entry.x,
            y=entry.y,
            origin="downloaded",
            card={"licence": row.licence, "source": row.source, "sources": sources},
            replace=True,
        )
    except WeightsError:
        for download in done.values():
            download.reject()
        raise
    for download in done.values():
        download.accept(tell)
    return Downloaded(style, tuple(done), failed)


def _of_row(row: Row) -> Download:
    """The row's file, which must hold a generator."""
    from cyclegan_cli.styles.convert import read_generator

    def wrong(file: Path) -> str:
        try:
            read_generator(file)
        except WeightsError as error:
            return str(error).replace(str(file), "what it sent").rstrip(".")
        return ""

    return Download(
        *(f"The style '{row.style}'", row.file, f"{row.style} {row.way} {row.file}"),
        part_file(f"{row.style}-{row.way}-{row.file}"),
        *(row.addresses, row.size_limit, wrong),
        hints=(_way_round(row.style), f"{_on_this_machine()} {_way_round(row.style)}"),
        digest=row.digest,
    )


def _way_round(name: str) -> str:
    command = command_line("pretrained", "import", "FILE", "--name", name)
    return f"With the file from elsewhere: {command}"


def _on_this_machine() -> str:
    try:
        names = [style.name for style in list_styles(available=False)]
    except CycleganError:
        names = []
    return f"On this machine: {', '.join(names) or 'no style'}."


# -- what downloads of styles and of data sets share ---------------------------------------------


@dataclass(frozen=True)
class Download:
    """One file: where it comes from, is collected and what it must be.

    ``what``: subject of a message. ``key``: under which its digest is recorded if none is
    published. ``wrong``: what is wrong with a file, empty if nothing is. ``hints``: for a
    DownloadError, and for a NoNetworkError.
    """

    what: str
    file: str
    key: str
    part: Path
    addresses: Sequence[str]
    size_limit: int
    wrong: Callable[[Path], str]
    hints: tuple[str, str]
    digest: Digest | None = None

    def fetch(self, tell: Tell, patience: Patience) -> str:
        """Download it, from CYCLEGAN_MIRROR first; returns the address used."""
        known = self.known_digest()
        base = mirror()
        try:
            transfer = Transfer(self.part, known, self.size_limit, self.wrong, tell, patience)
            return transfer.run([*([f"{base}/{self.file}"] if base else []), *self.addresses])
        except NoNetworkError as error:
            message = f"{self.what} cannot be downloaded: {error}."
            raise NoNetworkError(message, hint=self.hints[1]) from error
        except DownloadError as error:
            recorded = known and not self.digest
            note = f" (Its digest was recorded in {_digests_file()}.)" if recorded else ""
            raise DownloadError(f"{self.file}: {error}{note}", hint=self.hints[0]) from error

    def known_digest(self) -> Digest | None:
        """The published digest, or the SHA-256 of the first download. Raises StoreError."""
        sha256 = _digests().get(self.key)
        return self.digest or (Digest("sha256", sha256) if sha256 else None)

    def accept(self, tell: Tell) -> None:
        """It turned out well: record its digest, if none is known, and delete the partial file."""
        if self.known_digest() is None:
            sha256 = file_digests(self.part)["sha256"]
            record_digest(self.key, sha256)
            tell(Learned(self.file, sha256))
        forget(self.part)

    def reject(self) -> None:
        """It is of no use, nor is the recorded digest of earlier downloads: delete both."""
        forget(self.part)
        if not self.digest:
            record_digest(self.key, "")


def _parts() -> Path:
    """The folder of unfinished downloads."""
    folder = cache_dir() / "downloads"
    with writing(folder, hint="Set CYCLEGAN_CACHE to a folder that can be written."):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def part_file(name: str) -> Path:
    """Where the download ``name`` is collected. Raises StoreError if the folder cannot be made."""
    return _parts() / f"{_safe(name)}.part"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def forget(part: Path) -> None:
    """Delete a partial file and its tag."""
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)


@contextmanager
def alone(name: str, tell: Tell) -> Iterator[None]:
    """Hold the lock on downloads of that name. Raises StoreError after ``_LOCK_SECONDS``."""
    from filelock import FileLock, Timeout

    lock = FileLock(_parts() / f"{_safe(name)}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(Waiting(name))
            lock.acquire(timeout=_LOCK_SECONDS)
        yield
    except Timeout:
        raise StoreError(f"Another process has been downloading '{name}' for an hour.") from None
    finally:
        lock.release()


# -- digests of files without a published one ----------------------------------------------------


def _digests_file() -> Path:
    """In CYCLEGAN_HOME: a digest must outlive the cache that it protects."""
    return home_dir() / "digests.json"


def _digests() -> dict[str, str]:
    try:
        data = json.loads(_digests_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{_digests_file()}, the record of downloads, cannot be read: {error}.",
            hint="If it is no longer needed, remove it: digests are then recorded again.",
        ) from error
    return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}


def record_digest(key: str, sha256: str) -> None:
    """From now on a download of ``key`` must have ``sha256``; empty: any. Raises StoreError."""
    from filelock import FileLock

    with writing(_digests_file(), hint="Set CYCLEGAN_HOME to a folder that can be written."):
        home_dir().mkdir(parents=True, exist_ok=True)
        with FileLock(_digests_file().with_suffix(".lock")):
            remove_leftovers(home_dir())
            known = {k: v for k, v in {**_digests(), key: sha256}.items() if v}
            write_text(_digests_file(), json.dumps(known, indent=1, sort_keys=True) + "\n")
