"""The public data sets: a table, and the user's own; downloaded, checked, unpacked."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from cyclegan_cli import errors, files
from cyclegan_cli.errors import DownloadError, StoreError, UsageError, command_line
from cyclegan_cli.styles.catalogue import filled, offline, plain, row_errors
from cyclegan_cli.styles.fetch import Download, Patience, Tell, alone, part_file

_PACKAGED = Path(__file__).with_name("datasets.toml")
_MARK = "dataset.json"  # beside the folders of pictures: what was downloaded, and from where
_disk = partial(
    errors.writing, hint="Give a folder that can be written by --to, or set CYCLEGAN_CACHE."
)
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


@dataclass(frozen=True)
class Here:
    """A data set on the disk. ``counts``: pictures in each of its folders."""

    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    fetched: bool = False


def datasets() -> dict[str, DataSet]:
    """The package's and those of CYCLEGAN_HOME's datasets.toml, by name. Raises UsageError."""
    return _read(_PACKAGED) | _read(files.home_dir() / "datasets.toml")


def find_dataset(name: str) -> DataSet:
    """The data set of that name. Raises UnknownNameError, with a did-you-mean."""
    known = datasets()
    if name not in known:
        raise errors.UnknownNameError("data set", name, known, hint="cyclegan datasets list")
    return known[name]


def _read(path: Path) -> dict[str, DataSet]:
    data = files.read_toml(path, missing_ok=True)
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
    addresses = filled(templates, f"{files.check_name(name)}.zip")
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


def location(name: str, to: Path | None = None) -> Path:
    """The folder of the data set: ``to``/NAME, or CYCLEGAN_CACHE/datasets/NAME."""
    return (to or files.cache_dir() / "datasets") / name


def here(name: str, to: Path | None = None) -> Here | None:
    """The data set on the disk, or None."""
    folder = location(name, to)
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        counts = {str(key): int(count) for key, count in mark["pictures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Here(folder, counts) if all((folder / part).is_dir() for part in counts) else None


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
    if (found := here(name, to)) is not None:
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
        if (found := here(name, to)) is not None:
            return found  # the other process has done it
        file = f"{name}.zip"
        download = Download(
            *(f"The data set '{name}'", file, f"dataset {file}", part_file(f"dataset-{file}")),
            *(wanted.addresses, SIZE_LIMIT, what_is_wrong),
            hints=(
                "Once more goes on where it stopped. CYCLEGAN_MIRROR names another server.",
                "CYCLEGAN_MIRROR names a server that can be reached.",
            ),
            tell=tell,
            patience=patience or Patience(),
        )
        with _disk(target):
            files.remove_leftovers(target.parent, name)
        counts = _from_before(wanted, download, target)
        if counts is None:
            counts = _put(wanted, download, target, download.fetch())
            download.accept()
        download.drop()
    return Here(target, counts, fetched=True)


def _from_before(wanted: DataSet, download: Download, target: Path) -> dict[str, int] | None:
    """Unpack an archive that was downloaded before; None if there is none that can be unpacked."""
    part, known = download.part, download.known_digest()
    if not part.exists() or what_is_wrong(part):
        return None
    if known is not None and files.digest_of(part)[0] != known.hex:
        return None
    try:
        return _put(wanted, download, target, "")
    except DownloadError:
        download.reject()
        return None


def _put(wanted: DataSet, download: Download, target: Path, address: str) -> dict[str, int]:
    """Unpack it beside ``target``, then rename. Raises StoreError; DownloadError: it is deleted."""
    part = download.part
    with _disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{wanted.name}.{secrets.token_hex(6)}.tmp")
        try:
            with zipfile.ZipFile(part) as archive:
                needed = sum(info.file_size for info in _plan(archive).values())
            free = shutil.disk_usage(target.parent).free
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
            origin = {"address": address, "sha256": files.digest_of(part)[0]}
            record = {**about, "source": wanted.source, **origin, "pictures": counts}
            files.write_text(temporary / _MARK, json.dumps(record, indent=1) + "\n")
            temporary.rename(target)
        except DownloadError:
            download.drop()
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return counts


# -- archives from a source that is not trusted ------------------------------------------------
#
# A zip file may name places outside its folder, hold links, or expand to fill the disk. So all is
# decided from its table of contents before a byte is written: only pictures in a data set's
# folders, limits of number and size, no byte used twice. No entry gets more bytes than it declares.

FOLDERS = tuple(f"{part}{domain}" for part in ("train", "test", "val") for domain in "AB")
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_MOST_ENTRIES = 200_000
_MOST_BYTES, _LARGEST = 16_000_000_000, 500_000_000  # of all files, of one
_GROWTH = 100.0  # unpacked to packed size: deflate's own limit is 1032, pictures have 1
_BLOCK = 1 << 18
_LONGEST = 200  # bytes of a name
_HEADER = 30  # bytes of a local header, before the entry's name


def what_is_wrong(file: Path) -> str:
    """Why ``file`` cannot be unpacked safely; empty if it can."""
    try:
        with zipfile.ZipFile(file) as archive:
            _plan(archive)
    except DownloadError as error:
        return str(error).rstrip(".")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return "what it sent is not a whole zip file"
    return ""


def _plan(archive: zipfile.ZipFile) -> dict[tuple[str, str], zipfile.ZipInfo]:
    """The pictures to unpack by (folder, name). Raises DownloadError for anything suspicious."""
    infos = archive.infolist()
    if len(infos) > _MOST_ENTRIES:
        raise DownloadError(f"The archive has {len(infos)} entries; {_MOST_ENTRIES} are allowed.")
    entries: dict[tuple[str, str], zipfile.ZipInfo] = {}
    seen: set[tuple[str, str]] = set()
    for info in infos:
        parts = _parts(info)
        if info.is_dir() or not _is_picture(parts):
            continue
        _check(info)
        folder, name = parts[-2], _portable(info, parts[-1])
        key = (folder, unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            raise _bad(info, "is there twice")
        seen.add(key)
        entries[folder, name] = info
    if not entries:
        raise DownloadError(f"The archive has no pictures in {', '.join(FOLDERS[:4])}.")
    total = sum(info.file_size for info in entries.values())
    if total > _MOST_BYTES:
        raise DownloadError(f"The archive holds {total} bytes; {_MOST_BYTES} are allowed.")
    # No two may share packed bytes: a bomb that no ratio of one entry shows.
    for one, other in pairwise(sorted(entries.values(), key=lambda info: info.header_offset)):
        if one.header_offset + _HEADER + one.compress_size > other.header_offset:
            raise _bad(other, "shares its bytes with another")
    return entries


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The folders and the name of an entry. Raises DownloadError for one that leads elsewhere."""
    path = PurePosixPath(info.orig_filename)
    elsewhere = re.match(r"[A-Za-z]:|.*[\\\0]", info.orig_filename, re.DOTALL)
    if path.is_absolute() or ".." in path.parts or elsewhere:
        raise _bad(info, "leads out of its folder")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _bad(info, "is a link or a device, not a file")
    return path.parts


def _is_picture(parts: tuple[str, ...]) -> bool:
    """Whether it is FOLDER/NAME or ANYTHING/FOLDER/NAME, and a picture by its name."""
    if not 2 <= len(parts) <= 3 or parts[-2] not in FOLDERS or parts[0] == "__MACOSX":
        return False
    return parts[-1][0] != "." and PurePosixPath(parts[-1]).suffix.lower() in _PICTURES


def _portable(info: zipfile.ZipInfo, name: str) -> str:
    """``name`` as every system can write it: some public sets have times of day in names."""
    safe = re.sub(r'[<>:"|?*]', "_", name)
    if not safe.isprintable() or len(safe.encode("utf-8", "replace")) > _LONGEST:
        raise _bad(info, "has a name that not every system can write")
    stem = safe.split(".", maxsplit=1)[0].rstrip().lower()
    return f"_{safe}" if stem in files.RESERVED else safe


def _check(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        raise _bad(info, "is encrypted")
    if info.compress_type not in _METHODS:
        raise _bad(info, "is packed by a method that is not used here")
    if info.file_size > _LARGEST:
        raise _bad(info, f"would have {info.file_size} bytes")
    if info.file_size > _GROWTH * max(info.compress_size, 1) and info.file_size > _BLOCK:
        raise _bad(info, f"grows from {info.compress_size} to {info.file_size} bytes")


def unpack(file: Path, folder: Path) -> dict[str, int]:
    """Unpack ``file`` into ``folder``; returns the number of pictures in each of its folders.

    Raises DownloadError for what ``what_is_wrong`` finds and for false entries; OSError.
    """
    with zipfile.ZipFile(file) as archive:
        plan = _plan(archive)
        for (part, name), info in plan.items():
            (folder / part).mkdir(exist_ok=True)
            _write(archive, info, folder / part / name)
    return Counter(part for part, _ in plan)


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    left = info.file_size
    try:
        with archive.open(info) as source, target.open("xb") as out:
            while block := source.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise _bad(info, "is larger than it says")
                out.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _bad(info, "is damaged") from error
    if left:
        raise _bad(info, "is smaller than it says")


def _bad(info: zipfile.ZipInfo, what: str) -> DownloadError:
    name = "".join(c if c.isprintable() else "?" for c in info.orig_filename)[:80]
    return DownloadError(f"The archive's entry '{name}' {what}.")
