"""Exit code 2 means that nothing was changed: whatever is refused is refused before any write."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from cyclegan_cli.cli.app import main
from cyclegan_cli.engine import checkpoint, cyclegan
from tests.program import SMALL, environment, make_pictures

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


# -- publication: a state of the run -------------------------------------------------------------


def weights(home: Path) -> dict[str, bytes]:
    tensors = load_file(home / "styles/x2y/xy.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def test_a_finished_run_without_a_style_is_published_by_resume(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the last checkpoint and publication; one reading is enough."""
    home, read, load = work / "home", [], checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: (read.append(path), load(path))[1])
    before = weights(home)
    shutil.rmtree(home / "styles/x2y")
    left = home / "runs/x2y/checkpoints/.tmpAb3dE9"  # safetensors' own, of earlier versions
    left.write_bytes(b"half")
    assert main(["resume", "x2y"]) == 0
    assert capsys.readouterr().out == "x2y\n"
    assert len(read) == 1
    assert weights(home) == before
    assert not left.exists()
    assert main(["resume", "x2y"]) == 0
    assert "nothing left to train" in capsys.readouterr().err


def test_the_style_of_an_earlier_step_is_brought_up_to_date(work: Path) -> None:
    """A run that was extended, and killed before it could publish again."""
    card = work / "home/styles/x2y/style.json"
    about = json.loads(card.read_text())
    card.write_text(json.dumps({**about, "run_steps": STEPS - 1, "steps": STEPS - 1}))
    assert main(["resume", "x2y"]) == 0
    assert json.loads(card.read_text())["steps"] == STEPS


@pytest.mark.parametrize("extend", [(), ("--max-steps", "3")], ids=["finished", "going on"])
def test_a_style_from_elsewhere_is_never_replaced(
    extend: tuple[str, ...], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = work / "home"
    shutil.rmtree(home / "styles/x2y")
    assert main(["pretrained", "import", "x2y.safetensors", "--name", "x2y", "-q"]) == 0
    before = snapshot(home / "styles")
    assert main(["resume", "x2y", *extend]) == (1 if extend else 2)
    told = capsys.readouterr().err
    assert "cyclegan pretrained import --run x2y --name NEW" in told
    assert snapshot(home / "styles") == before
    assert main(["pretrained", "import", "--run", "x2y", "--name", "NEW"]) == 0


@pytest.mark.parametrize("moment", ["last step", "evaluation"])
def test_ctrl_c_at_the_very_end_still_publishes(
    moment: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (cyclegan.CycleGAN, "step") if moment == "last step" else (checkpoint, "save")
    original = getattr(*place)

    def interrupted(*arguments: object, **options: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(*place, interrupted)
    code = main(["resume", "x2y", "--max-steps", str(STEPS + 1), "-q"])
    assert code == 130
    assert signal.getsignal(signal.SIGINT).__qualname__.startswith("stop_on_signals")
    card = json.loads((work / "home/styles/x2y/style.json").read_text())
    assert card["steps"] == STEPS + 1


def test_a_step_that_is_past_is_said_to_be(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "x2y", "--max-steps", "1"]) == 2
    told = capsys.readouterr().err
    assert "is past" in told
    assert f"cyclegan resume x2y --max-steps {STEPS}" in told


# -- neighbours and other versions ----------------------------------------------------------------


@pytest.mark.parametrize(
    "newer",
    [
        {"settings": {"generator": {"name": "resnet9", "attention": 4}}},
        {"settings": {"of_a_later_version": 4}},
        {"x_files": None},
        {"name": 3},
    ],
    ids=["generator", "setting", "files", "name"],
)
def test_an_unreadable_run_stops_no_other(
    newer: dict[str, object], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = work / "home/runs/newer"
    other.mkdir()
    about = json.loads((work / "home/runs/x2y/run.json").read_text())
    (other / "run.json").write_text(json.dumps({**about, **newer}))
    assert main(["resume", "x2y"]) == 0
    assert main(["resume", "x2z"]) == 2
    assert "Did you mean x2y?" in capsys.readouterr().err
    assert main(["train", "x", "y", "--name", "n", *SMALL, "--dry-run", "-q"]) == 0
    capsys.readouterr()
    assert main(["resume", "--json"]) == 0
    shown = capsys.readouterr()
    states = {line["run"]: line["state"] for line in map(json.loads, shown.out.splitlines())}
    assert states == {"x2y": "finished", "newer": "unreadable"}
    assert str(other / "run.json") in shown.err
    assert main(["resume", "newer"]) == 1
    assert str(other / "run.json") in capsys.readouterr().err


def test_names_with_spaces_can_be_pasted(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = (*SMALL, "--max-steps", "1", "--epochs", "9")
    assert main(["train", "x", "y", "--name", "my run", *args]) == 0
    assert main(["resume", "my run"]) == 0
    assert main(["train", "x", "y", "--name", "my run"]) == 2
    assert main(["resume", "my run", "--max-steps", "2", "--x-dir", "empty"]) == 2
    assert main(["runs", "remove", "my run"]) == 2
    assert main(["pretrained", "remove", "my run"]) == 2
    page = (work / "home/runs/my run/report.html").read_text()
    commands = [
        line.partition("cyclegan ")[2]
        for line in [*capsys.readouterr().err.splitlines(), *page.splitlines()]
        if "cyclegan " in line and "my run" in line
    ]
    assert len(commands) >= 7
    for command in commands:
        text = command.replace("&#x27;", "'").partition("<")[0]
        assert "my run" in shlex.split(text), command


def test_a_data_set_is_offered_as_two_folders(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "my maps").mkdir()
    (work / "x").rename(work / "my maps/trainA")
    (work / "y").rename(work / "my maps/trainB")
    for line in (["train", "my maps"], ["train", "my maps", "my maps"]):
        assert main([*line, "--epochs", "3"]) == 2
        told = capsys.readouterr().err
        assert "cyclegan train 'my maps/trainA' 'my maps/trainB' --epochs 3" in told


def test_a_hold_out_that_is_asked_for_is_kept_or_refused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(work / "x", 24, 3)
    make_pictures(work / "y", 24, 4)
    args = ("train", "x", "y", "--name", "n", *SMALL, "--max-steps", "1", "-q")
    assert main([*args, "--hold-out", "8"]) == 0
    run = json.loads((work / "home/runs/n/run.json").read_text())
    assert (len(run["x_held"]), len(run["y_held"]), len(run["x_files"])) == (8, 8, 16)
    capsys.readouterr()
    assert main([*args[:4], "m", *args[5:], "--hold-out", "50"]) == 2
    assert "24 usable pictures" in capsys.readouterr().err
    assert main([*args[:4], "m", *args[5:]]) == 0
    run = json.loads((work / "home/runs/m/run.json").read_text())
    assert len(run["x_held"]) == 2


# -- files ---------------------------------------------------------------------------------------


def hidden(home: Path) -> list[Path]:
    """What lies half written in ``home``."""
    return [path for path in home.rglob("*") if path.name[:1] == "." and path.name != ".lock"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forks beside threads, none with a lock
def test_a_kill_while_publishing_leaves_nothing_that_the_next_resume_does_not_sweep(
    work: Path,
) -> None:
    import safetensors.torch

    home = work / "home"
    before = weights(home)
    shutil.rmtree(home / "styles/x2y")

    def torn(_tensors: object, path: Path, _metadata: object) -> None:
        path.write_bytes(b"half")
        path.with_name(".tmpAb3dE9").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        safetensors.torch.save_file = torn
        main(["resume", "x2y"])
        os._exit(99)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert hidden(home)
    assert not (home / "styles/x2y").exists()
    (home / "runs/x2y/tmpab_12xyz").mkdir()  # of earlier versions
    assert main(["resume", "x2y"]) == 0
    assert weights(home) == before
    assert hidden(home) == []
    assert not (home / "runs/x2y/tmpab_12xyz").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_checkpoints_and_weights_have_the_mode_of_the_umask(work: Path) -> None:
    before = os.umask(0o027)
    try:
        assert main(["resume", "x2y", "--max-steps", str(STEPS + 1), "-q"]) == 0
        assert main(["pretrained", "export", "x2y", "new.safetensors"]) == 0
    finally:
        os.umask(before)
    run, style = work / "home/runs/x2y/checkpoints", work / "home/styles/x2y"
    written = [run / f"step-{STEPS + 1:09}.safetensors", *style.iterdir()]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [*written, work / "new.safetensors"]}
    assert modes == {0o640}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_an_import_on_a_full_disk_names_what_could_not_be_written(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = snapshot(work)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert main(["pretrained", "import", "x2y.safetensors", "--name", "new"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = capsys.readouterr().err
    assert f"{work}/home/styles/new/xy.safetensors cannot be written: File too large" in told
    assert snapshot(work) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "line", ["--version", "--help", "pretrained list", "translate x/00.png -s x2y.safetensors -o -"]
)
def test_a_stdout_that_is_full_is_named(line: str, work: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cyclegan_cli", *line.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    told = done.stderr.decode()
    assert done.returncode == 1
    assert "stdout" in told
    assert "No space left on device" in told
    assert "Exception" not in told


# -- what is said --------------------------------------------------------------------------------


def test_an_empty_list_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "list.txt").write_text("")
    assert main(["translate", "--from-file", "list.txt", "-s", "x2y"]) == 2
    assert "list.txt" in capsys.readouterr().err


def test_a_learning_rate_that_diverges_is_warned_of(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--discriminator", "patchgan", "--lr", "50", "--max-steps", "6", "--epochs", "9")
    assert main(["train", "x", "y", "--name", "n", *SMALL, *options, "-q", "--json"]) == 0
    shown = capsys.readouterr()
    assert "explode" in shown.err
    lines = map(json.loads, shown.out.splitlines())
    assert "exploded" in [line["warning"]["kind"] for line in lines if "warning" in line]
