"""ICC profiles for pictures of more than 8 bits, which Pillow's colour engine has no mode for.

Profiles of the matrix and tone curve kind (ICC.1:2022, sections 8.3.3 and 8.4.3, curves in 10.6 and
10.18), which cameras, scanners and editors embed: sRGB, Adobe RGB, Display P3, ProPhoto and grey.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["deep_to_srgb", "is_srgb"]

_Array = NDArray[Any]

# XYZ under D50 to linear sRGB: the inverse of the sRGB profile's colorants (IEC 61966-2-1, adapted
# to D50 by Bradford's method, as in the ICC's own sRGB profile).
_COLORANTS = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
_XYZ_TO_SRGB = np.linalg.inv(_COLORANTS)
_STRIP = 256  # rows at a time, so that the float copies stay small

# Parametric curves by type: how many numbers, as g, a, b, c, d, e, f.
_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}


@dataclass(frozen=True)
class _Profile:
    """Tables of 65536 linear values a channel, and the matrix to linear sRGB (None: grey)."""

    curves: list[_Array]
    matrix: _Array | None


def deep_to_srgb(pixels: NDArray[np.uint16], profile: bytes) -> NDArray[np.uint16] | None:
    """H×W×3 or H×W (grey) uint16 in ``profile``'s colours, as H×W×3 uint16 sRGB.

    None where the profile is broken, of another colour space, or made of lookup tables.
    """
    parsed = _parsed(profile)
    if parsed is None or (pixels.ndim == 2) != (parsed.matrix is None):
        return None
    result = np.empty((*pixels.shape[:2], 3), np.uint16)
    for top in range(0, pixels.shape[0], _STRIP):
        strip = pixels[top : top + _STRIP]
        if parsed.matrix is None:
            linear = np.repeat(parsed.curves[0][strip][..., None], 3, axis=2)
        else:
            linear = np.stack([c[strip[..., k]] for k, c in enumerate(parsed.curves)], axis=2)
            linear = linear @ parsed.matrix.T
        result[top : top + _STRIP] = np.rint(_encode(linear) * 65535)
    return result


def _encode(linear: _Array) -> _Array:
    """Linear light to sRGB's encoding, in [0, 1]."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=4)
def _parsed(profile: bytes) -> _Profile | None:
    try:
        return _parse(profile)
    except (struct.error, ValueError, IndexError, KeyError, OverflowError, ZeroDivisionError):
        return None


@lru_cache(maxsize=16)
def is_srgb(profile: bytes) -> bool:
    """Whether ``profile`` is sRGB under whatever name: to convert from it would only round.

    Its makers differ in the last digits of the same numbers: less than half an 8-bit level.
    """
    parsed = _parsed(profile)
    if parsed is None or parsed.matrix is None:
        return False
    codes = np.arange(65536) / 65535
    curves = all(np.abs(_encode(curve) - codes).max() < 0.002 for curve in parsed.curves)
    return bool(curves and np.abs(parsed.matrix - np.eye(3)).max() < 0.002)


def _parse(profile: bytes) -> _Profile | None:
    space, connection = profile[16:20], profile[20:24]
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = {}
    for index in range(min(count, 200)):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        tags[name] = profile[offset : offset + size]
    if connection != b"XYZ " or b"A2B0" in tags:
        return None
    if space == b"GRAY":
        return _Profile([_curve(tags[b"kTRC"])], None)
    if space != b"RGB ":
        return None
    colorants = np.stack([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
    curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return _Profile(curves, _XYZ_TO_SRGB @ colorants)


def _xyz(tag: bytes) -> _Array:
    return np.array(struct.unpack_from(">iii", tag, 8)) / 65536


def _curve(tag: bytes) -> _Array:
    """The linear value of each of 65536 codes."""
    codes = np.arange(65536) / 65535
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return codes
        if count == 1:
            (gamma,) = struct.unpack_from(">H", tag, 12)
            return cast(_Array, codes ** (gamma / 256))
        table = np.frombuffer(tag, ">u2", count, 12) / 65535
        return np.interp(codes, np.linspace(0, 1, count), table)
    if tag[:4] != b"para":
        raise ValueError("a curve of an unknown kind")
    (kind,) = struct.unpack_from(">H", tag, 8)
    numbers = [n / 65536 for n in struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)]
    return _parametric(kind, numbers, codes)


def _parametric(kind: int, numbers: list[float], x: _Array) -> _Array:
    g, a, b, c, d, e, f = (numbers + [0.0] * 7)[:7]
    if kind == 0:
        return cast(_Array, x**g)
    power = np.maximum(a * x + b, 0.0) ** g
    if kind in (1, 2):  # flat below -b/a; c is added everywhere
        return np.where(x >= -b / a, power + c, c)
    return np.where(x >= d, power + e, c * x + f)
