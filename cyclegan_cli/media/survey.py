"""Every picture of a folder opened once, before hours are spent on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cyclegan_cli.errors import PictureError
from cyclegan_cli.files import digest_of
from cyclegan_cli.media.pictures import read_small

__all__ = ["THUMBNAIL", "Look", "Survey", "survey"]

THUMBNAIL = 16  # side of what pictures are compared by
_SIDE = 64  # side of what they are measured by
_GREY = 8  # levels of 255 by which the channels of a grey picture may differ


@dataclass(frozen=True)
class Look:
    """What one look at a picture tells.

    ``size``: width and height, upright. ``digest``: SHA-256 of the file. ``thumbnail``: 16×16×3
    float32 in 0..255, the aspect not kept. ``grey``: whether it has no colour. ``features``: mean
    red, green and blue, contrast, colourfulness (0..255 each), and detail (no unit). ``brightest``:
    the largest value of any channel, 0..255.
    """

    path: Path
    size: tuple[int, int]
    digest: str
    thumbnail: NDArray[np.float32]
    grey: bool
    features: tuple[float, ...]
    brightest: int = 255


@dataclass(frozen=True)
class Survey:
    """What was found: pictures that can be used, in order, and why others cannot."""

    looks: list[Look] = field(default_factory=list)
    unusable: list[PictureError] = field(default_factory=list)

    @property
    def usable(self) -> list[Path]:
        """The pictures that can be read."""
        return [look.path for look in self.looks]


def survey(files: Sequence[Path], threads: int, advance: Callable[[], None]) -> Survey:
    """Decode each of ``files`` to its end, ``threads`` at a time; ``advance`` is called after each.

    JPEG pictures are decoded at a fraction of their size, which reads all of the file all the same.
    """
    found = Survey()

    def attempt(path: Path) -> Look | PictureError:
        try:
            return look(path)
        except PictureError as error:
            return error
        except Exception as error:  # whatever it is, it is this picture's
            return PictureError(f"{path}: {error or type(error).__name__}.")

    with ThreadPoolExecutor(threads, "survey") as pool:
        for result in pool.map(attempt, files):
            if isinstance(result, Look):
                found.looks.append(result)
            else:
                found.unusable.append(result)
            advance()
    return found


def look(path: Path) -> Look:
    """Decode and measure one picture. Raises PictureError where it cannot be read."""
    pixels, size = read_small(path, 2 * _SIDE)
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32)
    step = _SIDE // THUMBNAIL
    thumbnail = values.reshape(THUMBNAIL, step, THUMBNAIL, step, 3).mean(axis=(1, 3))
    colour = values.max(axis=2) - values.min(axis=2)
    light = values.mean(axis=2)
    contrast = float(light.std())
    edges = np.abs(np.diff(light, axis=0)).mean() + np.abs(np.diff(light, axis=1)).mean()
    features = (*values.mean(axis=(0, 1)), contrast, colour.mean(), edges / (contrast + 1))
    return Look(
        path,
        size,
        _digest(path),
        thumbnail,
        bool(np.percentile(colour, 95) <= _GREY),
        tuple(float(feature) for feature in features),
        int(pixels.max()),
    )


def _digest(path: Path) -> str:
    try:
        return digest_of(path)[0]
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}.") from error
