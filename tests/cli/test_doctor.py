"""cyclegan doctor and cyclegan docs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cyclegan_cli.cli import doctor
from cyclegan_cli.cli.app import main
from tests.program import REPOSITORY

DOCS = REPOSITORY / "docs"


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.bundled
def test_doctor_finds_a_working_installation(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json"]) == 0
    found = checks(capsys)
    assert {check["state"] for check in found.values()} <= {"ok", "note"}
    assert "torch " in found["packages"]["found"]
    assert str(home) in found["home"]["found"]
    assert {"monet", "vangogh"} <= set(found["styles"]["found"].split(", "))
    assert not home.exists()  # it only looks


@pytest.mark.bundled
def test_doctor_names_what_is_broken_and_fails(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(REPOSITORY / "cyclegan_cli" / "styles" / "bundled", copy)
    weights = copy / "monet" / "xy.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    monkeypatch.setattr("cyclegan_cli.styles.store._BUNDLED", copy)
    monkeypatch.setattr("cyclegan_cli.engine.fast.kernels.library", lambda: 1 / 0)
    assert main(["doctor", "--json"]) == 1
    found = checks(capsys)
    assert found["monet"]["advice"] == "cyclegan pretrained verify monet"
    assert found["kernels"]["state"] == "bad"  # and the other checks went on
    assert found["videos"]["state"] == "ok"


def test_docs_lists_every_page_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0
    listed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert {name for name, _ in listed} == pages
    assert all(title for _, title in listed)
    assert listed[0][0] == "guide"


@pytest.mark.parametrize("name", ["guide", "guide.md", "docs/guide.md"])
def test_a_page_on_a_pipe_is_its_source(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", name]) == 0
    expected = (DOCS / "guide.md").read_text(encoding="utf-8").rstrip("\n")
    assert capsys.readouterr().out == f"{expected}\n"


def test_an_unknown_page_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "giude"]) == 2
    assert "Did you mean guide" in capsys.readouterr().err


def test_pages_that_the_program_points_to_exist() -> None:
    """``cyclegan docs NAME`` in a message, a help text or another page must work."""
    sources = [*(REPOSITORY / "cyclegan_cli").rglob("*.py"), *DOCS.rglob("*.md")]
    named = {
        match
        for path in [*sources, REPOSITORY / "README.md"]
        for match in re.findall(r"cyclegan docs ([a-z][a-z/-]*)", path.read_text(encoding="utf-8"))
    }
    assert named <= set(doctor.doc_pages())
