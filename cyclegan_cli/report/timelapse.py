"""The frames of a time-lapse: the samples of a run, a sheet a frame."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from cyclegan_cli.errors import UsageError
from cyclegan_cli.report.samples import Samples, Sheet

_FRAMES = 120
_LEAST, _MOST = 128, 256  # pixels of a picture's side; between them it keeps its own
_ROWS = 4
_GAP, _LINE = 6, 20
_PAPER, _INK, _BAR = (24, 22, 20), (236, 232, 225), (108, 192, 234)


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
    rows = [(x[n] if n < len(x) else (), y[n] if n < len(y) else ()) for n in range(_most(x, y))]
    if picture is not None:
        if picture > len(rows):
            raise UsageError(f"There is no picture {picture}: the samples show {len(rows)}.")
        rows = [rows[picture - 1]]
    rows = rows[:_ROWS]
    side = min(max((samples.x or samples.y)[0][0].width, _LEAST), _MOST)
    side += side % 2
    width = 4 * (side + _GAP) + 2 * _GAP
    height = _LINE + len(rows) * (side + _GAP) + _LINE + _GAP
    frame = Image.new("RGB", (width, height + height % 2), _PAPER)
    draw = ImageDraw.Draw(frame)
    font = ImageFont.load_default(size=13)
    lefts = [_GAP + column * (side + _GAP) + (_GAP if column > 1 else 0) for column in range(4)]
    for left, name in zip(lefts, ("x", "G(x)", "y", "F(y)"), strict=True):
        draw.text((left, 2), name, fill=_INK, font=font)
    for row, pairs in enumerate(rows):
        top = _LINE + row * (side + _GAP)
        for first, pair in zip((0, 2), pairs, strict=True):
            for column, image in enumerate(pair, first):
                frame.paste(_sized(image, side), (lefts[column], top))
    below = _LINE + len(rows) * (side + _GAP)
    draw.text((_GAP, below), label, fill=_INK, font=font)
    end = width - _GAP
    start = width // 2
    draw.rectangle((start, below + 7, end, below + 10), fill=(70, 66, 60))
    full = start + round(min(max(share, 0.0), 1.0) * (end - start))
    draw.rectangle((start, below + 7, full, below + 10), fill=_BAR)
    return frame


def _most(*groups: Sequence[object]) -> int:
    return max(map(len, groups))


def _sized(image: Image.Image, side: int) -> Image.Image:
    if image.width == side:
        return image
    return image.resize((side, side), Image.Resampling.BICUBIC)
