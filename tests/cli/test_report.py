"""cyclegan report and cyclegan timelapse: from a run's folder to a page and to a film."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cyclegan_cli.cli.app import main
from cyclegan_cli.engine.run import Run
from cyclegan_cli.media.video import probe, read_frames
from tests.report.run_folder import colour, make_run, whole_run


@pytest.fixture
def run(home: Path) -> Run:
    return whole_run(home / "runs" / "cats2dogs")


def test_the_page_is_written_anew_and_its_path_is_the_result(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "cats2dogs"]) == 0
    page = run.folder / "report.html"
    output = capsys.readouterr()
    assert (output.out, output.err) == (f"{page}\n", "")
    first = page.read_bytes()
    page.write_text("old")
    assert main(["report", str(run.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "cats2dogs", "report": str(page)}
    assert page.read_bytes() == first


def test_a_run_that_is_not_there_gets_a_suggestion(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("report", "timelapse"):
        assert main([command, "cats2dog"]) == 2
        assert "Did you mean cats2dogs?" in capsys.readouterr().err


def test_the_time_lapse_is_a_gif_in_the_run_by_default(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # it replaces its own
        assert main(["timelapse", "cats2dogs", "--fps", "5"]) == 0
    target = run.folder / "timelapse.gif"
    assert capsys.readouterr().out == f"{target}\n" * 2
    with Image.open(target) as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]
        assert film.info["loop"] == 0
        times = []
        for number, step in enumerate((10, 20, 30)):
            film.seek(number)
            times.append(film.info["duration"])
            middle = film.convert("RGB").getpixel((6 + 134 + 64, 20 + 64))
            wanted = colour(step, 1, 0)
            assert isinstance(middle, tuple)
            assert all(abs(a - b) <= 8 for a, b in zip(middle, wanted, strict=True))
    assert times == [200, 200, 2200]


@pytest.mark.parametrize("extension", ["mp4", "webm"])
def test_a_name_of_a_video_gives_a_video(
    extension: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"film.{extension}"
    command = ["timelapse", "cats2dogs", "-o", str(target), "--fps", "4", "--json"]
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == {"run": "cats2dogs", "timelapse": str(target), "frames": 3}
    motion = probe(target)
    assert (float(motion.rate), motion.frames, motion.sounds) == (4.0, 3 + 8, ())
    frames = list(read_frames(motion))
    for frame, step in zip(frames, (10, 20, 30), strict=False):
        assert all(
            abs(int(a) - b) < 16 for a, b in zip(frame[84, 204], colour(step, 1, 0), strict=True)
        )
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--picture", "2"]) == 0
    assert probe(target).height == motion.height - 134


@pytest.mark.parametrize(
    ("options", "words"),
    [(["-o", "film.jpg"], "film.jpg"), (["-o", "film"], ".gif"), (["--picture", "3"], "picture 3")],
)
def test_what_cannot_be_filmed_is_said(
    options: list[str],
    words: str,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["timelapse", "cats2dogs", *options]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_damaged_sheet_is_left_out_and_a_run_without_any_says_so(
    run: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "samples" / "step-000000020.png").write_bytes(b"torn")
    assert main(["timelapse", "cats2dogs"]) == 0
    assert "left out" in capsys.readouterr().err
    with Image.open(run.folder / "timelapse.gif") as film:
        assert film.n_frames == 2  # type: ignore[attr-defined]
    make_run(home / "runs" / "new", name="new")
    assert main(["timelapse", "new"]) == 2
    assert "--sample-every" in capsys.readouterr().err
