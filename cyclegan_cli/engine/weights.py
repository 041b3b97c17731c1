"""Weights: one generator in a .safetensors file, whose metadata say which generator it is.

``read_header`` needs neither NumPy nor PyTorch, ``load_weights`` no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.engine.layers import shapes
from cyclegan_cli.errors import WeightsError, command_line
from cyclegan_cli.files import atomic_path, parse_safetensors_header, read_safetensors_header
from cyclegan_cli.settings import GeneratorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from cyclegan_cli.engine.networks import Generator

FORMAT = "cyclegan-generator-1"
_ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


@dataclass(frozen=True)
class Weights:
    """A generator as arrays: float32, named and shaped as in its state_dict."""

    spec: GeneratorSpec
    tensors: dict[str, NDArray[np.float32]]


def read_header(path: Path) -> tuple[GeneratorSpec, dict[str, Any]]:
    """The generator's spec and ``about`` in a file of weights, without its numbers.

    Raises WeightsError if it is not a file of this program, OSError.
    """
    try:
        metadata, _ = read_safetensors_header(path)
        about = json.loads(metadata.get("about", "{}"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not a whole weights file: {error}.") from error
    return _spec(path, metadata), about if isinstance(about, dict) else {}


def load_weights(path: Path) -> Weights:
    """The generator in ``path`` as arrays.

    No byte of the file is executed. Raises WeightsError if the file is damaged, not of this
    program, or its tensors are not those of its spec; OSError if it cannot be read.
    """
    import numpy as np

    data = path.read_bytes()  # once: another process may replace the file
    try:
        metadata, table = parse_safetensors_header(data, len(data))
    except ValueError as error:
        raise WeightsError(f"{path} is not a whole weights file: {error}.") from error
    spec = _spec(path, metadata)
    if {name: tuple(entry["shape"]) for name, entry in table.items()} != shapes(spec):
        raise WeightsError(f"The tensors in {path} are not those of a {spec.name} generator.")
    if not all(entry["dtype"] in _ITEM_BYTES for entry in table.values()):
        raise WeightsError(f"{path} holds numbers of a kind that weights never are.")
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, shape in shapes(spec).items():
        kind, (first, last) = table[name]["dtype"], table[name]["data_offsets"]
        if last - first != math.prod(shape) * _ITEM_BYTES[kind]:
            raise WeightsError(f"{path} is damaged: {name} has a wrong number of bytes.")
        tensors[name] = _float32(data[start + first : start + last], kind).reshape(shape)
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise WeightsError(f"{path} holds numbers that are not finite in float32.")
    return Weights(spec, tensors)


def load_generator(path: Path, device: torch.device | str = "cpu") -> Generator:
    """The generator in ``path``: float32, in eval mode, without gradients, on ``device``.

    Raises as ``load_weights`` does.
    """
    import torch

    weights = load_weights(path)
    tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    return build_generator(weights.spec, tensors).to(device)


def build_generator(spec: GeneratorSpec, tensors: dict[str, torch.Tensor]) -> Generator:
    """The generator with ``tensors`` (not copied) as its state_dict: eval mode, no gradients.

    Raises RuntimeError if they are not those of ``spec``.
    """
    import torch

    from cyclegan_cli.engine.networks import Generator

    with torch.device("meta"):
        network = Generator(spec)
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False).eval()


def save_generator(
    path: Path,
    network: Generator,
    about: dict[str, object] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``network`` to ``path`` atomically, with its spec and ``about`` (plain JSON).

    ``dtype``: of the file, float32 by default. Raises OSError.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dtype = dtype or torch.float32
    weights = network.state_dict().items()
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in weights}
    generator = json.dumps(network.spec.to_json())
    metadata = {
        "format": FORMAT,
        "generator": generator,
        "digest": _digest(generator),
        "about": json.dumps(about or {}),
    }
    with atomic_path(path, apart=True) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # which says the system's number in its text
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _spec(path: Path, metadata: dict[str, Any]) -> GeneratorSpec:
    """The generator that a file's metadata describe."""
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is a safetensors file, but not a generator of this program.",
            hint=command_line("pretrained", "import", path, "--name", "NAME"),
        )
    digest = metadata.get("digest")  # files from before there was one have none
    if digest is not None and digest != _digest(metadata.get("generator", "")):
        raise WeightsError(f"{path} is damaged: what it says of its generator has changed.")
    try:
        return GeneratorSpec.from_json(json.loads(metadata["generator"]))
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} does not say which generator it holds.") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _float32(data: bytes, kind: str) -> NDArray[np.float32]:
    """Numbers of a safetensors file as a new array. What float32 cannot hold becomes infinite."""
    import numpy as np

    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    stored = np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[kind])
    with np.errstate(over="ignore"):
        return stored.astype(np.float32)


def _digest(text: str) -> str:
    """Detects a damaged number such as the grain; a damaged shape shows by itself."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors named ``prefix.…``, without the prefix."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
