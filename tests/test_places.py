"""Names that can be names, and where things lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclegan_cli.errors import UsageError
from cyclegan_cli.places import cache_dir, check_name, home_dir, runs_dir, styles_dir


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
