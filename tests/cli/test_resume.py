"""A run that was killed and resumed gives the weights of one that never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclegan_cli.cli.app import main
from cyclegan_cli.engine import checkpoint, cyclegan
from tests.program import SMALL, environment, make_pictures

# 5 pictures against 3: 5 steps an epoch, 10 in two epochs; checkpoints at 3, 6, 9 and the end.
TRAIN = (*SMALL, "--epochs", "2", "--checkpoint-every", "3steps", "--keep", "2", "-q")
STEPS = 10


def killed(moment: str, *arguments: str) -> None:
    """``cyclegan ARGUMENTS`` in a process that is killed (SIGKILL) at ``moment``.

    ``step:K``: after step K of this process; ``write:K``: in the middle of writing the checkpoint
    that follows it. The process is a fork, which spares it the seconds of importing torch.
    """
    what, number = moment.split(":")
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; none of ours holds a lock here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            _die_at(what, int(number))
            main(list(arguments))
        finally:
            os._exit(99)  # it was to be killed
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def _die_at(what: str, number: int) -> None:
    steps = 0
    step, save_file = cyclegan.CycleGAN.step, checkpoint.save_file

    def counted(self: cyclegan.CycleGAN, x: Tensor, y: Tensor, rate: float) -> dict[str, Tensor]:
        nonlocal steps
        losses = step(self, x, y, rate)
        steps += 1
        if what == "step" and steps == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses

    def torn(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        if what == "write" and steps == number:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    cyclegan.CycleGAN.step = counted  # type: ignore[method-assign]
    checkpoint.save_file = torn  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pictures")
    return make_pictures(root / "x", 5, 1), make_pictures(root / "y", 3, 2)


@pytest.fixture(scope="module")
def reference(
    pictures: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """The whole state after a training that was never stopped."""
    home = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLEGAN_HOME", str(home))
        assert main(["train", *map(str, pictures), *TRAIN]) == 0
    return _final_state(home)


def _final_state(home: Path) -> dict[str, torch.Tensor]:
    newest, damaged = checkpoint.newest(home / "runs" / "x2y" / "checkpoints")
    assert newest is not None
    assert not damaged
    assert newest.place.step == STEPS
    return newest.tensors


def _assert_identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    kinds = {name.split(".")[0] for name in a}
    networks = {"G", "F", "D_X", "D_Y"}
    assert kinds == networks | {"optimiser_G", "optimiser_D", "history_X", "history_Y"}
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


@pytest.mark.parametrize(
    "moment",
    ["step:2", "step:4", "step:5", "write:3", "write:6"],
    ids=["before any checkpoint", "mid-epoch", "end of epoch", "first write", "later write"],
)
def test_a_killed_run_resumes_bit_for_bit(
    moment: str,
    pictures: tuple[Path, Path],
    reference: dict[str, torch.Tensor],
    home: Path,
) -> None:
    killed(moment, "train", *map(str, pictures), *TRAIN)
    assert main(["resume", "x2y", "--gpu", "cpu"]) == 0
    _assert_identical(reference, _final_state(home))
    assert not list((home / "runs").rglob("*.tmp*")), "a torn file was left behind"
    log = (home / "runs/x2y/metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert steps == sorted(set(steps)), "steps that ran twice are logged once"


def test_a_run_killed_twice_with_other_workers_is_still_the_same(
    pictures: tuple[Path, Path],
    reference: dict[str, torch.Tensor],
    home: Path,
) -> None:
    killed("step:4", "train", *map(str, pictures), *TRAIN)
    killed("step:3", "resume", "x2y", "--workers", "0")
    assert main(["resume", "x2y", "--workers", "3"]) == 0
    _assert_identical(reference, _final_state(home))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(
    signum: int,
    code: int,
    pictures: tuple[Path, Path],
    reference: dict[str, torch.Tensor],
    home: Path,
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cyclegan_cli",
            "train",
            *map(str, pictures),
            *TRAIN[:-1],
            "--checkpoint-every",
            "1epoch",
            "--log-every",
            "1steps",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment(),
    )
    metrics = home / "runs" / "x2y" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"cyclegan resume x2y" in stderr
    newest, _ = checkpoint.newest(home / "runs/x2y/checkpoints")
    assert newest is not None
    assert 2 <= newest.place.step < STEPS
    assert main(["resume", "x2y"]) == 0
    _assert_identical(reference, _final_state(home))


@pytest.fixture
def short_run(pictures: tuple[Path, Path], home: Path) -> Path:
    """A run of 6 steps (of 10) with checkpoints at 2, 4 and 6; its folder."""
    code = main(
        [
            "train",
            *map(str, pictures),
            *SMALL,
            "--epochs",
            "2",
            "--max-steps",
            "6",
            "-q",
            "--checkpoint-every",
            "2steps",
            "--keep",
            "3",
        ]
    )
    assert code == 0
    return home / "runs" / "x2y"


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = short_run / "checkpoints" / "step-000000006.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert main(["resume", "x2y", "--max-steps", "7"]) == 0
    said = capsys.readouterr().err
    assert "step-000000006.safetensors is damaged" in said
    assert "step-000000004.safetensors" in said
    found, damaged = checkpoint.newest(short_run / "checkpoints")
    assert found is not None
    assert (found.place.step, damaged) == (7, [])


def test_when_no_checkpoint_is_whole_it_is_an_error_not_a_new_start(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (short_run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert main(["resume", "x2y", "--max-steps", "7"]) == 1
    assert "No checkpoint of x2y is whole" in capsys.readouterr().err


def test_an_earlier_checkpoint_can_be_chosen_and_later_ones_are_set_aside(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoint.load(short_run / "checkpoints" / "step-000000006.safetensors").tensors
    earlier = short_run / "checkpoints" / "step-000000002.safetensors"
    assert main(["resume", "x2y", "--checkpoint", str(earlier)]) == 0
    assert "set aside" in capsys.readouterr().err
    assert (short_run / "checkpoints/set-aside/step-000000006.safetensors").exists()
    again = checkpoint.load(short_run / "checkpoints" / "step-000000006.safetensors").tensors
    _assert_identical(before, again)


def test_a_finished_run_says_so_and_how_to_extend_it(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", "x2y"]) == 0
    said = capsys.readouterr().err
    assert "finished" in said
    assert "cyclegan resume x2y --epochs" in said


def test_epochs_extend_a_run_and_the_new_schedule_is_said(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", "x2y", "--epochs", "3"]) == 0
    assert "3 epochs" in capsys.readouterr().err
    found, _ = checkpoint.newest(short_run / "checkpoints")
    assert found is not None
    assert (found.place.step, found.settings.epochs) == (15, 3)


def test_fewer_epochs_and_what_would_change_the_model_are_refused(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", "x2y", "--epochs", "1"]) == 2
    assert "--epochs extends it" in capsys.readouterr().err
    for option in (["--generator", "resnet9"], ["--crop-size=64"], ["--no-flip"]):
        assert main(["resume", "x2y", *option]) == 2
        assert "belongs to the run" in capsys.readouterr().err
    assert main(["resume", "x2y", "--nonsense"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_moved_pictures_are_missed_and_found_again(
    short_run: Path,
    pictures: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved = tmp_path / "moved"
    pictures[0].rename(moved)
    try:
        assert main(["resume", "x2y", "--max-steps", "7"]) == 2
        assert "--x-dir" in capsys.readouterr().err
        assert main(["resume", "x2y", "--max-steps", "7", "--x-dir", str(moved)]) == 0
    finally:
        moved.rename(pictures[0])


def test_resume_alone_lists_the_runs(short_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["resume", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert (record["run"], record["step"], record["epochs"]) == ("x2y", 6, 2)
    assert record["folder"] == str(short_run)
    assert record["finished"] is True
    assert main(["resume"]) == 0
    assert capsys.readouterr().out.startswith("x2y\tfinished\t1\t6\t")


def test_an_unknown_run_gets_a_did_you_mean(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", "x2z"]) == 2
    assert "Did you mean x2y?" in capsys.readouterr().err


def test_two_processes_cannot_train_one_run(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cyclegan_cli.engine.run import find_run, hold

    with hold(find_run("x2y")):
        assert main(["resume", "x2y", "--max-steps", "9"]) == 2
    assert "another process" in capsys.readouterr().err
