"""One generator in one .safetensors file, whose metadata rebuild it with no flag repeated."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from cyclegan_cli.engine.generatorfile import FORMAT, Kind, checked, digest, read
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.files import atomic_path

__all__ = ["load_generator", "save_generator"]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_TENSORS: Kind[Tensor] = Kind(
    load=load,
    is_float=lambda tensor: tensor.dtype in _FLOATS,
    float32=lambda tensor: tensor.float(),
    is_finite=lambda tensor: bool(torch.isfinite(tensor).all()),
)


def save_generator(
    path: Path,
    network: Generator,
    about: dict[str, object] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``network`` to ``path`` atomically, with its spec and ``about`` (plain JSON).

    ``dtype``: what the weights are kept in; float16 halves the file. Raises OSError as the file
    system does.
    """
    weights = network.state_dict().items()
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in weights}
    generator = json.dumps(network.spec.to_json())
    metadata = {
        "format": FORMAT,
        "generator": generator,
        "digest": digest(generator),
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


def load_generator(path: Path, device: torch.device | str = "cpu") -> Generator:
    """The generator in ``path``: float32, in eval mode, without gradients, on ``device``.

    No byte of the file is ever executed. Raises WeightsError where the file is damaged, is not this
    program's, or its tensors are not those of its spec; OSError where it cannot be read.
    """
    spec, tensors = read(path, _TENSORS)
    with torch.device("meta"):
        network = Generator(spec)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    weights = checked(path, spec, tensors, expected, _TENSORS)
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval().to(device)
