"""What a look at two folders tells: copies found, two pictures not taken for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from cyclegan_cli.cli.demo import painting, photograph
from cyclegan_cli.errors import PictureError
from cyclegan_cli.media.folders import find_pictures
from cyclegan_cli.media.pictures import read_rgb, read_small
from cyclegan_cli.media.survey import (
    Domain,
    Look,
    Symptom,
    diagnose,
    look,
    same_picture,
    sizes,
    survey,
)
from tests.program import SHARED


def looks(folder: Path) -> list[Look]:
    found = survey(find_pictures(folder), 2, lambda: None)
    assert found.unusable == []
    return found.looks


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Landscapes that are each another, as photographs and as paintings."""
    root = tmp_path_factory.mktemp("scenes")
    for name, make, first in (("photos", photograph, 0), ("paintings", painting, 100)):
        (root / name).mkdir()
        for number in range(24):
            make(first + number, (96, 72)).save(root / name / f"{number:02}.png")
    return root / "photos", root / "paintings"


def test_whatever_goes_wrong_with_one_picture_is_its_own(
    scenes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_for_one(path: Path) -> Look:
        if path.name == "03.png":
            raise OSError(116, "Stale file handle")
        return look(path)

    monkeypatch.setattr("cyclegan_cli.media.survey.look", fails_for_one)
    found = survey(find_pictures(scenes[0]), 2, lambda: None)
    assert len(found.looks) == 23
    assert found.usable == [path for path in find_pictures(scenes[0]) if path.name != "03.png"]
    assert [("03.png" in str(e), "Stale" in str(e)) for e in found.unusable] == [(True, True)]


def symptoms(x: Path, y: Path, crop_size: int = 32) -> dict[str, Symptom]:
    found = diagnose(Domain("photos", looks(x)), Domain("paintings", looks(y)), crop_size=crop_size)
    assert len({symptom.kind for symptom in found}) == len(found)
    return {symptom.kind: symptom for symptom in found}


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_folders_that_are_well_have_no_symptom(scenes: tuple[Path, Path]) -> None:
    assert symptoms(*scenes) == {}


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "the same": lambda image: image,
    "half the size": lambda image: image.resize((48, 36)),
    "stretched": lambda image: image.resize((120, 60)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "paler": lambda image: ImageEnhance.Color(image).enhance(0.85),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_copy_is_found_whatever_was_done_to_it(
    change: str, kind: str, scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    x = copied(scenes[0], tmp_path / "photos")
    with Image.open(x / "05.png") as image:
        CHANGES[change](image.convert("RGB")).save(x / f"copy.{kind}")
    found = symptoms(x, scenes[1])
    assert set(found) == {"copies"}
    assert found["copies"].files == ((x / "05.png", x / f"copy.{kind}"),)
    assert found["copies"].message.startswith("1 picture of photos is")


def test_exact_copies_are_counted(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    x = copied(scenes[0], tmp_path / "photos")
    for name in ("a.png", "b.png"):
        (x / name).write_bytes((x / "03.png").read_bytes())
    found = symptoms(x, scenes[1])["copies"]
    assert found.message == "2 pictures of photos are copies of another (2 byte for byte)."
    assert [path.name for path in found.files[0]] == ["03.png", "a.png", "b.png"]


def test_a_picture_in_both_folders_is_found(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    y = copied(scenes[1], tmp_path / "paintings")
    with Image.open(scenes[0] / "07.png") as image:
        image.convert("RGB").resize((64, 64)).save(y / "taken.jpg")
    found = symptoms(scenes[0], y)
    assert set(found) == {"shared"}
    assert found["shared"].files == ((scenes[0] / "07.png", y / "taken.jpg"),)


def test_flat_pictures_are_compared_by_their_files(tmp_path: Path) -> None:
    for name, level in (("a", 40), ("b", 200), ("c", 40)):
        Image.new("RGB", (50, 40), (level, level, 90)).save(tmp_path / f"{name}.png")
    found = looks(tmp_path)
    assert [pair for pair in same_picture(found, found) if pair[0] < pair[1]] == [(0, 2)]


def test_domains_that_are_one_are_told(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "others"
    other.mkdir()
    for number in range(24):
        photograph(500 + number, (96, 72)).save(other / f"{number}.png")
    found = symptoms(scenes[0], other)
    assert set(found) == {"alike"}
    assert "standard deviations" in found["alike"].message


def test_tiny_pictures_are_told_by_the_crop(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    y = copied(scenes[1], tmp_path / "paintings")
    painting(900, (96, 20)).save(y / "low.png")
    found = symptoms(scenes[0], y)
    assert set(found) == {"tiny"}
    assert found["tiny"].files == ((y / "low.png",),)
    assert "smaller than the crop of 32" in found["tiny"].message


def test_data_of_12_bits_in_files_of_16_are_told(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    x = copied(scenes[0], tmp_path / "photos")
    values = np.asarray(photograph(900, (96, 72))).astype(np.uint16) * 16  # 0 … 4080
    tifffile.imwrite(x / "few.tif", values, photometric="rgb")
    tifffile.imwrite(x / "all.tif", values[:, ::-1] * 16, photometric="rgb")
    found = symptoms(x, scenes[1])
    assert set(found) == {"dark"}
    assert found["dark"].files == ((x / "few.tif",),)
    assert "12" in found["dark"].hint


def test_grey_pictures_matter_where_the_other_domain_has_few(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    x = tmp_path / "photos"
    x.mkdir()
    for number, path in enumerate(sorted(scenes[0].iterdir())):
        with Image.open(path) as image:
            image.convert("L" if number % 3 == 0 else "RGB").save(x / f"{number:02}.jpg")
    found = symptoms(x, scenes[1])
    assert set(found) == {"grey"}
    assert "8 of the 24 pictures of photos are grey" in found["grey"].message
    assert len(found["grey"].files) == 8


@hypothesis_settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=9))
def test_the_sizes_are_the_least_the_middle_and_the_most(shapes: list[tuple[int, int]]) -> None:
    blank = Look(Path("a"), (1, 1), "", np.zeros((16, 16, 3), np.float32), False, (0.0,) * 6)
    least, middle, most = sizes([replace(blank, size=shape) for shape in shapes])
    areas = sorted(w * h for w, h in shapes)
    assert [w * h for w, h in (least, middle, most)] == [
        areas[0],
        areas[len(areas) // 2],
        areas[-1],
    ]


# -- a look at one picture ---------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_a_small_reading_is_the_whole_one_and_knows_its_size(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(3, (400, 240)).save(path, exif=exif)
    whole = read_rgb(path)
    pixels, size = read_small(path, 64)
    assert size == (whole.shape[1], whole.shape[0])
    small = (Image.fromarray(p).resize((20, 20), Image.Resampling.BOX) for p in (whole, pixels))
    a, b = (np.asarray(p, dtype=float) for p in small)
    assert np.abs(a - b).mean() < 2
    if kind == "jpg":
        assert pixels.shape[0] < whole.shape[0]


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_file_that_is_cut_short_is_found_out(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    photograph(3, (400, 240)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PictureError, match=r"cut short|damaged"):
        look(path)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_real_folders_are_well() -> None:
    found = {name: looks(SHARED / name)[:60] for name in ("photos", "monet", "vangogh")}
    for x, y in (("photos", "monet"), ("photos", "vangogh")):
        assert diagnose(Domain(x, found[x]), Domain(y, found[y]), crop_size=256) == []
