"""Sample sheets: made, listed, read back; as data URIs for the page, as frames of a time-lapse."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cyclegan_cli.errors import PictureError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

GAP = 6  # pixels around every picture of a sheet
CAPTION = 18  # pixels above them
_COLUMNS = 6  # x, G(x), F(G(x)), y, F(y), G(F(y))
_NAME = re.compile(r"step-(\d{9,})\.png")
_SIDE = 256  # pixels on the page; larger pictures are made smaller
_QUALITY = 82
_ROWS = 6  # held-out pictures of each domain on the page
# Of a time-lapse: frames, rows of pictures and the pixels of their sides, at most; of a line.
_FRAMES, _FRAME_ROWS, _LEAST, _MOST, _LINE = 120, 4, 128, 256, 20
_PAPER, _INK, _BAR = (24, 22, 20), (236, 232, 225), (108, 192, 234)

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


def to_image(picture: Tensor) -> Image.Image:
    """C×H×W float in [−1, 1], C = 1 or 3 -> an RGB picture; rounded, not truncated."""
    levels = picture.clamp(-1, 1).add(1).mul(127.5).round().byte()
    pixels = levels.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def sample_sheet(pictures: Mapping[str, Tensor]) -> Image.Image:
    """One column per entry of ``pictures`` with its name above, one row per picture.

    Each value: float, N×C×H×W in [−1, 1]; all of one height and width.
    """
    from torchvision.utils import make_grid

    first, *_ = columns = list(pictures.values())
    rows = zip_longest(*columns, fillvalue=first.new_ones(first.shape[1:]))
    cells = [picture for row in rows for picture in row]
    grid = to_image(make_grid(cells, nrow=len(columns), padding=GAP, pad_value=1))
    sheet = Image.new("RGB", (grid.width, CAPTION + grid.height), "white")
    sheet.paste(grid, (0, CAPTION))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column, name in enumerate(pictures):
        left = GAP + column * (grid.width - GAP) // len(columns)
        draw.text((left, 2), name, fill="black", font=font)
    return sheet


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

    Raises PictureError if ``path`` is not a complete sheet.
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
        blank = ((255, 255),) * 3  # the least and the largest of each channel
        return tuple(row for row in rows_of if any(one.getextrema() != blank for one in row))

    return Samples(domain(0), domain(3))


# -- for the page -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """The samples at ``step``: data URIs, three for each x and three for each y."""

    step: int
    x: tuple[tuple[str, str, str], ...]
    y: tuple[tuple[str, str, str], ...]

    @property
    def made(self) -> list[str]:
        """G(x) and F(G(x)) of each x, then F(y) and G(F(y)) of each y."""
        return [uri for triple in (*self.x, *self.y) for uri in triple[1:]]


class Gallery:
    """The sheets of ``folder`` for a page; what is encoded is kept for the next one.

    ``budget``: about how many bytes of data URIs a page may have; it has at least two moments.
    """

    def __init__(self, folder: Path, budget: int = 6 * 2**20) -> None:
        self._folder = folder
        self._budget = budget
        self._kept: dict[int, Moment | None] = {}

    def moments(self) -> list[Moment]:
        """By step, with the first and the newest; unreadable sheets are left out."""
        sheets = list_sheets(self._folder)
        newest = next(filter(None, (self._moment(sheet) for sheet in reversed(sheets))), None)
        if newest is None:
            return []
        size = sum(map(len, newest.made))
        chosen = thinned(sheets, max(2, self._budget // max(size, 1)))
        self._kept = {sheet.step: self._moment(sheet) for sheet in chosen}
        like = (len(newest.x), len(newest.y))
        found = [moment for moment in self._kept.values() if moment is not None]
        # Only sheets of the same pictures as the newest.
        return [moment for moment in found if (len(moment.x), len(moment.y)) == like]

    def _moment(self, sheet: Sheet) -> Moment | None:
        if sheet.step not in self._kept:
            try:
                self._kept[sheet.step] = encoded(sheet.step, read_sheet(sheet.path))
            except PictureError:
                self._kept[sheet.step] = None
        return self._kept[sheet.step]


def thinned(sheets: list[Sheet], count: int) -> list[Sheet]:
    """At most ``count`` ≥ 2 of ``sheets``: every 2^k-th from the first, and the last.

    A sheet that is left out stays out as a run grows, so none is encoded twice.
    """
    stride = 1
    while len(range(0, len(sheets), stride)) + 1 > count and stride < len(sheets):
        stride *= 2
    return sheets[::stride] if (len(sheets) - 1) % stride == 0 else [*sheets[::stride], sheets[-1]]


def encoded(step: int, samples: Samples) -> Moment:
    """``samples`` as JPEGs in data URIs."""
    x, y = (
        tuple((_uri(a), _uri(b), _uri(c)) for a, b, c in triples[:_ROWS])
        for triples in (samples.x, samples.y)
    )
    return Moment(step, x, y)


def _uri(picture: Image.Image) -> str:
    if picture.width > _SIDE:
        picture = picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# -- for a time-lapse ---------------------------------------------------------------------------


def spread(sheets: Sequence[Sheet], count: int = _FRAMES) -> list[Sheet]:
    """At most ``count`` (2 or more) of ``sheets``, evenly apart, with the first and the last."""
    if len(sheets) <= count:
        return list(sheets)
    return [sheets[round(k * (len(sheets) - 1) / (count - 1))] for k in range(count)]


def frame_of(samples: Samples, label: str, share: float, picture: int | None) -> Image.Image:
    """x, G(x), y and F(y) side by side, a row a picture, over ``label`` and a bar.

    ``share``: how full the bar is, in [0, 1]. ``picture``: only this one, counted from 1. Raises
    UsageError where there is no such picture. Returns RGB of even width and height.
    """
    x = [triple[:2] for triple in samples.x]
    y = [triple[:2] for triple in samples.y]
    rows = list(zip_longest(x, y, fillvalue=()))
    if picture is not None:
        if picture > len(rows):
            raise UsageError(f"There is no picture {picture}: the samples show {len(rows)}.")
        rows = [rows[picture - 1]]
    rows = rows[:_FRAME_ROWS]
    side = min(max((samples.x or samples.y)[0][0].width, _LEAST), _MOST)
    side += side % 2
    width = 4 * (side + GAP) + 2 * GAP
    height = _LINE + len(rows) * (side + GAP) + _LINE + GAP
    frame = Image.new("RGB", (width, height + height % 2), _PAPER)
    draw = ImageDraw.Draw(frame)
    font = ImageFont.load_default(size=13)
    lefts = [GAP + column * (side + GAP) + (GAP if column > 1 else 0) for column in range(4)]
    for left, name in zip(lefts, ("x", "G(x)", "y", "F(y)"), strict=True):
        draw.text((left, 2), name, fill=_INK, font=font)
    for row, pairs in enumerate(rows):
        top = _LINE + row * (side + GAP)
        for first, pair in zip((0, 2), pairs, strict=True):
            for column, image in enumerate(pair, first):
                sized = image.resize((side, side), Image.Resampling.BICUBIC)  # a copy, if it fits
                frame.paste(sized, (lefts[column], top))
    below = _LINE + len(rows) * (side + GAP)
    draw.text((GAP, below), label, fill=_INK, font=font)
    end = width - GAP
    start = width // 2
    draw.rectangle((start, below + 7, end, below + 10), fill=(70, 66, 60))
    full = start + round(min(max(share, 0.0), 1.0) * (end - start))
    draw.rectangle((start, below + 7, full, below + 10), fill=_BAR)
    return frame
