"""HEIC: read and written with pillow-heif; without it, one line says what to install."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_cli.errors import PictureError, UsageError
from cyclegan_cli.media import decoding
from cyclegan_cli.media.formats import is_painting
from cyclegan_cli.media.pictures import read_picture, read_rgb, read_small
from cyclegan_cli.media.plan import Job, make_plan
from cyclegan_cli.painting.batch import Done, translate_pictures
from cyclegan_cli.settings import TranslateSettings
from tests.media import rawfiles as raw
from tests.media.matrix import base, deep

HINT = 'pip install "cyclegan[heif]"'
HEAD = b"\0\0\0\x18ftypheic" + b"\0" * 16


# -- without pillow-heif ---------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """pillow-heif cannot be imported."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for registry in (Image.OPEN, Image.SAVE):
        monkeypatch.delitem(registry, "HEIF", raising=False)
    decoding.known_formats.cache_clear()
    yield
    decoding.known_formats.cache_clear()


@pytest.mark.usefixtures("without")
def test_reading_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(HEAD)
    for read in (read_picture, read_rgb):
        with pytest.raises(PictureError, match=r"a\.heic is a HEIC picture") as caught:
            read(tmp_path / "a.heic")
        assert caught.value.hint == HINT
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("options", [{"output": "x.heic"}, {"file_format": "heic"}])
def test_writing_is_refused_before_any_work(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("a.png")
    with pytest.raises(UsageError) as caught:
        make_plan(["a.png"], style="s", **options)
    assert caught.value.hint == HINT


# -- with it ---------------------------------------------------------------------------------


@pytest.fixture
def heif() -> Any:
    return pytest.importorskip("pillow_heif", reason='needs pip install "cyclegan[heif]"')


def made(heif: Any, pixels: Any, mode: str = "RGB", **options: Any) -> bytes:
    """A HEIC as phones write it: without loss here, to be compared."""
    buffer = io.BytesIO()
    file = heif.from_bytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    file.save(buffer, **{"quality": -1, "chroma": 444, **options})
    return buffer.getvalue()


def photo(heif: Any) -> bytes:
    """Turned by 90 degrees, with camera, XMP and a profile."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a who="me"/></x:xmpmeta>'
    return made(heif, base(), exif=exif.tobytes(), xmp=packet, icc_profile=raw.adobe_profile())


def test_a_photo_is_upright_in_srgb_with_its_metadata(heif: Any) -> None:
    picture = read_picture(photo(heif))
    shown = np.rint(raw.adobe_to_srgb(base() / 255) * 255)
    (frame,) = picture.frames
    # Rounded to YUV in the file, which the profile enlarges in the dark.
    assert np.abs(frame.pixels.astype(float) - np.rot90(shown, -1)).mean() < 1
    assert picture.format == "HEIF"
    exif = Image.Exif()
    exif.load(picture.metadata.exif)
    assert exif[0x010F] == "Maker"
    assert 0x0112 not in exif
    assert b'who="me"' in picture.metadata.xmp


def test_a_small_reading_is_the_whole_picture(heif: Any, tmp_path: Path) -> None:
    """Not its thumbnail: a file that is cut short must be found out."""
    pixels = np.kron(base(), np.ones((16, 16, 1), np.uint8))
    path = tmp_path / "a.heic"
    buffer = io.BytesIO()
    file = heif.from_bytes("RGB", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    file.save(buffer, quality=90, thumbnails=[128])
    path.write_bytes(buffer.getvalue())
    small, size = read_small(path, 64)
    assert small.shape == pixels.shape
    assert size == (pixels.shape[1], pixels.shape[0])
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(PictureError, match=r"a\.heic"):
        read_small(path, 64)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ten_bits_stay_deep(channels: int, heif: Any) -> None:
    levels = np.dstack([deep(), deep()[..., :1]])[..., :channels] >> 6
    mode = {1: "I;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    (frame,) = read_picture(made(heif, (levels << 6).astype("<u2"), mode)).frames
    assert frame.pixels.dtype == np.uint16
    assert (frame.alpha is not None) is (channels == 4)
    # One level of ten bits: colour is stored as YUV.
    assert np.abs(frame.pixels / 65535 - levels[..., :3] / 1023).max() <= 1.01 / 1023


@pytest.mark.parametrize("alpha", [False, True])
def test_written_pictures_are_read_again(alpha: bool, heif: Any, tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(photo(heif))
    image = Image.fromarray(base())
    if alpha:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "b.png", dpi=(300, 300))
    plan = make_plan([str(tmp_path)], style="s", output=str(tmp_path / "out"), file_format="heic")
    assert [job.target and job.target.name for job in plan.jobs] == ["a.heic", "b.heic"]
    first, second = translated(plan.jobs)
    assert np.abs(first.frames[0].pixels.astype(int) - upright(heif)).mean() < 3
    assert np.abs(second.frames[0].pixels.astype(int) - base()).mean() < 3
    assert (second.frames[0].alpha is not None) is alpha
    assert first.format == second.format == "HEIF"
    exif = Image.Exif()
    exif.load(first.metadata.exif)
    assert exif[0x010F] == "Maker"
    assert second.metadata.dpi == pytest.approx((300, 300), abs=0.01)
    assert all(is_painting(job.target) for job in plan.jobs if job.target)


def upright(heif: Any) -> Any:
    return read_picture(photo(heif)).frames[0].pixels.astype(int)


def translated(jobs: list[Job]) -> list[Any]:
    events = list(translate_pictures(jobs, lambda pixels: pixels.copy(), TranslateSettings()))
    assert all(isinstance(event, Done) for event in events), events
    return [read_picture(job.target) for job in jobs if job.target]


def test_quality_is_heeded_and_large_paintings_are_known(heif: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    sizes = []
    for quality in (30, 90):
        target = tmp_path / f"{quality}.heic"
        plan = make_plan([str(tmp_path / "a.png")], style="s", output=str(target))
        settings = TranslateSettings(quality=quality)
        (event,) = translate_pictures(plan.jobs, lambda pixels: pixels, settings)
        assert isinstance(event, Done), event
        assert is_painting(target)
        sizes.append(target.stat().st_size)
    assert 2 * sizes[0] < sizes[1]
    assert sizes[1] > 200_000


def test_a_heic_becomes_jpeg_unless_told_otherwise(heif: Any, tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(photo(heif))
    (job,) = make_plan([str(tmp_path)], style="s").jobs
    assert (job.target and job.target.name, job.format) == ("a_s.jpg", "JPEG")
    assert translated([job])[0].format == "JPEG"
