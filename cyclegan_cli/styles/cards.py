"""What a style is, and how it is written down: ``style.json`` and the heads of weight files.

No torch here: lists, completion and usage errors read styles through this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclegan_cli.engine.weights import read_header
from cyclegan_cli.errors import StoreError, UsageError, WeightsError, command_line
from cyclegan_cli.places import check_name
from cyclegan_cli.settings import GeneratorSpec

__all__ = [
    "DOWNLOAD_AGAIN",
    "STYLE_FORMAT",
    "WAYS",
    "Direction",
    "Origin",
    "Style",
    "Way",
    "damaged",
    "foreign",
    "is_name",
    "plain",
    "read_generator_header",
    "read_style",
]

Origin = Literal["trained", "imported", "bundled", "downloaded", "available"]
Way = Literal["xy", "yx"]
WAYS: tuple[Way, Way] = ("xy", "yx")

STYLE_FORMAT = "cyclegan-style-1"
_CARD_LIMIT = 1_000_000  # bytes of a style.json

# How files begin that are taken for weights, what they are, and what to do about it.
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
    (b"\x08\x07\x12", "an ONNX model", ""),
    (b"\x08\x08\x12", "an ONNX model", ""),
    (b"\x08\x09\x12", "an ONNX model", ""),
    (b"\x08\x0a\x12", "an ONNX model", ""),
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
    """A pair of domains, X and Y, and the generators between them that are here.

    ``directions``: "xy" is G: X→Y, "yx" is F: Y→X. ``card``: how it came to be, plain JSON values.
    ``folder``: where it lies (None where it is only available, or is a single file).
    ``hides``: origins of styles of the same name that this one stands before.
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
        """The directions that are here or, where nothing is, those that can be downloaded."""
        there = self.directions or self.card.get("available", {})
        return tuple(way for way in WAYS if way in there)

    @property
    def resolution(self) -> int | None:
        """The long side, in pixels, that the style was made to paint at; None: any."""
        value = self.card.get("resolution")
        usable = isinstance(value, int) and not isinstance(value, bool) and value >= 16
        return value if usable else None

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(direction.size for direction in self.directions.values())


def read_style(folder: Path, origin: Origin | None, *, name: str | None) -> Style:
    """The style in ``folder``. Raises StoreError where it is damaged, FileNotFoundError where there
    is no style.json, or no longer.
    """
    try:
        with (folder / "style.json").open("rb") as file:
            text = file.read(_CARD_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StoreError(f"{folder / 'style.json'} cannot be read: {error.strerror}.") from error
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
    if name is None:  # found by its path: what it calls itself names files, so it must be a name
        name = own_name if is_name(own_name) else folder.resolve().name
    return Style(name, x, y, origin or said, directions, card, folder)


def _read_direction(folder: Path, entry: Mapping[str, Any]) -> Direction:
    name, digest, size = str(entry["file"]), str(entry["sha256"]), int(entry["size"])
    if name not in (f"{way}.safetensors" for way in WAYS):
        raise ValueError("a style's weights lie in its own folder")
    return Direction(folder / name, digest, size, GeneratorSpec.from_json(entry["generator"]))


def is_name(name: str) -> bool:
    """Whether a style can have this name."""
    try:
        return check_name(name) == name
    except UsageError:
        return False


def plain(text: object) -> str:
    """A word that is shown: no control characters, not endless."""
    return "".join(c for c in str(text) if c.isprintable())[:100]


def read_generator_header(path: Path) -> tuple[GeneratorSpec, dict[str, Any]]:
    """``engine.weights.read_header``, which also says what a file of another kind is."""
    try:
        return read_header(path)
    except WeightsError as error:
        if isinstance(error.__cause__, ValueError | RecursionError):
            with path.open("rb") as file:
                what, advice = foreign(file.read(512))
            if what:
                message = f"{path} is no weights file, but {what}."
                raise WeightsError(message, hint=advice) from error
        raise


def foreign(data: bytes) -> tuple[str, str]:
    """What a file that begins with ``data`` is instead of weights, and what to do about it; empty
    where it is nothing well known.
    """
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
    """The error that says that a style's folder is not a whole style."""
    return StoreError(
        f"The style in {folder} is damaged: {what}.",
        hint=command_line("pretrained", "remove", folder.name),
    )
