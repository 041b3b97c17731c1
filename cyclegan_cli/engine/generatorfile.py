"""A file of one generator, read and checked, whatever the arrays are that its weights become.

No PyTorch here: ``weights`` makes a network of it, ``arrays`` does without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors

from cyclegan_cli.errors import WeightsError, command_line
from cyclegan_cli.settings import GeneratorSpec

__all__ = ["FORMAT", "Kind", "checked", "digest", "needs_torch", "read"]

FORMAT = "cyclegan-generator-1"

T = TypeVar("T", bound=Any)


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What is done with one kind of array: PyTorch's tensors, or NumPy's arrays.

    ``load``: from the bytes of a safetensors file; ``is_float``: whether it holds numbers of a kind
    that weights can be; ``float32``: a new one of that type.
    """

    load: Callable[[bytes], dict[str, T]]
    is_float: Callable[[T], bool]
    float32: Callable[[T], T]
    is_finite: Callable[[T], bool]


def read(path: Path, kind: Kind[T]) -> tuple[GeneratorSpec, dict[str, T]]:
    """Which generator ``path`` holds, and its tensors as they lie there.

    No byte of the file is ever executed. Raises WeightsError where the file is damaged or is not
    this program's; OSError where it cannot be read.
    """
    data = path.read_bytes()  # read once: another process may put a new file in its place
    try:
        tensors = kind.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
    except (ValueError, KeyError, AttributeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} is not a whole weights file: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is a safetensors file, but not a generator of this program.",
            hint=command_line("pretrained", "import", path, "--name", "NAME"),
        )
    told = metadata.get("digest")  # files from before there was one have none
    if told is not None and told != digest(metadata.get("generator", "")):
        raise WeightsError(f"{path} is damaged: what it says of its generator has changed.")
    try:
        return GeneratorSpec.from_json(json.loads(metadata["generator"])), tensors
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} does not say which generator it holds.") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def checked(
    path: Path,
    spec: GeneratorSpec,
    tensors: Mapping[str, T],
    expected: Mapping[str, tuple[int, ...]],
    kind: Kind[T],
) -> dict[str, T]:
    """The ``tensors`` that ``read`` found, float32. ``expected``: the shapes that ``spec`` means.

    Raises WeightsError where they have other names or shapes, or are no finite numbers.
    """
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise WeightsError(f"The tensors in {path} are not those of a {spec.name} generator.")
    if not all(kind.is_float(tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path} holds numbers of a kind that weights never are.")
    weights = {name: kind.float32(tensor) for name, tensor in tensors.items()}
    if not all(kind.is_finite(tensor) for tensor in weights.values()):
        raise WeightsError(f"{path} holds numbers that are not finite in float32.")
    return weights


def needs_torch(spec: GeneratorSpec) -> bool:
    """Whether PyTorch must be there to paint with it: ``arrays`` knows one family."""
    return not (
        spec.norm == "none"
        and spec.separable
        and spec.upsample == "resize"
        and (spec.in_channels, spec.out_channels) == (3, 3)
    )


def digest(text: str) -> str:
    """What a damaged number such as the grain is noticed by; a damaged shape shows by itself."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
