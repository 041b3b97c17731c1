"""Between arrays of pixels (uint8, uint16, float32) and tensors in [−1, 1]."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclegan_cli.errors import PictureError

__all__ = [
    "Pixels",
    "check",
    "from_bytes",
    "reflected",
    "to_bytes",
    "to_pixels",
    "to_tensor",
]

Pixels: TypeAlias = NDArray[Any]  # H×W×3: uint8, uint16, or float32 in [−1, 1]

_LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow turns RGB into grey
_TOP = {"uint8": 255.0, "uint16": 65535.0}  # white; float32 has its own range


def check(pixels: Pixels) -> None:
    """Raises PictureError unless ``pixels`` is H×W×3, H and W ≥ 1, uint8, uint16 or float32."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise PictureError(f"Pixels of shape {pixels.shape} cannot be painted: H×W×3 are needed.")
    if pixels.dtype.name not in (*_TOP, "float32"):
        raise PictureError(
            f"Pixels of type {pixels.dtype} cannot be painted: uint8, uint16 or float32 are needed."
        )


def reflected(size: int, padded: int) -> NDArray[np.intp]:
    """Which of ``size`` rows each of ``padded`` ≥ ``size`` rows shows: mirrored at the end.

    The mirror does not repeat the border and goes back and forth as often as is needed: 3 rows
    padded to 8 are 0 1 2 1 0 1 2 1. One row is repeated.
    """
    period = max(1, 2 * (size - 1))
    turn = np.arange(padded) % period
    return np.minimum(turn, period - turn) if size > 1 else turn


def to_tensor(pixels: Pixels, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """H×W×3 pixels as a new float32 tensor, 1×channels×H×W in [−1, 1]; 1 channel is the luma.

    To another device 8-bit pixels travel as they are, a quarter of the bytes, and are converted
    there by the same operations.
    """
    if channels == 3 and pixels.dtype == np.uint8 and torch.device(device).type != "cpu":
        return from_bytes(torch.from_numpy(np.ascontiguousarray(pixels)).to(device))
    return _on_host(pixels, channels).to(device)


def from_bytes(levels: Tensor) -> Tensor:
    """H×W×3 uint8 as float32, 1×3×H×W in [−1, 1], on its own device."""
    return levels.permute(2, 0, 1)[None].float().contiguous().mul_(2.0 / 255.0).sub_(1.0)


def to_bytes(picture: Tensor) -> Tensor:
    """1×3×H×W as H×W×3 uint8, clipped and rounded as ``to_pixels`` does, on its own device."""
    scaled = picture[0].float().add(1.0).mul_(127.5)
    return scaled.round_().clamp_(0.0, 255.0).to(torch.uint8).permute(1, 2, 0).contiguous()


def _on_host(pixels: Pixels, channels: int) -> Tensor:
    top = _TOP.get(pixels.dtype.name)
    values = pixels.astype(np.float32)
    if top is not None:
        values *= np.float32(2.0 / top)
        values -= np.float32(1.0)
    if channels == 1:
        values = values @ np.array(_LUMA, dtype=np.float32)[:, None]
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))[None])


def to_pixels(picture: Tensor, dtype: np.dtype[Any]) -> Pixels:
    """1×C×H×W as H×W×3 pixels, clipped to [−1, 1] and rounded (not truncated).

    1 channel is repeated.
    """
    if picture.device.type != "cpu" and picture.shape[1] == 3 and dtype == np.uint8:
        return to_bytes(picture).cpu().numpy()
    values = picture[0].float().permute(1, 2, 0).cpu().numpy()
    if values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    top = _TOP.get(dtype.name)
    if top is None:
        return np.ascontiguousarray(values.clip(-1.0, 1.0))
    scaled = (values + np.float32(1.0)) * np.float32(top / 2.0)
    pixels: Pixels = np.rint(scaled).clip(0.0, top).astype(dtype)
    return pixels
