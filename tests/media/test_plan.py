"""Inputs to outputs: nothing is lost, nothing is written over, nothing is decided twice."""

from __future__ import annotations

import os
import random
import string
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from cyclegan_cli.errors import UsageError
from cyclegan_cli.media import folders
from cyclegan_cli.media.encoding import write_picture
from cyclegan_cli.media.folders import (
    PlaceKeys,
    find_pictures,
    ignores_case,
    natural_key,
    parse_list,
    read_list,
)
from cyclegan_cli.media.formats import ANIMATED, PAINTED, is_painting, may_be_read
from cyclegan_cli.media.pictures import Frame, Metadata, Picture, read_picture
from cyclegan_cli.media.plan import Job, Plan, make_plan
from cyclegan_cli.media.video import Motion, write_frames

EXTENSIONS = (".jpg", ".PNG", ".tif", ".webp", ".gif", ".heic", ".txt", "")


PNG = b"\x89PNG\r\n\x1a\n"


def touch(path: Path, data: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def targets(plan: Plan) -> list[str]:
    return [str(job.target) for job in plan.jobs]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# -- names -----------------------------------------------------------------------------------


def test_one_file_is_written_beside_itself(here: Path) -> None:
    touch(here / "a.b.JPG")
    assert make_plan(["a.b.JPG"], style="monet").jobs == [
        Job(Path("a.b.JPG"), Path("a.b_monet.JPG"), "JPEG")
    ]


@pytest.mark.parametrize(
    ("name", "file_format", "target", "written_as"),
    [
        ("a.png", None, "a_s.png", "PNG"),
        ("a.png", "jpg", "a_s.jpg", "JPEG"),
        ("a.jpeg", "JPEG", "a_s.jpeg", "JPEG"),
        ("a.heic", None, "a_s.jpg", "JPEG"),
        ("a.pgm", None, "a_s.ppm", "PPM"),
        ("a.apng", None, "a_s.apng", "PNG"),
        ("-a.png", None, "-a_s.png", "PNG"),
        ("ä 画.tif", "webp", "ä 画_s.webp", "WEBP"),
    ],
)
def test_extension(
    here: Path, name: str, file_format: str | None, target: str, written_as: str
) -> None:
    touch(here / name)
    plan = make_plan([name], style="s", file_format=file_format)
    assert plan.jobs == [Job(Path(name), Path(target), written_as)]


def test_a_name_without_extension_takes_the_kind_of_its_bytes(here: Path) -> None:
    touch(here / "v1.2", b"\xff\xd8\xff\xe0JFIF")
    touch(here / "noise", b"....")
    assert targets(make_plan(["v1.2", "noise"], style="s")) == ["v1.2_s.jpg", "noise_s.png"]


def test_output_file_folder_and_stdout(here: Path) -> None:
    touch(here / "a.png")
    (here / "there").mkdir()
    for output, target, written_as in (
        ("b.webp", "b.webp", "WEBP"),
        ("there", "there/a.png", "PNG"),
        ("new/", "new/a.png", "PNG"),
        ("new", "new/a.png", "PNG"),
    ):
        plan = make_plan(["a.png"], style="s", output=output)
        assert plan.jobs == [Job(Path("a.png"), Path(target), written_as)]
    assert make_plan(["a.png"], style="s", output="-").jobs == [Job(Path("a.png"), None, None)]
    assert make_plan(["-"], style="s").jobs == [Job(None, None, None)]
    assert make_plan(["-"], style="s", output="o.gif").jobs == [Job(None, Path("o.gif"), "GIF")]


def test_a_folder_is_mirrored(here: Path) -> None:
    for name in ("p/b.png", "p/x/a.jpg", "p/.h/a.jpg", "p/.a.jpg", "p/note.txt"):
        touch(here / name)
    plan = make_plan(["p"], style="s", output="o")
    assert targets(plan) == ["o/b.png", "o/x/a.jpg"]
    assert plan.ignored_files == 2  # the hidden folder was not looked into
    touch(here / "q/c.png")
    assert targets(make_plan(["p", "q"], style="s", output="o")) == [
        "o/p/b.png",
        "o/p/x/a.jpg",
        "o/q/c.png",
    ]


def test_a_second_run_takes_no_results_for_inputs(here: Path) -> None:
    for name in ("p/a.png", "p/a_s.png", "p/a_s.webp", "p/o_s.png"):
        touch(here / name)
    plan = make_plan(["p"], style="s", existing="skip")
    assert [str(job.source) for job in plan.jobs] == ["p/o_s.png"]  # there is no p/o.*
    assert [str(job.target) for job in plan.there_already] == ["p/a_s.png"]
    touch(here / "p/out/a.png")
    again = make_plan(["p"], style="s", output="p/out", existing="overwrite")
    assert "p/out/a.png" not in [str(job.source) for job in again.jobs]


def test_patterns_and_lists(here: Path) -> None:
    for name in ("i10.png", "i2.png", "d/i3.png", "[x].png", "@y.png"):
        touch(here / name)
    (here / "l.txt").write_bytes(b"i2.png\r\n\n[x].png\n")
    assert [str(j.source) for j in make_plan(["i*.png"], style="s").jobs] == ["i2.png", "i10.png"]
    assert len(make_plan(["**/i*.png"], style="s").jobs) == 3
    assert [str(j.source) for j in make_plan(["[x].png"], style="s").jobs] == ["[x].png"]
    assert [str(j.source) for j in make_plan(["@l.txt"], style="s").jobs] == ["i2.png", "[x].png"]
    assert [str(j.source) for j in make_plan(["@y.png"], style="s").jobs] == ["@y.png"]
    listed = read_list(Path("l.txt"))
    assert len(make_plan([], style="s", listed=listed, output="o").jobs) == 2


# -- names of their own ----------------------------------------------------------------------

JPEG = b"\xff\xd8\xff\xe0JFIF"
HEIC = b"\0\0\0\x18ftypheic"


def names(plan: Plan) -> dict[str, str]:
    """{input: output}, without their folders."""
    return {
        str(job.source and job.source.name): str(job.target and job.target.name)
        for job in plan.jobs
    }


def test_inputs_that_differ_in_their_extension_get_outputs_of_their_own(here: Path) -> None:
    touch(here / "p/IMG_1.heic", HEIC)
    touch(here / "p/IMG_1.jpg", JPEG)
    touch(here / "p/a.pgm", b"P5")
    touch(here / "p/a.ppm", b"P6")
    assert names(make_plan(["p"], style="s")) == {
        "IMG_1.heic": "IMG_1.heic_s.jpg",
        "IMG_1.jpg": "IMG_1_s.jpg",
        "a.pgm": "a.pgm_s.ppm",
        "a.ppm": "a_s.ppm",
    }
    assert names(make_plan(["p"], style="s", output="out")) == {
        "IMG_1.heic": "IMG_1.heic.jpg",
        "IMG_1.jpg": "IMG_1.jpg",
        "a.pgm": "a.pgm.ppm",
        "a.ppm": "a.ppm",
    }


def test_one_format_for_all(here: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp"):
        touch(here / "p" / name)
    expected = {"a.jpg": "a.jpg_s.png", "a.png": "a_s.png", "a.webp": "a.webp_s.png"}
    assert names(make_plan(["p"], style="s", file_format="png")) == expected
    (here / "p/a.png").unlink()  # none has the output's extension: the first keeps the name
    expected = {"a.jpg": "a_s.png", "a.webp": "a.webp_s.png"}
    assert names(make_plan(["p"], style="s", file_format="png")) == expected


def test_a_name_that_is_taken_gets_a_number(here: Path) -> None:
    touch(here / "p/a.heic", HEIC)
    touch(here / "p/a.heic.jpg", JPEG)
    touch(here / "p/a.jpg", JPEG)
    assert names(make_plan(["p"], style="s")) == {
        "a.heic": "a.heic-2_s.jpg",
        "a.heic.jpg": "a.heic_s.jpg",
        "a.jpg": "a_s.jpg",
    }


def test_a_file_that_cannot_be_read_changes_nobodys_name(here: Path) -> None:
    touch(here / "p/a.jpg", b"no picture")
    touch(here / "p/a.heic", HEIC)
    touch(here / "p/b.jpg", b"")
    found = names(make_plan(["p"], style="s"))
    assert found["a.heic"] == "a_s.jpg"
    assert found["a.jpg"] != "a_s.jpg"
    touch(here / "q/b.jpg", JPEG)
    both = make_plan(["p/b.jpg", "q/b.jpg"], style="s", output="o")  # p's is empty
    assert targets(both)[1] == "o/b.jpg"


def test_two_folders_are_refused_still(here: Path) -> None:
    for name in ("p/a.png", "q/a.png"):
        touch(here / name)
    with pytest.raises(UsageError, match=r"p/a\.png and q/a\.png would both") as caught:
        make_plan(["p/a.png", "q/a.png"], style="s", output="o")
    assert "-o FOLDER" not in str(caught.value.hint)  # which was given


def test_where_case_is_ignored_names_get_numbers(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.JPG", "a.jpg"):
        touch(here / "p" / name)
    monkeypatch.setattr(folders, "ignores_case", lambda folder: folder.name == "out")
    found = names(make_plan(["p"], style="s", output="out", file_format="png"))
    assert sorted(found.values()) == ["a.JPG.png", "a.png"] or sorted(found.values()) == [
        "a.jpg.png",
        "a.png",
    ]


def test_a_long_name_is_cut_and_stays_its_own(here: Path) -> None:
    long = ["é" * 124 + end for end in ("a.png", "b.png")]
    for name in long:
        touch(here / "p" / name)
    plan = make_plan(["p"], style="a-style")
    outputs = [os.path.basename(name) for name in targets(plan)]  # noqa: PTH119
    assert len(set(outputs)) == 2
    for output in outputs:
        assert len(os.fsencode(output)) <= 255
        assert output.startswith("é" * 50)
        assert output.endswith("_a-style.png")


def test_reverse_has_a_name_of_its_own(here: Path) -> None:
    touch(here / "p/a.png")
    assert targets(make_plan(["p"], style="s", reverse=True)) == ["p/a_s-reverse.png"]
    assert targets(make_plan(["p"], style="s", reverse=True, output="o")) == ["o/a.png"]
    touch(here / "p/a_s.png")
    touch(here / "p/a_s-reverse.png")
    plan = make_plan(["p"], style="s", reverse=True, existing="overwrite")
    assert targets(plan) == ["p/a_s-reverse.png"]
    assert plan.paintings == 2


# -- paintings -------------------------------------------------------------------------------


def painted_by_us(path: Path) -> Path:
    """A PNG as this program writes it."""
    pixels = np.zeros((2, 2, 3), np.uint8)
    frames = (Frame(pixels, None, None),)
    write_picture(Picture(frames, "RGB", "PNG", 1, False, False, Metadata()), path)
    return path


TAGGED = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "JPEG2000", "TGA")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("exif", [0, 60_000, 65_500])
@pytest.mark.parametrize("kind", TAGGED)
def test_the_metadata_say_who_painted(
    tmp_path: Path, kind: str, exif: int, count: int, dtype: Any
) -> None:
    """Also where the original had much to say, and where it is an animation."""
    if count > 1 and kind not in ANIMATED:
        return
    block = Image.Exif()
    block[ExifTags.Base.Software] = "a camera"
    if exif:
        block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = bytes(exif)
    noise = np.random.default_rng(0).integers(0, 255, (count, 90, 120, 3)).astype(dtype)
    frames = tuple(Frame(pixels, None, 50.0 if count > 1 else None) for pixels in noise)
    metadata = Metadata(block.tobytes(), b"<x:xmpmeta/>" * 5000, (300, 300))
    picture = Picture(frames, "RGB", kind, 0, False, False, metadata)
    path = tmp_path / "picture"
    write_picture(picture, path, kind)
    assert is_painting(path)
    assert read_picture(path).frames[0].pixels.shape == (90, 120, 3)
    write_picture(picture, path, kind, strip_metadata=True)
    assert not is_painting(path)


@pytest.mark.parametrize("length", [80_000, 80_001])
def test_a_webp_says_who_painted_behind_pixels_of_any_length(length: int, tmp_path: Path) -> None:
    """Chunks of an odd length are followed by a byte that does not count (RIFF)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)

    for said in (True, False):
        exif = chunk(b"EXIF", PAINTED if said else b"a camera")
        data = chunk(b"VP8L", bytes(length)) + exif + chunk(b"XMP ", bytes(80_000))
        path = touch(tmp_path / f"{said}.webp", b"RIFF\0\0\0\0WEBP" + data)
        assert is_painting(path) is said


@pytest.mark.parametrize("extension", ["mp4", "mkv", "webm", "avi"])
def test_a_videos_metadata_say_who_painted(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"film.{extension}"
    for strip in (False, True):
        motion = Motion(None, 32, 16, Fraction(10), 3)
        with write_frames(path, extension.upper(), motion, strip_metadata=strip) as write:
            for _ in range(3):
                write(np.zeros((16, 32, 3), np.uint8))
        assert is_painting(path) is not strip
        if extension == "mp4":  # where the index follows on much else
            data = path.read_bytes()
            at = int.from_bytes(data[:4], "big")
            path.write_bytes(
                data[:at] + (99_999).to_bytes(4, "big") + b"free" + bytes(99_991) + data[at:]
            )
            assert is_painting(path) is not strip


@given(st.binary(max_size=300), st.sampled_from([b"RIFF????WEBP", b"II*\0", b"MM\0*", b"\0", b""]))
@settings(deadline=None)
def test_any_file_can_be_asked(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.jpg", "a.mp4"):
        assert is_painting(touch(folder / name, head + data)) is (PAINTED in head + data)
    assert not is_painting(folder / "nothing")


def test_paintings_are_left_out_of_folders_and_patterns(here: Path) -> None:
    for name in (
        "a.png",
        "b.png",
        "a_monet.png",
        "a_own.png",
        "b_monet_vangogh.png",
        "c_monet.png",
    ):
        touch(here / "p" / name)
    painted_by_us(here / "p/elsewhere/x.png")
    known = ["monet", "vangogh"]
    kept = ["p/a.png", "p/a_own.png", "p/b.png", "p/c_monet.png"]  # of c there is no original
    for inputs in (["p"], ["p/**/*.png"]):
        plan = make_plan(inputs, style="new", styles=known)
        assert [str(job.source) for job in plan.jobs] == kept
        assert plan.paintings == 3
    everything = make_plan(["p"], style="new", styles=known, include_paintings=True)
    assert len(everything.jobs) == 7
    assert everything.paintings == 0


def test_what_is_named_is_painted(here: Path) -> None:
    touch(here / "p/a.png")
    touch(here / "p/a_monet.png")
    painted_by_us(here / "p/x.png")
    for inputs in (["p/a.png", "p/a_monet.png", "p/x.png"], ["p", "p/x.png", "p/a_monet.png"]):
        plan = make_plan(inputs, style="new", styles=["monet"], output="o")
        assert len(plan.jobs) == 3, inputs
    plan = make_plan([], listed=[Path("p/x.png")], style="new", output="o")
    assert len(plan.jobs) == 1


def test_a_folder_of_paintings_alone_is_said(here: Path) -> None:
    painted_by_us(here / "p/x.png")
    with pytest.raises(UsageError, match=r"p/x\.png: outputs of this program") as caught:
        make_plan(["p"], style="s")
    assert "--include-paintings" in str(caught.value.hint)


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        ([], {}, "Nothing to translate"),
        (["no.png"], {}, "no.png"),
        (["*.xyz"], {}, "*.xyz"),
        (["@no.txt"], {}, "no.txt"),
        ([""], {}, "No such file"),
        (["a.png", "-"], {}, "stdin"),
        (["-"], {"output": "d"}, "must name a file"),
        (["a.png"], {"output": "a.png", "existing": "overwrite"}, "a.png is an input"),
        (["a.png"], {"output": "./d/../a.png", "existing": "overwrite"}, "is an input"),
        (["a.png"], {"output": "b.png"}, "b.png exists already"),
        (["a.png", "b.png"], {"output": "x.png"}, "want a folder"),
        (["d"], {"output": "b.png"}, "want a folder"),
        (["a.png", "b.png"], {"output": "-"}, "one picture"),
        (["a.png", "d/a.png"], {"output": "o"}, "a.png and d/a.png would both"),
        (["a.png"], {"output": "x.xyz"}, "extension"),
        (["a.png"], {"file_format": "mp3"}, "mp3"),
        (["a.png"], {"output": "a.png/b.png"}, "a.png is a file"),
        (["empty"], {}, "no picture in empty"),
        (["a.png"], {"output": "n" * 300 + ".png"}, "too long"),
    ],
)
def test_refused_before_any_work(
    here: Path, inputs: list[str], options: dict[str, str], said: str
) -> None:
    for name in ("a.png", "b.png", "d/a.png"):
        touch(here / name)
    (here / "empty").mkdir()
    before = sorted(here.rglob("*"))
    with pytest.raises(UsageError) as caught:
        make_plan(inputs, style="s", **options)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert sorted(here.rglob("*")) == before


def test_existing_outputs(here: Path) -> None:
    for name in ("a.png", "b.png", "a_s.png"):
        touch(here / name)
    with pytest.raises(UsageError, match=r"a_s\.png exists already") as caught:
        make_plan(["a.png", "b.png"], style="s")
    assert caught.value.hint is not None
    assert "--overwrite" in caught.value.hint
    over = make_plan(["a.png", "b.png"], style="s", existing="overwrite")
    assert targets(over) == ["a_s.png", "b_s.png"]
    skip = make_plan(["a.png", "b.png"], style="s", existing="skip")
    assert targets(skip) == ["b_s.png"]
    (here / "b_s.png").mkdir()
    for existing in ("overwrite", "skip"):
        with pytest.raises(UsageError, match="is a folder"):
            make_plan(["b.png"], style="s", existing=existing)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_devices_and_pipes_are_no_outputs(here: Path) -> None:
    touch(here / "a.png")
    os.mkfifo(here / "pipe.png")
    for output in ("pipe.png", os.devnull):
        with pytest.raises(UsageError, match="no ordinary file") as caught:
            make_plan(["a.png"], style="s", output=output, file_format="png", existing="overwrite")
        assert "-o -" in str(caught.value.hint)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(here: Path) -> None:
    touch(here / "a.png")
    (here / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot be written to"):
        make_plan(["a.png"], style="s", output="locked")


def test_one_input_twice_is_one_job(here: Path) -> None:
    touch(here / "p/a.png")
    (here / "link").symlink_to("p")
    for inputs in (["p/a.png", "./p/a.png"], ["p", "p/a.png"], ["p/a.png", "link/a.png"]):
        assert len(make_plan(inputs, style="s", output="o").jobs) == 1


# -- folders ---------------------------------------------------------------------------------


def test_natural_order(tmp_path: Path) -> None:
    names = [
        "b/1.png",
        "a2.png",
        "a10.png",
        "A1.png",
        "b/02.png",
        "a" + "9" * 30 + ".png",
        "a١.png",
    ]
    for name in names:
        touch(tmp_path / name)
    found = [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path)]
    assert found[:1] == ["A1.png"]
    assert found.index("a2.png") < found.index("a10.png") < found.index(names[5])
    assert found.index("b/1.png") < found.index("b/02.png")


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "p/q/a.png")
    touch(tmp_path / "elsewhere/b.png")
    (tmp_path / "p/q/up").symlink_to(tmp_path / "p")
    (tmp_path / "p/again").symlink_to(tmp_path / "p/q")
    (tmp_path / "p/far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "p/dangling.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "p/pipe.png")
    found = [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path / "p")]
    assert sorted(found) == ["p/far/b.png", "p/q/a.png"]


def test_what_cannot_be_looked_at_stops_no_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(here / "p/a.png")
    touch(here / "p/locked/b.png")
    touch(here / "p/z/c.png")
    (here / "p/me.png").symlink_to("me.png")
    (here / "p/loop").symlink_to("loop")
    scan = os.scandir

    def locked(folder: Any) -> Any:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", locked)
    plan = make_plan(["p"], style="s")
    assert targets(plan) == ["p/a_s.png", "p/z/c_s.png"]
    assert ["p/locked" in str(error) for error in plan.unreadable] == [True]
    with pytest.raises(UsageError, match="p/locked cannot be read"):
        make_plan(["p/locked"], style="s")
    with pytest.raises(UsageError, match="p/locked cannot be read"):
        find_pictures(here / "p")  # a training is not to miss half of its pictures


def test_case_is_told_from_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "Some.txt")
    assert ignores_case(tmp_path / "not" / "yet") == (tmp_path / "sOME.TXT").exists()
    touch(tmp_path / "in/a.png")
    touch(tmp_path / "in/d/A.png")
    inputs = [str(tmp_path / "in/a.png"), str(tmp_path / "in/d/A.png")]
    monkeypatch.setattr(folders, "ignores_case", lambda folder: True)
    with pytest.raises(UsageError, match="would both be written"):
        make_plan(inputs, style="s", output=str(tmp_path / "o"))
    keys = PlaceKeys()
    assert keys.key(tmp_path / "STRASSE") == keys.key(tmp_path / "straße")
    assert keys.key(tmp_path / "e\u0301") == keys.key(tmp_path / "\u00e9")
    monkeypatch.setattr(folders, "ignores_case", lambda folder: False)
    assert len(make_plan(inputs, style="s", output=str(tmp_path / "o")).jobs) == 2


# -- by property -----------------------------------------------------------------------------

PART = st.text(
    st.one_of(
        st.sampled_from(string.ascii_letters + string.digits + "-_ .@*[?]{}'\"%\\\n"),
        st.characters(codec="utf-8", exclude_characters="/\0"),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    ),
    min_size=1,
    max_size=8,
).map(lambda part: os.fsdecode(os.fsencode(part)))  # as a file system gives it back
PART = PART.filter(lambda part: part not in (".", ".."))
NAME = st.tuples(st.lists(PART, max_size=2), PART, st.sampled_from(EXTENSIONS))


@given(
    names=st.lists(NAME, min_size=1, max_size=8),
    output=st.sampled_from([None, "out", "out/", "in/out", "in"]),
    file_format=st.sampled_from([None, "png", "jpg"]),
    existing=st.sampled_from(["refuse", "overwrite", "skip"]),
    as_files=st.booleans(),
)
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_plan_never_destroys(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[tuple[list[str], str, str]],
    output: str | None,
    file_format: str | None,
    existing: str,
    as_files: bool,
) -> None:
    root = tmp_path_factory.mktemp("plan")
    made: list[Path] = []
    for parents, stem, extension in names:
        path = root.joinpath("in", *parents, stem + extension)
        try:
            if not path.exists():
                made.append(touch(path))
        except OSError:
            continue  # a file where a folder is wanted, or the other way round
    if not made:
        return
    where = None if output is None else os.path.join(root, output)  # noqa: PTH118
    try:
        plan = make_plan(
            [] if as_files else [str(root / "in")],
            listed=made if as_files else [],
            style="s",
            output=where,
            file_format=file_format,
            existing=existing,  # type: ignore[arg-type]
        )
    except UsageError:
        return
    outputs = [os.path.normcase(job.target or "") for job in plan.jobs]
    sources = {os.path.normcase(job.source or "") for job in plan.jobs}
    assert len(set(outputs)) == len(outputs)
    assert not set(outputs) & sources
    assert {job.source for job in plan.jobs} <= set(made)
    for job in plan.jobs:
        assert job.source is not None
        assert job.target is not None
        if existing != "overwrite":
            assert not os.path.lexists(job.target)
        if where is None:
            assert job.target.parent == job.source.parent
        elif not as_files:
            inside = job.source.relative_to(root / "in").parent
            assert job.target.parent == Path(where) / inside


HEADS = {
    "jpg": JPEG, "JPG": JPEG, "png": PNG, "heic": HEIC, "ppm": b"P6", "pgm": b"P5", "tif": b"II*\0",
    "": JPEG, "heic.jpg": JPEG, "jpg.png": PNG, "tga": b"", "mp4": b"",
}  # fmt: skip
FILES = st.dictionaries(
    st.tuples(st.sampled_from(["a", "a_s", "b", "A"]), st.sampled_from(sorted(HEADS))),
    st.booleans(),
    min_size=1,
    max_size=9,
)


@given(
    files=FILES,
    output=st.sampled_from([None, "out"]),
    file_format=st.sampled_from([None, "png", "jpg"]),
    order=st.randoms(),
    folder=st.booleans(),
)
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_folder_is_never_refused_and_each_input_has_its_own_output(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[tuple[str, str], bool],
    output: str | None,
    file_format: str | None,
    order: random.Random,
    folder: bool,
) -> None:
    root = tmp_path_factory.mktemp("plan")
    for (stem, extension), whole in files.items():
        name = f"{stem}.{extension}" if extension else stem
        touch(root / "in" / name, HEADS[extension] if whole else b"damaged")
    where = None if output is None else str(root / output)
    options: Any = {"style": "s", "output": where, "file_format": file_format}
    options["existing"] = "overwrite"
    paths = sorted((root / "in").iterdir())
    if folder:
        if not find_pictures(root / "in"):
            return
        plan = again = make_plan([str(root / "in")], **options)
    else:
        try:
            plan = make_plan([], listed=paths, **options)
        except UsageError as error:  # of files that are named, an output can be an input
            if "is an input" in str(error) and where is None:
                return
            raise
        order.shuffle(paths)
        again = make_plan([], listed=paths, **options)
    written = [os.path.normcase(job.target or "") for job in plan.jobs]
    assert len(set(written)) == len(written)
    assert not set(written) & {os.path.normcase(job.source or "") for job in plan.jobs}
    assert set(plan.jobs) == set(again.jobs), "stable under reordering"
    # What cannot be read takes no part: without it the others are named as they are with it.
    good = [job for job in plan.jobs if job.source is not None and may_be_read(job.source)]
    if good and not folder:
        alone = make_plan([], listed=[job.source for job in good if job.source], **options)
        assert set(alone.jobs) == set(good)


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda b: b"\0" not in b), max_size=6))
@settings(deadline=None)
def test_null_lists_are_literal(names: list[bytes]) -> None:
    data = b"".join(name + b"\0" for name in names)
    assert [os.fsencode(path) for path in parse_list(data, null=True)] == [
        os.fsencode(Path(os.fsdecode(name))) for name in names
    ]


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=6))
@settings(deadline=None)
def test_numbers_sort_as_numbers(numbers: list[int]) -> None:
    names = sorted((f"img{n}.png" for n in numbers), key=natural_key)
    assert [int(name[3:-4]) for name in names] == sorted(numbers)
