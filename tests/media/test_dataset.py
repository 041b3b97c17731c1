"""Unpaired pictures: what is drawn, how it is cut, and that the order can be found again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_cli.media.dataset import UnpairedPictures, to_float, whole_views
from cyclegan_cli.settings import TrainSettings
from tests.program import make_pictures

SETTINGS = TrainSettings(crop_size=32, load_size=36)


def _flat(folder: Path, levels: list[int]) -> list[Path]:
    """One picture of a single grey level each: a crop tells which picture it is of."""
    folder.mkdir()
    files = []
    for level in levels:
        files.append(folder / f"{level:03}.png")
        Image.new("RGB", (40, 40), (level, level, level)).save(files[-1])
    return files


def _levels(batch: torch.Tensor) -> list[int]:
    return [round((picture.mean().item() + 1) * 127.5) for picture in batch]


def test_an_epoch_shows_every_picture_of_the_larger_domain_once(tmp_path: Path) -> None:
    x, y = _flat(tmp_path / "x", [10, 20, 30]), _flat(tmp_path / "y", list(range(100, 107)))
    data = UnpairedPictures(x, y, SETTINGS)
    assert data.steps_per_epoch == 7
    shown = [(_levels(a)[0], _levels(b)[0]) for a, b in data.batches(0)]
    assert Counter(a for a, _ in shown).keys() == {10, 20, 30}
    assert sorted(Counter(a for a, _ in shown).values()) == [2, 2, 3]
    swapped = UnpairedPictures(y, x, SETTINGS)
    first = [_levels(a)[0] for a, _ in swapped.batches(0)]
    assert sorted(first) == list(range(100, 107))
    assert first != sorted(first)
    assert first != [_levels(a)[0] for a, _ in swapped.batches(1)]


def test_partners_are_drawn_at_random(tmp_path: Path) -> None:
    x, y = _flat(tmp_path / "x", [10, 20]), _flat(tmp_path / "y", [100, 110, 120])
    data = UnpairedPictures(x, y, SETTINGS)
    pairs = Counter(
        (_levels(a)[0], _levels(b)[0]) for epoch in range(60) for a, b in data.batches(epoch)
    )
    assert len(pairs) == 6, "every x meets every y"
    assert max(pairs.values()) < 2 * min(pairs.values())


def test_any_place_can_be_started_from_with_any_number_of_workers(tmp_path: Path) -> None:
    x = sorted(make_pictures(tmp_path / "x", 5, 1).iterdir())
    y = sorted(make_pictures(tmp_path / "y", 4, 2).iterdir())
    settings = TrainSettings(crop_size=32, load_size=36, batch_size=2)
    whole = list(UnpairedPictures(x, y, settings).batches(3))
    assert [len(a) for a, _ in whole] == [2, 2, 1]
    for workers in (0, 1, 3):
        rest = list(UnpairedPictures(x, y, settings, workers=workers).batches(3, 1))
        assert len(rest) == 2
        for (a, b), (c, d) in zip(whole[1:], rest, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


def test_the_cache_changes_nothing(tmp_path: Path) -> None:
    x = sorted(make_pictures(tmp_path / "x", 3, 1).iterdir())
    kept, read = UnpairedPictures(x, x, SETTINGS), UnpairedPictures(x, x, SETTINGS, memory=0)
    for epoch in range(2):
        for (a, b), (c, d) in zip(kept.batches(epoch), read.batches(epoch), strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


@pytest.mark.parametrize(("size", "kept"), [((200, 100), (72, 36)), ((90, 300), (36, 120))])
def test_the_aspect_is_kept_unless_distortion_is_asked_for(
    tmp_path: Path, size: tuple[int, int], kept: tuple[int, int]
) -> None:
    # A ramp along the long side: what a crop shows of it tells how much of the picture it covers.
    long = max(size)
    ramp = np.linspace(0, 255, long).astype(np.uint8)
    pixels = np.broadcast_to(ramp if size[0] == long else ramp[:, None], size[::-1])
    Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB").save(tmp_path / "ramp.png")
    files = [tmp_path / "ramp.png"]

    def covered(resize: str) -> float:
        settings = TrainSettings(crop_size=32, load_size=36, flip=False, resize=resize)  # type: ignore[arg-type]
        view = whole_views(files, settings)[0]
        return (view.max() - view.min()).item() / 2

    assert covered("keep") == pytest.approx(31 / max(kept), abs=0.03)
    assert covered("distort") == pytest.approx(31 / 36, abs=0.03)


def test_reduce_enlarges_no_picture(tmp_path: Path) -> None:
    """Stripes of one pixel stay so in a picture smaller than --load-size."""
    stripes = np.zeros((48, 56, 3), np.uint8)
    stripes[:, ::2] = 255
    small, tiny, large = (tmp_path / f"{name}.png" for name in ("small", "tiny", "large"))
    Image.fromarray(stripes).save(small)
    Image.fromarray(stripes[:20]).save(tiny)
    Image.fromarray(stripes).resize((560, 480)).save(large)
    sharp = {}
    for how in ("reduce", "keep"):
        settings = TrainSettings(crop_size=48, load_size=96, crop_range="48..96", resize=how)
        data = UnpairedPictures([small], [large], settings)
        views = [x for epoch in range(10) for x, _ in data.batches(epoch)]
        assert {tuple(view.shape) for view in [*views, whole_views([small], settings)]} == {
            (1, 3, 48, 48)
        }
        sharp[how] = all(torch.equal(v[..., 1:].abs(), v[..., :-1].abs()) for v in views)
    assert sharp == {"reduce": True, "keep": False}
    settings = replace(settings, resize="reduce")
    ((x, y),) = UnpairedPictures([tiny], [large], settings).batches(0)
    assert x.shape == y.shape == (1, 3, 48, 48), "enlarged as far as a crop needs"


def test_pictures_are_pillows_to_the_bit(tmp_path: Path) -> None:
    """Runs of any version go on exactly: the pictures are those that they began with."""
    file = make_pictures(tmp_path, 1, 1, size=(75, 50)) / "00.png"
    with Image.open(file) as image:
        bicubic = Image.Resampling.BICUBIC
        small = image.resize((60, 40), bicubic).crop((11, 1, 49, 39)).resize((32, 32), bicubic)
    settings = TrainSettings(crop_size=32, load_size=40, crop_range="32..38")
    wanted = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(whole_views([file], settings)[0], wanted)


def test_half_are_mirrored_and_none_with_no_flip(tmp_path: Path) -> None:
    pixels = np.zeros((36, 36, 3), np.uint8)
    pixels[:, 18:] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    files = [tmp_path / "half.png"]

    def mirrored(flip: bool, epochs: int) -> list[list[bool]]:
        settings = TrainSettings(crop_size=32, load_size=36, flip=flip)
        data = UnpairedPictures(files, files, settings)
        pairs = [pair for epoch in range(epochs) for pair in data.batches(epoch)]
        x, y = (
            [bool(v[0, 0, 0, 0] > v[0, 0, 0, -1]) for v in views]
            for views in zip(*pairs, strict=True)
        )
        return x, y

    assert not any(any(views) for views in mirrored(False, 100))
    # 4,000 fair coins each: four standard deviations, where a probability of 0.45 is six away.
    x, y = mirrored(True, 4000)
    for heads in (x, y, [a == b for a, b in zip(x, y, strict=True)]):
        assert abs(sum(heads) - 2000) < 4 * 1000**0.5


def test_crops_reach_every_corner(tmp_path: Path) -> None:
    pixels = np.zeros((34, 34, 3), np.uint8)
    pixels[..., 0] = np.arange(34)[:, None]
    pixels[..., 1] = np.arange(34)[None, :]
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    settings = TrainSettings(crop_size=32, load_size=34, flip=False)
    files = [tmp_path / "grid.png"] * 100
    corners = {
        tuple(((a[0, :2, 0, 0] + 1) * 127.5).round().int().tolist())
        for a, _ in UnpairedPictures(files, files, settings).batches(0)
    }
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_levels_become_minus_one_to_one() -> None:
    levels = torch.tensor([[[0, 128, 255]]], dtype=torch.uint8)
    expected = [-1.0, 128 / 127.5 - 1, 1.0]
    assert to_float(levels)[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
