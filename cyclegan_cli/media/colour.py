"""Colour: every mode that Pillow opens, every depth and every ICC profile, to sRGB."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Array: TypeAlias = NDArray[Any]
_STRIP = 256  # rows at a time, so that the float copies stay small
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# What a profile's colour space can be applied to; a profile of another space is a mistake.
_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """The bytes of an sRGB ICC profile."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The header's date is that of the making: a fixed one, so that equal pictures are equal files.
    return profile[:24] + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + profile[36:]


def deep_grey(image: Image.Image) -> NDArray[np.uint16] | None:
    """H×W of a grey image of more than 8 bits, its range by ``sample_range``; None for others."""
    if image.mode not in _DEEP:
        return None
    values: NDArray[Any] = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return values.astype(np.uint16)  # Pillow scales PGM of more than 8 bits to 65535
    return to_16_bits(values, *sample_range(values, 32))


def sample_range(values: NDArray[Any], bits: int) -> tuple[float, float]:
    """The values that are black and white in a file that does not say so.

    Unsigned: 0 and the largest that ``bits`` of a sample can hold. Signed without a negative value:
    0 and the least of 255, 65535 and the format's largest that holds them all. Floats from 0 to 1:
    these two. All others: the smallest and the largest value that there is.
    """
    kind = values.dtype.kind
    if kind in "bu":
        return 0.0, 2.0**bits - 1
    finite = values if kind == "i" else values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if kind == "i" and low >= 0:
        limit = 2.0 ** (bits - 1) - 1
        return 0.0, next(min(white, limit) for white in (255.0, 65535.0, limit) if high <= white)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def to_16_bits(
    values: NDArray[Any], low: float, high: float, *, invert: bool = False
) -> NDArray[np.uint16]:
    """Values (any shape, real) from ``low`` to ``high`` as 0 to 65535; others clipped, NaN is 0."""
    if values.dtype == np.uint16 and (low, high, invert) == (0, 65535, False):
        return values
    result = np.empty(values.shape, np.uint16)
    with np.errstate(all="ignore"):
        for top in range(0, len(values), _STRIP):
            part = values[top : top + _STRIP].astype(np.float64)
            part = (part - low) / (high - low) if high > low else np.zeros_like(part)
            part = np.nan_to_num(1 - part if invert else part, nan=0.0, posinf=1.0, neginf=0.0)
            result[top : top + _STRIP] = np.rint(np.clip(part, 0, 1) * 65535)
    return result


def to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """uint16 rounded to uint8; uint8 as it is."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_srgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A decoded 8-bit image as (RGB in sRGB, alpha as L or None); its ICC profile is applied."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = image.convert("L") if image.mode == "LA" else rgba.convert("RGB")
    elif image.mode in ("P", "PA", "RGBX", "YCbCr", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    converted = None
    if isinstance(profile, bytes) and profile and not (image.mode == "RGB" and is_srgb(profile)):
        converted = _profiled(image, profile)
    if converted is None and image.mode == "LAB":
        converted = _profiled(image, b"")
    if converted is None:
        converted = image if image.mode == "RGB" else image.convert("RGB")  # which would copy
    return converted, alpha


def _profiled(image: Image.Image, profile: bytes) -> Image.Image | None:
    """``image`` (L, RGB, CMYK or LAB) from ``profile`` to sRGB; None where it cannot be applied."""
    transform = _transform(profile, image.mode)
    if transform is None and image.mode == "L":
        # Some grey pictures carry the RGB profile of the program that saved them.
        image = image.convert("RGB")
        transform = _transform(profile, "RGB")
    return None if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From ``profile`` (empty: plain LAB) to sRGB; None where it is none or not for ``mode``."""
    try:
        source = ImageCms.ImageCmsProfile(
            io.BytesIO(profile) if profile else ImageCms.createProfile("LAB")
        )
        if _PROFILE_MODES.get(source.profile.xcolor_space) != mode:
            return None
        return ImageCms.buildTransform(source, io.BytesIO(srgb_profile()), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


# -- more than 8 bits a channel, for which Pillow's colour engine has no mode ---------------------
#
# Profiles of the matrix and tone curve kind (ICC.1:2022, 8.3.3, 8.4.3, 10.6 and 10.18). The Little
# CMS of imagecodecs came out up to 8 % of white away with its tables, 0.2 % without.

# XYZ under D50 to linear sRGB: the inverse of the sRGB profile's colorants (IEC 61966-2-1, adapted
# to D50 by Bradford's method, as in the ICC's own sRGB profile).
_XYZ_TO_SRGB = np.linalg.inv(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
# Parametric curves by type: how many numbers, as g, a, b, c, d, e, f.
_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}


def deep_to_srgb(values: NDArray[np.uint16], profile: object) -> NDArray[np.uint16]:
    """H×W or H×W×3 uint16 as H×W×3 sRGB; by 8 bits where the profile is made of tables."""
    colour = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    if not isinstance(profile, bytes) or not profile or is_srgb(profile):
        return np.ascontiguousarray(colour)
    for candidate in (values, colour):
        converted = _by_matrix(candidate, profile)
        if converted is not None:
            return converted
    by_tables = _profiled(Image.fromarray(to_8_bits(values)), profile)
    if by_tables is None:
        return np.ascontiguousarray(colour)
    eight: NDArray[np.uint16] = np.asarray(by_tables, np.uint16) * np.uint16(257)
    return eight


def _by_matrix(pixels: NDArray[np.uint16], profile: bytes) -> NDArray[np.uint16] | None:
    """H×W×3 or H×W uint16 as H×W×3 sRGB; None where ``profile`` is not of a matrix and curves."""
    curves, matrix = _parsed(profile)
    if not curves or (pixels.ndim == 2) != (matrix is None):
        return None
    result = np.empty((*pixels.shape[:2], 3), np.uint16)
    for top in range(0, pixels.shape[0], _STRIP):
        strip = pixels[top : top + _STRIP]
        if matrix is None:
            linear = np.repeat(curves[0][strip][..., None], 3, axis=2)
        else:
            linear = np.stack([c[strip[..., k]] for k, c in enumerate(curves)], axis=2) @ matrix.T
        result[top : top + _STRIP] = np.rint(encode_srgb(linear) * 65535)
    return result


def encode_srgb(linear: Array) -> Array:
    """Linear light as sRGB, both in [0, 1], in the precision of ``linear``."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=16)
def is_srgb(profile: bytes) -> bool:
    """Whether ``profile`` is sRGB but for the last digits: to convert from it would only round."""
    curves, matrix = _parsed(profile)
    if matrix is None or np.abs(matrix - np.eye(3)).max() >= 0.002:
        return False
    codes = np.arange(65536) / 65535
    return all(np.abs(encode_srgb(curve) - codes).max() < 0.002 for curve in curves)


@lru_cache(maxsize=4)
def _parsed(profile: bytes) -> tuple[list[Array], Array | None]:
    """Tables of 65536 linear values a channel, and the matrix to linear sRGB (None for grey).

    The tables are empty where the profile is of another kind, or broken.
    """
    try:
        tags = {}
        for index in range(min(struct.unpack_from(">I", profile, 128)[0], 200)):
            name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
            tags[name] = profile[offset : offset + size]
        space, connection = profile[16:20], profile[20:24]
        if connection != b"XYZ " or b"A2B0" in tags or space not in (b"GRAY", b"RGB "):
            return [], None
        if space == b"GRAY":
            return [_curve(tags[b"kTRC"])], None
        curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
        colorants = [struct.unpack_from(">iii", tags[c + b"XYZ"], 8) for c in (b"r", b"g", b"b")]
        return curves, _XYZ_TO_SRGB @ (np.array(colorants).T / 65536)
    except (struct.error, ValueError, IndexError, KeyError, OverflowError, ZeroDivisionError):
        return [], None


def _curve(tag: bytes) -> Array:
    """The linear value of each of 65536 codes."""
    codes = np.arange(65536) / 65535
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return codes
        if count == 1:
            (gamma,) = struct.unpack_from(">H", tag, 12)
            return cast(Array, codes ** (gamma / 256))
        table = np.frombuffer(tag, ">u2", count, 12) / 65535
        return np.interp(codes, np.linspace(0, 1, count), table)
    if tag[:4] != b"para":
        raise ValueError("a curve of an unknown kind")
    (kind,) = struct.unpack_from(">H", tag, 8)
    numbers = [n / 65536 for n in struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)]
    g, a, b, c, d, e, f = (numbers + [1.0] * (kind == 0) + [0.0] * 7)[:7]
    if kind in (1, 2):  # flat below -b/a; c is added everywhere
        c, d, e, f = 0.0, -b / a, c, c
    curve: Array = np.where(codes >= d, np.maximum(a * codes + b, 0.0) ** g + e, c * codes + f)
    return curve
