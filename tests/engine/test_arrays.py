"""Generators as arrays: the weights, the checks and the words of ``load_generator``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cyclegan_cli.engine.arrays import load_arrays, shapes
from cyclegan_cli.engine.generatorfile import needs_torch
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import load_generator, save_generator
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.settings import GENERATORS, GeneratorSpec

BRUSH = replace(GENERATORS["brush"], width=4, blocks=2)
FAMILY = [
    *(BRUSH, GENERATORS["brush"], replace(BRUSH, blocks=0), replace(BRUSH, width=1)),
    replace(BRUSH, residual=False, grain=0.0),
]
OTHERS = [
    *(GENERATORS["resnet9"], GENERATORS["mobile"], replace(BRUSH, separable=False)),
    *(replace(BRUSH, upsample="transpose"), replace(BRUSH, in_channels=1, out_channels=1)),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "brush.safetensors"
    save_generator(path, Generator(BRUSH))
    return path


@pytest.mark.parametrize("spec", FAMILY)
def test_names_and_shapes_are_those_of_the_network(spec: GeneratorSpec) -> None:
    assert not needs_torch(spec)
    state = Generator(spec).state_dict()
    assert shapes(spec) == {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_weights_are_those_of_the_network(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    save_generator(path, Generator(BRUSH), dtype=dtype)
    found, network = load_arrays(path), load_generator(path)
    assert found.spec == network.spec
    for name, tensor in network.state_dict().items():
        assert found.weights[name].dtype == np.float32
        assert np.array_equal(found.weights[name], tensor.numpy())


@pytest.mark.parametrize("spec", OTHERS)
def test_another_family_needs_pytorch(tmp_path: Path, spec: GeneratorSpec) -> None:
    assert needs_torch(spec)
    small = replace(spec, width=2, blocks=1)
    save_generator(tmp_path / "a.safetensors", Generator(small))
    with pytest.raises(WeightsError, match="needs PyTorch"):
        load_arrays(tmp_path / "a.safetensors")


def rewritten(change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> Callable:
    """What changes the tensors and the metadata of a whole file."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors = load_file(path)
        change(tensors, metadata)
        save_file(tensors, path, metadata)

    return damage


def change(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    return rewritten(lambda tensors, _: tensors.update({name: make(tensors[name])}))


def relabel(**labels: str) -> Callable:
    return rewritten(lambda _, metadata: metadata.update(labels))


WEIGHT = "encoder.1.weight"
DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "no header": lambda path: path.write_bytes(b"\xff" * 100),
    "another program's": relabel(format="another"),
    "digest": relabel(digest="0" * 16),
    "no spec": rewritten(lambda _, metadata: (metadata.pop("digest"), metadata.pop("generator"))),
    "impossible": rewritten(
        lambda _, metadata: (metadata.pop("digest"), metadata.update(generator='{"width": 0}'))
    ),
    "shape": change(WEIGHT, lambda tensor: tensor[:-1].clone()),
    "missing": rewritten(lambda tensors, _: tensors.pop(WEIGHT)),
    "too many": rewritten(lambda tensors, _: tensors.update(more=torch.zeros(1))),
    "whole numbers": change(WEIGHT, lambda tensor: tensor.to(torch.int32)),
    "not a number": change(WEIGHT, lambda tensor: tensor * float("nan")),
    "too large for float32": change(WEIGHT, lambda tensor: tensor.double() * 1e300),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_refused_in_the_same_words(file: Path, damage: Callable) -> None:
    damage(file)
    said = []
    for load in (load_generator, load_arrays):
        with pytest.raises(WeightsError) as caught:
            load(file)
        said.append((str(caught.value), caught.value.hint))
    assert said[0] == said[1]


def test_float64_becomes_float32(file: Path) -> None:
    before = load_arrays(file).weights[WEIGHT]
    change(WEIGHT, lambda tensor: tensor.double())(file)
    assert np.array_equal(load_arrays(file).weights[WEIGHT], before)
