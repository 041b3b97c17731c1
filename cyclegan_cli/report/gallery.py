"""The samples of a run as data URIs, thinned out so that a page of them stays small."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cyclegan_cli.errors import PictureError
from cyclegan_cli.report.samples import Samples, Sheet, list_sheets, read_sheet

__all__ = ["Gallery", "Moment", "encoded", "thinned"]

_SIDE = 256  # pixels; larger pictures are made smaller
_QUALITY = 82
_ROWS = 6  # held-out pictures of each domain


@dataclass(frozen=True)
class Moment:
    """The samples at ``step``: data URIs, three for each x and three for each y."""

    step: int
    x: tuple[tuple[str, str, str], ...]
    y: tuple[tuple[str, str, str], ...]

    @property
    def made(self) -> list[str]:
        """What the generators made: G(x), F(G(x)) of each x, then F(y), G(F(y)) of each y."""
        return [uri for triple in (*self.x, *self.y) for uri in triple[1:]]


class Gallery:
    """Moments of ``folder``; what was encoded once is kept for the next page.

    ``budget``: bytes of data URIs that a page may hold, about; two moments are always shown.
    """

    def __init__(self, folder: Path, budget: int = 6 * 2**20) -> None:
        self._folder = folder
        self._budget = budget
        self._kept: dict[int, Moment | None] = {}

    def moments(self) -> list[Moment]:
        """By step. The first and the newest are among them; unreadable sheets are left out."""
        sheets = list_sheets(self._folder)
        newest = next(filter(None, (self._moment(sheet) for sheet in reversed(sheets))), None)
        if newest is None:
            return []
        size = sum(map(len, newest.made))
        chosen = thinned(sheets, max(2, self._budget // max(size, 1)))
        self._kept = {sheet.step: self._moment(sheet) for sheet in chosen}
        like = (len(newest.x), len(newest.y))
        found = [moment for moment in self._kept.values() if moment is not None]
        # A sheet of other pictures than the newest has no place beside them.
        return [moment for moment in found if (len(moment.x), len(moment.y)) == like]

    def _moment(self, sheet: Sheet) -> Moment | None:
        if sheet.step not in self._kept:
            try:
                self._kept[sheet.step] = encoded(sheet.step, read_sheet(sheet.path))
            except PictureError:
                self._kept[sheet.step] = None
        return self._kept[sheet.step]


def thinned(sheets: list[Sheet], count: int) -> list[Sheet]:
    """At most ``count`` (2 or more) of ``sheets``: every 2^k-th from the first on, and the last.

    What is left out of a run as it grows never comes back, so nothing is encoded twice.
    """
    stride = 1
    while len(range(0, len(sheets), stride)) + 1 > count and stride < len(sheets):
        stride *= 2
    return sheets[::stride] if (len(sheets) - 1) % stride == 0 else [*sheets[::stride], sheets[-1]]


def encoded(step: int, samples: Samples) -> Moment:
    """``samples`` as JPEGs in data URIs."""

    def domain(
        triples: tuple[tuple[Image.Image, Image.Image, Image.Image], ...],
    ) -> tuple[tuple[str, str, str], ...]:
        return tuple((_uri(a), _uri(b), _uri(c)) for a, b, c in triples[:_ROWS])

    return Moment(step, domain(samples.x), domain(samples.y))


def _uri(picture: Image.Image) -> str:
    if picture.width > _SIDE:
        picture = picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
