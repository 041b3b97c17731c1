"""Between arrays of pixels and tensors in [−1, 1], on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.painting.pixels import Pixels, from_planes, to_planes

__all__ = ["from_bytes", "to_bytes", "to_pixels", "to_tensor"]


def to_tensor(pixels: Pixels, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """``to_planes`` as a new float32 tensor, 1×channels×H×W in [−1, 1].

    To another device 8-bit pixels travel as they are, a quarter of the bytes, and are converted
    there by the same operations.
    """
    if channels == 3 and pixels.dtype == np.uint8 and torch.device(device).type != "cpu":
        return from_bytes(torch.from_numpy(np.ascontiguousarray(pixels)).to(device))
    return torch.from_numpy(to_planes(pixels, channels)[None]).to(device)


def from_bytes(levels: Tensor) -> Tensor:
    """H×W×3 uint8 as float32, 1×3×H×W in [−1, 1], on its own device."""
    return levels.permute(2, 0, 1)[None].float().contiguous().mul_(2.0 / 255.0).sub_(1.0)


def to_bytes(picture: Tensor) -> Tensor:
    """1×3×H×W as H×W×3 uint8, clipped and rounded as ``to_pixels`` does, on its own device."""
    scaled = picture[0].float().add(1.0).mul_(127.5)
    return scaled.round_().clamp_(0.0, 255.0).to(torch.uint8).permute(1, 2, 0).contiguous()


def to_pixels(picture: Tensor, dtype: np.dtype[Any]) -> Pixels:
    """``from_planes`` of 1×C×H×W."""
    if picture.device.type != "cpu" and picture.shape[1] == 3 and dtype == np.uint8:
        return to_bytes(picture).cpu().numpy()
    return from_planes(picture[0].float().cpu().numpy(), dtype)
