"""Two processes of one command: they train, one is killed, they go on; they share pictures."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclegan_cli.cli.app import main
from cyclegan_cli.cli.processes import Member, first_host, local_count, member
from cyclegan_cli.engine import checkpoint, cyclegan
from cyclegan_cli.errors import UsageError
from cyclegan_cli.media import pictures as media_pictures
from tests.program import SMALL, environment, make_pictures, run
from tests.together import start, together, wait

# 5 pictures against 3, 2 a step: 3 steps an epoch, the last uneven; 6 in all.
TRAIN = (*SMALL, "--epochs", "2", "--checkpoint-every", "2steps")
STEPS = 6


def command(*arguments: str) -> Callable[[int], dict[str, Any]]:
    """What each process does: the command, with what it says."""

    def work(rank: int) -> dict[str, Any]:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(arguments))
        said = {}
        for name, stream in (("out", out), ("err", err)):
            stream.seek(0)
            said[name] = stream.read()
        return {"code": code, **said}

    return work


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("pictures")
    return str(make_pictures(root / "x", 5, 1)), str(make_pictures(root / "y", 3, 2))


@pytest.fixture(scope="module")
def trained(
    pictures: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """A training of two processes that was never stopped: its home, and what each said."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLEGAN_HOME", str(home))
        # Alone, and of no more than a step: imports, before the forks, what training imports.
        assert main(["train", *pictures, *SMALL, "--max-steps", "1", "--name", "one", "-q"]) == 0
        said = together(2, command("train", *pictures, *TRAIN), home)
    return home, said


def state(home: Path) -> checkpoint.Checkpoint:
    newest, damaged = checkpoint.newest(home / "runs/x2y/checkpoints")
    assert newest is not None
    assert not damaged
    return newest


def test_two_train_and_one_speaks(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    home, said = trained
    assert [one["code"] for one in said] == [0, 0]
    assert said[0]["out"] == "x2y\n"
    assert "batch 2: 1 in each of 2 processes" in said[0]["err"]
    assert (said[1]["out"], said[1]["err"]) == ("", "")
    found = state(home)
    assert (found.place.step, found.processes, found.settings.batch_size) == (STEPS, 2, 2)


def dies(rank: int, step: int, run: Callable[[int], Any]) -> Callable[[int], Any]:
    """``run``, in which process ``rank`` is killed (SIGKILL) after some steps."""

    def work(own: int) -> Any:
        steps = 0
        once = cyclegan.CycleGAN.step

        def counted(
            self: cyclegan.CycleGAN, x: Tensor, y: Tensor, rate: float
        ) -> dict[str, Tensor]:
            nonlocal steps
            steps += 1
            if steps > step and own == rank:
                os.kill(os.getpid(), signal.SIGKILL)
            return once(self, x, y, rate)

        cyclegan.CycleGAN.step = counted  # type: ignore[method-assign]
        return run(own)

    return work


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_the_other_ends_and_two_or_one_go_on(
    victim: int,
    trained: tuple[Path, list[dict[str, Any]]],
    pictures: tuple[str, str],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = state(trained[0])
    codes = wait(start(2, dies(victim, 4, command("train", *pictures, *TRAIN)), tmp_path), 100)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 0  # of the fork: the command itself ended with an error
    assert not (tmp_path / f"result-{victim}").exists()
    assert state(home).place.step == 4
    if victim == 1:
        for said in together(2, command("resume", "x2y", "--gpu", "cpu"), tmp_path):
            assert said["code"] == 0
            assert "processes" not in said["err"]
        found = state(home)
        assert found.tensors.keys() == wanted.tensors.keys()
        assert all(torch.equal(found.tensors[k], wanted.tensors[k]) for k in wanted.tensors)
        return
    capsys.readouterr()
    assert main(["resume", "x2y", "--gpu", "cpu"]) == 0
    assert "2 processes before, 1 now: each takes 2 of a step's 2" in capsys.readouterr().err
    found = state(home)
    assert (found.place, found.settings) == (wanted.place, wanted.settings)
    for name in ("history_X.0000", "G.encoder.1.weight", "D_Y.layers.0.weight"):
        if name in wanted.tensors:
            assert torch.allclose(found.tensors[name], wanted.tensors[name], rtol=0, atol=2e-3)


def test_an_error_in_one_ends_all_with_a_whole_checkpoint_and_is_said_once(
    pictures: tuple[str, str], home: Path, tmp_path: Path
) -> None:
    def work(rank: int) -> dict[str, Any]:
        from cyclegan_cli.errors import PictureError
        from cyclegan_cli.media import dataset

        reads = 0
        read = media_pictures.read_rgb

        def gone(path: Path) -> Any:
            nonlocal reads
            reads += 1
            if rank == 1 and reads > 3:
                raise PictureError(f"{path.name} cannot be read.")
            return read(path)

        dataset.read_rgb = gone  # type: ignore[attr-defined]
        return command("train", *pictures, *TRAIN, "--workers", "0")(rank)

    first, second = together(2, work, tmp_path)
    assert (first["code"], second["code"]) == (1, 1)
    errors = first["err"] + second["err"]
    assert errors.count("error:") == 1
    assert "cannot be read." in errors
    assert "cyclegan resume x2y" in errors
    step = state(home).place.step
    assert 0 < step < STEPS
    assert f"step-{step:09}" in errors


def test_more_processes_than_a_batch_has_are_refused(
    trained: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CYCLEGAN_HOME", str(trained[0]))
    said = together(2, command("resume", "one", "--gpu", "cpu", "--max-steps", "2"), tmp_path)
    assert [one["code"] for one in said] == [2, 2]
    assert sum("takes 1 picture:" in one["err"] for one in said) == 1


def test_what_cannot_be_shared_is_refused_before_anything_is_made(
    pictures: tuple[str, str], home: Path
) -> None:
    many = ("--processes", "2", "--lambda-patch", "1", "--crop-size", "64", "--load-size", "64")
    said = run("train", *pictures, *TRAIN, *many)
    assert said.returncode == 2
    assert b"cannot be shared" in said.stderr
    assert not (home / "runs").exists()


def test_the_launcher_starts_them_and_ends_as_they_do(
    pictures: tuple[str, str], home: Path, tmp_path: Path
) -> None:
    """The only test that pays for real processes: an error's exit code, by the elastic launcher."""
    many = ("--processes", "2", "--batch-size", "1", "--max-steps", "3", "--lr", "1e30")
    done = subprocess.run(
        [sys.executable, "-m", "cyclegan_cli", "train", *pictures, *TRAIN, *many],
        env=environment({"CYCLEGAN_TIMEOUT": "100", "TMPDIR": str(tmp_path)}),
        capture_output=True,
        timeout=300,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "is nan" in said
    assert said.count("training: 2 epochs of 3 steps, batch 2: 1 in each of 2 processes") == 1
    assert said.count("error:") == 1
    assert not list(tmp_path.glob("cyclegan-*"))


# -- translate ---------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = make_pictures(tmp_path / "album", 5, 4)
    Image.new("RGB", (90, 70), "teal").save(folder / "large.png")
    return folder


def test_a_killed_process_is_started_again_and_completes_the_set(
    trained: tuple[Path, list[dict[str, Any]]],
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CYCLEGAN_HOME", str(trained[0]))
    style = ("--style", "x2y", "--gpu", "cpu", "--json")
    assert main(["translate", str(album), *style, "-o", str(tmp_path / "one")]) == 0
    several = ("translate", str(album), *style, "-o", str(tmp_path / "two"))

    def work(rank: int) -> dict[str, Any]:
        from cyclegan_cli.painting import batch

        written = 0
        write = batch.write_picture

        def counted(*given: Any, **named: Any) -> None:
            nonlocal written
            written += 1
            if rank == 1 and written > 1:
                os.kill(os.getpid(), signal.SIGKILL)
            write(*given, **named)

        batch.write_picture = counted  # type: ignore[attr-defined]
        return command(*several)(rank)

    assert wait(start(2, work, tmp_path)) == [0, -signal.SIGKILL]
    partly = {path.name for path in (tmp_path / "two").glob("*.png")}
    assert 1 < len(partly) < 6
    again = start(2, command(*several, "--skip-existing"), tmp_path)
    assert wait(again) == [0, 0]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_one_picture_by_two_is_the_picture_by_one(
    trained: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CYCLEGAN_HOME", str(trained[0]))
    folder = make_pictures(tmp_path / "big", 1, 7, (150, 203))
    (folder / "broken.png").write_bytes(b"no picture")
    style = ("--style", "x2y", "--gpu", "cpu")
    for out, size in (("one", 1), ("two", 2)):
        line = ("translate", str(folder), *style, "-o", str(tmp_path / out), "--together")
        said = together(size, command(*line), tmp_path) if size > 1 else [command(*line)(0)]
        assert [one["code"] for one in said] == [1, 0][:size]  # one bad file, said by the first
        assert "broken.png" in said[0]["err"]
    with Image.open(tmp_path / "one/00.png") as one, Image.open(tmp_path / "two/00.png") as two:
        apart = np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3


# -- who is there ------------------------------------------------------------------------------


def test_torchrun_and_slurm_are_joined_and_a_batch_script_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert member() is None
    with monkeypatch.context() as patch:
        for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
            patch.setenv(name, value)
        assert member() == Member(5, 8, 1)
        patch.setenv("RANK", "8")
        with pytest.raises(UsageError, match="WORLD_SIZE is 8"):
            member()
    monkeypatch.setattr(os, "environ", {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"})
    assert member() is None
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3"}
    slurm |= {"SLURM_STEP_NODELIST": "gpu[07-09]", "SLURM_JOB_ID": "1234567"}
    monkeypatch.setattr(os, "environ", slurm)
    assert member() == Member(3, 8, 3)
    assert (slurm["MASTER_ADDR"], slurm["MASTER_PORT"]) == ("gpu07", str(20_000 + 14_567))


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("a", "a"),
        ("a1,a2", "a1"),
        ("n[03,05-7]", "n03"),
        ("n[1-2]-ib,x", "n1-ib"),
        ("", "127.0.0.1"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_how_many_processes_a_line_means() -> None:
    assert local_count("auto", 1) == local_count("7", 1) == 1
    assert local_count("cpu", 3) == 3
    for processes in (0, -1):
        with pytest.raises(UsageError, match="--processes"):
            local_count("cpu", processes)
    with pytest.raises(UsageError, match="no CUDA device 0"):
        local_count("0,1", 1)
