"""Every kind of picture through the pipeline with a painter that changes nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cyclegan_cli.media.pictures import read_picture
from cyclegan_cli.media.plan import Job, make_plan
from cyclegan_cli.painting.batch import Done, Event, translate_pictures
from cyclegan_cli.settings import TranslateSettings
from tests.media import rawfiles as raw
from tests.media.matrix import AVIF, Case, base, cases, saved, upright

CASES = {case.name: case for case in cases()}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Event]:
    """The whole matrix in one batch: {file name: what became of it}."""
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "in").mkdir()
    for case in CASES.values():
        (folder / "in" / case.name).write_bytes(case.data)
    plan = make_plan([str(folder / "in")], style="none", output=str(folder / "out"))
    return {Path(event.job.source or "").name: event for event in identity(plan.jobs)}


def identity(jobs: list[Job]) -> list[Event]:
    return list(translate_pictures(jobs, lambda pixels: pixels.copy(), TranslateSettings()))


def test_the_matrix_is_large() -> None:
    assert len(CASES) >= 60
    assert {case.format for case in CASES.values()} >= {
        "JPEG",
        "PNG",
        "WEBP",
        "GIF",
        "TIFF",
        "AVIF",
    }


@pytest.mark.parametrize("name", CASES)
def test_comes_out_as_it_went_in(name: str, outcome: dict[str, Event]) -> None:
    case, event = CASES[name], outcome[name]
    assert isinstance(event, Done), event
    assert event.job.target is not None
    assert event.job.target.stem == Path(name).stem
    data = event.job.target.read_bytes()
    frames, alpha, about = decoded(data, case)
    assert about["format"] == case.format
    assert len(frames) == len(case.frames)
    for index, expected in enumerate(case.frames):
        check(frames[index], expected, case, alpha_of(case, index))
        if case.alpha is not None:
            assert np.array_equal(alpha[index], case.alpha[index])
        elif alpha[index] is not None:
            assert (alpha[index] == alpha[index].max()).all()
    if case.durations is not None:
        assert about["durations"] == case.durations
        if case.format != "AVIF":
            assert about["loop"] == case.loop
    assert about["poster"] == case.extra.get("poster", False)
    if case.format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        assert b"sRGB" in about["icc"]
    assert about["orientation"] == 1


def alpha_of(case: Case, index: int) -> Any:
    return None if case.alpha is None else case.alpha[index]


def check(pixels: Any, expected: Any, case: Case, alpha: Any) -> None:
    """As many bits, the same size, and the same numbers where anything can be seen."""
    assert pixels.dtype == expected.dtype
    assert pixels.shape == expected.shape
    difference = np.abs(pixels.astype(np.int64) - expected.astype(np.int64))
    if alpha is not None and case.durations is not None:
        difference = difference[alpha > 0]  # animations do not keep colour behind transparency
    if case.mean is not None:
        assert difference.mean() <= case.mean
    else:
        assert difference.max() <= case.tolerance


def decoded(data: bytes, case: Case) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """(pixels, alpha, facts) by Pillow and by the raw readers: not by what is tested."""
    image = Image.open(io.BytesIO(data))
    about: dict[str, Any] = {
        "format": image.format,
        "icc": image.info.get("icc_profile", b"").replace(b"\0", b""),
        "orientation": image.getexif().get(0x0112, 1),
        "poster": bool(image.info.get("default_image")),
        "loop": image.info.get("loop"),
        "durations": [],
    }
    frames, alpha = [], []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        rgba = np.asarray(image.convert("RGBA"))
        frames.append(rgba[..., :3])
        alpha.append(rgba[..., 3] if image.has_transparency_data else None)
        if image.info.get("duration") is not None and not (about["poster"] and index == 0):
            about["durations"].append(float(image.info["duration"]))
    if case.frames[0].dtype == np.uint16:
        pages = [raw.read_png16(data)] if image.format == "PNG" else raw.read_tiff16(data)
        frames = [page[..., :3] for page in pages]
        alpha = [page[..., 3] if page.shape[2] == 4 else None for page in pages]
    return frames, alpha, about


# -- what travels with the pixels ------------------------------------------------------------

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" who="me"/></x:xmpmeta>'


def photo(kind: str) -> bytes:
    """A turned photo with camera, date, place, thumbnail, XMP and resolution."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "Maker", 6, "Owner"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8769)[0xA002] = 9999
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 30.0)})
    if kind == "TIFF":
        written = exif.tobytes()
        exif = Image.Exif()
        exif.load(written)  # Pillow's TIFF writer takes the parts of EXIF that were read only
        exif[700] = XMP
        options: dict[str, Any] = {}
    elif kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = {"pnginfo": info}
    else:
        options = {"xmp": XMP}
    if kind in ("WEBP", "AVIF"):
        exif[0x011A], exif[0x011B], exif[0x0128] = 300, 300, 2
    if kind == "JPEG":
        exif.get_ifd(1).update({0x0201: 0, 0x0202: 0})
    return saved(Image.fromarray(base()), kind, exif=exif, dpi=(300, 300), **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", *(["AVIF"] if AVIF else [])])
@pytest.mark.parametrize("target", ["jpg", "png", "tif", "webp", *(["avif"] if AVIF else [])])
def test_metadata_travel(kind: str, target: str, tmp_path: Path) -> None:
    source = tmp_path / "photo.bin"
    source.write_bytes(photo(kind))
    plan = make_plan([str(source)], style="s", output=str(tmp_path / f"out.{target}"))
    (event,) = identity(plan.jobs)
    assert isinstance(event, Done), event
    image = Image.open(io.BytesIO((tmp_path / f"out.{target}").read_bytes()))
    exif = image.getexif()
    assert exif[0x010F] == "Maker"
    assert exif[0x8298] == "Owner"
    assert 0x0112 not in exif
    assert exif.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05"}
    assert exif.get_ifd(0x8825) == {1: "N", 2: (48.0, 12.0, 30.0)}
    assert not exif.get_ifd(1)
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", "").encode()
    assert b'who="me"' in packet
    assert b"Orientation" not in packet
    assert image.size == (base().shape[0], base().shape[1])
    if target in ("webp", "avif"):  # which have no other place for it
        assert [exif[0x011A], exif[0x011B]] == pytest.approx([300, 300], abs=0.01)
        assert exif[0x0128] == 2
    else:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", *(["AVIF"] if AVIF else [])])
@pytest.mark.parametrize(
    "said",
    [
        '<a tiff:Orientation="6"/>',
        "<a who='me'  tiff:Orientation = '6'/>",
        "<a><tiff:Orientation>6</tiff:Orientation></a>",
        "<a><tiff:Orientation>\n 6 </tiff:Orientation></a>",
    ],
)
@pytest.mark.parametrize("in_exif", [None, 3, 8])
def test_orientation_in_xmp_counts_where_the_exif_has_none(
    in_exif: int | None, said: str, kind: str
) -> None:
    packet, exif = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{said}</x:xmpmeta>".encode(), Image.Exif()
    if in_exif is not None:
        exif[0x0112] = in_exif
    if kind == "TIFF":
        exif[700] = packet
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet.decode())
    options = {"PNG": {"pnginfo": info}, "TIFF": {}}.get(kind, {"xmp": packet})
    read = read_picture(saved(Image.fromarray(base()), kind, exif=exif, **options))
    expected = upright(base(), in_exif or 6)
    assert np.abs(read.frames[0].pixels.astype(int) - expected).mean() < 6
    assert b"Orientation" not in read.metadata.xmp
    assert b"adobe:ns:meta" in read.metadata.xmp


@pytest.mark.parametrize("target", ["jpg", "png", "tif", "webp"])
def test_metadata_are_stripped(target: str, tmp_path: Path) -> None:
    source = tmp_path / "photo.jpg"
    source.write_bytes(photo("JPEG"))
    plan = make_plan([str(source)], style="s", output=str(tmp_path / f"out.{target}"))
    settings = TranslateSettings(strip_metadata=True)
    list(translate_pictures(plan.jobs, lambda pixels: pixels, settings))
    data = (tmp_path / f"out.{target}").read_bytes()
    for secret in (b"Maker", b"Owner", b"2020:01:02", b"xmpmeta"):
        assert secret not in data
    image = Image.open(io.BytesIO(data))
    assert "dpi" not in image.info or image.info["dpi"] == (1, 1)
    assert image.size == (base().shape[0], base().shape[1])  # turned all the same
