"""One thread a process: small networks gain nothing from more, and sums come out the same."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("CYCLEGAN_MIRROR", None)

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees or touches the user's runs and styles, and none reaches the network."""
    monkeypatch.setenv("CYCLEGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CYCLEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return


@pytest.fixture(autouse=True)
def _no_bundled_styles(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ships, unless a test asks for it: the styles that it finds are its own."""
    if "bundled" not in request.keywords:
        monkeypatch.setattr("cyclegan_cli.styles.store._BUNDLED", tmp_path / "bundled")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """CYCLEGAN_HOME of this test."""
    return tmp_path / "home"
