"""Where files lie, the one writer of them, and the header reader."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import (
    atomic_path,
    cache_dir,
    check_name,
    home_dir,
    is_special,
    read_safetensors_header,
    runs_dir,
    styles_dir,
    write_bytes,
    write_text,
)


def test_a_file_appears_whole_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "één\n")
    assert path.read_bytes() == "één\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    """Root may: a rename would put a file in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no ordinary file"):
        write_bytes(tmp_path / "pipe", b"data")
    assert os.listdir(tmp_path) == ["pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for ordinary in ("link", "file", "missing", "."):
        assert not is_special(tmp_path / ordinary)
    assert is_special(Path(os.devnull))
    if Path("/dev/stdout").is_symlink():
        assert is_special(Path("/dev/stdout"))


def test_readers_never_see_the_temporary_name_as_a_picture(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"x")


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")
    path.chmod(0o640)
    write_bytes(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_long_names_fit(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 240 + ".bin")
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_the_header_is_read_without_the_data(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32)}, path, {"who": "me"})
    metadata, tensors = read_safetensors_header(path)
    assert metadata == {"who": "me"}
    assert tensors["a"]["shape"] == [2, 3]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_other_bytes_are_a_value_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.safetensors"
    kind = data.draw(st.sampled_from(["bytes", "json", "cut"]))
    if kind == "bytes":
        content = data.draw(st.binary(max_size=64))
    elif kind == "json":
        value = data.draw(
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=12), inner, max_size=3)
                ),
            )
        )
        text = json.dumps(value).encode()
        content = len(text).to_bytes(8, "little") + text + b"trailing"
    else:
        save_file({"a": np.zeros(4, np.float32)}, path)
        whole = path.read_bytes()
        content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"safetensors|cut short"):
        read_safetensors_header(path)


# -- where they lie ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["monet", "a", "photo2monet v1.2", "蒙奈", "Été_2026", "x+y-z"])
def test_ordinary_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/b", "a\\b", ".hidden", "-option", "a\n", "a\0", "con", "NUL.txt"]
    + ["a ", "a.", " a", "a:b", "a*", "x" * 101, "\u202eevil", "~"],
)
def test_names_that_would_leave_their_folder_or_break_a_system_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


@given(st.text(max_size=20))
def test_a_name_that_passes_is_one_plain_path_component(name: str) -> None:
    try:
        check_name(name)
    except UsageError:
        return
    assert Path(name).name == name
    assert not set(name) & set('/\\:*?"<>|\0\n\r\t')
    assert name.strip() == name
    assert not name.startswith((".", "-"))


def test_places_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CYCLEGAN_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("CYCLEGAN_CACHE", str(tmp_path / "c"))
    assert home_dir() == tmp_path / "h"
    assert cache_dir() == tmp_path / "c"
    assert runs_dir().parent == styles_dir().parent == home_dir()
    monkeypatch.delenv("CYCLEGAN_HOME")
    monkeypatch.delenv("CYCLEGAN_CACHE")
    assert "cyclegan" in str(home_dir())
    assert home_dir() != cache_dir()
    assert not home_dir().is_relative_to(tmp_path)
