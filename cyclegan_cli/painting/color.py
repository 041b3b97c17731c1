"""Colour: the luminance of one picture with the colours of another, in OKLab.

Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cyclegan_cli.painting.pixels import Planes
from cyclegan_cli.painting.resample import matmul_left

__all__ = ["with_colors_of"]

_LMS = np.array(  # linear sRGB to the cones' responses
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(  # their cube roots to lightness, green–red and blue–yellow
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FORTH = (_LMS.astype(np.float32), _LAB.astype(np.float32))
_BACK = (np.linalg.inv(_LAB).astype(np.float32), np.linalg.inv(_LMS).astype(np.float32))
_LUMINANCE = np.array([[0.2126, 0.7152, 0.0722]], np.float32)  # of linear sRGB


def with_colors_of(photo: Planes, painting: Planes) -> Planes:
    """The painting's lightness with the photo's hue and saturation.

    Both: sRGB, 3×h×w in [−1, 1]; returns the same. The photo's chroma is scaled with the
    lightness, so that what is painted darker does not glow. A colour that sRGB lacks moves
    towards the grey of its own luminance until it is there: brightness stays, hue nearly so.
    """
    lab, light = _to_lab(photo), _to_lab(painting)[0]
    lab[1:] *= np.minimum(light / np.maximum(lab[0], np.float32(1e-3)), np.float32(1.5))
    lab[0] = light
    coded = _encode(_into_gamut(_from_lab(lab)))
    coded *= np.float32(2.0)
    coded -= np.float32(1.0)
    return np.clip(coded, -1.0, 1.0, out=coded)


def _to_lab(picture: Planes) -> Planes:
    """3×h×w sRGB in [−1, 1] as OKLab, 3×h×w."""
    coded = ((picture + np.float32(1.0)) * np.float32(0.5)).clip(0.0, 1.0)
    curve = ((coded + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    linear = np.where(coded <= np.float32(0.04045), coded / np.float32(12.92), curve)
    cones = _mix(_FORTH[0], linear)
    return _mix(_FORTH[1], cones.clip(0.0, None) ** np.float32(1 / 3))


def _from_lab(lab: Planes) -> Planes:
    """OKLab, 3×h×w, as linear sRGB, which may leave 0..1."""
    roots = _mix(_BACK[0], lab)
    return _mix(_BACK[1], roots * roots * roots)


def _mix(matrix: NDArray[np.float32], planes: Planes) -> Planes:
    mixed = np.empty((len(matrix), *planes.shape[1:]), np.float32)
    matmul_left(matrix, planes.reshape(1, 3, -1), mixed.reshape(1, len(matrix), -1))
    return mixed


def _into_gamut(rgb: Planes) -> Planes:
    """The nearest colours within 0..1 towards the grey of the same luminance; linear sRGB."""
    grey = _mix(_LUMINANCE, rgb).clip(0.0, 1.0)
    away = rgb - grey
    room = np.where(away > 0, np.float32(1.0) - grey, grey)
    share = (room / np.maximum(np.abs(away), np.float32(1e-6))).min(0)
    inside: Planes = grey + away * np.minimum(share, np.float32(1.0))
    return inside


def _encode(linear: Planes) -> Planes:
    """Linear sRGB in 0..1 as coded sRGB in 0..1."""
    linear = linear.clip(0.0, 1.0)
    curve = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    coded: Planes = np.where(linear <= np.float32(0.0031308), linear * np.float32(12.92), curve)
    return coded
