"""The styles that can be downloaded: a table in the package, and the user's own.

``catalogue.toml`` in CYCLEGAN_HOME adds rows to the package's, or replaces those of the same style
and direction: a team's own styles on its own server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import read_toml
from cyclegan_cli.places import check_name, home_dir
from cyclegan_cli.styles.cards import WAYS, Style, Way, plain

__all__ = ["Digest", "Entry", "Row", "available_styles", "entries", "obtainable", "user_catalogue"]

_PACKAGED = Path(__file__).with_name("catalogue.toml")
SIZE_LIMIT = 256_000_000  # bytes of one download, unless its row says otherwise


@dataclass(frozen=True)
class Digest:
    """What a file must hash to: its SHA-256, or its name as a git blob (a salted SHA-1)."""

    kind: Literal["sha256", "git_blob"]
    hex: str


@dataclass(frozen=True)
class Row:
    """One generator that can be downloaded. ``size_limit``: bytes that its file may have."""

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


@dataclass(frozen=True)
class Entry:
    """One style of the catalogue: its rows, by direction."""

    name: str
    x: str
    y: str
    rows: dict[Way, Row]


def user_catalogue() -> Path:
    """The user's own table; it may not exist."""
    return home_dir() / "catalogue.toml"


def entries() -> dict[str, Entry]:
    """Every style of the catalogue, by name.

    Raises UsageError where the user's table cannot be understood, naming the row.
    """
    rows: dict[tuple[str, Way], Row] = {}
    for path in (_PACKAGED, user_catalogue()):
        rows.update({(row.style, row.way): row for row in _read(path)})
    found: dict[str, Entry] = {}
    for (style, way), row in rows.items():
        entry = found.setdefault(style, Entry(style, row.x, row.y, {}))
        entry.rows[way] = row
    return found


def available_styles() -> list[Style]:
    """The catalogue's styles, as styles of which nothing is here. Raises UsageError."""
    return [_available(entry) for entry in entries().values()]


def obtainable(style: Style, way: Way) -> bool:
    """Whether a download would bring a direction of ``style`` that is not here.

    Raises UsageError where the user's table cannot be understood.
    """
    if way in style.directions or style.origin not in ("available", "downloaded"):
        return False
    entry = entries().get(style.name)
    return entry is not None and way in entry.rows


def _available(entry: Entry) -> Style:
    first = next(iter(entry.rows.values()))
    card = {
        "licence": first.licence,
        "source": first.source,
        "available": {way: row.addresses[0] for way, row in entry.rows.items()},
    }
    return Style(entry.name, entry.x, entry.y, "available", directions={}, card=card)


def _read(path: Path) -> list[Row]:
    data = read_toml(path, missing_ok=True)
    rows, servers = data.get("generator", []), data.get("servers", {})
    if not isinstance(rows, list) or not isinstance(servers, dict):
        raise UsageError(f"{path} has no [[generator]] rows.", hint="See docs/styles.md.")
    result = []
    for number, row in enumerate(rows, 1):
        try:
            result.append(_row(row, servers))
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise UsageError(
                f"{path}: [[generator]] number {number}: {what}.", hint="See docs/styles.md."
            ) from error
    return result


def filled(templates: Sequence[object], file: str) -> tuple[str, ...]:
    """Addresses with ``file`` put in. Raises ValueError where there is none, or none of the web."""
    addresses = tuple(str(text).replace("{file}", file) for text in templates)
    if not addresses or not all(a.startswith(("https://", "http://")) for a in addresses):
        raise ValueError("its addresses must begin with https:// or http://")
    return addresses


def _row(row: Mapping[str, Any], servers: Mapping[str, Any]) -> Row:
    server = servers[row["server"]] if "server" in row else {}
    file = str(row["file"])
    templates = [*row.get("addresses", []), *server.get("addresses", [])]
    if "/" in file or "\\" in file or file.startswith("."):
        raise ValueError(f"{file!r} is not the name of a file")
    addresses = filled(templates, file)
    if row["direction"] not in WAYS:
        raise ValueError('its direction must be "xy" or "yx"')
    limit = row.get("size_limit", SIZE_LIMIT)
    if type(limit) is not int or limit < 1:
        raise ValueError("its size_limit must be a number of bytes")
    return Row(
        style=check_name(row["style"]),
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
    kinds: tuple[tuple[Literal["sha256", "git_blob"], int], ...] = (
        ("sha256", 64),
        ("git_blob", 40),
    )
    for kind, length in kinds:
        if kind in row:
            text = str(row[kind]).lower()
            if len(text) != length or set(text) - set("0123456789abcdef"):
                raise ValueError(f"its {kind} must be {length} hexadecimal digits")
            return Digest(kind, text)
    return None
