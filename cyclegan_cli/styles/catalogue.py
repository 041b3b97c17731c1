"""What a style is, how it is written down, and the table of styles that can be downloaded.

``catalogue.toml`` in CYCLEGAN_HOME adds rows to the package's table, or replaces those of the same
style and direction. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclegan_cli import errors, files
from cyclegan_cli.engine.weights import read_header
from cyclegan_cli.errors import StoreError, UsageError, WeightsError, command_line, writing
from cyclegan_cli.settings import GeneratorSpec

Origin = Literal["trained", "imported", "bundled", "downloaded", "available"]
Way = Literal["xy", "yx"]
WAYS: tuple[Way, Way] = ("xy", "yx")

STYLE_FORMAT = "cyclegan-style-1"
SIZE_LIMIT = 256_000_000  # bytes of one download, unless its row says otherwise
_CARD_LIMIT = 1_000_000  # bytes of a style.json
_PACKAGED = Path(__file__).with_name("catalogue.toml")

# First bytes of files that are mistaken for weights, what they are, and what to do about it.
DOWNLOAD_AGAIN = "Download it again, from the address of the file itself."
_UNPACK = "Unpack it first."
_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file", "git lfs pull"),
    (b"<!doctype html", "a web page (HTML)", DOWNLOAD_AGAIN),
    (b"<html", "a web page (HTML)", DOWNLOAD_AGAIN),
    (b"<?xml", "XML, such as a server's error", DOWNLOAD_AGAIN),
    (b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (b"bzh", "compressed by bzip2", _UNPACK),
    (b"\xfd7zxz", "compressed by xz", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"rar!", "a RAR archive", _UNPACK),
    (b"\x89hdf", "an HDF5 file, as Keras writes", ""),
    (b"\x93numpy", "a NumPy array", ""),
    (b"gguf", "a GGUF language model", ""),
    (b"\x89png", "a picture (PNG)", ""),
    (b"\xff\xd8\xff", "a picture (JPEG)", ""),
    (b"gif8", "a picture (GIF)", ""),
    (b"%pdf", "a PDF document", ""),
    *((b"\x08%c\x12" % version, "an ONNX model", "") for version in (7, 8, 9, 10)),
    (b"\x80", "a Python pickle that PyTorch did not write", ""),
    (b"{", "JSON", ""),
)


@dataclass(frozen=True)
class Direction:
    """One generator's file. ``size``: bytes."""

    file: Path
    sha256: str
    size: int
    generator: GeneratorSpec


@dataclass(frozen=True)
class Style:
    """A pair of domains, X and Y, and the generators between them that are on this machine.

    ``directions``: "xy" is G: X→Y, "yx" is F: Y→X. ``card``: licence, source and facts of the
    training, plain JSON values. ``folder``: None where there is none, or only a single file.
    ``hides``: origins of styles of the same name that come after this one.
    """

    name: str
    x: str
    y: str
    origin: Origin
    directions: dict[Way, Direction]
    card: dict[str, Any]
    folder: Path | None = None
    hides: tuple[Origin, ...] = ()

    @property
    def ways(self) -> tuple[Way, ...]:
        """The directions on this machine or, if there are none, those that can be downloaded."""
        there = self.directions or self.card.get("available", {})
        return tuple(way for way in WAYS if way in there)

    @property
    def resolution(self) -> int | None:
        """The long side in pixels that the style is meant to be painted at; None: any."""
        value = self.card.get("resolution")
        usable = isinstance(value, int) and not isinstance(value, bool) and value >= 16
        return value if usable else None

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(direction.size for direction in self.directions.values())


def read_style(folder: Path, origin: Origin | None, *, name: str | None) -> Style:
    """The style in ``folder``. ``origin``, ``name``: None for what style.json says.

    Raises StoreError if it is damaged, FileNotFoundError if there is no style.json.
    """
    path = folder / "style.json"
    try:
        with path.open("rb") as file:
            text = file.read(_CARD_LIMIT + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise
        raise StoreError(f"{path} cannot be read: {errors.reason_of(error)}.") from error
    try:
        card = json.loads(text) if len(text) <= _CARD_LIMIT else None
        if not isinstance(card, dict) or card.pop("format", None) != STYLE_FORMAT:
            raise damaged(folder, "its style.json is not one that this version reads")
        said = card.pop("origin")
        if said not in ("trained", "imported", "bundled", "downloaded"):
            raise damaged(folder, "its style.json does not say where it came from")
        own_name, x, y = (plain(card.pop(key)) for key in ("name", "x", "y"))
        directions = {
            way: _read_direction(folder, entry)
            for way, entry in card.pop("directions").items()
            if way in WAYS
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, WeightsError) as error:
        raise damaged(folder, "its style.json is damaged") from error
    if not directions:
        raise damaged(folder, "it has no weights")
    if name is None:  # its own name becomes part of file names, so it must be valid
        name = own_name if is_name(own_name) else folder.resolve().name
    return Style(name, x, y, origin or said, directions, card, folder)


def _read_direction(folder: Path, entry: Mapping[str, Any]) -> Direction:
    name, digest, size = str(entry["file"]), str(entry["sha256"]), int(entry["size"])
    if name not in ("xy.safetensors", "yx.safetensors"):
        raise ValueError("a style's weights lie in its own folder")
    return Direction(folder / name, digest, size, GeneratorSpec.from_json(entry["generator"]))


def is_name(name: str) -> bool:
    """Whether a style can have this name."""
    try:
        return files.check_name(name) == name
    except UsageError:
        return False


def plain(text: object) -> str:
    """``text`` for display: no control characters, at most 100 characters."""
    return "".join(c for c in str(text) if c.isprintable())[:100]


def read_generator_header(path: Path) -> tuple[GeneratorSpec, dict[str, Any]]:
    """``engine.weights.read_header``, with a message that names files of another kind."""
    try:
        return read_header(path)
    except WeightsError as error:
        if isinstance(error.__cause__, ValueError | RecursionError):
            with path.open("rb") as file:
                what, advice = foreign(file.read(512))
            if what:
                said = f"{path} is no weights file, but {what}."
                raise WeightsError(said, hint=advice) from error
        raise


def style_of_file(path: Path) -> Style:
    """One .safetensors file as a style of one direction. Raises WeightsError for other files."""
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is not a style of this program.",
            hint=command_line("pretrained", "import", path, "--name", "NAME"),
        )
    spec, about = read_generator_header(path)
    digest, size = files.digest_of(path)
    x, y = plain(about.get("x", "x")), plain(about.get("y", "y"))
    if about.get("direction") == "yx":
        x, y = y, x
    name = path.parent.name if path.stem in WAYS else path.stem
    return Style(name, x, y, "imported", {"xy": Direction(path, digest, size, spec)}, about)


def foreign(data: bytes) -> tuple[str, str]:
    """What a file that begins so is instead of weights, and what to do about it; "" if unknown."""
    if not data:
        return "empty", DOWNLOAD_AGAIN
    head = data[:512].lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    for start, what, advice in _FOREIGN:
        if head.startswith(start):
            return what, advice
    if data[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    is_text = all(32 <= byte < 127 or byte in b"\t\n\f\r" for byte in data[:512])
    return ("text" if is_text else "", "")


def damaged(folder: Path, what: str) -> StoreError:
    """The error for a style's folder that is not a complete style."""
    return StoreError(
        f"The style in {folder} is damaged: {what}.",
        hint=command_line("pretrained", "remove", folder.name),
    )


# -- the table of downloads ----------------------------------------------------------------------


def offline() -> bool:
    """Whether ``CYCLEGAN_OFFLINE`` forbids every request."""
    return os.environ.get("CYCLEGAN_OFFLINE", "").lower() not in ("", "0", "false", "no")


@dataclass(frozen=True)
class Digest:
    """What a file must hash to: its SHA-256, or its name as a git blob (a salted SHA-1)."""

    kind: Literal["sha256", "git_blob"]
    hex: str


@dataclass(frozen=True)
class Row:
    """One generator that can be downloaded. ``size_limit``: bytes of its file."""

    style: str
    way: Way
    x: str
    y: str
    file: str
    addresses: tuple[str, ...]
    digest: Digest | None
    licence: str
    source: str
    size_limit: int = SIZE_LIMIT


def user_catalogue() -> Path:
    """The user's own table; it may not exist."""
    return files.home_dir() / "catalogue.toml"


def entries() -> dict[str, dict[Way, Row]]:
    """The table's rows by style and direction. Raises UsageError, naming the row that is wrong."""
    found: dict[str, dict[Way, Row]] = {}
    for row in (*_read(_PACKAGED), *_read(user_catalogue())):
        found.setdefault(row.style, {})[row.way] = row
    return found


def available_styles() -> list[Style]:
    """The table's styles, as styles without weights. Raises as ``entries``."""
    found = []
    for name, rows in entries().items():
        first = next(iter(rows.values()))
        card: dict[str, Any] = {"licence": first.licence, "source": first.source}
        card["available"] = {way: row.addresses[0] for way, row in rows.items()}
        found.append(Style(name, first.x, first.y, "available", directions={}, card=card))
    return found


def obtainable(style: Style, way: Way) -> bool:
    """Whether the direction is missing and can be downloaded. Raises as ``entries``."""
    if way in style.directions or style.origin not in ("available", "downloaded"):
        return False
    return way in entries().get(style.name, {})


def _read(path: Path) -> Iterator[Row]:
    data = files.read_toml(path, missing_ok=True)
    rows, servers = data.get("generator", []), data.get("servers", {})
    if not isinstance(rows, list) or not isinstance(servers, dict):
        raise UsageError(f"{path} has no [[generator]] rows.", hint="cyclegan docs styles")
    for number, row in enumerate(rows, 1):
        with row_errors(f"{path}: [[generator]] number {number}", "styles"):
            yield _row(row, servers)


@contextlib.contextmanager
def row_errors(where: str, page: str) -> Iterator[None]:
    """Errors of a row of a TOML table as a UsageError; ``page``: of the documentation."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise UsageError(f"{where}: {what}.", hint=f"cyclegan docs {page}") from error


def filled(templates: Sequence[object], file: str) -> tuple[str, ...]:
    """The addresses, with ``file`` in place of {file}. Raises ValueError if one is not http(s)."""
    addresses = tuple(str(text).replace("{file}", file) for text in templates)
    if not addresses or not all(a.startswith(("https://", "http://")) for a in addresses):
        raise ValueError("its addresses must begin with https:// or http://")
    return addresses


def _row(row: Mapping[str, Any], servers: Mapping[str, Any]) -> Row:
    server = servers[row["server"]] if "server" in row else {}
    file = str(row["file"])
    if "/" in file or "\\" in file or file.startswith("."):
        raise ValueError(f"{file!r} is not the name of a file")
    addresses = filled([*row.get("addresses", []), *server.get("addresses", [])], file)
    if row["direction"] not in WAYS:
        raise ValueError('its direction must be "xy" or "yx"')
    limit = row.get("size_limit", SIZE_LIMIT)
    if type(limit) is not int or limit < 1:
        raise ValueError("its size_limit must be a number of bytes")
    return Row(
        style=files.check_name(row["style"]),
        way=row["direction"],
        x=plain(row["x"]),
        y=plain(row["y"]),
        file=file,
        addresses=addresses,
        digest=_digest(row),
        licence=plain(row.get("licence", server.get("licence", "unknown"))),
        source=plain(row.get("source", server.get("source", ""))),
        size_limit=limit,
    )


def _digest(row: Mapping[str, Any]) -> Digest | None:
    lengths: dict[Literal["sha256", "git_blob"], int] = {"sha256": 64, "git_blob": 40}
    for kind, length in lengths.items():
        if kind in row:
            if not re.fullmatch(f"[0-9a-f]{{{length}}}", text := str(row[kind]).lower()):
                raise ValueError(f"its {kind} must be {length} hexadecimal digits")
            return Digest(kind, text)
    return None


def file_digests(path: Path) -> dict[str, str]:
    """The file's SHA-256 ("sha256") and its name as a git blob ("git_blob")."""
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            blob.update(block)
    return {"sha256": sha256.hexdigest(), "git_blob": blob.hexdigest()}


def digests_file() -> Path:
    """In CYCLEGAN_HOME: a digest must outlive the cache that it protects."""
    return files.home_dir() / "digests.json"


def _digests() -> dict[str, str]:
    try:
        data = json.loads(digests_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{digests_file()}, the record of downloads, cannot be read: {error}.",
            hint="If it is no longer needed, remove it: digests are then recorded again.",
        ) from error
    return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}


def recorded_digest(key: str) -> Digest | None:
    """What a download of ``key`` without a published digest must have. Raises StoreError."""
    sha256 = _digests().get(key)
    return Digest("sha256", sha256) if sha256 else None


def record_digest(key: str, sha256: str) -> None:
    """From now on a download of ``key`` must have ``sha256``; empty: any. Raises StoreError."""
    from filelock import FileLock

    with writing(digests_file(), hint="Set CYCLEGAN_HOME to a folder that can be written."):
        files.home_dir().mkdir(parents=True, exist_ok=True)
        with FileLock(digests_file().with_suffix(".lock")):
            files.remove_leftovers(files.home_dir())
            known = {k: v for k, v in {**_digests(), key: sha256}.items() if v}
            files.write_text(digests_file(), json.dumps(known, indent=1, sort_keys=True) + "\n")
