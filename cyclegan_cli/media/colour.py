"""Colour: every mode that Pillow opens, and every profile, to sRGB with or without alpha."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cyclegan_cli.media.profiles import is_srgb

__all__ = ["deep_grey", "is_deep_grey", "profiled", "srgb_profile", "to_srgb"]

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
    """H×W uint16 of a deep grey image.

    Nothing in a file of 32-bit integers or floats says what white is. Integers: the largest of 8,
    16 or 32 bits, by the largest value. Floats within [0, 1] are fractions of white; others are
    stretched from the smallest to the largest.
    """
    values: NDArray[Any] = np.asarray(image)
    if image.mode.startswith("I;16"):
        return values.astype(np.uint16)
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "I":
        # Pillow reads PGM of more than 8 bits as mode I, scaled to 65535.
        bits = 8 if high <= 255 and image.format != "PPM" else 16 if high <= 65535 else 32
        low, high = 0.0, 2.0**bits - 1
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    scaled = np.rint(np.clip(scaled, 0, 1) * 65535)
    return cast(NDArray[np.uint16], scaled.astype(np.uint16))


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
