"""What layers depend on of the whole picture: InstanceNorm's statistics, and the scene's code.

Statistics are merged strip by strip (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances", 1979). The code of a thumbnail scales and shifts channels
and gives a colour matrix: constants of one picture, which go into its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cyclegan_cli.engine.layers import EPS, SCENE_WIDTHS, SMOOTH, THUMBNAIL, film_name, layers
from cyclegan_cli.engine.weights import Weights
from cyclegan_cli.painting.pixels import Pixels, Planes, to_planes

Array = NDArray[np.float32]

RECOLOUR = "recolour"  # name of one picture's colour matrix and offset: out×(in + 1)

_ROUNDING = 1e-12  # the variance of values near 1 that differ by float32's rounding of sums


@dataclass(frozen=True)
class Moments:
    """Of each channel: the number of values, their mean, the sum of squared deviations.

    ``mean``, ``m2``: float64, C values each: NumPy arrays, or tensors on the CUDA device.
    """

    count: int
    mean: Any
    m2: Any

    @property
    def variance(self) -> Any:
        """The biased variance: float64, C values, never negative."""
        return self.m2 / self.count

    def on_host(self) -> Moments:
        """The same as NumPy arrays."""
        if isinstance(self.mean, np.ndarray):
            return self
        return Moments(self.count, self.mean.cpu().numpy(), self.m2.cpu().numpy())

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together."""
        count = self.count + other.count
        share = other.count / count
        step = other.mean - self.mean
        m2 = self.m2 + other.m2 + step * step * (self.count * share)
        return Moments(count, self.mean + step * share, m2)

    def blend(self, other: Moments, weight: float) -> Moments:
        """Means and variances a ``weight`` (0..1) of the way to ``other``'s; this one's count."""
        mean = self.mean + weight * (other.mean - self.mean)
        variance = self.variance + weight * (other.variance - self.variance)
        return Moments(self.count, mean, variance * self.count)


# Called with the number of an InstanceNorm (from 0) and the statistics of the whole picture, as
# NumPy arrays; returns those to use.
OverrideStats: TypeAlias = Callable[[int, Moments], Moments]


def varies(moments: Moments) -> Any:
    """Whether each channel varies by more than rounding: bool, C values.

    If not, its scale is 0: InstanceNorm would turn rounding into noise.
    """
    return moments.variance > _ROUNDING * (1.0 + moments.mean**2)


def factors(moments: Moments) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """mean and 1 / √(variance + eps): float32, C values each; 0 unless it ``varies``."""
    scale = 1.0 / np.sqrt(moments.variance + EPS) * varies(moments)
    return moments.mean.astype(np.float32), scale.astype(np.float32)


def thumbnail(pixels: Pixels, channels: int) -> Planes:
    """Means of 32×32 fields as of PyTorch's ``adaptive_avg_pool2d``, channels×32×32 in [−1, 1]."""
    rows = [pixels[part].mean(0, dtype=np.float32) for part in _fields(pixels.shape[0])]
    lines = np.stack(rows)
    fields = [lines[:, part].mean(1, dtype=np.float32) for part in _fields(pixels.shape[1])]
    small = np.stack(fields, axis=1)
    if pixels.dtype != np.float32:
        small = small * np.float32(2.0 / np.iinfo(pixels.dtype).max) - np.float32(1.0)
    return to_planes(small, channels)


def _fields(size: int) -> list[slice]:
    return [slice(i * size // THUMBNAIL, -(-(i + 1) * size // THUMBNAIL)) for i in range(THUMBNAIL)]


def scene_code(weights: Weights, pixels: Pixels) -> Array:
    """The code of a picture's thumbnail: what ``Generator.scene_code`` computes, to rounding."""
    tensors, x = weights.tensors, thumbnail(pixels, weights.spec.in_channels)
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
    """The weights of the layers for a picture with this code, and its ``RECOLOUR``."""
    spec, old = weights.spec, weights.tensors
    tensors = {name: old[name] for name in old if name.startswith(("encoder", "trunk", "decoder"))}

    def read(name: str) -> Array:
        found: Array = np.tanh(old[f"{name}.weight"] @ code + old[f"{name}.bias"])
        return found

    blocks = (block for part in layers(spec) for block in getattr(part, "blocks", ()))
    for layer in (layer for block in blocks for layer in block if layer.scene):
        scale, shift = np.split(read(film_name(layer)), 2)
        scale = scale + np.float32(1.0)
        weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
        tensors[weight] = old[weight] * scale[:, None, None, None]
        tensors[bias] = old[bias] * scale + shift
    matrix = read("colour").reshape(spec.out_channels, spec.in_channels + 1)
    tensors[RECOLOUR] = matrix + np.eye(*matrix.shape, dtype=np.float32)
    return Weights(spec, tensors)


def smooth_rows(start: int, stop: int, height: int) -> tuple[int, int]:
    """The rows that ``smoothed`` needs for rows [start, stop) of a picture of that height."""
    first, last = start // SMOOTH - 1, (stop - 1) // SMOOTH + 2
    return max(0, SMOOTH * first), min(height, SMOOTH * last)


def smoothed(picture: Planes) -> Planes:
    """C×h×w, sides multiples of ``SMOOTH``: means of cells, enlarged again, as in ``Generator``."""
    for _ in range(2):  # along the rows, then along the columns
        parts = [picture[..., k::SMOOTH] for k in range(SMOOTH)]
        small = ((parts[0] + parts[1]) + (parts[2] + parts[3])) * np.float32(1 / SMOOTH)
        before = np.concatenate([small[..., :1], small[..., :-1]], axis=-1)
        after = np.concatenate([small[..., 1:], small[..., -1:]], axis=-1)
        picture = np.empty_like(picture)
        for k, (other, weight) in enumerate(
            ((before, 0.375), (before, 0.125), (after, 0.125), (after, 0.375))
        ):
            picture[..., k::SMOOTH] = small + np.float32(weight) * (other - small)
        picture = np.swapaxes(picture, -1, -2)
    return picture


def recoloured(matrix: Array, picture: Planes) -> Planes:
    """(in or more)×h×w -> out×h×w by ``RECOLOUR``."""
    inputs = matrix.shape[1] - 1
    colours = np.tensordot(matrix[:, :inputs], picture[:inputs], axes=1)
    colours += matrix[:, inputs, None, None]
    return np.asarray(colours, np.float32)
