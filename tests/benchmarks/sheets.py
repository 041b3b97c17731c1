"""Contact sheets of photos painted at several resolutions, to choose --resolution's default by.

    python -m tests.benchmarks.sheets --style FILE --photo FILE... --output FOLDER [--long 4000]

One PNG a photo: a column for the photo itself and for each resolution; above the whole picture,
below it two details at one pixel to a pixel: the middle, and where the photo has most edges.
``--long`` enlarges photos that are smaller, as a stand-in for a camera's files (an enlarged photo
has no fine detail of its own: judge the strokes by it, and the detail by a large photo).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.painting.effects import paint_picture
from cyclegan_cli.painting.painter import Painter
from cyclegan_cli.settings import TranslateSettings
from tests.painting.common import painter_of

CELL, GAP, CAPTION = (520, 390), 8, 24


def photograph(path: Path, long: int | None) -> Any:
    """The photo, H×W×3 uint8, with a long side of ``long`` pixels where it has fewer."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if long and max(picture.size) < long:
        scale = long / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.array(picture)


def busiest(pixels: Any) -> tuple[int, int]:
    """(top, left) of the cell of the photo with the largest differences between pixels."""
    grey = pixels.mean(2, dtype=np.float32)
    edges = np.abs(np.diff(grey, axis=0))[:, 1:] + np.abs(np.diff(grey, axis=1))[1:]
    best, place = -1.0, (0, 0)
    for top in range(0, max(1, grey.shape[0] - CELL[1]), CELL[1] // 2):
        for left in range(0, max(1, grey.shape[1] - CELL[0]), CELL[0] // 2):
            found = float(edges[top : top + CELL[1], left : left + CELL[0]].mean())
            if found > best:
                best, place = found, (top, left)
    return place


def sheet(columns: Sequence[tuple[str, Any]]) -> Image.Image:
    """(caption, H×W×3 uint8) of one size each, the first the photo, as a picture to look at."""
    photo = columns[0][1]
    height, width = photo.shape[:2]
    middle = (max(0, height - CELL[1]) // 2, max(0, width - CELL[0]) // 2)
    row = CELL[1] + GAP
    reduced = min(1.0, CELL[0] / width, CELL[1] / height)
    details = CAPTION + round(height * reduced) + GAP
    size = (len(columns) * (CELL[0] + GAP) - GAP, details + 2 * row - GAP)
    result = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(result)
    for number, (caption, pixels) in enumerate(columns):
        left = number * (CELL[0] + GAP)
        draw.text((left + 4, 4), caption, (0, 0, 0), font=ImageFont.load_default(15))
        whole = Image.fromarray(pixels)
        whole.thumbnail(CELL, Image.Resampling.LANCZOS)
        result.paste(whole, (left, CAPTION))
        for k, (y, x) in enumerate((middle, busiest(photo))):
            detail = np.ascontiguousarray(pixels[y : y + CELL[1], x : x + CELL[0]])
            result.paste(Image.fromarray(detail), (left, details + k * row))
    return result


def columns(painter: Painter, photo: Any, resolutions: Sequence[str]) -> list[tuple[str, Any]]:
    """The photo, and its paintings at ``resolutions`` ("native" or pixels), with captions."""
    height, width = photo.shape[:2]
    found = [(f"photo, {width}x{height}", photo)]
    for text in resolutions:
        resolution = None if text == "native" else int(text)
        started = time.perf_counter()
        painted = paint_picture(painter, photo, TranslateSettings(resolution=resolution))
        found.append((f"{text} ({time.perf_counter() - started:.1f} s)", painted))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", type=Path, required=True, help="a file of weights")
    parser.add_argument("--photo", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--long", type=int, help="enlarge photos to this long side")
    parser.add_argument("--resolutions", default="native,2048,1280,1024,768")
    chosen = parser.parse_args()
    painter = painter_of(load_generator(chosen.style))
    chosen.output.mkdir(parents=True, exist_ok=True)
    for path in chosen.photo:
        photo = photograph(path, chosen.long)
        made = sheet(columns(painter, photo, chosen.resolutions.split(",")))
        target = chosen.output / f"{path.stem}.png"
        made.save(target)
        print(target, flush=True)


if __name__ == "__main__":
    main()
