"""The Python API: pictures as PIL images, numpy arrays or tensors in, the same kind out.

from cyclegan_cli import load_style, translate

painted = translate(photo, style="monet")
monet = load_style("monet", gpu="0")
painted = monet(photos, resolution=1024)  # a list, or an N×H×W×3 array
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cyclegan_cli.errors import CycleganError, PictureError, UsageError, did_you_mean
from cyclegan_cli.media.colour import deep_grey, to_8_bits, to_srgb
from cyclegan_cli.painting.effects import paint_picture
from cyclegan_cli.painting.painter import Painter, open_painter
from cyclegan_cli.settings import Precision, TranslateSettings
from cyclegan_cli.styles.store import find_style, weights_file

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedStyle", "load_style", "translate"]

Array = NDArray[Any]
AnyImage = TypeVar(
    "AnyImage",
    Image.Image,
    Array,
    "torch.Tensor",
    list[Image.Image],
    list[Array],
    "list[torch.Tensor]",
)
Number = TypeVar("Number", int, float, "int | None")
P = ParamSpec("P")
T = TypeVar("T")

# An option in a message, with its value where one follows.
_OPTION = re.compile(
    r"--([a-z][a-z-]*)(?: (\d[\w,]*|(?:auto|cpu|cuda|mps|native|fp16|fp32|bf16)\b(?:,\w+)*))?"
)


def _speaks_python(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with errors that name arguments (``max_memory``) instead of options.

    An argument that it does not have gets a did-you-mean, as Python 3.13 gives.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                near = did_you_mean(name, known)
                raise TypeError(
                    f"{function.__name__}() got an unexpected keyword argument '{name}'.{near}"
                )
        try:
            return function(*args, **kwargs)
        except CycleganError as error:
            error.args = (_OPTION.sub(_argument, str(error)),)
            if error.hint and "cyclegan " not in error.hint:  # a command is typed in a shell
                error.hint = _OPTION.sub(_argument, error.hint)
            raise

    return called


def _argument(option: re.Match[str]) -> str:
    """``max_memory`` for ``--max-memory``, ``gpu="0"`` for ``--gpu 0``."""
    name, value = option[1].replace("-", "_"), option[2]
    if value is None:
        return name
    return f"{name}={value}" if value.isdigit() and name != "gpu" else f'{name}="{value}"'


class LoadedStyle:
    """One direction of a style, ready to paint: call it with a picture.

    ``name``, ``source`` and ``target``: the style and the two domains, from source to target.
    """

    def __init__(
        self, name: str, source: str, target: str, painter: Painter, resolution: int | None = None
    ) -> None:
        self.name = name
        self.source = source
        self.target = target
        self._painter = painter
        self._resolution = resolution

    def __repr__(self) -> str:
        return f"<style {self.name}: {self.source} → {self.target}>"

    @_speaks_python
    def __call__(
        self,
        image: AnyImage,
        *,
        resolution: int | Literal["auto", "native"] = "auto",
        strength: float = 1.0,
        keep_color: bool = False,
        compare: bool = False,
    ) -> AnyImage:
        """Paint one picture or several.

        ``image`` is one of:

        - a PIL image of any mode. Its EXIF orientation and colour profile are applied. Returns RGB,
          or RGBA where it had transparency, 8 bits a channel.
        - an array, H×W, H×W×C or N×H×W×C, C = 1, 3 or 4 (the fourth is alpha): uint8, uint16, or
          floats in [0, 1].
        - a tensor, C×H×W or N×C×H×W, C = 1, 3 or 4: uint8, or floats in [0, 1], on any device.
        - a list of any of these; returns a list.

        Returns a new one of the same kind, height, width, dtype and device. Grey comes back in
        colour (three channels), alpha as it was, values of arrays and tensors are sRGB. The options
        are those of ``cyclegan translate``: ``resolution`` is the long side to paint at, in pixels
        ("auto": at most that which the style was made for; "native": the picture's own);
        ``strength`` 0 gives the original, 1 the painting; with ``compare`` the original stands left
        of the result, and the width is doubled.

        Raises UsageError for options out of range and for what is none of these kinds, PictureError
        for arrays and tensors of another shape, type or range, or too large for the memory.
        """
        if isinstance(resolution, str) and resolution not in ("auto", "native"):
            raise UsageError(f"resolution={resolution!r}: auto, native, or a number of pixels.")
        settings = TranslateSettings(
            resolution=None if isinstance(resolution, str) else _plain(resolution),
            at_most=self._resolution if resolution == "auto" else None,
            strength=_plain(strength),
            keep_color=keep_color,
            compare=compare,
            max_memory=self._painter.max_memory,
        )
        painted: AnyImage = self._paint(image, settings)
        return painted

    def _paint(self, image: Any, settings: TranslateSettings) -> Any:
        if isinstance(image, (list, tuple)):
            return [self._paint(one, settings) for one in image]
        if isinstance(image, Image.Image):
            return self._paint_image(image, settings)
        if isinstance(image, np.ndarray) and image.ndim == 4 and len(image):
            return np.stack([self._paint_array(one, settings) for one in image])
        if isinstance(image, np.ndarray):
            return self._paint_array(image, settings)
        if "torch" in sys.modules:  # else nobody can have made a tensor
            import torch

            if isinstance(image, torch.Tensor):
                return self._paint_tensor(image, settings)
        raise UsageError(
            f"A {type(image).__name__} is no picture: a PIL image, an array, a tensor or a list of "
            "them is wanted.",
            hint="PIL.Image.open(path) opens a file.",
        )

    def _paint_image(self, image: Image.Image, settings: TranslateSettings) -> Image.Image:
        upright = ImageOps.exif_transpose(image)
        if (grey := deep_grey(upright)) is not None:
            values = np.repeat(to_8_bits(grey)[..., None], 3, axis=2)
        else:
            rgb, alpha = to_srgb(upright)
            values = np.asarray(rgb)
            if alpha is not None:
                values = np.concatenate([values, np.asarray(alpha)[..., None]], axis=2)
        return Image.fromarray(self._paint_array(values, settings))

    def _paint_tensor(self, tensor: torch.Tensor, settings: TranslateSettings) -> torch.Tensor:
        import torch

        batch = tensor.detach() if tensor.ndim == 4 else tensor.detach()[None]
        if batch.ndim != 4 or batch.shape[1] not in (1, 3, 4) or 0 in batch.shape:
            raise PictureError(
                f"A tensor of shape {tuple(tensor.shape)} cannot be painted: C×H×W or N×C×H×W is "
                "wanted, with 1, 3 or 4 channels.",
                hint="tensor.permute(2, 0, 1) makes C×H×W of H×W×C, tensor[None] of H×W.",
            )
        if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
            raise PictureError(
                f"A tensor of type {tensor.dtype} cannot be painted: uint8 or floats are wanted.",
                hint="tensor.to(torch.uint8), where its values are 0 to 255.",
            )
        numbers = batch.float() if batch.is_floating_point() else batch
        painted = [
            self._paint_array(one.permute(1, 2, 0).cpu().numpy(), settings).transpose(2, 0, 1)
            for one in numbers
        ]
        result = torch.from_numpy(np.stack(painted)).to(device=tensor.device, dtype=tensor.dtype)
        return result if tensor.ndim == 4 else result[0]

    def _paint_array(self, array: Array, settings: TranslateSettings) -> Array:
        values = array[..., None] if array.ndim == 2 else array
        if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
            raise PictureError(
                f"An array of shape {array.shape} cannot be painted: H×W, H×W×C or N×H×W×C is "
                "wanted, with 1, 3 or 4 channels.",
                hint="A tensor's N×C×H×W: array.transpose(0, 2, 3, 1).",
            )
        alpha = values[..., 3:]
        colour = values[..., :3] if values.shape[2] >= 3 else np.repeat(values, 3, axis=2)
        painted = paint_picture(self._painter, _to_pixels(colour), settings)
        if painted.dtype == np.float32:
            painted = ((painted + np.float32(1)) / np.float32(2)).astype(array.dtype)
        if not alpha.shape[2]:
            return painted
        copies = painted.shape[1] // alpha.shape[1]  # two with compare
        return np.concatenate([painted, np.concatenate([alpha] * copies, axis=1)], axis=2)


def _to_pixels(colour: Array) -> Array:
    """H×W×3 as what painting takes: uint8 and uint16 as they are, floats in [−1, 1]."""
    if colour.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(colour)
    if colour.dtype.kind != "f":
        raise PictureError(
            f"An array of type {colour.dtype} cannot be painted: uint8, uint16 or floats are "
            "wanted.",
            hint='array.astype("uint8"), where its values are 0 to 255.',
        )
    if not (colour.min() >= 0 and colour.max() <= 1):  # also where there is a NaN
        raise PictureError(
            f"Floats from {colour.min():g} to {colour.max():g} cannot be painted: they must lie in "
            "[0, 1].",
            hint="array / 255 brings 0…255 there, (array + 1) / 2 brings −1…1.",
        )
    scaled: Array = colour.astype(np.float32) * np.float32(2) - np.float32(1)
    return scaled


def _plain(value: Number) -> Number:
    """A number of NumPy's as Python's own, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


@_speaks_python
def load_style(
    style: str | PathLike[str],
    *,
    reverse: bool = False,
    gpu: str | int = "auto",
    precision: Precision = "auto",
    max_memory: int | None = None,
) -> LoadedStyle:
    """The style of that name, or of that path, loaded and on its device.

    ``reverse``: Y→X instead of X→Y. ``gpu``: ``auto``, ``cpu``, ``mps``, ``cuda``, or a CUDA
    device as ``0`` or ``cuda:0``. ``max_memory``: bytes that painting may take, None for what is
    free.

    Raises UsageError for a style, direction or device that is not there, StoreError and
    WeightsError for files that are damaged.
    """
    TranslateSettings(precision=precision, max_memory=max_memory)  # checks them
    found = find_style(str(style))
    weights = weights_file(found, reverse)
    painter = open_painter(weights, str(gpu), precision, max_memory=max_memory)
    source, target = (found.y, found.x) if reverse else (found.x, found.y)
    return LoadedStyle(found.name, source, target, painter, found.resolution)


@_speaks_python
def translate(
    image: AnyImage,
    style: str | PathLike[str] | LoadedStyle,
    *,
    reverse: bool = False,
    gpu: str | int = "auto",
    precision: Precision = "auto",
    max_memory: int | None = None,
    resolution: int | Literal["auto", "native"] = "auto",
    strength: float = 1.0,
    keep_color: bool = False,
    compare: bool = False,
) -> AnyImage:
    """Paint ``image`` with ``style``: ``load_style``, then ``LoadedStyle.__call__``.

    The style that was used last stays loaded, so that calls in a row are quick; to hold several,
    keep what ``load_style`` returns, which may also be given as ``style`` (and then has its
    direction, device, precision and memory already).
    """
    if not isinstance(style, LoadedStyle):
        weights = weights_file(find_style(str(style)), reverse)
        stamp = (str(weights.resolve()), weights.stat().st_mtime_ns, weights.stat().st_size)
        style = _last_loaded(str(style), reverse, str(gpu), precision, max_memory, stamp)
    elif (reverse, gpu, precision, max_memory) != (False, "auto", "auto", None):
        raise UsageError(f"{style!r} is loaded already: say that to load_style.")
    return style(
        image, resolution=resolution, strength=strength, keep_color=keep_color, compare=compare
    )


@lru_cache(maxsize=1)
def _last_loaded(
    style: str,
    reverse: bool,
    gpu: str,
    precision: Precision,
    max_memory: int | None,
    stamp: tuple[str, int, int],  # noqa: ARG001 - a file that was replaced is read again
) -> LoadedStyle:
    return load_style(style, reverse=reverse, gpu=gpu, precision=precision, max_memory=max_memory)
