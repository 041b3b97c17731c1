"""One picture in, one picture out."""

from __future__ import annotations

import copy

import torch

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.painting.pixels import Pixels, check, reflected, to_pixels, to_tensor

__all__ = ["Translator"]


class Translator:
    """A generator applied to arrays of pixels.

    ``network`` is copied to ``device``. ``dtype``: what convolutions compute in (float32,
    bfloat16, float16). ``max_memory``: bytes that a picture may take, None for what is free.
    Raises WeightsError for a generator whose pictures have neither 1 nor 3 channels.
    """

    def __init__(
        self,
        network: Generator,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_memory: int | None = None,
    ) -> None:
        for channels in (network.spec.in_channels, network.spec.out_channels):
            if channels not in (1, 3):
                raise WeightsError(
                    f"This generator's pictures have {channels} channels; 1 or 3 can be painted."
                )
        self.device = torch.device(device)
        self.dtype = dtype
        self.max_memory = max_memory
        self._network = copy.deepcopy(network).requires_grad_(False).eval().to(self.device)

    @torch.inference_mode()
    def paint(self, pixels: Pixels) -> Pixels:
        """Translate one picture of any size.

        pixels: H×W×3, uint8, uint16, or float32 in [−1, 1]. Returns the same shape and dtype,
        rounded, not truncated. A generator with 1 input channel gets the luma; 1 output channel
        is repeated as grey.

        Where H or W is no multiple of 4, or less than 16, the picture is padded at the bottom and
        the right by reflection, and the result is cropped. The padding is part of the picture for
        InstanceNorm, so that the result does not depend on how it was computed.

        Raises PictureError for arrays of another shape or type.
        """
        check(pixels)
        height, width = pixels.shape[:2]
        rows, columns = reflected(height, _padded(height)), reflected(width, _padded(width))
        whole = pixels[rows][:, columns] if (len(rows), len(columns)) != (height, width) else pixels
        x = to_tensor(whole, self._network.spec.in_channels).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            y = self._network(x)
        return to_pixels(y[:, :, :height, :width], pixels.dtype)


def _padded(size: int) -> int:
    """The generator halves a picture twice, and then reflects: multiples of 4, from 16 up."""
    return max(16, -(-size // 4) * 4)
