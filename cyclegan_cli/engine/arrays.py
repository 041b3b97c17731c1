"""A generator as NumPy arrays: for painting without PyTorch, whose import takes longer than that.

Of one family: without normalisation, of separable convolutions, enlarged by resizing, as ``brush``
is (``generatorfile.needs_torch``). ``networks`` says what its layers are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from cyclegan_cli.engine.generatorfile import Kind, checked, needs_torch, read
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.settings import GeneratorSpec

__all__ = ["Array", "ArrayGenerator", "load_arrays", "shapes"]

Array = NDArray[np.float32]


def _float32(values: Array) -> Array:
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return values.astype(np.float32)


_ARRAYS: Kind[Array] = Kind(
    load=load,
    is_float=lambda array: array.dtype.name in ("float32", "float16", "float64"),
    float32=_float32,
    is_finite=lambda array: bool(np.isfinite(array).all()),
)


@dataclass(frozen=True)
class ArrayGenerator:
    """A generator of the family: ``weights`` are named and shaped as in its ``state_dict``."""

    spec: GeneratorSpec
    weights: dict[str, Array]


def shapes(spec: GeneratorSpec) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of a generator of the family."""
    w = spec.width
    whole = {
        "encoder.1": (w, spec.in_channels, 7, 7),
        "encoder.4": (2 * w, w, 3, 3),
        "encoder.7": (4 * w, 2 * w, 3, 3),
        "decoder.11": (spec.out_channels, w, 7, 7),
    }
    separable = {
        f"trunk.{block}.branch.{layer}": (4 * w, 4 * w)
        for block in range(spec.blocks)
        for layer in (1, 5)
    }
    separable |= {"decoder.2": (2 * w, 4 * w), "decoder.7": (w, 2 * w)}
    for name, (outputs, inputs) in separable.items():
        room, _, number = name.rpartition(".")
        whole[name] = (inputs, 1, 3, 3)
        whole[f"{room}.{int(number) + 1}"] = (outputs, inputs, 1, 1)
    weights = {f"{name}.weight": shape for name, shape in whole.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in whole.items()}


def load_arrays(path: Path) -> ArrayGenerator:
    """The generator in ``path``. Raises as ``weights.load_generator`` does, with the same words;
    WeightsError also for one of another family, and for numbers that NumPy lacks (bfloat16).
    """
    spec, tensors = read(path, _ARRAYS)
    if needs_torch(spec):
        raise WeightsError(f"{path} holds a {spec.name} generator, which needs PyTorch.")
    return ArrayGenerator(spec, checked(path, spec, tensors, shapes(spec), _ARRAYS))
