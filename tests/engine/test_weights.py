"""Weights files: exact, self-describing, and refused when they cannot be trusted."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import load_generator, save_generator
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.settings import GeneratorSpec

SMALL = GeneratorSpec(name="small", blocks=1, width=2)
SPECS = [
    SMALL,
    GeneratorSpec(name="compact", blocks=1, width=3, separable=True, upsample="resize"),
    GeneratorSpec(name="grey", blocks=0, width=2, in_channels=1, out_channels=1),
]


def some_generator(spec: GeneratorSpec = SMALL) -> Generator:
    network = Generator(spec)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source))
    return network


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A good file."""
    path = tmp_path / "whole.safetensors"
    save_generator(path, some_generator(), {"domains": ["photos", "monet"]})
    return path


def forge(path: Path, *, metadata: dict[str, str] | None = None, **tensors: torch.Tensor) -> Path:
    """A well-formed safetensors file with the good tensors, some replaced, some metadata too."""
    good = {k: v.clone() for k, v in some_generator().state_dict().items()}
    labels = {"format": "cyclegan-generator-1", "generator": json.dumps(SMALL.to_json())}
    save_file({**good, **tensors}, path, {**labels, **(metadata or {})})
    return path


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_round_trip_is_exact_and_needs_no_flag(tmp_path: Path, spec: GeneratorSpec) -> None:
    network, path = some_generator(spec), tmp_path / "a.safetensors"
    save_generator(path, network)
    loaded = load_generator(path)
    assert loaded.spec == spec
    assert not loaded.training
    wanted, found = network.state_dict(), loaded.state_dict()
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].dtype == torch.float32
        assert found[name].numpy().tobytes() == wanted[name].numpy().tobytes()
    assert all(not p.requires_grad for p in loaded.parameters())
    x = torch.rand(1, spec.in_channels, 16, 16)
    assert torch.equal(loaded(x), network(x).detach())


def test_float64_networks_are_stored_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_generator(path, some_generator().double())
    loaded = load_generator(path)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_saving_over_a_file_replaces_it_and_leaves_nothing_else(whole: Path) -> None:
    save_generator(whole, some_generator(SPECS[1]))
    assert load_generator(whole).spec == SPECS[1]
    assert list(whole.parent.iterdir()) == [whole]


def test_forging_itself_is_sound(tmp_path: Path) -> None:
    """What ``forge`` writes loads unless something in it is wrong."""
    assert load_generator(forge(tmp_path / "a.safetensors")).spec == SMALL


@pytest.mark.parametrize("tenth", range(10))
def test_cut_short(whole: Path, tenth: int) -> None:
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * tenth // 10])
    with pytest.raises(WeightsError):
        load_generator(whole)


@pytest.mark.parametrize("length", [*range(12), -1, -4])
def test_cut_at_the_ends(whole: Path, length: int) -> None:
    whole.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(WeightsError):
        load_generator(whole)


def test_bytes_that_do_not_belong_to_it(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes() + b"\0")
    with pytest.raises(WeightsError):
        load_generator(whole)


def test_bit_flips_in_the_header(whole: Path) -> None:
    """Every 13th bit: refused, or only a text was hit that the picture does not depend on."""
    data = whole.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    wanted = some_generator().state_dict()
    harmless = 0
    for bit in range(0, 8 * (8 + length), 13):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        whole.write_bytes(damaged)
        try:
            loaded = load_generator(whole)
        except WeightsError:
            continue
        harmless += 1
        assert replace(loaded.spec, name="small") == SMALL
        found = loaded.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    texts = len('small"domains": ["photos", "monet"]"about""digest"') + 10
    assert harmless <= 8 * texts // 13 + 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    weight = torch.zeros(2, 3, 7, 7)
    weight[1, 2, 3, 4] = value
    path = forge(tmp_path / "a.safetensors", **{"encoder.1.weight": weight})
    with pytest.raises(WeightsError, match="finite"):
        load_generator(path)


@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (3, 2, 7, 7), (294,), (0,), (1, 2, 3, 7, 7)])
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = forge(tmp_path / "a.safetensors", **{"encoder.1.weight": torch.zeros(shape)})
    with pytest.raises(WeightsError):
        load_generator(path)


def test_a_tensor_too_many(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.safetensors", **{"encoder.2.running_mean": torch.zeros(2)})
    with pytest.raises(WeightsError):
        load_generator(path)


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn],
)
def test_numbers_of_a_kind_that_weights_never_are(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.zeros(2, 3, 7, 7).to(dtype)
    try:
        path = forge(tmp_path / "a.safetensors", **{"encoder.1.weight": weight})
    except KeyError:
        pytest.skip(f"this version of safetensors has no {dtype}")
    with pytest.raises(WeightsError):
        load_generator(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.full((2, 3, 7, 7), 0.5, dtype=dtype)
    path = forge(tmp_path / "a.safetensors", **{"encoder.1.weight": weight})
    loaded = load_generator(path).state_dict()["encoder.1.weight"]
    assert loaded.dtype == torch.float32
    assert bool((loaded == 0.5).all())


def test_a_float64_that_float32_cannot_hold(tmp_path: Path) -> None:
    weight = torch.full((2, 3, 7, 7), 1e300, dtype=torch.float64)
    path = forge(tmp_path / "a.safetensors", **{"encoder.1.weight": weight})
    with pytest.raises(WeightsError):
        load_generator(path)


@pytest.mark.parametrize(
    "generator",
    [
        *("", "{", "null", "[]", "3", '"resnet9"', "NaN", "[" * 100_000, '{"width": 1e999}'),
        *('{"width": ' + "9" * 5000 + "}", '{"blocks": -1}', '{"kind": "resnet9"}'),
        '{"name": []}',
    ],
    ids=lambda text: text[:12],
)
def test_descriptions_that_make_no_sense(tmp_path: Path, generator: str) -> None:
    path = forge(tmp_path / "a.safetensors", metadata={"generator": generator})
    with pytest.raises(WeightsError):
        load_generator(path)


def test_a_description_of_a_huge_network_costs_nothing(tmp_path: Path) -> None:
    huge = json.dumps({**SMALL.to_json(), "width": 512, "blocks": 64})
    with pytest.raises(WeightsError):
        load_generator(forge(tmp_path / "a.safetensors", metadata={"generator": huge}))


def test_a_safetensors_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError) as caught:
        load_generator(path)
    assert "pretrained import" in str(caught.value.hint)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_under_another_name_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "it ran", tmp_path / "a.safetensors"
    torch.save({"a": _Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError):
        load_generator(path)
    assert not mark.exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        load_generator(tmp_path / "none.safetensors")
