"""What is read out of metrics.jsonl, and the command that starts a run anew."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclegan_cli.cli.app import main
from cyclegan_cli.report.record import (
    best_of,
    read_record,
    smoothed,
    train_command,
    value,
)
from cyclegan_cli.settings import TrainSettings
from tests.program import make_pictures
from tests.report.run_folder import SETTINGS, evaluation, losses, make_run, warning, write_lines


def test_lines_are_told_apart_and_the_last_is_known(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert read_record(run.folder).last is None
    write_lines(run, losses(10), evaluation(10, 90, 80), losses(20), warning(30, "odd", "look"))
    record = read_record(run.folder)
    assert [line["step"] for line in record.measured] == [10, 20]
    assert [line["step"] for line in record.evaluations] == [10]
    assert [line["step"] for line in record.warnings] == [30]
    assert record.last is not None
    assert record.last["step"] == 30
    assert record.losses("D_X") == [(10, 0.2), (20, 0.2)]
    assert record.scores("x", "swd") == [(10, 80.0)]
    assert record.seconds(batch_size=2) == 20 * 2 / 4.0


@pytest.mark.parametrize("odd", [None, "3", True, float("nan"), float("inf"), [1], {}])
def test_what_is_no_finite_number_is_none(odd: Any) -> None:
    assert value({"a": {"b": odd}}, "a", "b") is None
    assert value({"a": odd}, "a", "b") is None
    assert value({"a": {"b": 3}}, "a", "b") == 3.0


def test_the_best_is_the_lowest_mean_of_the_domains_asked_for() -> None:
    lines = [evaluation(10, 90, 50), evaluation(20, 60, 70), evaluation(30, 70, 60)]
    best = best_of(lines, "y", "x")
    assert best is not None
    assert (best.step, best.epoch, best.swd) == (20, 2, 65.0), "the earlier of equals"
    only_x = best_of(lines, "x")
    assert only_x is not None
    assert only_x.step == 10
    for line, distance in zip(lines, (3.0, 2.0, 1.5), strict=True):
        line["evaluation"]["distance"] = distance
    kept = best_of(lines, "y", "x")
    assert kept is not None
    assert kept.step == 30, "what the best checkpoint is kept by"
    assert best_of([], "y") is None
    assert best_of([{"step": 1, "epoch": 0, "evaluation": {"y": {}}}], "y") is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(1, 10))
def test_a_smoothed_curve_keeps_its_steps_and_stays_within_its_values(
    some: list[float], times: int
) -> None:
    values = some * times
    points = [(float(n), v) for n, v in enumerate(values)]
    found = smoothed(points)
    assert [x for x, _ in found] == [x for x, _ in points]
    slack = 1e-6 * (1 + max(map(abs, values)))
    assert all(min(values) - slack <= y <= max(values) + slack for _, y in found)


def test_a_smoothed_curve_does_not_lag_behind_a_steady_fall() -> None:
    falling = [(float(n), 1000.0 - n) for n in range(1000)]
    found = smoothed(falling)
    assert max(abs(a - b) for (_, a), (_, b) in zip(found, falling, strict=True)) < 60
    middle = zip(found[300:700], falling[300:700], strict=True)
    assert max(abs(a - b) for (_, a), (_, b) in middle) < 1, "one of 50 would lag by 49"


CHANGES: list[dict[str, Any]] = [
    {},
    {"flip": False, "compile": True, "lr": 3e-5, "max_steps": 7, "decay_from": 1},
    {"gan": "hinge", "resize": "distort", "checkpoint_every": "10min", "seed": 2**40},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_command_gives_the_settings_of_the_run(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = make_pictures(tmp_path / "it's x", 2, 1), make_pictures(tmp_path / "y", 2, 2)
    chosen = dataclasses.replace(SETTINGS, **changes)
    run = make_run(tmp_path / "run", settings=chosen, x_dir=x, y_dir=y)
    words = shlex.split(train_command(run))
    assert words[:6] == ["cyclegan", "train", str(x), str(y), "--name", "cats2dogs"]
    assert main([*words[1:], "--print-config", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert TrainSettings.from_json(printed) == chosen
