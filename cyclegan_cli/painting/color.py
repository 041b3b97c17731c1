"""Colour: the luminance of one picture with the colours of another, in OKLab.

Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["with_colors_of"]

_LMS = torch.tensor(  # linear sRGB to the cones' responses
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
_LAB = torch.tensor(  # their cube roots to lightness, green–red and blue–yellow
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)
_FORTH = (_LMS.float(), _LAB.float())
_BACK = (_LAB.inverse().float(), _LMS.inverse().float())
_LUMINANCE = torch.tensor([0.2126, 0.7152, 0.0722])  # of linear sRGB


def with_colors_of(photo: Tensor, painting: Tensor) -> Tensor:
    """The painting's lightness with the photo's hue and saturation.

    Both: sRGB, 1×3×h×w in [−1, 1]; returns the same. The photo's chroma is scaled with the
    lightness, so that what is painted darker does not glow. A colour that sRGB lacks moves
    towards the grey of its own luminance until it is there: brightness stays, hue nearly so.
    """
    lab, painted = _to_lab(photo), _to_lab(painting)
    light, before = painted[0], lab[0]
    chroma = lab[1:] * (light / before.clamp(min=1e-3)).clamp_(max=1.5)
    rgb = _from_lab(torch.cat([light[None], chroma]))
    return _encode(_into_gamut(rgb)).mul_(2.0).sub_(1.0)[None].clamp_(-1.0, 1.0)


def _to_lab(picture: Tensor) -> Tensor:
    """1×3×h×w sRGB in [−1, 1] as OKLab, 3×h×w."""
    coded = picture[0].add(1.0).mul_(0.5).clamp_(0.0, 1.0)
    linear = torch.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    cones = _mix(_FORTH[0], linear)
    return _mix(_FORTH[1], cones.clamp_(min=0.0) ** (1 / 3))


def _from_lab(lab: Tensor) -> Tensor:
    """OKLab, 3×h×w, as linear sRGB, which may leave 0..1."""
    return _mix(_BACK[1], _mix(_BACK[0], lab) ** 3)


def _mix(matrix: Tensor, planes: Tensor) -> Tensor:
    return (matrix @ planes.flatten(1)).view_as(planes)


def _into_gamut(rgb: Tensor) -> Tensor:
    """The nearest colours within 0..1 towards the grey of the same luminance; linear sRGB."""
    grey = torch.einsum("c,chw->hw", _LUMINANCE, rgb).clamp_(0.0, 1.0)
    away = rgb - grey
    room = torch.where(away > 0, 1.0 - grey, grey)
    share = (room / away.abs().clamp_(min=1e-6)).clamp_(max=1.0).amin(0)
    return grey + away * share


def _encode(linear: Tensor) -> Tensor:
    """Linear sRGB in 0..1 as coded sRGB in 0..1."""
    linear = linear.clamp(0.0, 1.0)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
