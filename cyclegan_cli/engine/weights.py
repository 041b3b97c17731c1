"""One generator in one .safetensors file, whose metadata rebuild it with no flag repeated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, save_file

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.files import atomic_path
from cyclegan_cli.settings import GeneratorSpec

__all__ = ["load_generator", "save_generator"]

FORMAT = "cyclegan-generator-1"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


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
        "digest": _digest(generator),
        "about": json.dumps(about or {}),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_generator(path: Path, device: torch.device | str = "cpu") -> Generator:
    """The generator in ``path``: float32, in eval mode, without gradients, on ``device``.

    No byte of the file is ever executed. Raises WeightsError where the file is damaged, is not this
    program's, or its tensors are not those of its spec; OSError where it cannot be read.
    """
    data = path.read_bytes()  # read once: another process may put a new file in its place
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
    except (ValueError, KeyError, AttributeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} is not a whole weights file: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is a safetensors file, but not a generator of this program.",
            hint=f"cyclegan pretrained import {path} --name NAME",
        )
    told = metadata.get("digest")  # files from before there was one have none
    if told is not None and told != _digest(metadata.get("generator", "")):
        raise WeightsError(f"{path} is damaged: what it says of its generator has changed.")
    try:
        spec = GeneratorSpec.from_json(json.loads(metadata["generator"]))
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} does not say which generator it holds.") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    with torch.device("meta"):
        network = Generator(spec)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        raise WeightsError(f"The tensors in {path} are not those of a {spec.name} generator.")
    if not all(tensor.dtype in _FLOATS for tensor in tensors.values()):
        raise WeightsError(f"{path} holds numbers of a kind that weights never are.")
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise WeightsError(f"{path} holds numbers that are not finite in float32.")
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval().to(device)


def _digest(text: str) -> str:
    """What a damaged number such as the grain is noticed by; a damaged shape shows by itself."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
