"""What a generator with a code sees of the whole picture, and its layers for that picture.

The code of a thumbnail scales and shifts channels and sets a colour matrix. For one picture these
are constants, so they go into its weights, and what is left are plain layers. No PyTorch here.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cyclegan_cli.engine.layers import SCENE_WIDTHS, THUMBNAIL, Trunk, film_name, layers
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting.pixels import Pixels, Planes, to_planes

__all__ = ["RECOLOUR", "conditioned", "recoloured", "scene_code", "thumbnail"]

Array = NDArray[np.float32]

RECOLOUR = "recolour"  # out×(in + 1): the colour matrix and the offset of one picture


def thumbnail(pixels: Pixels, channels: int) -> Planes:
    """Means of a grid of 32×32 fields, channels×32×32 in [−1, 1]; pixels as ``Painter.paint``'s.

    The fields are those of PyTorch's ``adaptive_avg_pool2d``: in small pictures they overlap.
    """
    rows = [pixels[part].mean(0, dtype=np.float32) for part in _fields(pixels.shape[0])]
    lines = np.stack(rows)
    fields = [lines[:, part].mean(1, dtype=np.float32) for part in _fields(pixels.shape[1])]
    small = np.stack(fields, axis=1)
    if pixels.dtype != np.float32:
        small = small * np.float32(2.0 / np.iinfo(pixels.dtype).max) - np.float32(1.0)
    return to_planes(small, channels)


def _fields(size: int) -> list[slice]:
    return [slice(i * size // THUMBNAIL, -(-(i + 1) * size // THUMBNAIL)) for i in range(THUMBNAIL)]


def scene_code(weights: Weights, small: Planes) -> Array:
    """The code of a thumbnail: what ``Generator.scene_code`` computes, to rounding."""
    tensors, x = weights.tensors, small
    for number in range(len(SCENE_WIDTHS)):
        x = _halved(x, *(tensors[f"scene.{2 * number}.{kind}"] for kind in ("weight", "bias")))
    code = tensors["code.weight"] @ x.mean((1, 2)) + tensors["code.bias"]
    positive: Array = np.maximum(code, np.float32(0.0))
    return positive


def _halved(x: Planes, weight: Array, bias: Array) -> Planes:
    """A 3×3 convolution of stride 2 and a ReLU, zeros around the picture."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
    sums = np.einsum("chwij,ocij->ohw", windows[:, ::2, ::2], weight, optimize=True)
    positive: Array = np.maximum(sums + bias[:, None, None], np.float32(0.0))
    return positive


def conditioned(weights: Weights, code: Array) -> Weights:
    """The layers' own weights for a picture of this code, and its ``RECOLOUR``."""
    spec, old = weights.spec, weights.tensors
    tensors = {name: old[name] for name in old if name.startswith(("encoder", "trunk", "decoder"))}

    def read(name: str) -> Array:
        found: Array = np.tanh(old[f"{name}.weight"] @ code + old[f"{name}.bias"])
        return found

    for part in layers(spec):
        for layer in (one for b in part.blocks for one in b) if isinstance(part, Trunk) else ():
            if layer.scene:
                scale, shift = np.split(read(film_name(layer)), 2)
                scale = scale + np.float32(1.0)
                weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
                tensors[weight] = old[weight] * scale[:, None, None, None]
                tensors[bias] = old[bias] * scale + shift
    matrix = read("colour").reshape(spec.out_channels, spec.in_channels + 1)
    tensors[RECOLOUR] = matrix + np.eye(*matrix.shape, dtype=np.float32)
    return Weights(spec, tensors)


def recoloured(matrix: Array, picture: Planes) -> Planes:
    """(in or more)×h×w -> out×h×w by ``RECOLOUR``."""
    inputs = matrix.shape[1] - 1
    colours = np.tensordot(matrix[:, :inputs], picture[:inputs], axes=1)
    colours += matrix[:, inputs, None, None]
    return np.asarray(colours, np.float32)
