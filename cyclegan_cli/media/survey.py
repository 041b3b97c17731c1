"""What two folders of pictures tell before a training: copies, tiny, dark and grey pictures,
domains that share pictures or hardly differ.

Copies are found by thumbnails of 16×16 in colour, freed of brightness and contrast, whose
correlation is next to 1. That survives another size, format, quality or a slight change of tone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cyclegan_cli.errors import PictureError, counted, reason_of
from cyclegan_cli.files import digest_of
from cyclegan_cli.media.pictures import read_small

THUMBNAIL = 16  # side of what pictures are compared by
_SIDE = 64  # side of what they are measured by
_GREY = 8  # levels of 255 by which the channels of a grey picture may differ

SAME = 0.975  # correlation of two thumbnails from which they show one picture
_FLAT = 4.0  # levels of contrast below which a thumbnail shows nothing to compare
_BLOCK = 1024  # thumbnails compared with all others at a time
NEAR = 0.3  # standard deviations by which two domains must differ in something
MANY = 20  # pictures in each domain from which their statistics mean something
_SIGMAS = 3.0
_GREY_SHARE = 0.1
_DARK = 64  # levels of 255 that no pixel exceeds: 14 bits in 16 end here


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

    looks: list[Look]
    unusable: list[PictureError]

    @property
    def usable(self) -> list[Path]:
        """The pictures that can be read."""
        return [look.path for look in self.looks]


@dataclass(frozen=True)
class Domain:
    """One folder: how it is called, and a look at each of its pictures."""

    label: str
    looks: Sequence[Look]


@dataclass(frozen=True)
class Symptom:
    """One finding. ``kind``: ``copies``, ``shared``, ``tiny``, ``dark``, ``grey`` or ``alike``;
    ``files``: which pictures, those that belong together in one tuple."""

    kind: str
    message: str
    hint: str
    files: tuple[tuple[Path, ...], ...] = ()


def survey(files: Sequence[Path], threads: int, advance: Callable[[], None]) -> Survey:
    """Decode each of ``files`` to its end, ``threads`` at a time; call ``advance`` after each."""
    found: list[Look | PictureError] = []

    def attempt(path: Path) -> Look | PictureError:
        try:
            return look(path)
        except PictureError as error:
            return error
        except Exception as error:  # whatever it is, it is this picture's
            return PictureError(f"{path}: {reason_of(error)}.")

    with ThreadPoolExecutor(threads, "survey") as pool:
        for result in pool.map(attempt, files):
            found.append(result)
            advance()
    looks = [result for result in found if isinstance(result, Look)]
    return Survey(looks, [result for result in found if isinstance(result, PictureError)])


def look(path: Path) -> Look:
    """Decode and measure one picture. Raises PictureError or OSError where it cannot be read."""
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
    grey = bool(np.percentile(colour, 95) <= _GREY)
    features = tuple(float(feature) for feature in features)
    return Look(path, size, digest_of(path)[0], thumbnail, grey, features, int(pixels.max()))


def sizes(looks: Sequence[Look]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Width and height of the smallest, the middle and the largest picture, by area; N ≥ 1."""
    ordered = sorted((look.size for look in looks), key=lambda size: (size[0] * size[1], size))
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def diagnose(x: Domain, y: Domain, *, crop_size: int) -> list[Symptom]:
    """All problems found, the most serious first."""
    found = [*_shared(x, y), *_alike(x, y)]
    for domain in (x, y):
        found += _copies(domain)
        found += _about(
            *("tiny", domain, [one for one in domain.looks if min(one.size) < crop_size]),
            f"smaller than the crop of {crop_size}.",
            "They are enlarged, and blurred by it: leave them out, or lower --crop-size.",
        )
        found += _about(
            *("dark", domain, [one for one in domain.looks if one.brightest <= _DARK]),
            "nearly black: no value is above a quarter of white.",
            "Data of 10, 12 or 14 bits in files of 16 look so: scale them to the whole range.",
        )
    return [*found, *_grey(x, y), *_grey(y, x)]


def _about(
    kind: str, domain: Domain, looks: Sequence[Look], what: str, hint: str
) -> Iterator[Symptom]:
    """The symptom that ``looks`` of ``domain`` are ``what``; none where there are no looks."""
    if looks:
        message = f"{_pictures(len(looks), domain)} {what}"
        yield Symptom(kind, message, hint, tuple((look.path,) for look in looks))


def _pictures(count: int, domain: Domain) -> str:
    return f"{counted(count, 'picture')} of {domain.label} {'is' if count == 1 else 'are'}"


def same_picture(a: Sequence[Look], b: Sequence[Look]) -> list[tuple[int, int]]:
    """Index pairs (of ``a``, of ``b``) that are one picture: by bytes, or content if not flat."""
    by_digest: dict[str, list[int]] = {}
    for index, one in enumerate(b):
        by_digest.setdefault(one.digest, []).append(index)
    pairs = {(i, j) for i, one in enumerate(a) for j in by_digest.get(one.digest, ())}
    left, right = _normalised(a), _normalised(b)
    for start in range(0, len(left), _BLOCK):
        close = left[start : start + _BLOCK] @ right.T > SAME
        pairs |= {(start + int(i), int(j)) for i, j in np.argwhere(close)}
    return sorted(pairs)


def _normalised(looks: Sequence[Look]) -> NDArray[np.float32]:
    """N×768: thumbnails without their mean, of length 1; flat ones are 0."""
    if not looks:
        return np.zeros((0, 1), np.float32)
    values = np.stack([look.thumbnail.reshape(-1) for look in looks])
    values = values - values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    flat = length < _FLAT * values.shape[1] ** 0.5
    out: NDArray[np.float32] = np.where(flat, 0, values / np.maximum(length, 1e-6))
    return out.astype(np.float32)


def _copies(domain: Domain) -> Iterator[Symptom]:
    pairs = [(a, b) for a, b in same_picture(domain.looks, domain.looks) if a < b]
    groups = _groups(pairs)
    if not groups:
        return
    files = tuple(tuple(domain.looks[i].path for i in group) for group in groups)
    spare = sum(len(group) - 1 for group in groups)
    exact = spare - sum(len({domain.looks[i].digest for i in group}) - 1 for group in groups)
    message = f"{_pictures(spare, domain)} {'a copy' if spare == 1 else 'copies'} of another"
    message += f" ({exact} byte for byte)." if exact else " (of another size or quality)."
    hint = "They count twice: remove all but one of each, the largest."
    yield Symptom("copies", message, hint, files)


def _groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Indices that are connected by pairs, in order."""
    groups: dict[int, set[int]] = {}
    for a, b in pairs:
        if b not in groups.get(a, ()):
            joined = groups.get(a, {a}) | groups.get(b, {b})
            groups |= dict.fromkeys(joined, joined)
    return sorted({min(group): sorted(group) for group in groups.values()}.values())


def _shared(x: Domain, y: Domain) -> Iterator[Symptom]:
    pairs = same_picture(x.looks, y.looks)
    if pairs:
        files = tuple((x.looks[a].path, y.looks[b].path) for a, b in pairs)
        message = f"{_pictures(len({a for a, _ in pairs}), x)} in {y.label} too."
        hint = "A discriminator cannot tell apart what is in both: leave each in one folder."
        yield Symptom("shared", message, hint, files)


def _alike(x: Domain, y: Domain) -> Iterator[Symptom]:
    n, m = len(x.looks), len(y.looks)
    if min(n, m) < MANY:
        return
    # The largest Cohen's d of all features: the difference of means over the pooled deviation.
    a, b = (np.array([look.features for look in domain.looks]) for domain in (x, y))
    spread = np.sqrt((a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)) / 2)
    distance = (np.abs(a.mean(axis=0) - b.mean(axis=0)) / np.maximum(spread, 1e-6)).max()
    # Chance alone makes domains differ by a few times the standard error of d.
    if distance <= max(NEAR, _SIGMAS * (1 / n + 1 / m) ** 0.5):
        message = f"{x.label} and {y.label} hardly differ: in colour, contrast and detail by at "
        message += f"most {distance:.2f} standard deviations."
        hint = "Little can be learnt where there is little to change: are these the right folders?"
        yield Symptom("alike", message, hint)


def _grey(domain: Domain, other: Domain) -> Iterator[Symptom]:
    grey = [look for look in domain.looks if look.grey]
    count = len(domain.looks)
    of_other = sum(look.grey for look in other.looks) / max(len(other.looks), 1)
    if len(grey) / max(count, 1) >= max(_GREY_SHARE, 2 * of_other):
        are = "is" if len(grey) == 1 else "are"
        message = f"{len(grey)} of the {counted(count, 'picture')} of {domain.label} {are} grey"
        message += f"; of {other.label} {of_other:.0%} are."
        hint = "The style learns to drop or to invent colour: leave them out if unwanted."
        yield Symptom("grey", message, hint, tuple((look.path,) for look in grey))
