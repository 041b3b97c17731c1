"""A style of the catalogue, fetched, checked, converted, and put into the store whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
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
)
from cyclegan_cli.files import digest_of, remove_leftovers, write_text
from cyclegan_cli.places import cache_dir, check_name, home_dir, mirror, offline
from cyclegan_cli.styles.cards import Style, Way
from cyclegan_cli.styles.catalogue import Digest, Entry, Row, entries, obtainable
from cyclegan_cli.styles.fetch import Event, Patience, fetch, file_digests
from cyclegan_cli.styles.store import downloaded_style, list_styles, weights_file

__all__ = [
    "Downloaded",
    "Learned",
    "Tell",
    "Waiting",
    "alone",
    "download_style",
    "ensure",
    "forget",
    "forget_digest",
    "part_file",
    "record_digest",
    "recorded_digest",
]

_LOCK_SECONDS = 3600.0


@dataclass(frozen=True)
class Waiting:
    """Another process is downloading the same style (or data set)."""

    style: str


@dataclass(frozen=True)
class Learned:
    """A file of which no digest was known: from now on it must have this one."""

    file: str
    sha256: str


Tell = Callable[[Event | Waiting | Learned], None]


@dataclass(frozen=True)
class Downloaded:
    """What came of it. ``fetched``: directions that came now; ``failed``: those that did not."""

    style: Style
    fetched: tuple[Way, ...]
    failed: dict[Way, DownloadError] = field(default_factory=dict)


def download_style(
    name: str,
    *,
    force: bool = False,
    tell: Tell | None = None,
    patience: Patience | None = None,
) -> Downloaded:
    """Have the catalogue's style ``name`` in the cache, with every direction that can be had.

    What is here and has its digest is not fetched again (unless ``force``), and needs no network.
    Two processes that want one style make one download. Nothing is put into the store that did not
    verify, load, and translate a test picture.

    Raises UnknownNameError; DownloadError where not one direction came, or CYCLEGAN_OFFLINE is set
    and something would have to be fetched; StoreError where the cache cannot be written.
    """
    catalogue = entries()
    if name not in catalogue:
        raise UnknownNameError(
            "downloadable style", name, catalogue, hint="cyclegan pretrained list"
        )
    entry = catalogue[check_name(name)]
    tell = tell or _ignore
    if not force and set(entry.rows) <= set(_sound(name)):
        return _there(name)
    if offline():
        raise DownloadError(
            f"The style '{name}' would have to be downloaded, and CYCLEGAN_OFFLINE is set.",
            hint=f"{_on_this_machine()} {_way_round(name)}",
        )
    with alone(name, tell):
        here = _sound(name)
        if not force and set(entry.rows) <= set(here):
            return _there(name)  # the other process has done it
        wanted = [row for way, row in entry.rows.items() if force or way not in here]
        return _download(entry, wanted, here, tell, patience or Patience())


def ensure(
    style: Style, reverse: bool, tell: Tell | None = None, patience: Patience | None = None
) -> Path:
    """The file of G: X→Y (F: Y→X with ``reverse``); downloaded first if the catalogue has it.

    A file that is here touches no network. Raises UsageError where there is no such direction,
    and what ``download_style`` raises.
    """
    way: Way = "yx" if reverse else "xy"
    if not obtainable(style, way):
        return weights_file(style, reverse)  # or raises what there is
    done = download_style(style.name, tell=tell, patience=patience)
    if way in done.failed:
        raise done.failed[way]
    return weights_file(done.style, reverse)


def _ignore(event: Event | Waiting | Learned) -> None:
    """What happens on the way is of no interest."""


def _there(name: str) -> Downloaded:
    style = downloaded_style(name)
    if style is None:
        raise StoreError(f"The style '{name}' was removed meanwhile.")
    return Downloaded(style, ())


def _sound(name: str) -> dict[Way, Path]:
    """The directions that are in the cache and have their digests."""
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
    """Fetch ``wanted``; what is ``here`` and sound becomes part of the new style too."""
    # Torch is wanted only to convert what came, so a name that is wrong is said at once.
    from cyclegan_cli.styles.importing import import_style

    before = downloaded_style(entry.name) if here else None
    sources = dict(before.card.get("sources", {})) if before else {}
    parts: dict[Way, Path] = {}
    failed: dict[Way, DownloadError] = {}
    for row in wanted:
        part = part_file(f"{entry.name}-{row.way}-{row.file}")
        try:
            address = _fetch(row, part, tell, patience)
        except NoNetworkError as error:
            failed[row.way] = error
            break  # of the other direction the same would be said
        except DownloadError as error:
            failed[row.way] = error
            continue
        parts[row.way] = part
        sources[row.way] = {"file": row.file, "address": address, **file_digests(part)}
    if any(isinstance(error, NoNetworkError) for error in failed.values()) and not parts:
        raise next(iter(failed.values()))
    if not parts:
        raise DownloadError(
            " ".join(str(error) for error in failed.values()), hint=_way_round(entry.name)
        )
    row = wanted[0]
    try:
        style = import_style(
            entry.name,
            {**here, **parts},
            x=entry.x,
            y=entry.y,
            origin="downloaded",
            card={"licence": row.licence, "source": row.source, "sources": sources},
            replace=True,
        )
    except WeightsError:
        _discard(wanted, parts)
        raise
    _remember(wanted, parts, tell)
    for part in parts.values():
        forget(part)
    return Downloaded(style, tuple(parts), failed)


def _fetch(row: Row, part: Path, tell: Tell, patience: Patience) -> str:
    """Fill ``part`` with a file that is what it should be, and a generator; its address."""
    from cyclegan_cli.styles.publicformat import read_generator

    def wrong(file: Path) -> str:
        try:
            read_generator(file)
        except WeightsError as error:
            return str(error).replace(str(file), "what it sent").rstrip(".")
        return ""

    known = row.digest or recorded_digest(_key(row))
    base = mirror()
    addresses = [*([f"{base}/{row.file}"] if base else []), *row.addresses]
    try:
        address = fetch(
            addresses,
            part,
            digest=known,
            size_limit=row.size_limit,
            wrong=wrong,
            tell=tell,
            patience=patience,
        )
    except NoNetworkError as error:
        raise NoNetworkError(
            f"The style '{row.style}' cannot be downloaded: {error}.",
            hint=f"{_on_this_machine()} {_way_round(row.style)}",
        ) from error
    except DownloadError as error:
        recorded = known and not row.digest
        note = f" (Its digest was recorded in {_digests_file()}.)" if recorded else ""
        raise DownloadError(f"{row.file}: {error}{note}", hint=_way_round(row.style)) from error
    return address


def _remember(rows: list[Row], parts: Mapping[Way, Path], tell: Tell) -> None:
    """Record the digests of files that have become a style, where none was known."""
    for row in rows:
        if row.way in parts and not row.digest and recorded_digest(_key(row)) is None:
            sha256 = file_digests(parts[row.way])["sha256"]
            record_digest(_key(row), sha256)
            tell(Learned(row.file, sha256))


def _discard(rows: list[Row], parts: Mapping[Way, Path]) -> None:
    """Forget files that cannot become a style, and the digests that earlier versions recorded."""
    for row in rows:
        if row.way in parts:
            forget(parts[row.way])
            if not row.digest:
                forget_digest(_key(row))


def _way_round(name: str) -> str:
    command = command_line("pretrained", "import", "FILE", "--name", name)
    return f"With the file from elsewhere: {command}"


def _on_this_machine() -> str:
    try:
        names = [style.name for style in list_styles(available=False)]
    except CycleganError:
        names = []
    return f"On this machine: {', '.join(names) or 'no style'}."


# -- what lies where -------------------------------------------------------------------------


def _parts() -> Path:
    """The folder of downloads that are not done."""
    folder = cache_dir() / "downloads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error.strerror}.",
            hint="Set CYCLEGAN_CACHE to a folder that can be written.",
        ) from error
    return folder


def part_file(name: str) -> Path:
    """Where the download ``name`` is collected. Raises StoreError where no folder can be made."""
    return _parts() / f"{_safe(name)}.part"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def forget(part: Path) -> None:
    """Remove what was collected, once it has become something."""
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)


@contextmanager
def alone(name: str, tell: Tell) -> Iterator[None]:
    """While no other process downloads what has this name."""
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


# -- digests of files that nobody had published one of ---------------------------------------


def _digests_file() -> Path:
    """With what cannot be had again: a digest must outlive the cache that it protects."""
    return home_dir() / "digests.json"


def _digests() -> dict[str, str]:
    try:
        data = json.loads(_digests_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{_digests_file()}, the record of downloads, cannot be read: {error}.",
            hint="If it is of no use any more, remove it: digests are recorded anew.",
        ) from error
    return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}


def _key(row: Row) -> str:
    return f"{row.style} {row.way} {row.file}"


def recorded_digest(key: str) -> Digest | None:
    """The SHA-256 that the first download of ``key`` had. Raises StoreError."""
    sha256 = _digests().get(key)
    return Digest("sha256", sha256) if sha256 else None


def record_digest(key: str, sha256: str) -> None:
    """From now on a download of ``key`` must have ``sha256``. Raises StoreError."""
    _change_digests({key: sha256})


def forget_digest(key: str) -> None:
    """A download of ``key`` may have any digest again. Raises StoreError."""
    _change_digests({key: ""})


def _change_digests(changes: Mapping[str, str]) -> None:
    """``changes``: by key; an empty one is none."""
    from filelock import FileLock

    try:
        home_dir().mkdir(parents=True, exist_ok=True)
        with FileLock(_digests_file().with_suffix(".lock")):
            remove_leftovers(home_dir())
            known = {key: sha for key, sha in {**_digests(), **changes}.items() if sha}
            write_text(_digests_file(), json.dumps(known, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise StoreError(
            f"{_digests_file()} cannot be written: {error.strerror}.",
            hint="Set CYCLEGAN_HOME to a folder that can be written.",
        ) from error
