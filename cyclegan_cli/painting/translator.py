"""One picture in, one picture out: any size, in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cyclegan_cli.engine.grain import canvas
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.painting.memory import SHORT, choose, too_small
from cyclegan_cli.painting.moments import Settle
from cyclegan_cli.painting.pixels import Pixels, check, padded, padded_rows
from cyclegan_cli.painting.plans import Plan
from cyclegan_cli.painting.quick import Quick
from cyclegan_cli.painting.rows import Rows
from cyclegan_cli.painting.streaming import evaluate
from cyclegan_cli.painting.tensors import to_pixels, to_tensor

__all__ = ["Translator", "of_tensors", "source_rows"]


class Translator:
    """A generator applied to arrays of pixels.

    ``network`` is copied to ``device``. ``dtype``: what convolutions compute in (float32,
    bfloat16, float16). ``max_memory``: bytes that this process may take (on CUDA: that much of the
    card), None for what is free. ``exact_reference``: every layer by PyTorch's own operations, none
    by a faster way. ``notes``: what a user should know of the last picture, such as
    that the card's memory was too small for it.

    Raises WeightsError for a generator whose pictures have neither 1 nor 3 channels.
    """

    def __init__(
        self,
        network: Generator,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_memory: int | None = None,
        exact_reference: bool = False,
    ) -> None:
        for channels in (network.spec.in_channels, network.spec.out_channels):
            if channels not in (1, 3):
                raise WeightsError(
                    f"This generator's pictures have {channels} channels; 1 or 3 can be painted."
                )
        self.device = torch.device(device)
        self.dtype = dtype
        self.max_memory = max_memory
        self.notes: list[str] = []
        own = copy.deepcopy(network).requires_grad_(False).eval()
        self.network = own.to(device=self.device, dtype=dtype)
        suits = Quick.suits(self.network, self.device) and not exact_reference
        self.quick = Quick() if suits else None

    @torch.inference_mode()
    def paint(
        self,
        pixels: Pixels,
        *,
        settle: Settle | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Pixels:
        """Translate one picture of any size.

        pixels: H×W×3, uint8, uint16, or float32 in [−1, 1]. Returns the same shape and dtype,
        rounded, not truncated. A generator with 1 input channel gets the luma; 1 output channel
        is repeated as grey. ``settle``, where given, decides each InstanceNorm's statistics.
        ``origin``: row and column, in the corner, of the canvas of a style with grain.

        Where H or W is no multiple of 4, or less than 16, the picture is padded at the bottom and
        the right by reflection, and the result is cropped. The padding is part of the picture for
        InstanceNorm, so that the result does not depend on how it was computed.

        Raises PictureError for arrays of another shape or type, and where memory does not suffice.
        """
        check(pixels)
        self.notes = []
        size = (padded(pixels.shape[0]), padded(pixels.shape[1]))
        plans = choose(self.network, size, self.device, self.max_memory, extra=pixels.nbytes)
        for plan in plans:
            try:
                return self._evaluate(pixels, size, plan, settle, origin)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.notes = [SHORT]
        raise too_small(self.device, pixels)

    def _evaluate(
        self,
        pixels: Pixels,
        size: tuple[int, int],
        plan: Plan,
        settle: Settle | None,
        origin: tuple[int, int],
    ) -> Pixels:
        height, width = pixels.shape[:2]
        painted = np.empty_like(pixels, order="C")

        def write(row: int, strip: Tensor) -> None:
            stop = min(row + strip.shape[2], height)
            if row < stop:
                shown = strip[:, :, : stop - row, :width]
                painted[row:stop] = to_pixels(shown, pixels.dtype)

        source = source_rows(self, pixels, height, size, origin=origin)
        evaluate(self.network, source, plan, self.device, write, settle=settle, quick=self.quick)
        return painted


def of_tensors(translator: Translator) -> Callable[[Tensor], Tensor]:
    """``Translator.paint`` for 1×3×H×W, float32 in [−1, 1], on the CPU; the same comes out."""

    def paint(picture: Tensor) -> Tensor:
        pixels = translator.paint(picture[0].permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()

    return paint


def source_rows(
    translator: Translator,
    pixels: Pixels,
    height: int,
    size: tuple[int, int],
    first: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> Rows:
    """The padded picture, of which strips become tensors only when they are read.

    pixels: those of ``height`` rows that are here, from row ``first``. ``size``: padded.
    """
    network, device, dtype = translator.network, translator.device, translator.dtype
    channels = network.spec.in_channels
    around = padded_rows(pixels, height, size, first)

    def read(start: int, stop: int) -> Tensor:
        values = to_tensor(around(start, stop), channels, device)
        if network.spec.grain > 0:
            grain = torch.from_numpy(canvas(start, stop, size[1], channels, origin))
            values = values + network.spec.grain * grain.to(device)
        return values.to(dtype)

    # float32 pixels, and what they were before: wider than the tensor that comes of them.
    return Rows(channels, *size, dtype.itemsize, read, True, 3 * size[1] * 4)


def _is_out_of_memory(error: BaseException) -> bool:
    """torch says it in many ways: its own class on CUDA, words elsewhere."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        word in str(error) for word in words
    )
