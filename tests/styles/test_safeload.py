"""Files that nobody vouches for: nothing in them runs, and none gets more than its own size."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan_cli.errors import WeightsError
from cyclegan_cli.styles.catalogue import read_generator_header
from cyclegan_cli.styles.safeload import load_state_dict

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.steps": torch.tensor(7)}


def saved(path: Path, value: object = None, *, zipped: bool = True) -> Path:
    torch.save(STATE if value is None else value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_comes_back_bit_for_bit(zipped: bool, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()  # carries _metadata
    loaded = load_state_dict(saved(tmp_path / "x.pth", state, zipped=zipped))
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_views_and_shared_storages_come_back(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    state = {"a": base[2:8].view(2, 3), "b": base.view(4, 6).t(), "c": base}
    loaded = load_state_dict(saved(tmp_path / "x.pth", state))
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


class Hostile:
    """Unpickles into a call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["value", "key", "whole", "after"])
def test_no_code_in_a_pickle_runs(zipped: bool, place: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = Hostile(Path.touch, mark)
    value: object = {
        "value": {"w": torch.ones(2), "x": evil},
        "key": {evil: torch.ones(2)},
        "whole": evil,
        "after": OrderedDict([("w", torch.ones(2)), ("model.1.weight", evil)]),
    }[place]
    path = saved(tmp_path / "x.pth", value, zipped=zipped)
    with pytest.raises(WeightsError, match="would run code"):
        load_state_dict(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap was live
    assert mark.exists()


@pytest.mark.parametrize(
    "function", [bytearray, complex, set, print, eval, torch.nn.Conv2d, torch.load]
)
def test_even_harmless_calls_are_refused(function: Callable[..., Any], tmp_path: Path) -> None:
    # torch's own safe loader allows bytearray(10**12), for one.
    path = tmp_path / "x.pth"
    torch.save({"w": Hostile(function, 3)}, path)
    with pytest.raises(WeightsError, match=r"would run code|whole Python object"):
        load_state_dict(path)


def test_a_whole_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(WeightsError, match=r"state_dict\(\)"):
        load_state_dict(path)


@pytest.mark.parametrize(
    "value",
    [
        [torch.ones(2)],
        {},
        torch.ones(2),
        "text",
        {"state_dict": {}, "epoch": 3},
        {"weights": [torch.ones(1)]},
    ],
)
def test_other_values_are_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        load_state_dict(saved(tmp_path / "x.pth", value))


@pytest.mark.parametrize("zipped", [True, False])
def test_thousands_of_tensors_are_read(zipped: bool, tmp_path: Path) -> None:
    one = torch.ones(1)
    state = {f"model.{'block.' * 20}{number}.weight": one for number in range(4000)}
    loaded = load_state_dict(saved(tmp_path / "x.pth", state, zipped=zipped))
    assert list(loaded) == list(state)


@pytest.mark.parametrize("zipped", [True, False])
def test_nested_state_dicts_are_unwrapped(zipped: bool, tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    adam.step()
    value = {
        "epoch": 3,
        "losses": [0.5, 0.25, None, True],
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {"G": layer.state_dict()},
        "optimizer_states": [adam.state_dict()],
        "adam": adam.state_dict(),
        "best": torch.tensor(2.0),
    }
    loaded = load_state_dict(saved(tmp_path / "x.pth", value, zipped=zipped))
    assert {name for name in loaded if not name.startswith("adam.")} == {
        "state_dict.G.weight",
        "state_dict.G.bias",
        "best",
    }
    assert torch.equal(loaded["state_dict.G.weight"], layer.weight)
    assert torch.equal(loaded["adam.state.0.exp_avg"], adam.state_dict()["state"][0]["exp_avg"])


def test_dictionaries_that_hold_themselves_end(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"w": torch.ones(2)}
    loop["self"] = loop
    assert set(load_state_dict(saved(tmp_path / "x.pth", loop))) == {"w"}
    laughs: dict[str, Any] = {"w": torch.ones(2)}
    for _ in range(40):  # 2⁴⁰ ways lead to the tensor
        laughs = {"a": laughs, "b": laughs}
    with pytest.raises(WeightsError, match="no tensors by name"):  # so deep is none
        load_state_dict(saved(tmp_path / "x.pth", laughs))


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    value = {"a": {"b": torch.ones(1)}, "a.b": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"a\.b is there twice"):
        load_state_dict(saved(tmp_path / "x.pth", value))


def test_a_lightning_checkpoint_with_objects_in_it_is_named(tmp_path: Path) -> None:
    value = {"pytorch-lightning_version": "2.5.0", "state_dict": STATE, "args": Namespace(lr=1)}
    path = saved(tmp_path / "it's one.ckpt", value)
    with pytest.raises(WeightsError, match=r"PyTorch Lightning .*argparse.Namespace") as caught:
        load_state_dict(path)
    command = str(caught.value.hint).partition(": ")[2]
    assert command.startswith("python -c ")
    (tmp_path / "there").mkdir()
    subprocess.run(
        ["bash", "-c", command.replace("python", sys.executable, 1)],
        cwd=tmp_path / "there",
        check=True,
    )
    loaded = load_state_dict(tmp_path / "there" / "weights.pth")
    assert set(loaded) == set(STATE)


OTHER_FILES = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n": "a Git LFS pointer",
    b"\n <!DOCTYPE html>\n<html>": "a web page",
    b"<html><body>Not found": "a web page",
    b"": "empty",
    b"Access denied\n": "text",
    b'{"error": 404}': "JSON",
    b"\x1f\x8b\x08\0\0\0\0\0": "gzip",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x89PNG\r\n\x1a\n": "a picture",
    bytes(257) + b"ustar" + bytes(250): "a tar archive",
    pickle.dumps({"a": 1}): "a Python pickle",
    b"\x08\x08\x12\x07pytorch": "an ONNX model",
}


@pytest.mark.parametrize(("data", "what"), OTHER_FILES.items(), ids=OTHER_FILES.values())
def test_files_of_other_kinds_are_called_what_they_are(
    data: bytes, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "latest_net_G.pth"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=f"is not a PyTorch file, but .*{what}") as caught:
        load_state_dict(path)
    assert str(path) in str(caught.value)
    with pytest.raises(WeightsError, match=what):
        read_generator_header(path)  # as a style's file is read


@pytest.mark.parametrize("compressed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("name", "what"),
    [("a/latest_net_G.pth", "holds a/latest_net_G.pth"), ("a.npy", "NumPy arrays")],
)
def test_zip_files_of_other_kinds_are_called_what_they_are(
    name: str, what: str, compressed: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", compressed) as archive:
        archive.writestr(name, b"0" * 100)
    with pytest.raises(WeightsError, match=what):
        load_state_dict(path)


@pytest.mark.filterwarnings("ignore")  # TorchScript itself is deprecated
def test_a_torchscript_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "script.pth"
    torch.jit.trace(torch.nn.Conv2d(3, 3, 3), torch.ones(1, 3, 8, 8)).save(str(path))
    with pytest.raises(WeightsError, match="is a TorchScript program") as caught:
        load_state_dict(path)
    assert "torch.jit.load(" in str(caught.value.hint)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(WeightsError, match="cut short or damaged"):
        load_state_dict(path)


# -- sizes -----------------------------------------------------------------------------------


def rewrite(
    path: Path, change: Callable[[str, bytes], bytes], kind: int = zipfile.ZIP_STORED
) -> Path:
    """The zip file with every entry passed through ``change``."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in entries:
            archive.writestr(name, change(name, data))
    return path


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")

    def swell(name: str, data: bytes) -> bytes:
        return bytes(200 << 20) if name.endswith("/data/0") else data

    rewrite(path, swell, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match="compressed"):
        load_state_dict(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"a": torch.ones(50_000), "b": torch.ones(50_000) * 2})
    data = bytearray(path.read_bytes())
    start = 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0:  # each entry spans nearly everything
        data[start + 20 : start + 28] = struct.pack("<II", 390_000, 390_000)
        start += 4
    path.write_bytes(data)
    with pytest.raises(WeightsError):
        load_state_dict(path)


def test_a_storage_longer_than_its_bytes_is_refused(tmp_path: Path) -> None:
    # torch takes the pickle's word for it, and reads beyond the end of the buffer.
    path = saved(tmp_path / "x.pth")
    rewrite(path, lambda name, data: data[:8] if name.endswith("/data/0") else data)
    with pytest.raises(WeightsError, match="not as many as it says"):
        load_state_dict(path)


def state_pickle(
    count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
) -> bytes:
    """A state_dict's pickle that says what it likes of one tensor 'w' in storage 'data/0'."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
        def persistent_id(self, value: object) -> object:
            if isinstance(value, torch.FloatStorage):
                return ("storage", torch.FloatStorage, "0", "cpu", count)
            return None

    class Tensor:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
            arguments = (torch.FloatStorage(1), offset, size, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"w": Tensor()})
    return buffer.getvalue()


LARGER = "larger than its bytes"
SENSELESS = "make no sense"


# torch refuses most of these too, but only where it was asked: the sentence tells who refused.
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("count", "size", "stride", "offset", "said"),
    [
        (12, (10**6, 10**6), (0, 0), 0, LARGER),  # expands to 4 TB when it is copied
        (12, (13,), (0,), 0, LARGER),
        (12, (3, 5), (5, 1), 0, LARGER),
        (12, (12,), (1,), 1, LARGER),
        (12, (2,), (12,), 0, LARGER),  # one past the end, by the stride alone
        (12, (2, 2), (6, 6), 0, LARGER),
        (12, (1,), (1,), 12, LARGER),
        (12, (-1, -12), (1, 1), 0, SENSELESS),
        (12, (2,), (-1,), 1, SENSELESS),
        (12, (2,), (1,), -1, SENSELESS),
        (12, (2, 2), (1,), 0, "damaged"),
        (12, (1,) * 9, (1,) * 9, 0, SENSELESS),
        (10**12, (10**12,), (1,), 0, "not as many as it says"),
        (12, (0,), (1,), 13, LARGER),
    ],
)
def test_tensors_larger_than_their_bytes_are_refused(
    count: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
    said: str,
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "x.pth", {"w": torch.arange(12.0)})
    evil = state_pickle(count, size, stride, offset)
    rewrite(path, lambda name, data: evil if name.endswith("data.pkl") else data)
    with pytest.raises(WeightsError, match=said):
        load_state_dict(path)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((3, 4), (4, 1), 0),
        ((12,), (0,), 11),
        ((2,), (11,), 0),
        ((2, 2), (5, 6), 0),
        ((1,), (100,), 11),
        ((0,), (1,), 12),
        ((1,) * 8, (1,) * 8, 3),
        ((), (), 11),
    ],
)
def test_every_view_within_its_bytes_is_read(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.pth", {"w": torch.arange(12.0)})
    good = state_pickle(12, size, stride, offset)
    rewrite(path, lambda name, data: good if name.endswith("data.pkl") else data)
    expected = torch.arange(12.0).as_strided(size, stride, offset)
    assert torch.equal(load_state_dict(path)["w"], expected)


def test_a_legacy_file_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"w": torch.ones(1000)}, zipped=False)
    data = path.read_bytes()
    claim = b"M" + struct.pack("<H", 1000)
    assert data.count(claim) >= 2  # the storage's and the tensor's size
    path.write_bytes(data.replace(claim, b"J" + struct.pack("<i", 2**31 - 1)))
    with pytest.raises(WeightsError, match="larger than the file"):
        load_state_dict(path)


def _nested(before: bytes, after: bytes) -> bytes:
    """A pickle in which a pair of a pair of … 200 deep stands: 2²⁰⁰ steps to hash."""
    program = b"\x80\x02" + before + b")"
    for index in range(200):
        program += b"q" + bytes([index]) + b"h" + bytes([index]) + b"\x86"
    return program + after + b"."


ORDERED = b"ccollections\nOrderedDict\n"
HASHED = {
    "a key": _nested(b"}", b"Ns"),
    "one of several keys": _nested(b"}(", b"Nu"),
    "a key of an ordered dictionary": _nested(ORDERED + b"](](", b"Neeb\x85R"),
    "the state of a dictionary": _nested(ORDERED + b")R", b"\x85b"),
    "the key of a storage": _nested(b"(X\x07\0\0\0storagectorch\nFloatStorage\n", b"NK\x01tQ"),
}


@pytest.mark.parametrize("evil", HASHED.values(), ids=HASHED)
def test_a_pickle_that_hashes_for_ever_is_refused(evil: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    rewrite(path, lambda name, data: evil if name.endswith("data.pkl") else data)
    with pytest.raises(WeightsError):
        load_state_dict(path)


def test_endless_and_torchscript_and_tar_files_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    rewrite(path, lambda n, d: b"\x80\x02" + b"N0" * (1 << 20) if n.endswith("data.pkl") else d)
    with pytest.raises(WeightsError, match="more than the names"):
        load_state_dict(path)
    script = tmp_path / "script.pt"
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        archive.writestr("m/code/__torch__.py", "def f(): ...")
    with pytest.raises(WeightsError, match="TorchScript"):
        load_state_dict(script)
    other = tmp_path / "other.pth"
    other.write_bytes(b"sys_info\x00" + bytes(2000))
    with pytest.raises(WeightsError, match="is not a PyTorch file"):
        load_state_dict(other)
    other.write_bytes(b"")
    with pytest.raises(WeightsError, match="is not a PyTorch file"):
        load_state_dict(other)
