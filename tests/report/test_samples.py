"""Sheets are read back as they were made, thinned out for a page, and laid out for a film."""

from __future__ import annotations

import base64
import io
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cyclegan_cli.errors import PictureError, UsageError
from cyclegan_cli.report.samples import (
    Gallery,
    Sheet,
    frame_of,
    list_sheets,
    read_sheet,
    sample_sheet,
    sheet_name,
    spread,
    thinned,
    to_image,
)
from tests.report.run_folder import colour, make_run, write_sheet


def test_a_sheet_is_read_as_it_was_made(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    names = ("x", "G(x)", "F(G(x))", "y", "F(y)", "G(F(y))")
    counts = (3, 3, 3, 2, 2, 2)
    pictures = {
        name: torch.rand(count, 3, 20, 20, generator=generator) * 2 - 1
        for name, count in zip(names, counts, strict=True)
    }
    path = tmp_path / sheet_name(5)
    sample_sheet(pictures).save(path)
    found = read_sheet(path)
    assert (len(found.x), len(found.y)) == (3, 2)
    for triples, columns in ((found.x, names[:3]), (found.y, names[3:])):
        for row, triple in enumerate(triples):
            for image, name in zip(triple, columns, strict=True):
                assert image.tobytes() == to_image(pictures[name][row]).tobytes()


def test_only_sheets_are_listed_by_step(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert list_sheets(run.folder / "samples") == []
    for step in (30, 1_000_000_000, 5):
        write_sheet(run, step)
    (run.folder / "samples" / "step-7.png").touch()
    (run.folder / "samples" / ".step-000000009.a.tmp.png").touch()
    assert [sheet.step for sheet in list_sheets(run.folder / "samples")] == [5, 30, 1_000_000_000]


@pytest.mark.parametrize("size", [None, (7, 7), (100, 101), (6, 24)])
def test_what_is_no_sheet_is_refused(size: tuple[int, int] | None, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if size is None:
        path.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    else:
        Image.new("RGB", size).save(path)
    with pytest.raises(PictureError, match=r"a\.png"):
        read_sheet(path)


def steps_of(sheets: list[Sheet]) -> list[int]:
    return [sheet.step for sheet in sheets]


@given(st.integers(1, 400), st.integers(2, 40))
def test_thinning_keeps_the_ends_and_never_brings_back_what_it_left_out(
    total: int, count: int
) -> None:
    sheets = [Sheet(step, Path()) for step in range(total)]
    now, later = steps_of(thinned(sheets, count)), None
    assert len(now) <= count
    assert now == sorted(set(now))
    assert (now[0], now[-1]) == (0, total - 1)
    later = steps_of(thinned([*sheets, Sheet(total, Path())], count))
    assert set(later) - {total} <= set(now)


@given(st.integers(1, 400), st.integers(2, 40))
def test_a_film_has_the_ends_and_even_steps(total: int, count: int) -> None:
    found = steps_of(spread([Sheet(step, Path()) for step in range(total)], count))
    assert len(found) == min(total, count)
    assert (found[0], found[-1]) == (0, total - 1)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def near(image: Image.Image, wanted: tuple[int, int, int]) -> bool:
    found = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(found, tuple)
    return all(abs(a - b) <= 6 for a, b in zip(found, wanted, strict=True))


def test_a_gallery_holds_the_pictures_of_every_moment_and_passes_over_damaged_ones(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path)
    for step in (10, 20, 30, 40):
        write_sheet(run, step)
    write_sheet(run, 20).write_bytes(b"torn")
    write_sheet(run, 30, rows=(1, 1))
    moments = Gallery(run.folder / "samples").moments()
    assert [moment.step for moment in moments] == [10, 40]
    for moment in moments:
        assert near(decoded(moment.x[1][1]), colour(moment.step, 1, 1))
        assert near(decoded(moment.y[0][2]), colour(moment.step, 5, 0))
        assert len(moment.made) == 2 * 3


def test_a_gallery_stays_within_its_budget_and_makes_large_pictures_smaller(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for step in range(1, 30):
        write_sheet(run, step, side=300 if step == 29 else 32)
    folder = run.folder / "samples"
    newest = Gallery(folder).moments()[-1]
    assert decoded(newest.x[0][0]).size == (256, 256)
    (folder / sheet_name(29)).unlink()
    whole = Gallery(folder).moments()
    size = sum(map(len, whole[-1].made))
    assert len(whole) == 28
    few = Gallery(folder, budget=7 * size).moments()
    assert 2 <= len(few) <= 7
    assert (few[0].step, few[-1].step) == (1, 28)


def test_a_frame_shows_both_directions_and_one_picture_where_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    samples = read_sheet(write_sheet(run, 10, side=128))
    whole = frame_of(samples, "step 10", 0.5, None)
    assert whole.width % 2 == whole.height % 2 == 0
    one = frame_of(samples, "step 10", 0.5, 2)
    assert one.width == whole.width
    assert whole.height - one.height == pytest.approx(134, abs=2)
    assert one.getpixel((140 + 64, 20 + 64)) == colour(10, 1, 1)
    assert whole.getpixel((140 + 64, 20 + 64)) == colour(10, 1, 0)
    assert whole.getpixel((6 + 3 * 134 + 6 + 64, 20 + 64)) == colour(10, 4, 0)
    with pytest.raises(UsageError, match="no picture 3"):
        frame_of(samples, "step 10", 0.5, 3)
