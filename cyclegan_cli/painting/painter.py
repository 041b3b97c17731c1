"""One picture in, one picture out: any size, in bounded memory, with or without PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_cli.engine.fast import bf16, kernels
from cyclegan_cli.engine.fast.kernels import library
from cyclegan_cli.engine.grain import canvas, grained
from cyclegan_cli.engine.layers import reduction, source_channels
from cyclegan_cli.engine.weights import Weights, load_weights
from cyclegan_cli.errors import PictureError, UsageError, WeightsError, counted
from cyclegan_cli.machine import may_have_accelerator, normal_gpu
from cyclegan_cli.painting.evaluate import Band, estimate, evaluate
from cyclegan_cli.painting.pixels import Pixels, check, padded, padded_rows
from cyclegan_cli.painting.statistics import Array, Moments, OverrideStats, conditioned, scene_code
from cyclegan_cli.painting.strips import Plan, Rows, choose
from cyclegan_cli.settings import Precision

_SCENE = -1  # the scene code's number for ``override_stats``; InstanceNorms count from 0


def open_painter(
    weights: Path,
    gpu: str = "auto",
    precision: Precision = "auto",
    *,
    max_memory: int | None = None,
    exact_reference: bool = False,
) -> Painter:
    """A painter with the generator in ``weights``, for the command and the API.

    PyTorch is loaded only for a GPU (with ``auto`` only if there is a driver), a precision that the
    kernels lack, ``exact_reference``, or without the kernels. ``gpu``: ``auto``, ``cpu``, ``mps``,
    ``cuda`` or a number. Raises DeviceError, UsageError for several devices, WeightsError.
    """
    loaded, gpu = load_weights(weights), normal_gpu(gpu)
    by_kernels = precision in ("auto", "fp32") or (precision == "bf16" and bf16.has_unit())
    plain = by_kernels and not exact_reference and library() is not None
    # PyTorch is loaded, or is installed where there may be a GPU.
    may_use_gpu = sys.modules.get("torch") is not None or may_have_accelerator()
    on_cpu = gpu == "cpu" or (gpu == "auto" and not may_use_gpu)
    if plain and on_cpu and sys.platform == "linux":
        return Painter(
            loaded, "cpu", "bf16" if precision == "bf16" else "fp32", max_memory=max_memory
        )
    from cyclegan_cli.engine.device import DTYPES, resolve, resolve_precision

    devices = resolve(gpu)
    if len(devices) > 1:
        raise UsageError(
            f"--gpu {gpu}: a picture is painted on one device.",
            hint=f"--gpu {gpu.split(',', maxsplit=1)[0]}",
        )
    device = devices[0].torch
    dtype = resolve_precision(precision, device)
    return Painter(
        *(loaded, str(device), next(name for name, one in DTYPES.items() if one == dtype)),
        label=devices[0].label,
        max_memory=max_memory,
        exact_reference=exact_reference,
    )


class Painter:
    """A generator applied to arrays of pixels.

    ``device``: PyTorch's name. ``precision``: of convolutions. ``label``: the device's name for
    people. ``max_memory``: bytes that this process may use (on CUDA: of the card), None for what is
    free. ``notes``: messages about the last picture. ``by_processes``: paints by several processes
    (``bands.together``). Raises WeightsError unless pictures have 1 or 3 channels.
    """

    def __init__(
        self,
        weights: Weights,
        device: str = "cpu",
        precision: Precision = "fp32",
        *,
        label: str | None = None,
        max_memory: int | None = None,
        exact_reference: bool = False,
    ) -> None:
        self.spec = weights.spec
        for count in (self.spec.in_channels, self.spec.out_channels):
            if count not in (1, 3):
                what = f"This generator's pictures have {count} channels"
                raise WeightsError(f"{what}; 1 or 3 can be painted.")
        self.unit = reduction(self.spec)  # of height and width, which pictures are padded to
        self.device = device
        threads = counted(kernels.threads(), "thread") if device == "cpu" else ""
        self.label = label or (f"CPU, {threads}" if threads else device)
        self.max_memory = max_memory
        self.notes: list[str] = []
        self.by_processes: Callable[..., Pixels] | None = None
        self._weights, self._precision = weights, precision
        self._by_kernels = device == "cpu" and not exact_reference and library() is not None
        self._backends: dict[Precision, Any] = {}
        self.backend_for(deep=False)  # raises now if something is wrong with the device

    def paint(
        self,
        pixels: Pixels,
        *,
        override_stats: OverrideStats | None = None,
        origin: tuple[int, int] = (0, 0),
        deep: bool | None = None,
    ) -> Pixels:
        """Translate one picture of any size.

        pixels: H×W×3, uint8, uint16, or float32 in [−1, 1]. Returns the same shape and dtype,
        rounded. 1 input channel gets the luma; 1 output channel is repeated. ``override_stats``:
        decides each InstanceNorm's statistics. ``origin``: row and column of the canvas in the
        picture's corner. ``deep``: paint in float32, whatever the precision; None: if it is uint16.

        Sides that are no multiples of 4, or less than 16, are padded by reflection, which is part
        of the picture for InstanceNorm, and cropped. Raises PictureError for other arrays, or short
        memory.
        """
        check(pixels)
        self.notes = []
        code = self._scene_code(pixels, override_stats)
        deep = pixels.dtype == np.uint16 if deep is None else deep
        backend = self.backend_for(deep, code)
        plans = self.plans(backend, pixels.shape, pixels.nbytes)
        if self.by_processes is not None:
            return self.by_processes(pixels, override_stats, origin, deep, code, plans)
        for plan in plans:
            try:
                return self.paint_rows(
                    *(backend, pixels, pixels.shape[0], plan, (0, pixels.shape[0])),
                    override_stats=override_stats,
                    origin=origin,
                )
            except (MemoryError, RuntimeError) as error:
                if not backend.is_out_of_memory(error):
                    raise
            backend.release()
            self.notes = ["The memory was short: painted again in smaller parts."]
        raise PictureError(
            f"The memory of {self.device} is too small for a picture of "
            f"{pixels.shape[1]}×{pixels.shape[0]} pixels.",
            hint="Paint it smaller: --resolution 2048.",
        )

    def backend_for(self, deep: bool, code: Array | None = None) -> Any:
        """The backend for a picture, as ``paint`` says of ``deep``. ``code``: of its scene."""
        precision: Precision = "fp32" if deep else self._precision
        if code is not None:  # weights for one picture; others may be painted at the same time
            return self._made(precision, conditioned(self._weights, code))
        if precision not in self._backends:
            self._backends[precision] = self._made(precision, self._weights)
        return self._backends[precision]

    def _made(self, precision: Precision, weights: Weights) -> Any:
        half = precision == "bf16" and bf16.has_unit()
        if self._by_kernels and (half or precision == "fp32"):
            from cyclegan_cli.painting.by_kernels import KernelBackend

            return KernelBackend(weights, half=half)
        from cyclegan_cli.painting.by_torch import TorchBackend

        return TorchBackend(weights, self.device, precision)

    def _scene_code(self, pixels: Pixels, override_stats: OverrideStats | None) -> Array | None:
        """The code of the picture's scene, if any; ``override_stats`` may blend it with others."""
        if self.spec.code == 0:
            return None
        code = scene_code(self._weights, pixels)
        if override_stats is not None:
            found = override_stats(_SCENE, Moments(1, code, np.zeros_like(code)))
            code = np.asarray(found.mean, np.float32)
        return code

    def plans(self, backend: Any, shape: tuple[int, ...], extra: int) -> list[Plan]:
        """Plans for a picture of H×W×3, fastest first; ``extra``: further bytes that are used."""
        size, threads = self.padded_size(shape), backend.workspace_threads
        how = {"threads": threads, "wide_from": backend.wide_from}
        costs = partial(estimate, self.spec, backend.itemsize, *size, **how)
        row = self.spec.width * size[1] * backend.itemsize
        return choose(costs, size, row, self.device, max_memory=self.max_memory, extra=extra)

    def padded_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width that a picture of H×W×3 is padded to."""
        return padded(shape[0], self.unit), padded(shape[1], self.unit)

    def paint_rows(
        self,
        backend: Any,
        pixels: Pixels,
        height: int,
        plan: Plan,
        rows: tuple[int, int],
        *,
        first: int = 0,
        override_stats: OverrideStats | None = None,
        origin: tuple[int, int] = (0, 0),
        band: Band | None = None,
    ) -> Pixels:
        """``rows`` [start, stop) of the result. pixels: from ``first`` on, of ``height`` rows."""
        start, stop = rows
        width = pixels.shape[1]
        painted = np.empty((stop - start, *pixels.shape[1:]), pixels.dtype)

        def write(row: int, strip: Any) -> None:
            end = min(row + strip.shape[-2], stop)
            if row < end:
                shown = strip[..., : end - row, :width]
                painted[row - start : end - start] = backend.to_pixels(shown, pixels.dtype)

        source = self._source(backend, pixels, height, first, origin)
        with backend.session():
            evaluate(
                *(self.spec, backend, source, plan, write), override_stats=override_stats, band=band
            )
        return painted

    def _source(
        self, backend: Any, pixels: Pixels, height: int, first: int, origin: tuple[int, int]
    ) -> Rows[Any]:
        """The padded picture; strips are converted to float32 when they are read."""
        spec, size = self.spec, self.padded_size((height, *pixels.shape[1:]))
        channels = spec.in_channels
        around = padded_rows(pixels, height, size, first)

        def read(start: int, stop: int) -> Any:
            values = backend.from_pixels(around(start, stop), channels)
            if not grained(spec):
                return values
            grain = canvas(spec, start, stop, size[1], origin)
            return (backend.with_channel if spec.code > 0 else backend.with_grain)(values, grain)

        # Pixels as float32 and before the conversion take more bytes than the values.
        cost = max(3, source_channels(spec)) * size[1] * 4
        return Rows(source_channels(spec), *size, backend.itemsize, cost, read=read, fresh=True)
