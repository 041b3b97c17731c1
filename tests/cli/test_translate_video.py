"""cyclegan translate of videos, as a user types it."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_cli.cli import console
from cyclegan_cli.cli.app import main
from cyclegan_cli.engine.networks import Generator
from cyclegan_cli.engine.weights import load_generator, save_generator
from cyclegan_cli.media import video as program
from cyclegan_cli.painting import effects
from cyclegan_cli.painting.effects import Steady, paint_picture
from cyclegan_cli.settings import GeneratorSpec, TranslateSettings
from tests.media.clips import decoded, make_clip, sound_of
from tests.painting.common import painter_of


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    network = Generator(GeneratorSpec(name="tiny", blocks=1, width=2, upsample="resize"))
    with torch.no_grad():
        for values in network.parameters():
            values.normal_(0, 0.5)
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    save_generator(path, network)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder; pytest gets its signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "user")
    yield tmp_path / "user"
    for number, handler in before.items():
        signal.signal(number, handler)


def translate(style: Path, *arguments: str) -> int:
    return main(["translate", "--gpu", "cpu", "--style", str(style), *arguments])


def painted(style: Path, frames: Any, steady: bool, **chosen: Any) -> Any:
    """What the engine makes of the frames, without files."""
    painter, average = painter_of(load_generator(style)), Steady(12.0)
    found = []
    for frame in frames:
        average.look(frame)
        settle = average.override_stats if steady else None
        found.append(
            paint_picture(painter, frame, TranslateSettings(**chosen), override_stats=settle)
        )
    return np.stack(found).astype(int)


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def test_a_video_is_painted_with_its_sound(style: Path, capsys: Any) -> None:
    # An odd size keeps its colour whole; levels that differ less are no cuts.
    clip = make_clip(Path("clip.mp4"), 6, (63, 47), "-vf", "eq=contrast=0.4")
    source = decoded(clip)[1]
    for steady, option in ((True, "--steady"), (False, "--no-steady")):
        chosen = ("-o", "out.mp4", "--overwrite", "--quality", "100", option)
        assert translate(style, "clip.mp4", *chosen) == 0
        motion, found = decoded(Path("out.mp4"))
        assert (motion.rate, motion.frames, found.shape) == (12, 6, source.shape)
        own, other = (painted(style, source, way) for way in (steady, not steady))
        assert np.abs(found - own).mean() < 8, "the painting, but for the codec"
        assert np.abs(found - own).mean() < 0.7 * np.abs(found - other).mean()
        assert np.array_equal(sound_of(clip), sound_of(Path("out.mp4")))
    assert capsys.readouterr().out == "out.mp4\nout.mp4\n"


def test_progress_tells_the_pace_and_the_rest(
    style: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    make_clip(Path("clip.mp4"), 4, sound=False)
    assert translate(style, "clip.mp4", "-o", "out.mp4") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "frame" in line]
    assert said[0].startswith("Translating 0/1 frame 1/4")
    assert re.fullmatch(r"Translating 0/1 frame 3/4, \d+\.\d frames/s, \d+ s left", said[2])


def test_compare_and_strength_work_on_each_frame(style: Path) -> None:
    source = decoded(make_clip(Path("clip.mp4"), 3, sound=False))[1]
    assert translate(style, "clip.mp4", "-o", "a.mkv", "--compare") == 0
    found = decoded(Path("a.mkv"))[1]
    assert found.shape == (3, 48, 128, 3)
    assert np.abs(found[:, :, :64].astype(int) - source).mean() < 6
    assert translate(style, "clip.mp4", "-o", "b.mp4", "--strength", "0") == 0
    assert np.abs(decoded(Path("b.mp4"))[1].astype(int) - source).mean() < 6
    assert translate(style, "clip.mp4", "-o", "c.mp4", "--resolution", "32") == 0
    assert decoded(Path("c.mp4"))[1].shape == source.shape


def test_a_folder_of_everything(style: Path, capsys: Any) -> None:
    make_clip(Path("in/b/film.webm"), 3)
    make_clip(Path("in/broken.mp4"), 3)
    Path("in/broken.mp4").write_bytes(Path("in/broken.mp4").read_bytes()[:400])
    for name in ("a", "z"):
        Image.new("RGB", (20, 18), (9, 90, 180)).save(f"in/{name}.png")
    assert translate(style, "in", "-o", "out", "--json", "--format", "jpg") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    facts = [(line["output"], line["status"], line.get("frames")) for line in lines]
    assert sorted(facts, key=str) == [
        ("out/a.jpg", "done", 1),
        ("out/b/film.webm", "done", 3),
        ("out/broken.mp4", "failed", None),
        ("out/z.jpg", "done", 1),
    ]
    assert {f for f in files() if f.startswith("out")} == {
        "out/a.jpg",
        "out/b/film.webm",
        "out/z.jpg",
    }


def test_the_default_name_and_a_second_run(style: Path) -> None:
    make_clip(Path("in/clip.mov"), 2)
    assert translate(style, "in") == 0
    assert files() == {"in/clip.mov", "in/clip_tiny.mov"}
    assert translate(style, "in", "--skip-existing") == 0
    assert files() == {"in/clip.mov", "in/clip_tiny.mov"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("clip.mp4", "-o", "out.png"),
        ("clip.mp4", "-o", "out.gif"),
        ("a.png", "-o", "out.mp4"),
        ("clip.mp4", "-o", "-"),
        ("clip.mp4", "-o", "clip.mp4"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    style: Path, arguments: tuple[str, ...], capsys: Any
) -> None:
    make_clip(Path("clip.mp4"), 2)
    Image.new("RGB", (20, 18)).save("a.png")
    before = files()
    assert translate(style, *arguments) == 2
    assert "-o F" in capsys.readouterr().err, "the hint says what to type"
    assert files() == before


def test_sound_that_is_encoded_anew_is_said(style: Path, capsys: Any) -> None:
    make_clip(Path("clip.mp4"), 3)
    assert translate(style, "clip.mp4", "-o", "clip.webm") == 0
    assert "sound becomes opus" in capsys.readouterr().err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_half_written(
    style: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, code: int
) -> None:
    make_clip(Path("clip.mp4"), 12)
    processes: list[Any] = []
    start, paint = program.subprocess.Popen, effects.paint_picture

    def remember(*arguments: Any, **options: Any) -> Any:
        processes.append(start(*arguments, **options))
        return processes[-1]

    def stop_in_the_third(*arguments: Any, **chosen: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            assert [p.poll() for p in processes[-2:]] == [None, None], "both are at work"
            signal.raise_signal(signum)
        return paint(*arguments, **chosen)

    calls: list[Any] = []
    make_clip(Path("long.mp4"), 2000, (64, 48), sound=False, rate="100")
    monkeypatch.setattr(program.subprocess, "Popen", remember)
    monkeypatch.setattr(effects, "paint_picture", stop_in_the_third)
    assert translate(style, "long.mp4", "-o", "out/long.mp4") == code
    assert files() == {"clip.mp4", "long.mp4"}
    assert len(processes) == 4
    assert all(process.returncode is not None for process in processes)


def test_without_the_package_of_ffmpeg_the_system_is_asked_and_pictures_are_painted(
    style: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A painting-only installation comes without ffmpeg."""
    make_clip(folder / "clip.mp4", 2, sound=False)
    Image.new("RGB", (30, 20), "teal").save(folder / "picture.png")
    program_file = program.ffmpeg_program()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert translate(style, "clip.mp4", "picture.png", "--json") == 1
    said = capsys.readouterr()
    assert "Videos need ffmpeg, which is not installed." in said.err
    assert "pip install imageio-ffmpeg" in said.err
    assert (folder / "picture_tiny.png").exists()
    assert not (folder / "clip_tiny.mp4").exists()

    (folder / "bin").mkdir()
    (folder / "bin" / "ffmpeg").symlink_to(program_file)
    assert translate(style, "clip.mp4") == 0
    assert len(decoded(folder / "clip_tiny.mp4")[1]) == 2
