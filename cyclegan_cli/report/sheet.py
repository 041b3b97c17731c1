"""Sheets of sample pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cyclegan_cli.report.samples import CAPTION, GAP

__all__ = ["sample_sheet", "to_image"]


def to_image(picture: Tensor) -> Image.Image:
    """C×H×W float in [−1, 1], C = 1 or 3 -> an RGB picture; rounded, not truncated."""
    levels = picture.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    pixels = levels.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def sample_sheet(pictures: Mapping[str, Tensor]) -> Image.Image:
    """One column per entry of ``pictures`` with its name above, one row per picture.

    Each value: float, N×C×H×W in [−1, 1]; all of one height and width.
    """
    columns = [(name, [to_image(picture) for picture in batch]) for name, batch in pictures.items()]
    width, height = columns[0][1][0].size
    rows = max(len(images) for _, images in columns)
    sheet = Image.new(
        "RGB",
        (len(columns) * (width + GAP) + GAP, rows * (height + GAP) + GAP + CAPTION),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for column, (name, images) in enumerate(columns):
        left = GAP + column * (width + GAP)
        draw.text((left, 2), name, fill="black", font=font)
        for row, image in enumerate(images):
            sheet.paste(image, (left, CAPTION + GAP + row * (height + GAP)))
    return sheet
