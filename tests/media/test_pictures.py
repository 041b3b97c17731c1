"""What cannot be read says why; what can is seen as a viewer shows it."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cyclegan_cli.errors import PictureError
from cyclegan_cli.media import decoding
from cyclegan_cli.media.encoding import whole_steps, write_picture
from cyclegan_cli.media.pictures import Frame, Metadata, Picture, read_picture, read_rgb
from tests.media import rawfiles as raw
from tests.media.matrix import AVIF, base, cases, deep, saved


def picture(*frames: Frame, kind: str = "PNG") -> Picture:
    return Picture(frames, "RGB", kind, 0, False, False, Metadata())


def still(pixels: object, alpha: object = None) -> Frame:
    return Frame(pixels, alpha, None)  # type: ignore[arg-type]


PNG = saved(Image.fromarray(base()), "PNG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "not a picture"),
        (PNG[:60], "cut short"),
        (saved(Image.fromarray(base()), "JPEG")[:300], "cut short"),
        (PNG[:12], "is a PNG file that is damaged"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 16, "HEI"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"II*\0\x08\0\0\0\0\0", "is a TIFF file that is damaged"),
        (b"P6 0 5 255\n", "damaged"),
    ],
)
def test_unreadable(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "odd name.png"
    path.write_bytes(data)
    for read in (read_rgb, read_picture):
        with pytest.raises(PictureError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert said in str(caught.value)


def bmp(bits: int, compression: int, masks: tuple[int, ...] = ()) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, bits, compression, 0, 0, 0, 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + bytes(16)


def jpeg2000(channels: int, kind: str, **options: object) -> bytes:
    values = np.zeros((32, 32, channels), np.uint8)
    data: bytes = imagecodecs.jpeg2k_encode(values, codecformat=kind, **options)
    return data


PCX = bytearray(raw.pcx1(np.ones((2, 2), bool), b""))
PCX[3] = 2  # bits a pixel
SGI = bytearray(saved(Image.fromarray(base()), "SGI"))
SGI[10:12] = b"\0\2"  # channels


@pytest.mark.parametrize(
    "data",
    [
        bmp(32, 3, (0x3FF00000, 0xFFC00, 0x3FF)),
        bmp(16, 3, (0xF00, 0xF0, 0xF)),
        bmp(0, 4),
        bmp(64, 0),
        bytes(PCX),
        bytes(SGI),
        imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint16), bitspersample=12),
        imagecodecs.jpeg8_encode(np.zeros((16, 16, 2), np.uint8)),
        jpeg2000(5, "jp2"),
        jpeg2000(5, "j2k"),
        jpeg2000(3, "j2k").replace(b"\xff\x52\0\x0c\0", b"\xff\x52\0\x0c\x40"),
    ],
)
def test_what_is_valid_but_not_read_is_not_called_damaged(data: bytes) -> None:
    with pytest.raises(PictureError, match="not supported") as caught:
        read_picture(data)
    assert "damaged" not in str(caught.value)


def test_a_jpeg_2000_that_is_cut_short_is() -> None:
    for kind in ("jp2", "j2k"):
        with pytest.raises(PictureError, match="damaged"):
            read_picture(jpeg2000(3, kind)[:120])


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 10, 12, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_2000_of_every_depth(signed: bool, channels: int, bits: int) -> None:
    """Pillow turns white into black where it has more than 8 bits, into grey where it has fewer."""
    top = 2**bits - 1
    ramp = np.rint(np.linspace(0, 1, 64)[None].repeat(32, 0) * top)
    values = np.stack([ramp, ramp[:, ::-1], top - ramp // 2, ramp], axis=2)[..., :channels]
    stored = values - (top + 1) // 2 if signed else values
    dtype = ("i" if signed else "u") + ("1" if bits <= 8 else "2")
    stored = stored.astype(dtype)[..., 0] if channels == 1 else stored.astype(dtype)
    data = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, bitspersample=bits)
    (frame,) = read_picture(data).frames
    colour = values[..., :1].repeat(3, 2) if channels < 3 else values[..., :3]
    white = np.iinfo(frame.pixels.dtype).max
    assert np.abs(frame.pixels / white - colour / top).max() < 0.001
    assert (frame.alpha is None) == (channels in (1, 3))
    if frame.alpha is not None:
        assert np.abs(frame.alpha / white - values[..., -1] / top).max() < 0.001


def test_a_raw_file_is_not_taken_for_its_preview(tmp_path: Path) -> None:
    path = tmp_path / "shot.NEF"
    path.write_bytes(saved(Image.fromarray(base()), "TIFF"))
    with pytest.raises(PictureError, match="raw file") as caught:
        read_rgb(path)
    assert "Develop it" in str(caught.value.hint)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no such file"):
        read_rgb(tmp_path / "no.png")
    with pytest.raises(PictureError, match="is a folder"):
        read_rgb(tmp_path)


def test_bombs(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + raw.png_chunk(b"IHDR", header) + raw.png_chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(PictureError, match="60000×60000") as caught:
        read_rgb(tmp_path / "bomb.png")
    assert caught.value.hint is not None
    assert "--max-pixels" in caught.value.hint
    pages = [Image.fromarray(base())] * 3
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert len(read_picture(data, base()[..., 0].size * 3).frames) == 3
    size = base()[..., 0].size
    with pytest.raises(PictureError, match="are allowed") as caught:
        read_picture(data, size * 3 - 1)
    # The limit that was given, not what is left of it.
    assert f"{size * 3 - 1:,} that are allowed" in str(caught.value)
    assert f"{size * 2:,} in the frames before" in str(caught.value)


def test_what_the_memory_cannot_hold_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [Image.fromarray(np.full((40, 50, 3), 60 * k, np.uint8)) for k in range(4)]
    animation = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(decoding, "_SMALL", 1000)
    monkeypatch.setattr(decoding, "available_memory", lambda: 58_000)
    with pytest.raises(PictureError, match=r"has 4,000 pixels and needs .* memory"):
        read_picture(animation)  # the second frame, with what the first will take
    assert len(read_picture(saved(frames[0], "PNG")).frames) == 1
    monkeypatch.setattr(decoding, "available_memory", lambda: 20_000)
    with pytest.raises(PictureError, match=r"stdin has 2,000 pixels"):
        read_picture(saved(frames[0], "PNG"))


def test_more_pixels_than_pillow_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert np.array_equal(read_rgb(path), base())
    assert Image.MAX_IMAGE_PIXELS == 10  # the process's own limit is as it was


def test_viewers_see_transparency_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[..., 3] = [[0, 255], [128, 51]]
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    share = pixels[..., 3:] / 255
    expected = pixels[..., :3] * share + 255 * (1 - share)
    assert np.abs(read_rgb(path) - expected).max() <= 0.51


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_rgb_of_everything(case: object, tmp_path: Path) -> None:
    """The training data's reader gives 8 bits of every file of the matrix, upright."""
    path = tmp_path / case.name  # type: ignore[attr-defined]
    path.write_bytes(case.data)  # type: ignore[attr-defined]
    expected = case.frames[0].astype(float)  # type: ignore[attr-defined]
    expected = expected / 257 if case.frames[0].dtype == np.uint16 else expected  # type: ignore[attr-defined]
    if case.alpha is not None and not case.extra.get("poster"):  # type: ignore[attr-defined]
        alpha = case.alpha[0][..., None]  # type: ignore[attr-defined]
        share = alpha / np.iinfo(alpha.dtype).max
        expected = expected * share + 255 * (1 - share)
    found = read_rgb(path)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    mean = case.mean  # type: ignore[attr-defined]
    difference = np.abs(found - expected)
    assert difference.mean() <= mean if mean else difference.max() <= 2.01


def test_threads_leave_warnings_as_they_were() -> None:
    truncated = saved(Image.fromarray(base()), "TIFF")[:-40]
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS

    def work() -> None:
        for _ in range(20):
            for data in (PNG, truncated):
                try:
                    read_picture(data)
                except PictureError:
                    continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
    assert limit == Image.MAX_IMAGE_PIXELS


# -- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("quality", "sampling"), [(None, (1, 1)), (90, (1, 1)), (89, (2, 2))])
def test_jpeg_keeps_full_colour_at_high_quality(
    quality: int | None, sampling: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    write_picture(picture(still(base())), buffer, "JPEG", quality=quality)
    image = Image.open(buffer)
    assert image.layer[0][1:3] == sampling  # type: ignore[attr-defined]


def test_quality_is_heeded() -> None:
    sizes = {}
    for kind in ("JPEG", "WEBP", *(["AVIF"] if AVIF else [])):
        for quality in (20, 80):
            buffer = io.BytesIO()
            noise = (deep() >> 8).astype(np.uint8)
            write_picture(picture(still(noise)), buffer, kind, quality=quality)
            sizes[kind, quality] = len(buffer.getvalue())
        assert sizes[kind, 20] < sizes[kind, 80]


def test_webp_at_100_is_without_loss() -> None:
    buffer = io.BytesIO()
    noise = (deep() >> 8).astype(np.uint8)
    write_picture(picture(still(noise)), buffer, "WEBP", quality=100)
    assert np.array_equal(np.asarray(Image.open(buffer)), noise)


def test_where_there_is_no_alpha_white_shows_through() -> None:
    alpha = np.zeros(base().shape[:2], np.uint8)
    for kind in ("BMP", "PPM", "JPEG"):
        buffer = io.BytesIO()
        write_picture(picture(still(base(), alpha)), buffer, kind)
        assert (np.asarray(Image.open(buffer)) == 255).all()


def test_sixteen_bits_are_rounded_not_cut() -> None:
    values = np.array([[[0, 128, 129], [65535, 65406, 65407]]], np.uint16)
    buffer = io.BytesIO()
    write_picture(picture(still(values)), buffer, "BMP")
    assert np.asarray(Image.open(buffer)).tolist() == [[[0, 0, 1], [255, 254, 255]]]


def test_pages_and_animations_are_not_cut_to_one() -> None:
    moving = picture(Frame(base(), None, 10.0), Frame(base(), None, 10.0))
    pages = picture(still(base()), still(base()), kind="TIFF")
    for what, kind, said in ((moving, "JPEG", "2 frames"), (moving, "TIFF", "2 frames"),
                             (pages, "PNG", "2 pages"), (pages, "GIF", "2 pages")):  # fmt: skip
        with pytest.raises(PictureError, match=said):
            write_picture(what, io.BytesIO(), kind)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.webp"
    target.write_bytes(b"old")
    wide = np.zeros((1, 20_000, 3), np.uint8)  # more than WebP can hold
    with pytest.raises(PictureError, match=r"a\.webp cannot be written as WEBP"):
        write_picture(picture(still(wide)), target, "WEBP")
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]
    assert target.read_bytes() == b"old"


def test_equal_pictures_are_equal_files() -> None:
    written = []
    for _ in range(2):
        buffer = io.BytesIO()
        write_picture(picture(still(base())), buffer, "PNG")
        written.append(buffer.getvalue())
    assert written[0] == written[1]


@given(st.integers(1, 9), st.integers(1, 600), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=30)
def test_deep_round_trip(width: int, height: int, alpha: bool, as_png: bool) -> None:
    random = np.random.default_rng(width * 1000 + height)
    pixels = random.integers(0, 65536, (height, width, 3), dtype=np.uint16)
    mask = random.integers(0, 65536, (height, width), dtype=np.uint16) if alpha else None
    buffer = io.BytesIO()
    write_picture(picture(still(pixels, mask)), buffer, "PNG" if as_png else "TIFF")
    data = buffer.getvalue()
    own = raw.read_png16(data) if as_png else raw.read_tiff16(data)[0]
    assert np.array_equal(own[..., :3], pixels)
    frame = read_picture(data).frames[0]
    assert np.array_equal(frame.pixels, pixels)
    if mask is None:
        assert frame.alpha is None
    else:
        assert frame.alpha is not None
        assert np.array_equal(frame.alpha, mask)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", *(["AVIF"] if AVIF else [])])
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 90)), min_size=2, max_size=8),
    st.sampled_from(["opaque", "holes", "moving holes"]),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=25)
def test_frames_that_repeat_stay_frames(
    kind: str, shots: list[tuple[int, int]], alpha: str, plays: int
) -> None:
    """Each with its own time, whatever came before and comes after it."""
    frames = []
    for number, tens in shots:
        mask = None if alpha == "opaque" else np.full(base().shape[:2], 255, np.uint8)
        if mask is not None:
            mask[:5, 3 * (number if alpha == "moving holes" else 0) :][:, :4] = 0
        frames.append(Frame(np.roll(base() // 64 * 64, number, 1), mask, 10.0 * tens))
    moving = Picture(tuple(frames), "RGB", kind, plays, False, True, Metadata())
    buffer = io.BytesIO()
    assert write_picture(moving, buffer, kind) == len(frames)
    read = read_picture(buffer.getvalue())
    assert [frame.duration for frame in read.frames] == [frame.duration for frame in frames]
    assert read.plays == plays or kind == "AVIF"
    for found, expected in zip(read.frames, frames, strict=True):
        seen = slice(None)
        if expected.alpha is not None and found.alpha is not None:
            seen = expected.alpha > 0
            assert np.array_equal(found.alpha > 127, seen)
        difference = np.abs(found.pixels.astype(int) - expected.pixels)[seen]
        assert difference.mean() < 8 if kind == "AVIF" else difference.max() == 0


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", *(["AVIF"] if AVIF else [])])
@pytest.mark.parametrize("alpha", [False, True])
def test_an_animation_may_have_one_frame(kind: str, alpha: bool) -> None:
    mask = np.full(base().shape[:2], 255, np.uint8) if alpha else None
    one = Frame(base() // 64 * 64, mask, 120.0)
    buffer = io.BytesIO()
    assert write_picture(replace(picture(one), lossless=True), buffer, kind) == 1
    (found,) = read_picture(buffer.getvalue()).frames
    difference = np.abs(found.pixels.astype(int) - one.pixels)
    assert difference.mean() < 8 if kind == "AVIF" else difference.max() == 0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=30), st.sampled_from([1, 10]))
@settings(deadline=None)
def test_rounding_of_durations_does_not_add_up(durations: list[float], step: int) -> None:
    whole = whole_steps(durations, step)
    assert all(time % step == 0 for time in whole)
    assert all(time > 0 for time, exact in zip(whole, durations, strict=True) if exact > 0)
    if min(durations) >= step:
        assert abs(sum(whole) - sum(durations)) <= step / 2 + 1e-6
