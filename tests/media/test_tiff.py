"""TIFFs of every sample format, made by tifffile: what comes out, in translate and in train."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cyclegan_cli.errors import PictureError
from cyclegan_cli.media import encoding
from cyclegan_cli.media.encoding import write_picture
from cyclegan_cli.media.pictures import read_picture, read_rgb
from tests.media import rawfiles as raw
from tests.media.matrix import saved
from tests.test_imports import run_python

Array = NDArray[Any]

RAMP = np.linspace(0, 1, 256)[None].repeat(64, 0)
RGB = np.stack([RAMP, RAMP[:, ::-1], RAMP**2], axis=2)
VOLUME = np.zeros((4, 16, 256), np.uint16)
ALPHA = np.linspace(0.25, 1, 64)[:, None].repeat(256, 1)


def tiff(values: Array, photometric: str = "minisblack", **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric=photometric, metadata=None, **options)
    return buffer.getvalue()


def levels(share: Array, dtype: str, top: float | None = None) -> Array:
    """Shares of white as integers of ``dtype``."""
    return np.rint(share * (np.iinfo(dtype).max if top is None else top)).astype(dtype)


def planes(values: Array) -> Array:
    return np.moveaxis(values, 2, 0)


def limits(code: str, low: Any, high: Any) -> dict[str, Any]:
    """SMinSampleValue and SMaxSampleValue, of tifffile's type ``code``."""
    return {"extratags": [(340, code, 1, low, True), (341, code, 1, high, True)]}


BILLION = 2.0**32 - 1
GREYS: dict[str, tuple[bytes, Array]] = {
    "uint16": (tiff(levels(RAMP, "u2")), RAMP),
    "uint16 white is zero": (tiff(levels(RAMP, "u2"), "miniswhite"), 1 - RAMP),
    "big-endian white is zero": (tiff(levels(RAMP, "u2"), "miniswhite", byteorder=">"), 1 - RAMP),
    "float white is zero": (tiff(RAMP.astype("f4"), "miniswhite"), 1 - RAMP),
    "12 bits packed": (raw.tiff_packed(levels(RAMP, "u2", 4095), 12), RAMP),
    "10 bits packed": (raw.tiff_packed(levels(RAMP, "u2", 1023), 10), RAMP),
    "14 bits, white is zero": (
        raw.tiff_packed(levels(RAMP, "u2", 16383), 14, white_is_zero=True),
        1 - RAMP,
    ),
    "12 bits in 16, said": (tiff(levels(RAMP, "u2", 4095), **limits("H", 0, 4095)), RAMP),
    "12 bits in 16, not said": (tiff(levels(RAMP, "u2", 4095)), RAMP * 4095 / 65535),
    "uint32": (tiff(levels(RAMP, "u4")), RAMP),
    "uint32 of few values": (tiff(levels(RAMP, "u4", 65535)), RAMP * 65535 / BILLION),
    "uint64": (tiff((RAMP * 2.0**53).astype("u8") << np.uint64(10)), RAMP / 2),
    "int8": (tiff(levels(RAMP, "i1")), RAMP),
    "int16": (tiff(levels(RAMP, "i2")), RAMP),
    "int16 with negatives": (tiff((RAMP * 4095 - 1024).round().astype("i2")), RAMP),
    "int16 with negatives, said": (
        tiff((RAMP * 4095 - 1024).round().astype("i2"), **limits("h", -1024, 7166)),
        RAMP / 2,
    ),
    "int32 of 16 bits": (tiff(levels(RAMP, "i4", 65535)), RAMP),
    "int32": (tiff(levels(RAMP, "i4")), RAMP),
    "float": (tiff(RAMP.astype("f4")), RAMP),
    "half float": (tiff(RAMP.astype("f2")), RAMP),
    "double": (tiff(RAMP), RAMP),
    "dark float": (tiff((RAMP / 4).astype("f4")), RAMP / 4),
    "float of another range": (tiff((RAMP * 900 - 300).astype("f4")), RAMP),
    "float of a range that is said": (
        tiff((RAMP * 100).astype("f4"), **limits("f", 0.0, 200.0)),
        RAMP / 2,
    ),
}


@pytest.mark.parametrize("name", GREYS)
def test_grey_of_every_sample_format(name: str, tmp_path: Path) -> None:
    data, expected = GREYS[name]
    (frame,) = read_picture(data).frames
    assert frame.pixels.dtype == np.uint16
    assert frame.alpha is None
    for channel in range(3):
        assert np.abs(frame.pixels[..., channel] / 65535 - expected).max() < 0.005
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    assert np.abs(read_rgb(path) / 255 - frame.pixels / 65535).max() < 0.0021  # train's reader


def test_sixteen_bits_are_kept_exactly() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (64, 256, 3), dtype=np.uint16)
    for compression in (None, "lzw", "zlib", "packbits", "lzma", "zstd"):
        for options in ({}, {"tile": (16, 16)}, {"byteorder": ">"}, {"rowsperstrip": 7}):
            data = tiff(values, "rgb", compression=compression, **options)
            assert np.array_equal(read_picture(data).frames[0].pixels, values)
        separate = tiff(planes(values), "rgb", planarconfig="separate", compression=compression)
        assert np.array_equal(read_picture(separate).frames[0].pixels, values)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_cmyk(dtype: str, separate: bool) -> None:
    inks = np.dstack([RGB, RAMP[::-1] * 0.3])
    values = levels(inks, dtype)
    options = {"planarconfig": "separate"} if separate else {}
    data = tiff(planes(values) if separate else values, "separated", **options)
    (frame,) = read_picture(data).frames
    expected = (1 - inks[..., :3]) * (1 - inks[..., 3:])
    assert np.abs(frame.pixels / 255 - expected).max() < 0.012


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
@pytest.mark.parametrize(("photometric", "colour"), [("rgb", RGB), ("minisblack", RAMP[..., None])])
def test_alpha_of_16_bits(photometric: str, colour: Array, kind: str, separate: bool) -> None:
    stored = colour * ALPHA[..., None] if kind == "assocalpha" else colour
    values = levels(np.dstack([stored, ALPHA]), "u2")
    options = {"planarconfig": "separate"} if separate else {}
    data = tiff(planes(values) if separate else values, photometric, extrasamples=[kind], **options)
    picture = read_picture(data)
    (frame,) = picture.frames
    assert frame.pixels.dtype == np.uint16
    assert np.abs(frame.pixels / 65535 - colour).max() < 0.0001
    assert frame.alpha is not None
    assert np.array_equal(frame.alpha, values[..., -1])
    buffer = io.BytesIO()
    write_picture(picture, buffer, "TIFF")
    written = tifffile.imread(io.BytesIO(buffer.getvalue()))
    assert np.array_equal(written, np.dstack([frame.pixels, frame.alpha]))


def test_eight_bits_stay_eight() -> None:
    values = levels(np.dstack([RAMP, ALPHA]), "u1")
    data = tiff(planes(values), planarconfig="separate", extrasamples=["unassalpha"])
    (frame,) = read_picture(data).frames
    assert np.array_equal(frame.pixels[..., 0], values[..., 0])
    assert frame.alpha is not None
    assert np.array_equal(frame.alpha, values[..., 1])


def test_what_is_no_number_has_no_say() -> None:
    values = (RAMP * 900 - 300).astype("f4")
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = read_picture(tiff(values)).frames[0].pixels
    assert pixels[0, :3, 0].tolist() == [0, 65535, 0]
    assert np.abs(pixels[1:, :, 0] / 65535 - RAMP[1:]).max() < 0.005


def test_pages_of_different_kinds_with_their_turns() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(levels(RGB, "u1"), photometric="rgb", metadata=None)
        turned = [(274, "H", 1, 6, True)]
        file.write(levels(RGB, "u2"), photometric="rgb", metadata=None, extratags=turned)
        file.write(levels(RAMP, "u2"), photometric="miniswhite", metadata=None)
    first, second, third = (frame.pixels for frame in read_picture(buffer.getvalue()).frames)
    assert np.array_equal(first, levels(RGB, "u1"))
    assert np.array_equal(second, np.rot90(levels(RGB, "u2"), -1))
    assert np.array_equal(third[..., 0], 65535 - levels(RAMP, "u2"))


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_what_is_cut_short_is_no_picture(compression: str | None, kept: float) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    data = tiff(values, "rgb", compression=compression, rowsperstrip=8)
    with pytest.raises(PictureError, match=r"cut short|damaged"):
        read_picture(data[: int(len(data) * kept)])


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_strips_that_are_missing_are_not_black(compression: str | None) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    for name in ("StripOffsets", "StripByteCounts"):
        data = io.BytesIO(tiff(values, "rgb", compression=compression, rowsperstrip=8))
        with tifffile.TiffFile(data, mode="r+") as file:
            tag = file.pages.first.tags[name]
            tag.overwrite((*tag.value[:5], 0, *tag.value[6:]))
        with pytest.raises(PictureError, match=r"cut short|damaged"):
            read_picture(data.getvalue())


@pytest.mark.parametrize(
    ("values", "photometric", "options"),
    [
        (
            levels(np.dstack([RGB, RAMP]), "u2"),
            "separated",
            {"extratags": [(332, "H", 1, 2, True)]},
        ),
        (levels(RAMP, "u2"), "cfa", {}),
        (levels(RGB, "u2"), "cielab", {}),
        (RAMP.astype("c8"), "minisblack", {}),
        (VOLUME, "minisblack", {"volumetric": True, "tile": (4, 16, 16)}),
    ],
)
def test_what_has_no_meaning_here_is_not_supported(
    values: Array, photometric: str, options: dict[str, Any]
) -> None:
    with pytest.raises(PictureError, match="not supported"):
        read_picture(tiff(values, photometric, **options))


FOREIGN = (433, 559, 32996, 32997, 33300, 33302, 33305, 33550, 34016, 34735, 50706, 50717, 65000)
LAYOUT = (259, 266, 284, 317, 339, 530)


def check_copied(data: bytes, target: str, tag: int) -> None:
    picture, buffer = read_picture(data), io.BytesIO()
    write_picture(picture, buffer, target)
    if target == "TIFF":
        written = tifffile.imread(io.BytesIO(buffer.getvalue()))
        assert np.array_equal(written, picture.frames[0].pixels)
    assert tag in LAYOUT or tag not in Image.open(buffer).getexif()


@pytest.mark.parametrize("target", ["TIFF", "JPEG"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_tags_of_other_programs_are_not_copied(dtype: str, target: str) -> None:
    values = levels(RGB, dtype)
    for tag in FOREIGN:
        for code, value in (("H", 8), ("f", 1.5), ("s", "text")):
            tags = [(tag, code, None if code == "s" else 1, value, True)]
            check_copied(tiff(values, "rgb", extratags=tags), target, tag)


def test_tags_of_the_layout_are_not_copied() -> None:
    for tag in LAYOUT:  # which the EXIF of a JPEG can hold, too
        exif = Image.Exif()
        exif[tag] = 8
        check_copied(saved(Image.fromarray(levels(RGB, "u1")), "JPEG", exif=exif), "TIFF", tag)


def test_text_and_ratings_are_copied_but_no_description_of_a_layout() -> None:
    texts = {270: "A view", 271: "Maker", 305: "Program", 315: "Me", 33432: "Mine"}
    tags = [(tag, "s", None, text, True) for tag, text in texts.items() if tag != 305]
    tags += [(18246, "H", 1, 4, True)]
    for description in ("A view", "ImageJ=1.53\nimages=9", '{"shape": [64, 256]}', "<OME></OME>"):
        tags[0] = (270, "s", None, description, True)
        data = tiff(levels(RGB, "u1"), "rgb", extratags=tags, software="Program")
        buffer = io.BytesIO()
        write_picture(read_picture(data), buffer, "TIFF")
        exif = Image.open(buffer).getexif()
        assert {tag: exif.get(tag) for tag in texts if tag != 270} == {
            tag: text for tag, text in texts.items() if tag != 270
        }
        assert exif[18246] == 4
        assert exif.get(270) == (description if description == "A view" else None)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
def test_what_cannot_be_read_again_is_not_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encoding._encode

    def torn(picture: Any, kind: str, look: Any, file: Any) -> None:
        whole(picture, kind, look, file)
        file.truncate(file.tell() // 2)

    monkeypatch.setattr(encoding, "_encode", torn)
    picture = read_picture(tiff(levels(RGB, "u1"), "rgb"))
    target = tmp_path / "a"
    target.write_bytes(b"old")
    for destination in (target, io.BytesIO()):
        with pytest.raises(PictureError, match=f"cannot be written as {kind}"):
            write_picture(picture, destination, kind)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_pictures_are_read_without_tifffile(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(levels(RGB, "u1")).save(path)
    code = (
        "import sys; from pathlib import Path; import cyclegan_cli.painting.batch; "
        "from cyclegan_cli.media.pictures import read_picture; "
        f"read_picture(Path({str(path)!r})); "
        "print(*{'tifffile', 'imagecodecs'} & {*sys.modules})"
    )
    assert run_python(code).stdout.strip() == ""


@pytest.mark.parametrize("name", ["uint16 white is zero", "int16 with negatives"])
def test_the_first_file_of_a_process_is_read_as_all_others(name: str, tmp_path: Path) -> None:
    """Pillow loads its reader of TIFF late."""
    path = tmp_path / "a.tif"
    path.write_bytes(GREYS[name][0])
    code = (
        "from pathlib import Path; from cyclegan_cli.media.pictures import read_picture; "
        f"print(read_picture(Path({str(path)!r})).frames[0].pixels[0, ::50, 0].tolist())"
    )
    expected = read_picture(path).frames[0].pixels[0, ::50, 0].tolist()
    assert run_python(code).stdout.strip() == str(expected)
