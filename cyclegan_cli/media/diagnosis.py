"""What two folders of pictures tell before a training: copies, tiny and grey pictures, domains that
share pictures or hardly differ.

Copies are found by content: thumbnails of 16×16 in colour, freed of brightness and contrast, whose
correlation is next to 1. That survives another size, format, quality or a slight change of tone,
and is stricter than a hash of a few bits: two views of one place are two pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.media.survey import Look

__all__ = ["Domain", "Symptom", "diagnose", "domain_distance", "same_picture", "sizes"]

SAME = 0.975  # correlation of two thumbnails from which they show one picture
_FLAT = 4.0  # levels of contrast below which a thumbnail shows nothing to compare
_BLOCK = 1024  # thumbnails compared with all others at a time
NEAR = 0.3  # standard deviations by which two domains must differ in something
MANY = 20  # pictures in each domain from which their statistics mean something
_SIGMAS = 3.0
_GREY_SHARE = 0.1
_DARK = 64  # levels of 255 that no pixel exceeds: 14 bits in 16 end here


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


def diagnose(x: Domain, y: Domain, *, crop_size: int) -> list[Symptom]:
    """All that is amiss, the gravest first; nothing for folders that are well."""
    found: list[Symptom] = []
    found += _shared(x, y)
    found += _alike(x, y)
    for domain in (x, y):
        found += _copies(domain)
        found += _tiny(domain, crop_size)
        found += _dark(domain)
    return found + _grey(x, y)


# -- one picture, twice ------------------------------------------------------------------------


def same_picture(a: Sequence[Look], b: Sequence[Look]) -> list[tuple[int, int]]:
    """The index pairs (of ``a``, of ``b``) that are one picture: equal files, or equal content.

    Flat pictures are compared by their files alone.
    """
    pairs = set()
    by_digest: dict[str, list[int]] = {}
    for index, one in enumerate(b):
        by_digest.setdefault(one.digest, []).append(index)
    for index, one in enumerate(a):
        pairs |= {(index, other) for other in by_digest.get(one.digest, ())}
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


def _copies(domain: Domain) -> list[Symptom]:
    pairs = [(a, b) for a, b in same_picture(domain.looks, domain.looks) if a < b]
    groups = _groups(pairs)
    if not groups:
        return []
    files = tuple(tuple(domain.looks[i].path for i in group) for group in groups)
    spare = sum(len(group) - 1 for group in groups)
    exact = spare - sum(len({domain.looks[i].digest for i in group}) - 1 for group in groups)
    are = "is a copy" if spare == 1 else "are copies"
    message = f"{_pictures(spare)} of {domain.label} {are} of another"
    message += f" ({exact} byte for byte)." if exact else " (of another size or quality)."
    hint = "They count twice: remove all but one of each, the largest."
    return [Symptom("copies", message, hint, files)]


def _groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Indices that are connected by pairs, in order."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while parent.setdefault(index, index) != index:
            index = parent[index]
        return index

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for index in sorted(parent):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _shared(x: Domain, y: Domain) -> list[Symptom]:
    pairs = same_picture(x.looks, y.looks)
    if not pairs:
        return []
    count = len({a for a, _ in pairs})
    files = tuple((x.looks[a].path, y.looks[b].path) for a, b in pairs)
    message = f"{_pictures(count)} of {x.label} {_are(count)} in {y.label} too."
    hint = "A discriminator cannot tell apart what is in both: leave each in one folder."
    return [Symptom("shared", message, hint, files)]


# -- what they are like ------------------------------------------------------------------------


def sizes(looks: Sequence[Look]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Width and height of the smallest, the middle and the largest picture, by area; N ≥ 1."""
    ordered = sorted((look.size for look in looks), key=lambda size: (size[0] * size[1], size))
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def domain_distance(x: Sequence[Look], y: Sequence[Look]) -> float:
    """By how much the domains differ in that of their features in which they differ most.

    The difference of the means over the pooled standard deviation (Cohen's d); N ≥ 2 in each.
    """
    a, b = (np.array([look.features for look in looks]) for looks in (x, y))
    spread = np.sqrt((a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)) / 2)
    return float((np.abs(a.mean(axis=0) - b.mean(axis=0)) / np.maximum(spread, 1e-6)).max())


def _alike(x: Domain, y: Domain) -> list[Symptom]:
    n, m = len(x.looks), len(y.looks)
    if min(n, m) < MANY:
        return []
    distance = domain_distance(x.looks, y.looks)
    # Chance alone makes domains differ by a few times the standard error of d.
    if distance > max(NEAR, _SIGMAS * (1 / n + 1 / m) ** 0.5):
        return []
    message = (
        f"{x.label} and {y.label} hardly differ: in colour, contrast and detail by at most "
        f"{distance:.2f} standard deviations."
    )
    hint = "Little can be learnt where there is little to change: are these the right folders?"
    return [Symptom("alike", message, hint)]


def _tiny(domain: Domain, crop_size: int) -> list[Symptom]:
    small = [look for look in domain.looks if min(look.size) < crop_size]
    if not small:
        return []
    count = len(small)
    message = (
        f"{_pictures(count)} of {domain.label} {_are(count)} smaller than the crop of {crop_size}."
    )
    hint = "They are enlarged, and blurred by it: leave them out, or lower --crop-size."
    return [Symptom("tiny", message, hint, tuple((look.path,) for look in small))]


def _dark(domain: Domain) -> list[Symptom]:
    dark = [look for look in domain.looks if look.brightest <= _DARK]
    if not dark:
        return []
    count = len(dark)
    message = (
        f"{_pictures(count)} of {domain.label} {_are(count)} nearly black: no value is above a "
        "quarter of white."
    )
    hint = "Data of 10, 12 or 14 bits in files of 16 look so: scale them to the whole range."
    return [Symptom("dark", message, hint, tuple((look.path,) for look in dark))]


def _grey(x: Domain, y: Domain) -> list[Symptom]:
    found = []
    for domain, other in ((x, y), (y, x)):
        grey = [look for look in domain.looks if look.grey]
        share = len(grey) / max(len(domain.looks), 1)
        of_other = sum(look.grey for look in other.looks) / max(len(other.looks), 1)
        if share >= _GREY_SHARE and share >= 2 * of_other:
            message = f"{len(grey)} of the {len(domain.looks)} pictures of {domain.label} are grey"
            message += f"; of {other.label} {of_other:.0%} are."
            hint = "The style learns to drop or to invent colour: leave them out if unwanted."
            found.append(Symptom("grey", message, hint, tuple((look.path,) for look in grey)))
    return found


def _pictures(count: int) -> str:
    return f"{count} picture{'s' * (count != 1)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
