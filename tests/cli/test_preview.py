"""cyclegan preview: one sheet of what translate paints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_cli import translate
from cyclegan_cli.cli.app import main
from cyclegan_cli.styles.store import find_style
from tests.program import REPOSITORY

PHOTO = REPOSITORY / "docs" / "images" / "coffee.jpg"

pytestmark = pytest.mark.bundled


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.png"
    with Image.open(PHOTO) as image:
        image.convert("RGB").resize((120, 80)).save(path)
    return path


def test_a_sheet_shows_the_photograph_and_every_installed_style(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = photo.with_name("sheet.png")
    assert main(["preview", str(photo), "-o", str(sheet), "--gpu", "cpu", "--json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["pictures"] == ["photograph", "monet", "vangogh"]
    with Image.open(photo) as image, Image.open(sheet) as drawn:
        cells = [image, translate(image, "monet"), translate(image, "vangogh")]
        for index, cell in enumerate(cells):
            left, top = 12 + index * (120 + 12), 12 + 26
            shown = np.asarray(drawn.crop((left, top, left + 120, top + 80)))
            assert np.array_equal(shown, np.asarray(cell))


def test_one_style_is_compared_at_strengths_and_resolutions(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["preview", str(photo), "-s", "monet", "--gpu", "cpu", "--json", "-q"]
    assert main([*arguments, "--strength", "0,1", "--resolution", "60,native"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sheet"] == str(photo.with_name("a photo_preview.jpg"))
    assert record["pictures"][1:] == [
        "monet, strength 0, resolution 60",
        "monet, strength 1, resolution 60",
        "monet, strength 0, resolution native",
        "monet, strength 1, resolution native",
    ]
    with Image.open(record["sheet"]) as sheet:
        # The photograph and two strengths across, two resolutions down.
        assert sheet.size == (12 + 3 * 132, 12 + 2 * (80 + 26 + 12))


def test_one_style_is_shown_at_its_own_resolution_and_around_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(PHOTO) as image:
        image.convert("RGB").resize((700, 60)).save(tmp_path / "wide.png")
    arguments = ["preview", str(tmp_path / "wide.png"), "-s", "monet", "--gpu", "cpu", "-q"]
    assert main([*arguments, "--json"]) == 0
    names = json.loads(capsys.readouterr().out)["pictures"]
    own = find_style("monet").resolution
    assert own is not None
    sides = [str(own * 5 // 8), str(own), "native"]
    assert names[1:] == [
        f"monet, strength {strength}, resolution {side}"
        for side in sides
        for strength in ("0.4", "0.7", "1")
    ]


def test_each_style_is_compared_with_the_photographs_colours(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = photo.with_name("sheet.png")
    arguments = ["preview", str(photo), "-o", str(sheet), "--gpu", "cpu", "--json", "-q"]
    assert main([*arguments, "--keep-color"]) == 0
    names = json.loads(capsys.readouterr().out)["pictures"]
    assert names == [
        "photograph",
        *("monet", "monet, photo's colours", "vangogh", "vangogh, photo's colours"),
    ]
    with Image.open(photo) as image, Image.open(sheet) as drawn:
        for row, style in enumerate(("monet", "vangogh")):
            for column, keep in ((1, False), (2, True)):
                left, top = 12 + column * 132, 12 + 26 + row * (80 + 26 + 12)
                shown = np.asarray(drawn.crop((left, top, left + 120, top + 80)))
                painted = translate(image, style, keep_color=keep)
                assert np.array_equal(shown, np.asarray(painted))


def test_a_style_can_be_a_file(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(find_style("vangogh").directions["xy"].file.read_bytes())
    sheet = tmp_path / "sheet.png"
    arguments = ["preview", str(photo), "-s", str(weights), "--strength", "1", "--gpu", "cpu"]
    assert main([*arguments, "--resolution", "native", "-o", str(sheet), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == ["photograph", "mine"]
    with Image.open(photo) as image, Image.open(sheet) as drawn:
        shown = np.asarray(drawn)
        painted = np.asarray(translate(image, str(weights), resolution="native"))
    places = [
        shown[top : top + 80, left : left + 120]
        for top in range(0, shown.shape[0] - 79)
        for left in (12, 144)
        if left + 120 <= shown.shape[1]
    ]
    assert any(np.array_equal(place, painted) for place in places)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-s", "monte"], "Did you mean monet"),
        (["--strength", "70"], "Did you mean 0.7?"),
        (["--resolution", "huge"], "native, or pixels"),
        (["--size", "1"], "between 64 and 4096"),
        (["-o", "nowhere/sheet.png"], "No such folder: nowhere"),
    ],
)
def test_wrong_options_change_nothing(
    options: list[str], words: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(photo.parent.rglob("*"))
    assert main(["preview", str(photo), *options]) == 2
    assert words in capsys.readouterr().err
    assert sorted(photo.parent.rglob("*")) == before


def test_an_existing_sheet_is_not_overwritten_unasked(photo: Path) -> None:
    sheet = photo.with_name("a photo_preview.jpg")
    sheet.write_bytes(b"mine")
    assert main(["preview", str(photo), "-q", "--gpu", "cpu"]) == 2
    assert sheet.read_bytes() == b"mine"
    assert main(["preview", str(photo), "-q", "--gpu", "cpu", "--overwrite"]) == 0
    assert sheet.read_bytes() != b"mine"
