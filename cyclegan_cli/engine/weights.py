"""One generator in one .safetensors file, whose metadata rebuild it with no flag repeated.

Importing this imports neither NumPy nor PyTorch: ``read_header`` does without either,
``load_weights`` without PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.engine.layers import shapes
from cyclegan_cli.errors import WeightsError, command_line
from cyclegan_cli.files import atomic_path, read_safetensors_header
from cyclegan_cli.settings import GeneratorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from cyclegan_cli.engine.networks import Generator

__all__ = [
    "FORMAT",
    "Weights",
    "load_generator",
    "load_weights",
    "read_header",
    "save_generator",
    "weights_of",
]

FORMAT = "cyclegan-generator-1"


@dataclass(frozen=True)
class Weights:
    """A generator as arrays: ``tensors`` are float32, named and shaped as in its state_dict."""

    spec: GeneratorSpec
    tensors: dict[str, NDArray[np.float32]]


def read_header(path: Path) -> tuple[GeneratorSpec, dict[str, Any]]:
    """The generator's spec and ``about`` in a file of weights; its numbers are not read.

    Raises WeightsError where the file is not one of this program's, OSError as the system does.
    """
    try:
        metadata, _ = read_safetensors_header(path)
        about = json.loads(metadata.get("about", "{}"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not a whole weights file: {error}.") from error
    return _spec(path, metadata), about if isinstance(about, dict) else {}


def load_weights(path: Path) -> Weights:
    """The generator in ``path`` as arrays.

    No byte of the file is ever executed. Raises WeightsError where the file is damaged, is not this
    program's, or its tensors are not those of its spec; OSError where it cannot be read.
    """
    import numpy as np
    import safetensors

    data = path.read_bytes()  # read once: another process may put a new file in its place
    try:
        found: dict[str, Any] = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
    except (ValueError, KeyError, AttributeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} is not a whole weights file: {error}.") from error
    spec = _spec(path, metadata)
    if {name: tuple(tensor["shape"]) for name, tensor in found.items()} != shapes(spec):
        raise WeightsError(f"The tensors in {path} are not those of a {spec.name} generator.")
    if not all(tensor["dtype"] in ("F16", "BF16", "F32", "F64") for tensor in found.values()):
        raise WeightsError(f"{path} holds numbers of a kind that weights never are.")
    tensors = {name: _float32(found[name]) for name in shapes(spec)}
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise WeightsError(f"{path} holds numbers that are not finite in float32.")
    return Weights(spec, tensors)


def load_generator(path: Path, device: torch.device | str = "cpu") -> Generator:
    """The generator in ``path``: float32, in eval mode, without gradients, on ``device``.

    Raises as ``load_weights`` does.
    """
    import torch

    from cyclegan_cli.engine.networks import Generator

    weights = load_weights(path)
    with torch.device("meta"):
        network = Generator(weights.spec)
    tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False).eval().to(device)


def weights_of(network: Generator) -> Weights:
    """The weights of ``network``, copied."""
    tensors = {
        name: tensor.detach().float().cpu().numpy().copy()
        for name, tensor in network.state_dict().items()
    }
    return Weights(network.spec, tensors)


def save_generator(
    path: Path,
    network: Generator,
    about: dict[str, object] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``network`` to ``path`` atomically, with its spec and ``about`` (plain JSON).

    ``dtype``: what the weights are kept in, float32 by default; float16 halves the file. Raises
    OSError as the file system does.
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


def _float32(tensor: dict[str, Any]) -> NDArray[np.float32]:
    """A tensor of a safetensors file as a new array. What float32 cannot hold becomes infinite."""
    import numpy as np

    kind, shape, data = tensor["dtype"], tensor["shape"], tensor["data"]
    if kind == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        stored = np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[kind])
        with np.errstate(over="ignore"):
            values = stored.astype(np.float32)
    array: NDArray[np.float32] = values.reshape(shape)
    return array


def _digest(text: str) -> str:
    """What a damaged number such as the grain is noticed by; a damaged shape shows by itself."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
