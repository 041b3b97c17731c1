"""Sample sheets read back: which there are, and the pictures on them. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cyclegan_cli.errors import PictureError

__all__ = ["CAPTION", "GAP", "Samples", "Sheet", "list_sheets", "read_sheet", "sheet_name"]

GAP = 6  # pixels around every picture of a sheet
CAPTION = 18  # pixels above them
_COLUMNS = 6  # x, G(x), F(G(x)), y, F(y), G(F(y))
_NAME = re.compile(r"step-(\d{9,})\.png")

Triple = tuple[Image.Image, Image.Image, Image.Image]


@dataclass(frozen=True)
class Sheet:
    """The file that shows the samples at ``step``."""

    step: int
    path: Path


@dataclass(frozen=True)
class Samples:
    """The pictures of a sheet: (x, G(x), F(G(x))) for each x, (y, F(y), G(F(y))) for each y."""

    x: tuple[Triple, ...]
    y: tuple[Triple, ...]


def sheet_name(step: int) -> str:
    """The file name of the sheet at ``step``; names sort as steps do."""
    return f"step-{step:09}.png"


def list_sheets(folder: Path) -> list[Sheet]:
    """The sheets in ``folder`` (which may not exist), by step."""
    found = []
    for path in folder.glob("step-*.png"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append(Sheet(int(match[1]), path))
    return sorted(found, key=lambda sheet: sheet.step)


def read_sheet(path: Path) -> Samples:
    """The pictures on the sheet at ``path``: square, RGB.

    Where one domain shows fewer pictures than the other, its empty places are left out.
    Raises PictureError where ``path`` is not a whole sheet.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            sheet: Image.Image = image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise PictureError(f"{path} cannot be read as a sheet of samples ({error}).") from error
    side, left = divmod(sheet.width - GAP - _COLUMNS * GAP, _COLUMNS)
    rows, below = divmod(sheet.height - CAPTION - GAP, max(side, 1) + GAP)
    if side < 1 or left or below or rows < 1:
        raise PictureError(f"{path} is not a sheet of samples.")

    def place(column: int, row: int) -> Image.Image:
        across, down = GAP + column * (side + GAP), CAPTION + GAP + row * (side + GAP)
        return sheet.crop((across, down, across + side, down + side))

    def domain(first: int) -> tuple[Triple, ...]:
        rows_of = [
            (place(first, row), place(first + 1, row), place(first + 2, row)) for row in range(rows)
        ]
        return tuple(triple for triple in rows_of if not all(map(_is_blank, triple)))

    return Samples(domain(0), domain(3))


def _is_blank(picture: Image.Image) -> bool:
    return picture.getextrema() == ((255, 255),) * 3
