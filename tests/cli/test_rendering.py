"""What a training leaves for eyes: page, samples, TensorBoard's files; after a resume, too."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cyclegan_cli.cli.app import main
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.rendering import Renderer, TrainingView
from cyclegan_cli.engine.run import Place
from cyclegan_cli.errors import NonFiniteLossError
from cyclegan_cli.report.page import Report
from tests.program import SMALL, make_pictures
from tests.report.run_folder import evaluation, whole_run

OFTEN = ("--log-every", "1steps", "--sample-every", "2steps", "--checkpoint-every", "2steps")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    x, y = make_pictures(tmp_path / "cats", 12, 1), make_pictures(tmp_path / "dogs", 3, 2)
    return str(x), str(y)


def test_the_page_of_a_resumed_run_is_that_of_one_that_never_stopped(
    folders: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", *folders, *SMALL, *OFTEN]
    assert main([*command, "--max-steps", "6", "--name", "whole"]) == 0
    assert f"page: {home / 'runs' / 'whole' / 'report.html'}" in capsys.readouterr().err
    assert main([*command, "--max-steps", "4", "--name", "parts"]) == 0
    part = (home / "runs/parts/report.html").read_text()
    assert "4 of 4" in part
    first = home / "runs/parts/checkpoints/step-000000002.safetensors"
    again = ["resume", "parts", "--max-steps", "6", "--checkpoint", str(first)]
    assert main(again) == 0
    pages = []
    for name in ("whole", "parts"):
        folder = home / "runs" / name
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert sorted(path.name for path in (folder / "samples").iterdir()) == [
            f"step-00000000{step}.png" for step in (2, 4, 6)
        ]
        html = (folder / "report.html").read_text()
        main(["report", name])
        assert (folder / "report.html").read_text() == html
        pages.append(html.partition('id="samples"')[2].partition("</section>")[0])
    assert pages[0] == pages[1]


EPOCH = re.compile(r"epoch (\d+)/2 G/F ([\d.]+)/([\d.]+) ")


def test_an_epochs_line_has_the_means_of_that_epoch_however_losses_are_logged(
    folders: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for every in ("1steps", "4steps", "11steps", "1000steps"):
        options = (*SMALL, "--log-every", every, "--epochs", "2", "--name", every)
        assert main(["train", *folders, *options]) == 0
        said[every] = EPOCH.findall(capsys.readouterr().err)
    lines = (home / "runs" / "1steps" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "lr" in line]
    assert len(steps) == 22
    for found in said.values():
        assert [epoch for epoch, *_ in found] == ["1", "2"]
        for part, (_, *shown) in zip((steps[:11], steps[11:]), found, strict=True):
            means = [sum(step[name] for step in part) / 11 for name in ("G", "F")]
            assert [float(text) for text in shown] == pytest.approx(means, abs=0.0051)


def test_under_max_steps_the_epochs_counted_are_those_that_come(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "12"]) == 0
    said = capsys.readouterr().err
    assert "epoch 1/2 G/F" in said
    assert "/200" not in said
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.startswith("cats2dogs\tfinished\t1\t12\t")


def test_samples_of_steps_that_run_again_go(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    console = Console(quiet=True)
    view = TrainingView(console, run.name, Place(20, 2, 0), 40, 4)
    Renderer(console, run, Place(20, 2, 0), view, None)
    left = sorted(path.name for path in (run.folder / "samples").iterdir())
    assert left == ["step-000000010.png", "step-000000020.png"]
    assert "best epoch 2 (SWD 65.0)" in str(view._drawn(80)), "known from before"


def test_evaluations_and_warnings_reach_the_record_the_view_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_run(tmp_path)
    console = Console(as_json=True)
    view = TrainingView(console, run.name, Place(30, 3, 0), 40, 4)
    renderer = Renderer(console, run, Place(30, 3, 0), view, None)
    scores = evaluation(0, 50.0, 40.0)["evaluation"]
    renderer.evaluated(Place(35, 3, 5), scores)
    renderer.warned(Place(36, 3, 6), "inversion", "The colours are inverted.", "Train again.")
    output = capsys.readouterr()
    records = [json.loads(line) for line in output.out.splitlines()]
    assert [record["step"] for record in records] == [35, 36]
    assert records[0]["evaluation"] == scores
    assert records[1]["warning"] == {
        "kind": "inversion",
        "message": "The colours are inverted.",
        "hint": "Train again.",
    }
    assert "The colours are inverted." in output.err
    assert "Train again." in output.err
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines[-2:]] == records
    page = Report(run).html()
    assert "The colours are inverted." in page
    assert "3 (step 35, SWD 45)" in page
    assert "warning at step 36" in str(view._drawn(80))


def test_a_page_that_cannot_be_written_is_said_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole_run(tmp_path)
    (run.folder / "report.html").mkdir()
    console = Console()
    view = TrainingView(console, run.name, Place(30, 3, 0), 40, 4)
    monkeypatch.setattr("cyclegan_cli.cli.rendering._PAGE_EVERY", 0.0)
    monkeypatch.setattr("cyclegan_cli.cli.rendering._PAGE_SHARE", 1e9)
    with Renderer(console, run, Place(30, 3, 0), view, None) as renderer:
        for step in (35, 36):
            renderer.evaluated(Place(step, 3, 5), evaluation(0, 50.0, 40.0)["evaluation"])
    assert capsys.readouterr().err.count("report.html could not be written") == 1


def test_the_page_has_the_last_lines_when_a_training_fails(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    console = Console(quiet=True)
    view = TrainingView(console, run.name, Place(30, 3, 0), 40, 4)
    with (
        pytest.raises(NonFiniteLossError),
        Renderer(console, run, Place(30, 3, 0), view, None) as renderer,
    ):
        for step in (35, 36):  # the second comes too soon for a page of its own
            renderer.warned(Place(step, 3, 5), "odd", f"Odd at {step}.", "")
        raise NonFiniteLossError("At step 37 the loss G is nan.")
    assert "Odd at 36." in (run.folder / "report.html").read_text()


def test_tensorboard_gets_what_metrics_have(
    folders: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    command = ["train", *folders, *SMALL, *OFTEN, "--max-steps", "4", "--tensorboard"]
    assert main(command) == 0
    first = home / "runs/cats2dogs/checkpoints/step-000000002.safetensors"
    again = ["resume", "cats2dogs", "--checkpoint", str(first), "--max-steps", "5"]
    assert main([*again, "--tensorboard"]) == 0
    run = home / "runs" / "cats2dogs"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = accumulator.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    for name in ("G", "cycle_X", "D_Y"):
        events = found.Scalars(f"loss/{name}")
        assert [event.step for event in events] == [1, 2, 3, 4, 5]
        values = [event.value for event in events]
        assert values == pytest.approx([line[name] for line in lines], rel=1e-6)
    assert [image.step for image in found.Images("samples")] == [2, 4, 5]


def test_without_tensorboard_it_says_how_to_get_it_before_any_work(
    folders: tuple[str, str],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any, **other: Any) -> Any:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ModuleNotFoundError(name)
        return real(name, *more, **other)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["train", *folders, *SMALL, "--tensorboard"]) == 2
    assert 'pip install "cyclegan[tensorboard]"' in capsys.readouterr().err
    assert not home.exists()
