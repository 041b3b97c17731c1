"""cyclegan runs: what is listed, opened and removed, and what is never touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from cyclegan_cli.cli.app import main
from tests.program import SMALL, make_pictures


@pytest.fixture
def runs(home: Path, tmp_path: Path) -> Path:
    """One finished run ('done') and one that stopped after its first step ('half way')."""
    x, y = make_pictures(tmp_path / "x", 3, 1), make_pictures(tmp_path / "y", 3, 2)
    train = ("train", str(x), str(y), *SMALL, "-q", "--epochs", "1")
    assert main([*train, "--name", "done"]) == 0
    assert main([*train, "--name", "half way", "--max-steps", "1"]) == 0
    settings = home / "runs" / "half way" / "run.json"
    data = json.loads(settings.read_text())
    data["settings"]["max_steps"] = None  # as if it had been interrupted
    settings.write_text(json.dumps(data))
    return home / "runs"


def records(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {str(line["run"]): line for line in lines}


def test_the_list_tells_state_progress_and_size(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["runs", "list", "--json"]) == 0
    found = records(capsys)
    assert {name: run["state"] for name, run in found.items()} == {
        "done": "finished",
        "half way": "stopped",
    }
    done = found["done"]
    on_disk = sum(p.stat().st_size for p in (runs / "done").rglob("*") if p.is_file())
    assert (done["step"], done["size"]) == (3, on_disk)
    assert Path(str(done["page"])).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with FileLock(runs / "half way" / "run.lock"):
        assert main(["runs", "list", "--json"]) == 0
        assert records(capsys)["half way"]["state"] == "running"


def test_the_list_on_a_pipe_has_one_value_per_column(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["runs"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert sorted(row[:4] for row in rows) == [
        ["done", "finished", "1/1", "3"],
        ["half way", "stopped", "0/1", "1"],
    ]


def test_show_names_the_next_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["runs", "show", "half way"]) == 0
    assert "cyclegan resume 'half way'" in capsys.readouterr().out
    assert main(["runs", "show", "done"]) == 0
    assert "cyclegan translate IMAGE --style done" in capsys.readouterr().out


def test_removing_checkpoints_keeps_the_page_and_the_style(
    runs: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["runs", "remove", "done", "--checkpoints", "-y"]) == 0
    assert capsys.readouterr().out == f"{runs / 'done' / 'checkpoints'}\n"
    assert not (runs / "done" / "checkpoints").exists()
    assert (runs / "done" / "report.html").is_file()
    assert (home / "styles" / "done").is_dir()
    assert main(["report", "done"]) == 0  # the page can still be rebuilt


def test_nothing_is_removed_without_consent(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(runs.rglob("*"))
    assert main(["runs", "remove", "done", "half way"]) == 2  # no terminal to ask at
    assert "cyclegan runs remove done 'half way' -y" in capsys.readouterr().err
    assert main(["runs", "remove", "done", "--dry-run"]) == 0
    assert main(["runs", "remove", "done", "nothing", "-y"]) == 2
    with FileLock(runs / "done" / "run.lock"):
        assert main(["runs", "remove", "done", "-y"]) == 2
    assert sorted(path for path in runs.rglob("*") if path.name != "run.lock") == [
        path for path in before if path.name != "run.lock"
    ]


def test_open_prints_the_page(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["runs", "open", "done"]) == 0
    assert capsys.readouterr().out == f"{runs / 'done' / 'report.html'}\n"
    (runs / "done" / "report.html").unlink()
    assert main(["runs", "open", "done"]) == 2
    assert "cyclegan report done" in capsys.readouterr().err
