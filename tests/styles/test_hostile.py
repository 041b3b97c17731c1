"""1,000 damaged and hostile files: each is a sentence, none runs code, none leaves a file."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cyclegan_cli.cli.app import main
from cyclegan_cli.errors import CycleganError
from cyclegan_cli.files import home_dir
from cyclegan_cli.styles.convert import import_style
from tests.styles.make import TINY, weights
from tests.styles.public_model import public_generator
from tests.styles.test_safeload import Hostile

COUNT = 1000
_armed: list[str] = []  # what must not happen, while an import is on


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: the interpreter reports what a pickle could do, before it is done."""
    if not _armed:
        return
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
        _armed.append(event)
    if event == "exec" and getattr(arguments[0], "co_filename", "") == "<string>":
        _armed.append(event)  # what eval and exec are given; imports have a file's name


sys.addaudithook(_watch)


def seeds(folder: Path) -> dict[str, bytes]:
    """Good files of every kind that is read."""
    state = public_generator(blocks=1, ngf=2).state_dict()
    found = {}
    for name, zipped in (("zip.pth", True), ("legacy.pth", False)):
        torch.save(state, folder / name, _use_new_zipfile_serialization=zipped)
        found[name] = (folder / name).read_bytes()
    safetensors.torch.save_file(state, folder / "public.safetensors")
    found["public.safetensors"] = (folder / "public.safetensors").read_bytes()
    found["own.safetensors"] = weights(folder, 0, TINY).read_bytes()
    return found


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Bits turned over, often in the parts that say what is where."""
    changed = bytearray(data)
    zone = chance.choice([64, 2000, len(data)])
    for _ in range(chance.choice([1, 1, 3, 20])):
        place = chance.randrange(min(zone, len(data)))
        if chance.random() < 0.3:
            place = len(data) - 1 - place
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def spliced(data: bytes, chance: random.Random) -> bytes:
    """A stretch left out, doubled, or replaced by noise."""
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.randrange(1, 300))
    middle = chance.choice([b"", data[start:end] * 2, chance.randbytes(end - start)])
    return data[:start] + middle + data[end:]


def wrong_shapes(_: bytes, chance: random.Random) -> bytes:
    state = dict(public_generator(blocks=1, ngf=2).state_dict())
    key = chance.choice(sorted(state))
    shape = [chance.randrange(5) for _ in range(chance.randrange(6))]
    changes: list[Callable[[], Any]] = [
        lambda: state.update({key: torch.zeros(shape)}),
        lambda: state.pop(key),
        lambda: state.update({key + "x": state.pop(key)}),
        lambda: state.update({key: state[key].to(chance.choice([torch.int64, torch.bool]))}),
        lambda: state.update({key: state[key] * float("inf")}),
        lambda: state.update({key: state[key].to_sparse()}),
        lambda: state.update({key: torch.zeros(1).expand(10**5, 10**5)}),
        lambda: state.update({key: torch.zeros(3, device="meta")}),
        lambda: state.update({key: "text"}),
    ]
    chance.choice(changes)()
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=chance.random() < 0.5)
    return buffer.getvalue()


def hostile(_: bytes, chance: random.Random) -> bytes:
    """Pickles that would do something."""
    mark = os.environ["HOSTILE_MARK"]
    evil = chance.choice(
        [
            Hostile(os.system, f"touch {mark}"),
            Hostile(eval, f"open({mark!r}, 'w')"),
            Hostile(exec, f"open({mark!r}, 'w')"),
            Hostile(Path.touch, Path(mark)),
            Hostile(open, mark, "w"),
            Hostile(getattr, Path, "touch"),
            Hostile(bytearray, 1 << 40),
            Hostile(shutil.rmtree, str(home_dir())),
            Hostile(torch.load, mark),
            Hostile(torch.zeros, 1 << 20),
        ]
    )
    state: Any = {"model.1.weight": torch.ones(2), "model.1.bias": evil}
    value = chance.choice([evil, state, [state], {"state_dict": state}, {evil: 1}])
    buffer = io.BytesIO()
    torch.save(
        value,
        buffer,
        _use_new_zipfile_serialization=chance.random() < 0.5,
        pickle_protocol=chance.choice([2, 2, 3, 4, 5]),
    )
    return buffer.getvalue()


def bomb(data: bytes, chance: random.Random) -> bytes:
    """Zip files that unfold, and files that say that they are enormous."""
    if data[:2] != b"PK":
        size = struct.pack("<Q", chance.choice([1 << 62, 1 << 33, 99_000_000]))
        return chance.choice([size + data[8:], data[:8] + b"[" * 2000 + data[8:]])
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            swollen = entry.filename.endswith(chance.choice(["/data/0", "/data.pkl", "/data/3"]))
            content = bytes(3_000_000) if swollen else old.read(entry)
            new.writestr(entry.filename, content, zipfile.ZIP_DEFLATED)
            if chance.random() < 0.1:
                new.writestr(f"archive/data/{chance.randrange(99)}0", bytes(2_000_000))
    return buffer.getvalue()


MUTATIONS = (truncated, flipped, flipped, spliced, wrong_shapes, hostile, bomb)


def mutants(good: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(20170330)
    while True:
        for name, data in good.items():
            for mutate in MUTATIONS:
                yield f"{mutate.__name__}-{name}", mutate(data, chance)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of making them, not of reading them
def test_a_thousand_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "code-ran"
    monkeypatch.setenv("HOSTILE_MARK", str(mark))
    own_tmp = tmp_path / "tmp"
    own_tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own_tmp))
    (tmp_path / "good").mkdir()
    good = seeds(tmp_path / "good")
    path = tmp_path / "mutant"
    home_dir().mkdir(parents=True)
    first = import_style("good", {"xy": tmp_path / "good" / "zip.pth"}, x="x", y="y")
    shutil.rmtree(first.folder or "")  # everything that is needed is imported by now
    refusals: list[tuple[str, CycleganError]] = []
    harmless = made = 0
    for name, data in mutants(good):
        if made == COUNT:
            break
        if data in good.values():
            continue
        made += 1
        path.write_bytes(data)
        _armed.append("on")
        try:
            style = import_style("mutant", {"xy": path}, x="x", y="y")
        except CycleganError as error:
            refusals.append((name, error))
        else:
            # A flipped bit of a weight is another weight, which nobody could tell.
            assert name.startswith(("flipped", "spliced", "wrong_shapes", "bomb")), name
            assert style.folder is not None
            shutil.rmtree(style.folder)
            harmless += 1
        finally:
            happened, _armed[:] = _armed[1:], []
        assert happened == [], name
        assert not mark.exists(), name
        left = [f.name for f in tmp_path.rglob("*") if f.is_file() and f.name != ".lock"]
        assert sorted(left) == sorted([*good_names(good), "mutant"]), name
    assert made == COUNT
    assert len(refusals) + harmless == COUNT
    assert harmless < COUNT / 4
    for name, error in refusals:
        assert error.exit_code in (1, 2), name
        assert str(path) in str(error), (name, str(error))
        assert len(str(error)) < 500, name
        assert "\n" not in str(error), name
    assert {name.partition("-")[0] for name, _ in refusals} == {m.__name__ for m in MUTATIONS}


def good_names(good: dict[str, bytes]) -> list[str]:
    return [name if name != "own.safetensors" else "weights-0.safetensors" for name in good]


@pytest.mark.parametrize("kind", ["truncated", "hostile", "bomb"])
def test_the_command_says_a_sentence_and_exits_1(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSTILE_MARK", str(tmp_path / "mark"))
    monkeypatch.setattr("cyclegan_cli.cli.app.stop_on_signals", lambda: None)
    good = seeds(tmp_path)["zip.pth"]
    mutate = {"truncated": truncated, "hostile": hostile, "bomb": bomb}[kind]
    (tmp_path / "bad.pth").write_bytes(mutate(good, random.Random(3)))
    assert main(["pretrained", "import", str(tmp_path / "bad.pth"), "--name", "x"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {tmp_path / 'bad.pth'} ")
    assert "Traceback" not in said.err
    assert main(["pretrained", "list", "--local", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == []
