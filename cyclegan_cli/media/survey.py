"""Every picture of a folder opened once, before hours are spent on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cyclegan_cli.errors import PictureError
from cyclegan_cli.media.pictures import read_rgb

__all__ = ["Survey", "survey"]


@dataclass(frozen=True)
class Survey:
    """What was found: pictures that can be used, in order, and why others cannot."""

    usable: list[Path] = field(default_factory=list)
    unusable: list[PictureError] = field(default_factory=list)


def survey(files: Sequence[Path], threads: int, advance: Callable[[], None]) -> Survey:
    """Decode each of ``files`` whole, ``threads`` at a time; ``advance`` is called after each."""
    found = Survey()

    def look(path: Path) -> PictureError | None:
        try:
            read_rgb(path)
        except PictureError as error:
            return error
        return None

    with ThreadPoolExecutor(threads, "survey") as pool:
        for path, error in zip(files, pool.map(look, files), strict=True):
            if error is None:
                found.usable.append(path)
            else:
                found.unusable.append(error)
            advance()
    return found
