"""Colour: every mode that Pillow opens, and every profile, to sRGB with or without alpha."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cyclegan_cli.media.profiles import is_srgb

__all__ = [
    "deep_grey",
    "is_deep_grey",
    "profiled",
    "sample_range",
    "srgb_profile",
    "to_8_bits",
    "to_16_bits",
    "to_srgb",
]

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


def is_deep_grey(image: Image.Image) -> bool:
    """Whether ``image`` is grey with more than 8 bits a pixel."""
    return image.mode in _DEEP


def deep_grey(image: Image.Image) -> NDArray[np.uint16]:
    """H×W uint16 of a deep grey image, black and white as ``sample_range`` has them."""
    values: NDArray[Any] = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return values.astype(np.uint16)  # Pillow scales PGM of more than 8 bits to 65535
    return to_16_bits(values, *sample_range(values, 32))


def sample_range(values: NDArray[Any], bits: int) -> tuple[float, float]:
    """The values that are black and white in a file that does not say so.

    values: any shape, unsigned or signed integers or floats. ``bits``: of a sample in the file.
    Unsigned: 0 and the largest that ``bits`` can hold. Signed without a negative value: 0 and the
    least of 255, 65535 and the format's largest that holds them all. Floats from 0 to 1: these two.
    All others: the smallest and the largest value that there is.
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
    """Values from ``low`` to ``high`` as 0 to 65535, or 65535 to 0 with ``invert``; others clipped.

    values: any shape, real; what is no number becomes 0.
    """
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
    """A decoded 8-bit image as (RGB in sRGB, alpha as L or None), of the same size.

    An embedded ICC profile is applied, unless it is broken or of another colour space.
    """
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
        converted = profiled(image, profile)
    if converted is None and image.mode == "LAB":
        converted = _lab_transform().apply(image)
    return converted if converted is not None else _as_rgb(image), alpha


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def profiled(image: Image.Image, profile: bytes) -> Image.Image | None:
    """``image`` (L, RGB, CMYK or LAB) in ``profile``'s colours as sRGB; None where it cannot be."""
    transform = _transform(profile, image.mode)
    if transform is None and image.mode == "L":
        # Some grey pictures carry the RGB profile of the program that saved them.
        image = image.convert("RGB")
        transform = _transform(profile, "RGB")
    return None if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From ``profile`` to sRGB for ``mode``; None where the profile cannot be used for it."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(source.profile.xcolor_space) != mode:
            return None
        return ImageCms.buildTransform(source, io.BytesIO(srgb_profile()), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab = ImageCms.createProfile("LAB")
    return ImageCms.buildTransform(lab, io.BytesIO(srgb_profile()), "LAB", "RGB")
