"""Small generators and styles for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import torch

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import save_generator
from cyclegan_cli.settings import GeneratorSpec
from cyclegan_cli.styles.catalogue import Style
from cyclegan_cli.styles.store import add_style

TINY = GeneratorSpec(name="resnet2", blocks=2, width=4)
TINY_MOBILE = GeneratorSpec(name="mobile", blocks=2, width=4, separable=True, upsample="resize")


def tiny_generator(seed: int = 0, spec: GeneratorSpec = TINY) -> Generator:
    """A generator of a few thousand parameters, in eval mode."""
    torch.manual_seed(seed)
    network = Generator(spec)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    return network.eval()


def weights(folder: Path, seed: int = 0, spec: GeneratorSpec = TINY) -> Path:
    """A file of weights of this program."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"weights-{seed}.safetensors"
    save_generator(path, tiny_generator(seed, spec))
    return path


def a_style(folder: Path, name: str = "tiny", *, both: bool = True, **options: object) -> Style:
    """A style in the store."""
    files = {"xy": weights(folder, 1)} | ({"yx": weights(folder, 2)} if both else {})
    settings = {"x": "photo", "y": "paint", "origin": "trained", "card": {"licence": "CC0"}}
    return add_style(name, weights=files, **{**settings, **options})  # type: ignore[arg-type]
