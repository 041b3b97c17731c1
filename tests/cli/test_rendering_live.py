"""What one sees of a training on terminals of any width, and where there is none."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.text import Text

from cyclegan_cli.cli import rendering
from cyclegan_cli.cli.console import Console, draws_live, wrapped
from cyclegan_cli.cli.rendering import LiveLines, TrainingView, figures, flowed, rows_of
from cyclegan_cli.engine.run import Place
from cyclegan_cli.errors import duration
from tests.program import environment, read_terminal

LOSSES = {"G": 0.5, "F": 0.4, "D_X": 0.2, "D_Y": 0.3}
LOSSES |= {f"{kind}_{domain}": 1.5 for kind in ("cycle", "identity") for domain in "XY"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7500, "2 h 05 min"),
     (180_000, "2 d 2 h")],
)  # fmt: skip
def test_durations_read_as_one_would_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(1, 120))
def test_items_flow_in_their_order_into_lines_that_fit(lengths: list[int], width: int) -> None:
    items = ["x" * length for length in lengths]
    lines = flowed(items, width)
    assert all(len(line) <= width for line in lines)
    if all(length <= width for length in lengths):
        assert [item for line in lines for item in line.split()] == items
        for line, after in itertools.pairwise(lines):
            assert len(line) + 3 + len(after.split()[0]) > width, "it would have had room"


def view_of(**more: object) -> TrainingView:
    place = Place(step=30, epoch=1, batch=10)
    return TrainingView(Console(quiet=True), "cats2dogs", place, 1000, 50, lambda: 3 * 2**29)


def shown(view: TrainingView, width: int) -> list[str]:
    return str(view._drawn(width)).split("\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The view's clock, in seconds: a test moves it by adding to its only item."""
    seconds = [0.0]
    monkeypatch.setattr(rendering.time, "monotonic", lambda: seconds[0])
    return seconds


def test_the_view_tells_all_that_it_was_told(clock: list[float]) -> None:
    view = view_of()
    view.measured(LOSSES, 2e-4, 4.0)
    for step in range(31, 41):
        clock[0] += 0.5
        view.step(Place(step, 2, step - 40))
    view.saved(40)
    clock[0] += 60
    for epoch, swd in ((1, (60.0, 80.0)), (2, (70.0, 90.0))):
        scores = {"y": {"swd": swd[0]}, "x": {"swd": swd[1]}, "cycle_l1": 0.1}
        view.evaluated({"step": 10 * epoch, "epoch": epoch, "evaluation": scores})
    text = "\n".join(shown(view, 80))
    for words in (
        "cats2dogs   epoch 3/50   step 40/1,000   4.0 %   8 min left",
        "G/F 0.50/0.40", "D_X/D_Y 0.20/0.30", "cycle 1.50/1.50", "identity 1.50/1.50",
        "lr 0.0002", "4.0 pictures/s", "memory 1.61 GB",
        "checkpoint at step 40, 60 s ago", "best epoch 1 (SWD 70.0)",
    ):  # fmt: skip
        assert words in text
    assert len(text.split("\n")) <= 6


@given(st.lists(st.text("ab写é/.", min_size=1, max_size=30), min_size=1), st.integers(1, 60))
def test_wrapped_lines_end_between_words_and_lose_none(words: list[str], width: int) -> None:
    lines = wrapped(" ".join(words), width)
    assert [word for line in lines for word in line.split()] == words
    for line, after in itertools.pairwise(lines):
        assert cell_len(line) <= width or " " not in line
        assert cell_len(f"{line} {after.split()[0]}") > width, "it would have had room"


def test_a_warning_in_view_keeps_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of()
    message = "the discriminator D_Y has had a loss near 0 for 500 steps, so that G learns little"
    view.warned(30, message)
    for width in (24, 40, 80):
        assert message in " ".join(shown(view, width))


@pytest.mark.parametrize("width", [1, 2, 12, 34, 60, 80, 200])
def test_no_line_reaches_the_last_column(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of()
    view.measured(LOSSES, 2e-4, 4.0)
    view.saved(30)
    view.warned(30, "the discriminator D_Y has had a loss near 0 for 500 steps" * 2)
    for line in shown(view, width):  # a word that is longer is cut where it is drawn
        assert len(line) <= max(width - 1, 1) or " " not in line
    assert "step 30: the discriminator" in capsys.readouterr().err, "warned in quiet, too"


def test_losses_are_smoothed_from_the_first_on_without_a_bias() -> None:
    view = view_of()
    view.measured({**LOSSES, "G": 1.0}, 2e-4, 4.0)
    assert figures(view._losses)[0] == "G/F 1.00/0.40"
    for _ in range(3):
        view.measured({**LOSSES, "G": 0.0}, 2e-4, 4.0)
    assert 0 < float(figures(view._losses)[0][4:8]) < 0.3
    for _ in range(40):
        view.measured({**LOSSES, "G": 0.0}, 2e-4, 4.0)
    assert figures(view._losses)[0] == "G/F 0.00/0.40"


def test_a_first_epoch_tells_its_losses_and_no_rate_that_was_not_measured() -> None:
    view = view_of()
    view.epoch_done(Place(40, 2, 0), LOSSES)
    text = "\n".join(shown(view, 80))
    assert "G/F 0.50/0.40" in text
    assert "lr" not in text
    assert "pictures/s" not in text
    view.measured(LOSSES, 2e-4, 4.0)
    assert "lr 0.0002   4.0 pictures/s" in " ".join(shown(view, 120))


def test_a_log_gets_plain_lines_at_an_interval_that_grows(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    view = TrainingView(Console(), "cats2dogs", Place(), 2000, 50)
    with view.shown():
        for step in range(1, 1201):
            clock[0] += 1.0
            view.step(Place(step, 0, step))
            if step == 1:
                view.measured(LOSSES, 2e-4, 4.0)
    output = capsys.readouterr()
    assert output.out == ""
    said = output.err.splitlines()
    steps = [
        int(match[1].replace(",", ""))
        for line in said
        if (match := re.search(r"step ([\d,]+)/", line))
    ]
    assert steps == [*range(10, 300, 10), *range(350, 1201, 60)]
    assert said[0] == (
        "training epoch 1/50 step 10/2,000 0.5 % 33 min left "
        "G/F 0.50/0.40 D_X/D_Y 0.20/0.30 cycle 1.50/1.50 identity 1.50/1.50"
    )
    assert "\x1b" not in output.err
    assert "\r" not in output.err


def test_losses_that_were_said_are_not_said_again(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    view = TrainingView(Console(), "cats2dogs", Place(), 100, 5)
    for step in range(1, 51):
        clock[0] += 10.0
        if step % 10 == 5:
            view.measured({**LOSSES, "G": float(step)}, 2e-4, 4.0)
        view.step(Place(step, 0, step))
    lines = capsys.readouterr().err.splitlines()
    found = [line.partition("G/F ")[2] for line in lines]
    assert len(lines) > 25
    assert len([text for text in found if text]) == len({text for text in found if text}) == 5


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(1, 100))
def test_rows_are_those_of_a_terminal_that_wraps(lengths: list[int], width: int) -> None:
    rows = sum(len(list(range(0, max(n, 1), width))) for n in lengths)
    assert rows_of(lengths, width) == rows


def test_a_terminal_that_became_narrower_is_cleared_from_the_first_wrapped_row() -> None:
    out = io.StringIO()
    rich = RichConsole(file=out, force_terminal=True, width=80, height=30)
    live = LiveLines(rich, lambda width: Text("\n".join(["x" * min(width, 70), "y" * 10])))
    live.auto_refresh = False
    with live:
        live.refresh()
        out.truncate(0)
        live.refresh()
        assert out.getvalue().count("\x1b[1A") == 1, "two lines: one row up"
        out.truncate(0)
        rich.width = 30
        live.refresh()
        assert out.getvalue().count("\x1b[1A") == 3, "70 cells take three rows of 30"
        out.truncate(0)
        live.refresh()
        assert out.getvalue().count("\x1b[1A") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [({}, True), ({"TERM": "dumb"}, False), ({"JPY_PARENT_PID": "7"}, False)],
)
def test_lines_are_drawn_anew_only_where_that_works(
    settings: dict[str, str], drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert draws_live() is drawn


SCRIPT = """
import sys, time
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.rendering import TrainingView
from cyclegan_cli.engine.run import Place
console = Console(as_json=True)
view = TrainingView(console, "cats2dogs", Place(), 100, 5)
with view.shown():
    view.measured({"G": 0.5, "F": 0.25}, 2e-4, 4.0)
    for step in range(1, 4):
        view.step(Place(step, 0, step))
        console.result("", {"step": step})
        console.note(f"noted {step}")
        time.sleep(0.6)
    view.warned(3, "colours are inverted", "Train again.")
with console.progress("working", 2) as bar:
    console.result("", {"step": 4})
    bar.advance(2)
"""


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is a Unix thing")
@pytest.mark.parametrize("extra", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_results_reach_a_pipe_while_the_terminal_is_drawn_on(
    extra: dict[str, str], tmp_path: Path
) -> None:
    import pty

    script = tmp_path / "watch.py"
    script.write_text(SCRIPT)
    master, slave = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=slave,
        stderr=slave,
        stdout=subprocess.PIPE,
        env={**environment(), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **extra},
    )
    os.close(slave)
    drawn = read_terminal(master)
    assert program.stdout is not None
    result = program.stdout.read().decode()
    program.stdout.close()
    assert program.wait(60) == 0
    assert result.splitlines() == [f'{{"step": {step}}}' for step in range(1, 5)]
    assert b"noted 2" in drawn
    assert b"step 3: colours are inverted" in drawn
    if extra.get("TERM") == "dumb":
        assert b"\x1b" not in drawn
    else:
        assert b"G/F 0.50/0.25" in drawn
        assert b"\x1b[1A" in drawn
        assert (b"\x1b[1;36m" in drawn or b"\x1b[36m" in drawn) == (not extra)
