"""Videos in and out: frames, rate, length, orientation and sound stay; broken ones are told."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from cyclegan_cli.errors import PictureError
from cyclegan_cli.media import video as program
from cyclegan_cli.media.video import probe, read_frames, transcoded, write_frames
from tests.media.clips import RATE, decoded, ffmpeg, frames, levels, make_clip, sound_of

KINDS = ["mp4", "mov", "mkv", "webm", "avi", "m4v"]
KIND_OF = {kind: kind.upper() for kind in KINDS} | {"m4v": "MP4"}


class Interrupted(BaseException):
    """As Ctrl-C is: no Exception."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every ffmpeg that was started; none may live when the test ends."""
    processes: list[Any] = []
    start = program.subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> Any:
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(program.subprocess, "Popen", remember)
    yield processes
    assert processes
    assert all(process.returncode is not None for process in processes)


def copy_clip(source: Path, target: Path, kind: str, **chosen: Any) -> None:
    motion = probe(source)
    with (
        contextlib.closing(read_frames(motion)) as found,
        write_frames(target, kind, motion, **chosen) as write,
    ):
        for frame in found:
            write(frame)


def greys(found: Any) -> Any:
    """The level of each frame, at its top right."""
    return found[:, 4:-28, -20:-4].mean((1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_the_frames_the_rate_and_the_sound(
    kind: str, tmp_path: Path, started: list[Any]
) -> None:
    options = ("-c:a", "pcm_s16le") if kind == "avi" else ()
    clip = make_clip(tmp_path / f"clip.{kind}", 12, (64, 48), *options)
    copy_clip(clip, tmp_path / "new" / f"copy.{kind}", KIND_OF[kind])
    motion, found = decoded(tmp_path / "new" / f"copy.{kind}")
    assert found.shape == (12, 48, 64, 3)
    assert (motion.rate, motion.frames, motion.variable) == (RATE, 12, False)
    assert motion.frames / motion.rate == 1
    assert np.abs(greys(found) - levels(12)).max() < 4
    assert np.abs(found.astype(int) - frames(12)).mean() < 6, "colours are those of the clip"
    before, after = sound_of(clip), sound_of(tmp_path / "new" / f"copy.{kind}")
    assert len(before) > 7000
    assert np.array_equal(before, after), "sound is copied, not encoded anew"
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"copy.{kind}"]


def test_rates_that_are_no_whole_numbers_stay_exact(tmp_path: Path) -> None:
    for kind in ("mp4", "mkv"):
        clip = make_clip(tmp_path / f"a.{kind}", 9, rate="30000/1001", sound=False)
        copy_clip(clip, tmp_path / f"b.{kind}", KIND_OF[kind])
        motion = probe(tmp_path / f"b.{kind}")
        assert (motion.rate, motion.frames) == (Fraction(30000, 1001), 9)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_video_is_read_upright(turn: int, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 4, sound=False)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", str(turn), "-i", str(clip), "-c", "copy", str(turned))
    motion, found = decoded(turned)
    upright = np.rot90(decoded(clip)[1], turn // 90, axes=(1, 2))
    assert (motion.width, motion.height) == upright.shape[2:0:-1]
    # Colour is stored at half size, and enlarged after the turn: edges may differ a little.
    assert np.abs(found.astype(int) - upright).mean() < 1
    assert np.abs(found[0].astype(int) - upright[0]).max() < 80, "no corner is another's"
    copy_clip(turned, tmp_path / "copy.mp4", "MP4")
    again = decoded(tmp_path / "copy.mp4")[1]
    assert again.shape == found.shape, "it is not turned twice"
    assert np.abs(again.astype(int) - found).mean() < 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(63, 47), (64, 47), (63, 48)])
def test_odd_sizes_stay(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", 3, size, sound=False)
    copy_clip(clip, tmp_path / f"copy.{kind}", KIND_OF[kind])
    found = decoded(tmp_path / f"copy.{kind}")[1]
    assert found.shape == (3, size[1], size[0], 3)
    assert np.abs(greys(found) - levels(3)).max() < 4


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 3, (64, 48), "-vf", "setsar=4/3", sound=False)
    copy_clip(clip, tmp_path / "copy.mp4", "MP4")
    assert probe(tmp_path / "copy.mp4").aspect == Fraction(4, 3)


def test_a_variable_rate_keeps_each_moment_at_its_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 12, sound=False)
    uneven = tmp_path / "uneven.mkv"  # six frames at 12 a second, then six at 4
    late = "setpts='if(lt(N,6),N,6+(N-6)*3)/12/TB'"
    ffmpeg("-i", str(clip), "-vf", late, "-fps_mode", "vfr", "-enc_time_base", "1/12", str(uneven))
    motion, found = decoded(uneven)
    assert motion.variable
    assert motion.rate == RATE, "that of its closest frames"
    expected = levels(12)[:6] + [level for level in levels(12)[6:] for _ in range(3)]
    count = len(found)
    assert abs(count - len(expected)) <= 2, "the last frame's length is the container's guess"
    assert np.abs(greys(found) - expected[:count]).max() < 4
    assert abs(count - motion.frames) <= 1


def test_sound_that_the_container_cannot_hold_is_encoded_anew(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", 12, (64, 48), "-c:a", "libvorbis")
    motion = probe(clip)
    assert motion.sounds == ("vorbis",)
    assert [transcoded(motion, kind) for kind in ("MKV", "WEBM", "MP4")] == [None, None, "aac"]
    copy_clip(clip, tmp_path / "copy.mp4", "MP4")
    assert probe(tmp_path / "copy.mp4").sounds == ("aac",)
    assert abs(len(sound_of(tmp_path / "copy.mp4")) - len(sound_of(clip))) < 800, "0.1 s"


def test_sound_that_is_longer_than_the_frames_stays_whole(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 6, seconds=2.0)
    copy_clip(clip, tmp_path / "copy.mp4", "MP4")
    assert probe(tmp_path / "copy.mp4").frames == 6
    assert np.array_equal(sound_of(clip), sound_of(tmp_path / "copy.mp4"))


def test_the_picture_is_the_first_track_and_says_how_it_is_meant(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 3)
    for kind in ("mp4", "mov", "mkv", "webm"):
        copy = tmp_path / f"copy.{kind}"
        copy_clip(clip, copy, KIND_OF[kind])
        log = subprocess.run(
            [get_ffmpeg_exe(), "-hide_banner", "-i", str(copy)],
            capture_output=True,
            check=False,
            text=True,
        ).stderr
        video, audio = (line for line in log.splitlines() if "Stream #0:" in line)
        assert "Stream #0:0" in video
        assert "yuv420p(tv, bt709, progressive)" in video
        assert "Audio" in audio


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_seen_as_ordinary_video(transfer: str, tmp_path: Path) -> None:
    """Grey of an HDR signal, against BT.2100: a fifth of white, and white (203 cd/m²)."""
    signals = {"smpte2084": (0.4194, 0.5807), "arib-std-b67": (0.4558, 0.75)}[transfer]
    greys_in = np.array([round(65535 * s) for s in signals], "<u2")
    raw = np.repeat(greys_in[:, None], 64 * 48 * 3, 1).tobytes()
    tags = f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "64x48", "-r", "5", "-i", "-"),
        *("-vf", f"scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le,{tags}"),
        *("-c:v", "libx265", "-x265-params", "log-level=none:crf=4", str(tmp_path / "hdr.mp4")),
        data=raw,
    )
    assert probe(tmp_path / "hdr.mp4").hdr
    _, found = decoded(tmp_path / "hdr.mp4")
    fifth = 255 * (1.055 * 0.2 ** (1 / 2.4) - 0.055)
    dark, white = found.mean((1, 2, 3))
    assert abs(dark - fifth) < 6
    assert 215 < white < 255, "compressed, with room for what is brighter"


def test_titles_are_kept_unless_stripped(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 2, (64, 48), "-metadata", "title=Haystacks")
    for strip in (False, True):
        copy_clip(clip, tmp_path / "copy.mp4", "MP4", strip_metadata=strip)
        text = ffmpeg("-i", str(tmp_path / "copy.mp4"), "-f", "ffmetadata", "-").decode()
        assert ("title=Haystacks" in text) is not strip


def test_quality_changes_the_size_of_the_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    motion = probe(make_clip(tmp_path / "clip.mp4", 3, sound=False))
    for kind in ("mp4", "webm", "avi"):
        sizes = []
        for quality in (10, 95, 100):
            with write_frames(
                tmp_path / f"a.{kind}", KIND_OF[kind], motion, quality=quality
            ) as write:
                for frame in noise:
                    write(frame)
            sizes.append((tmp_path / f"a.{kind}").stat().st_size)
        assert sizes[0] < sizes[1] <= sizes[2]


def test_few_frames_are_held_at_once(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 60, sound=False)
    motion = probe(clip)
    alive: list[Any] = []
    most = 0
    with write_frames(tmp_path / "copy.mp4", "MP4", motion) as write:
        for frame in read_frames(motion):
            alive.append(weakref.ref(frame))
            write(frame)
            most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 60
    assert most <= 2


# -- what is broken ----------------------------------------------------------------------------


def test_an_interrupted_video_leaves_nothing(tmp_path: Path, started: list[Any]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 12)
    target = tmp_path / "out" / "copy.mp4"
    motion = probe(clip)
    with (
        pytest.raises(Interrupted),
        contextlib.closing(read_frames(motion)) as found,
        write_frames(target, "MP4", motion) as write,
    ):
        for count, frame in enumerate(found):
            write(frame)
            if count == 5:
                assert started[-1].poll() is None, "the encoder is at work"
                raise Interrupted
    assert list(target.parent.iterdir()) == []


def test_an_output_that_was_there_survives_a_failure(tmp_path: Path) -> None:
    motion = probe(make_clip(tmp_path / "clip.mp4", 3))
    target = tmp_path / "copy.mp4"
    target.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), write_frames(target, "MP4", motion) as write:
        write(frames(1)[0])
        raise ZeroDivisionError
    assert target.read_bytes() == b"before"


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "mov"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_a_video_that_is_cut_short_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    options = ["-movflags", "+faststart"] if kind in ("mp4", "mov") else []
    clip = make_clip(tmp_path / f"clip.{kind}", 24, (64, 48), *options)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PictureError, match=str(clip)):
        list(read_frames(probe(clip)))


def test_what_is_no_video_is_refused_with_a_reason(tmp_path: Path) -> None:
    hours = tmp_path / "playlist.mp4"
    hours.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mkv").write_bytes(b"no video " * 1000)
    ffmpeg("-f", "lavfi", "-i", "sine=440:duration=0.2", str(tmp_path / "sound.mp4"))
    for name in ("playlist.mp4", "empty.mp4", "words.mkv", "sound.mp4", "missing.mp4"):
        with pytest.raises(PictureError, match=name) as caught:
            probe(tmp_path / name)
        assert not str(caught.value).endswith(": .")
    Image.new("RGB", (9, 9)).save(tmp_path / "picture.mp4", "PNG")
    said = {"picture.mp4": "it is a picture (PNG)", "empty.mp4": "empty", "sound.mp4": "no picture"}
    for name, words in said.items():
        with pytest.raises(PictureError, match=re.escape(words)):
            probe(tmp_path / name)


def test_a_name_is_a_name(tmp_path: Path) -> None:
    for name in ("-y.mp4", "concat:a|b.mp4", "%d 'é'.mp4"):
        make_clip(tmp_path / "a" / "clip.mp4", 2).rename(tmp_path / name)
        copy_clip(tmp_path / name, tmp_path / f"out {name}", "MP4")
        assert probe(tmp_path / f"out {name}").frames == 2


def test_an_encoder_that_fails_says_why(tmp_path: Path) -> None:
    motion = probe(make_clip(tmp_path / "clip.mp4", 3, sound=False))
    with (
        pytest.raises(PictureError, match=r"copy\.mp4 cannot be written: \w+"),
        write_frames(tmp_path / "copy.mp4", "MP4", motion) as write,
    ):
        for _ in range(3):
            write(np.zeros((1, 20_000, 3), np.uint8))  # wider than H.264 is
            time.sleep(0.05)
    assert not (tmp_path / "copy.mp4").exists()
