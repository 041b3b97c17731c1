"""The public data sets: a table in the package and the user's own; downloaded, checked, unpacked.

They are downloaded as styles are (``fetch``, ``download``). A data set appears by one rename.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cyclegan_cli.errors import (
    DownloadError,
    StoreError,
    UnknownNameError,
    UsageError,
    command_line,
    writing,
)
from cyclegan_cli.files import read_toml, remove_leftovers, write_text
from cyclegan_cli.places import cache_dir, check_name, home_dir, offline
from cyclegan_cli.styles.catalogue import filled, plain, row_errors
from cyclegan_cli.styles.download import (
    Tell,
    alone,
    fetch_checked,
    forget,
    forget_digest,
    part_file,
    recorded_digest,
    remember,
)
from cyclegan_cli.styles.fetch import Patience, file_digests
from cyclegan_cli.styles.unpacking import archive_size, unpack, what_is_wrong

__all__ = ["DataSet", "Here", "datasets", "download_dataset", "find_dataset", "here", "location"]

_PACKAGED = Path(__file__).with_name("datasets.toml")
_MARK = "dataset.json"  # beside the folders of pictures: what was downloaded, and from where
_disk = partial(writing, hint="Give a folder that can be written by --to, or set CYCLEGAN_CACHE.")
SIZE_LIMIT = 8_000_000_000  # bytes of a zip file


@dataclass(frozen=True)
class DataSet:
    """A row of the table. ``pictures``: how many of X and Y the paper trained on, if known."""

    name: str
    x: str
    y: str
    addresses: tuple[str, ...]
    licence: str
    source: str
    pictures: tuple[int, int] | None

    @property
    def file(self) -> str:
        """The name of its archive."""
        return f"{self.name}.zip"


@dataclass(frozen=True)
class Here:
    """A data set on the disk. ``counts``: pictures in each of its folders."""

    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    fetched: bool = False


def datasets() -> dict[str, DataSet]:
    """All data sets by name; ``datasets.toml`` in CYCLEGAN_HOME adds to the package's.

    Raises UsageError, naming the row that is wrong.
    """
    return _read(_PACKAGED) | _read(home_dir() / "datasets.toml")


def find_dataset(name: str) -> DataSet:
    """The data set of that name. Raises UnknownNameError, with a did-you-mean."""
    known = datasets()
    if name not in known:
        raise UnknownNameError("data set", name, known, hint="cyclegan datasets list")
    return known[name]


def _read(path: Path) -> dict[str, DataSet]:
    data = read_toml(path, missing_ok=True)
    server, rows = data.get("server", {}), data.get("datasets", {})
    if not isinstance(server, dict) or not isinstance(rows, dict):
        raise UsageError(f"{path} has no [datasets.NAME] rows.", hint="cyclegan docs guide")
    found = {}
    for name, row in rows.items():
        with row_errors(f"{path}: [datasets.{plain(name)}]", "guide"):
            found[name] = _row(name, row, server)
    return found


def _row(name: str, row: Mapping[str, Any], server: Mapping[str, Any]) -> DataSet:
    templates = row.get("addresses", server.get("addresses", []))
    addresses = filled(templates, f"{check_name(name)}.zip")
    pictures = row.get("pictures")
    if pictures is not None and [type(n) for n in pictures] != [int, int]:
        raise ValueError("its pictures must be two numbers")
    return DataSet(
        name=name,
        x=plain(row["x"]),
        y=plain(row["y"]),
        addresses=addresses,
        licence=plain(row.get("licence", server.get("licence", "unknown"))),
        source=plain(row.get("source", server.get("source", ""))),
        pictures=(pictures[0], pictures[1]) if pictures else None,
    )


# -- on the disk -------------------------------------------------------------------------------


def location(name: str, to: Path | None = None) -> Path:
    """The folder of the data set: ``to``/NAME, or CYCLEGAN_CACHE/datasets/NAME."""
    return (to or cache_dir() / "datasets") / name


def here(name: str, to: Path | None = None) -> Here | None:
    """The data set on the disk, or None."""
    folder = location(name, to)
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        counts = {str(key): int(count) for key, count in mark["pictures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all((folder / part).is_dir() for part in counts):
        return None
    return Here(folder, counts)


def download_dataset(
    name: str,
    to: Path | None = None,
    *,
    tell: Tell = lambda _: None,
    patience: Patience | None = None,
) -> Here:
    """The data set ``name`` on the disk, downloaded if it is not there.

    Raises UnknownNameError; DownloadError if no address gave a valid archive or CYCLEGAN_OFFLINE is
    set; UsageError if something else is in its place; StoreError if the disk cannot be written.
    """
    wanted = find_dataset(name)
    found = here(name, to)
    if found is not None:
        return found
    target = location(name, to)
    if target.exists():
        raise UsageError(
            f"{target} exists, and is not the whole data set '{name}'.",
            hint="Move it away, or give another folder by --to.",
        )
    if offline():
        raise DownloadError(
            f"The data set '{name}' would have to be downloaded, and CYCLEGAN_OFFLINE is set."
        )
    with alone(f"dataset-{name}", tell):
        found = here(name, to)
        if found is not None:
            return found  # the other process has done it
        part = part_file(f"dataset-{wanted.file}")
        with _disk(target):
            remove_leftovers(target.parent, name)
        counts = _from_before(wanted, part, target)
        if counts is None:
            address = _collect(wanted, part, tell, patience or Patience())
            counts = _put(wanted, part, target, address)
            remember(_key(wanted), wanted.file, part, tell)
        forget(part)
    return Here(target, counts, fetched=True)


def _key(wanted: DataSet) -> str:
    return f"dataset {wanted.file}"


def _from_before(wanted: DataSet, part: Path, target: Path) -> dict[str, int] | None:
    """Unpack an archive that was downloaded before; None if there is none that can be unpacked.

    Earlier versions recorded the digest of an archive before unpacking it: if that fails, archive
    and digest are deleted.
    """
    known = recorded_digest(_key(wanted))
    if not part.exists() or what_is_wrong(part):
        return None
    if known is not None and file_digests(part)["sha256"] != known.hex:
        return None
    try:
        return _put(wanted, part, target, "")
    except DownloadError:
        forget_digest(_key(wanted))
        return None


def _collect(wanted: DataSet, part: Path, tell: Tell, patience: Patience) -> str:
    """Download the archive to ``part``; returns its address."""
    return fetch_checked(
        *(f"The data set '{wanted.name}'", wanted.file, _key(wanted), part, wanted.addresses),
        size_limit=SIZE_LIMIT,
        wrong=what_is_wrong,
        tell=tell,
        patience=patience,
        hints=(
            "Once more goes on where it stopped. CYCLEGAN_MIRROR names another server.",
            "CYCLEGAN_MIRROR names a server that can be reached.",
        ),
    )


def _put(wanted: DataSet, part: Path, target: Path, address: str) -> dict[str, int]:
    """Unpack ``part`` beside ``target``, then rename; returns the pictures in each folder.

    Raises StoreError, and DownloadError if it cannot be unpacked; then ``part`` is deleted.
    """
    with _disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{wanted.name}.{secrets.token_hex(6)}.tmp")
        try:
            needed, free = archive_size(part), shutil.disk_usage(target.parent).free
            if needed > free:
                where = command_line("datasets", "download", wanted.name, "--to", "FOLDER")
                raise StoreError(
                    f"'{wanted.name}' needs {needed / 1e6:.0f} MB; {target.parent} has "
                    f"{free / 1e6:.0f}.",
                    hint=f"Elsewhere: {where}",
                )
            temporary.mkdir()
            counts = unpack(part, temporary)
            about = {"name": wanted.name, "x": wanted.x, "y": wanted.y, "licence": wanted.licence}
            origin = {"address": address, "sha256": file_digests(part)["sha256"]}
            record = {**about, "source": wanted.source, **origin, "pictures": counts}
            write_text(temporary / _MARK, json.dumps(record, indent=1) + "\n")
            temporary.rename(target)
        except DownloadError:
            forget(part)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return counts
