"""Exit code 2 means that nothing was changed: whatever is refused is refused before any write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from cyclegan_cli.cli.app import main
from tests.program import SMALL, make_pictures

STEPS = 2
REFUSED = [
    "resume x2y --max-steps 160 --gpu 7",
    "resume x2y --epochs 300 --processes 3 --gpu cpu",
    "resume x2y --max-steps 1",
    "resume x2y --epochs 1",
    "resume x2y --max-steps 9 --x-dir nowhere",
    "resume x2y --max-steps 9 --x-dir y --y-dir y",
    "resume x2y --max-steps 9 --x-dir empty",
    "resume x2y --max-steps 9 --workers -1",
    "resume x2y --max-steps 9 --generator resnet9",
    "resume x2y --max-steps 0",
    "resume x2z",
    "train x y --name x2y",
    "train x y --name new --gpu 7",
    "train x y --name new --gpu cpu --precision fp16",
    "train x y --name new --lambda-gan 0 --lambda-cycle 0",
    "train x y --name new --hold-out 4",
    "train x y --name new --init nothing",
    "train x y --name new --init x2y --generator resnet9",
    "train x y --name ../new",
    "train x --name new",
    "train x x --name new",
    "train x empty --name new",
    "pretrained import x2y.safetensors --name x2y",
    "pretrained import x2y.safetensors --name a/b",
    "pretrained import nothing.pth --name new",
    "pretrained import x2y.safetensors",
    "pretrained import --run x2y --x photos",
    "pretrained import --run nothing",
    "pretrained import --run x2y --checkpoint best",
    "pretrained export x2y x2y.safetensors",
    "pretrained export x2y new.txt",
    "pretrained export x2y nowhere/new.pth",
    "pretrained remove nothing",
    "pretrained remove x2y",
    "pretrained remove x2y nothing -y",
    "pretrained download nothing",
    "translate x/00.png -s nothing",
    "translate x/00.png -s x2y -o y/00.png",
    "translate x/00.png -s x2y -s other",
    "translate x/00.png -s x2y --gpu 7 -o new.png",
    "translate x/00.png -s x2y --gpu cpu --precision fp16 -o new.png",
    "translate x -s x2y -o x/00.png",
    "translate x -s x2y --quality 300 -o new",
    "translate --from-file - -s x2y",
    "datasets download nothing",
    "datasets download maps --to data",
    "evaluate x2y x nowhere",
    "evaluate x2y x y --size 33",
    "evaluate x2y x y --gpu 7",
    "timelapse x2y -o new.txt",
    "timelapse x2y -o x/00.png",
    "timelapse nothing",
    "report nothing",
    "demo x",
    "runs remove x2y",
    "runs remove x2y nothing -y",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with pictures, and a home in it with a finished run and its style."""
    root = tmp_path_factory.mktemp("finished")
    make_pictures(root / "x", 4, 1)
    make_pictures(root / "y", 3, 2)
    (root / "empty").mkdir()
    (root / "data" / "maps").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLEGAN_HOME", str(root / "home"))
        steps = ("--max-steps", str(STEPS), "--epochs", "2", "-q")
        assert main(["train", str(root / "x"), str(root / "y"), *SMALL, *steps]) == 0
    shutil.copy(root / "home/styles/x2y/xy.safetensors", root / "x2y.safetensors")
    return root


@pytest.fixture
def work(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``finished``, as the current folder."""
    root = tmp_path / "work"
    shutil.copytree(finished, root)
    about = root / "home/runs/x2y/run.json"
    about.write_text(about.read_text().replace(str(finished), str(root)))
    monkeypatch.setenv("CYCLEGAN_HOME", str(root / "home"))
    monkeypatch.setenv("CYCLEGAN_CACHE", str(root / "cache"))
    monkeypatch.chdir(root)
    return root


def snapshot(root: Path) -> dict[str, str]:
    """Every file (its digest) and folder; locks, which hold nothing, left out."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in root.rglob("*")
        if not path.name.endswith(".lock")
    }


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused_changes_nothing(
    line: str, work: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        before = snapshot(work)
        assert main(line.split()) == 2, capfd.readouterr().err
    assert snapshot(work) == before
    assert "error:" in capfd.readouterr().err


def test_a_refused_resume_leaves_the_run_finished(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", "x2y", "--max-steps", "160", "--gpu", "7"]) == 2
    assert json.loads((work / "home/runs/x2y/run.json").read_text())["settings"]["max_steps"] == 2
    assert main(["resume", "x2y"]) == 0
    assert "nothing left to train" in capsys.readouterr().err
