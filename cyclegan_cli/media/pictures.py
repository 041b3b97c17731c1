"""Pictures in: orientation, colour, alpha, metadata, depth, frames and pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cyclegan_cli import __version__
from cyclegan_cli.media import colour, deep
from cyclegan_cli.media.colour import Array, to_8_bits
from cyclegan_cli.media.decoding import MAX_PIXELS, check_memory, check_size, decoding, opened
from cyclegan_cli.media.formats import ANIMATED, PAGED, PAINTED, is_lossless_webp

# Who made a picture, when and how: text, ratings, and the numbers of the exposure. Other tags say
# how pixels are stored, and could make another file unreadable.
_TEXT = frozenset({11, 269, 270, 271, 272, 285, 305, 306, 315, 316, 33432})
_RATINGS = frozenset({18246, 18249})
_XP = frozenset(range(40091, 40096))  # Windows' title, comment, author, keywords, subject: UTF-16
_EXPOSURE = frozenset(
    {33434, 33437, 34850, 34852, 34855, *range(34864, 34870), *range(36864, 36883),
     *range(37377, 37397), 37500, 37510, *range(37520, 37523), *range(37888, 37894), 40960, 40964,
     *range(41483, 41730), *range(41985, 41997), *range(42016, 42083)}
)  # fmt: skip
_POSITION = frozenset(range(32))
# Descriptions by which programs lay out the pixels of a TIFF: ImageJ, tifffile, OME.
_LAYOUT = re.compile(r'ImageJ=|\{"shape"|(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<OME\b', re.DOTALL)
_XMP_ORIENTATION = re.compile(
    rb'\s*tiff:Orientation\s*=\s*["\'](\d+)["\']|<tiff:Orientation>\s*(\d+)\s*</tiff:Orientation>'
)
_RESOLUTION = (282, 283)  # EXIF's, by which WebP and AVIF have one
_RESOLUTION_UNIT, _INCH, _CENTIMETRE = 296, 2, 3
_SIDEWAYS = (5, 6, 7, 8)  # orientations that change width for height


@dataclass(frozen=True)
class Metadata:
    """``exif``: a TIFF structure, or empty; ``xmp``: a packet, or empty; ``dpi``: None, unknown."""

    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class Frame:
    """Pixels H×W×3 sRGB and alpha H×W, uint8 or uint16. ``duration``: milliseconds, if animated."""

    pixels: Array
    alpha: Array | None
    duration: float | None


@dataclass(frozen=True)
class Picture:
    """A decoded file. ``mode`` and ``format`` are Pillow's names for the original.

    ``plays``: how often an animation runs, 0 for ever. ``poster``: the first frame is for programs
    that know no APNG, and not shown by others. ``lossless``: it was a WebP without loss.
    """

    frames: tuple[Frame, ...]
    mode: str
    format: str
    plays: int
    poster: bool
    lossless: bool
    metadata: Metadata

    @property
    def animated(self) -> bool:
        """Whether the frames are shown one after another; pages are not."""
        return self.frames[-1].duration is not None


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The (first) picture in ``path`` as H×W×3 sRGB in 0..255, upright, on white.

    Raises PictureError for anything that cannot be read, or has more than ``MAX_PIXELS`` pixels.
    """
    return read_small(path)[0]


def read_small(path: Path, side: int | None = None) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """``read_rgb``, of a JPEG at the smallest fraction with at least ``side`` pixels a side.

    Returns H×W×3, and (width, height) of the whole picture. The file is read to the end.
    """
    name = str(path)
    with decoding(name), opened(path, name, MAX_PIXELS) as image:
        whole = image.size
        if side is not None and image.format in ("JPEG", "MPO"):  # HEIF: a thumbnail
            image.draft(None, (side, side))
        coarse = image.size != whole
        pixels = on_white(*_decode(image))
        if not coarse:
            whole = (pixels.shape[1], pixels.shape[0])
        elif _orientation(image) in _SIDEWAYS:
            whole = whole[::-1]
    return pixels, whole


def read_picture(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Everything in ``source``, a path or a file's bytes; of an MPO the first picture.

    ``max_pixels``: of all frames together. Raises PictureError for anything that cannot be read.
    """
    called = str(source) if isinstance(source, Path) else "stdin"
    if isinstance(source, Path) and source.is_fifo():
        with decoding(called):
            source = source.read_bytes()  # it can be read once only
    with decoding(called), opened(source, called, max_pixels) as image:
        kind, mode = image.format or "", image.mode
        many = kind in ANIMATED | PAGED
        count = max(1, getattr(image, "n_frames", 1)) if many else 1
        poster = count > 1 and bool(image.info.get("default_image"))
        frames: list[Frame] = []
        metadata = Metadata()
        total = 0
        for index in range(count):
            if index:
                image.seek(index)
            check_size(image, called, max_pixels, total)
            check_memory(image, called, total)
            total += image.width * image.height
            pixels, alpha = _decode(image)
            if index == 0:  # a block that cannot be parsed is left out: no reader could use it
                xmp = _XMP_ORIENTATION.sub(b"", _packet(image))
                metadata = Metadata(_exif(image), xmp, _dpi(image))
            shown = None
            if count > 1 and kind in ANIMATED and not (poster and index == 0):
                shown = float(image.info.get("duration") or 0)
            frames.append(Frame(pixels, alpha, shown))
        loop = image.info.get("loop")
        plays = int(loop or 0)
        if kind == "GIF":  # which counts repetitions, and says nothing for once
            plays = 1 if loop is None else 0 if loop == 0 else int(loop) + 1
        return Picture(
            tuple(frames),
            mode,
            "JPEG" if kind == "MPO" else kind,
            plays,
            poster,
            kind == "WEBP" and is_lossless_webp(source),
            metadata,
        )


def _decode(image: Image.Image) -> tuple[Array, Array | None]:
    """(H×W×3 sRGB, H×W alpha or None) of the frame that ``image`` is at, upright."""
    profile = image.info.get("icc_profile")
    # Pillow turns TIFFs, those that it decodes, as far as it knows.
    plain_tiff = image.format == "TIFF" and not getattr(image, "deep", 0)
    is_turned = plain_tiff and _exif_orientation(image) is not None
    stored = _stored_deep(image)
    pixels: Array
    alpha: Array | None
    if stored is None:
        rgb, mask = colour.to_srgb(image)
        pixels, alpha = np.array(rgb), None if mask is None else np.array(mask)
    else:
        values, alpha = stored
        if values.dtype == np.uint16 and values.shape[2:] != (4,):
            pixels = colour.deep_to_srgb(values, profile)
        else:
            mode = {2: "L"}.get(values.ndim, "RGB" if values.shape[-1] == 3 else "CMYK")
            size, data = (values.shape[1], values.shape[0]), to_8_bits(values).tobytes()
            eight = Image.frombytes(mode, size, data)
            eight.info["icc_profile"] = profile
            pixels = np.array(colour.to_srgb(eight)[0])
            alpha = None if alpha is None else to_8_bits(alpha)
    turn = 1 if is_turned else _orientation(image)
    return _turned(pixels, turn), None if alpha is None else _turned(alpha, turn)


def _stored_deep(image: Image.Image) -> tuple[Array, Array | None] | None:
    """(H×W grey, H×W×3 RGB or H×W×4 CMYK; alpha or None) of what Pillow decodes to 8 bits or not
    at all, neither turned nor in sRGB. None for all else, which is loaded.
    """
    if isinstance(image, deep.TiffImage) and image.deep:
        return deep.read_page(image)
    if (values := deep.read_deep(image)) is not None:
        count = values.shape[2]
        colours = count if image.mode == "CMYK" else {1: 1, 2: 1}.get(count, 3)
        alpha = values[..., colours] if count > colours else None
        return values[..., 0] if colours == 1 else values[..., :colours], alpha
    if image.format == "PCX" and image.mode == "1":
        return _two_colours(image), None
    image.load()
    grey, clear = colour.deep_grey(image), image.info.get("transparency")
    if grey is None:
        return None
    if not isinstance(clear, int) or not image.mode.startswith("I;16"):
        return grey, None
    return grey, np.where(grey != clear, 65535, 0).astype(np.uint16)


def _two_colours(image: Image.Image) -> NDArray[np.uint8]:
    """H×W×3 of a 1-bit PCX in the colours of its header; Pillow takes them for black and white."""
    header = deep.file_bytes(image)[:22]
    colours = np.frombuffer(header, np.uint8, 6, 16).reshape(2, 3)
    # Versions 0 and 3 have no palette; programs that write none leave it all alike.
    if header[1] in (0, 3) or (colours[0] == colours[1]).all():
        colours = np.array([[0] * 3, [255] * 3], np.uint8)
    image.load()
    return colours[np.asarray(image).astype(np.uint8)]


def on_white(pixels: Array, alpha: Array | None) -> NDArray[np.uint8]:
    """H×W×3 in 8 bits, as a viewer shows ``pixels`` on a white page."""
    eight = to_8_bits(pixels)
    if alpha is None:
        return eight
    white = Image.new("RGB", (pixels.shape[1], pixels.shape[0]), (255, 255, 255))
    clear = Image.fromarray(to_8_bits(alpha))
    return np.array(Image.composite(Image.fromarray(eight), white, clear))


def _orientation(image: Image.Image) -> int:
    """By EXIF, or by XMP where the EXIF says nothing."""
    found = _XMP_ORIENTATION.search(_packet(image))
    return _exif_orientation(image) or (int(found[1] or found[2]) if found else 1) or 1


def _turned(pixels: Array, orientation: int) -> Array:
    """Upright, from the EXIF orientation 1 to 8 (CIPA DC-008, 4.6.4); any other is taken as 1."""
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# -- what travels with a picture: EXIF, XMP, resolution; orientation and thumbnail do not ---------


def _exif_orientation(image: Image.Image) -> int | None:
    """The orientation in the EXIF, or None. Pillow adds that of XMP in its usual spelling."""
    try:
        return int(image.getexif()[ExifTags.Base.Orientation])
    except Exception:
        return None  # EXIF that cannot be parsed has no say; parsers of it fail in many ways


def tagged(exif: bytes, dpi: tuple[float, float] | None = None) -> bytes:
    """``exif`` with the tag of ``formats.is_painting``; ``dpi``: for formats that lack a field."""
    block = Image.Exif()
    if exif:
        block.load(exif)
    if dpi is not None:
        block.update({**dict(zip(_RESOLUTION, dpi, strict=True)), _RESOLUTION_UNIT: _INCH})
    block[ExifTags.Base.ProcessingSoftware] = f"{PAINTED.decode()} {__version__}"
    return block.tobytes()


def _exif(image: Image.Image) -> bytes:
    try:
        source = image.getexif()
        kept = Image.Exif()
        kept.update({tag: value for tag, value in source.items() if _is_kept(tag, value)})
        for ifd, tags in ((ExifTags.IFD.Exif, _EXPOSURE), (ExifTags.IFD.GPSInfo, _POSITION)):
            values = {tag: value for tag, value in source.get_ifd(ifd).items() if tag in tags}
            if values:
                kept[ifd] = values
        return kept.tobytes() if len(kept) else b""
    except Exception:
        return b""  # parsers of EXIF fail in many ways, and the picture is what counts


def _is_kept(tag: int, value: object) -> bool:
    if isinstance(value, str):
        return tag in _TEXT and not (tag == ExifTags.Base.ImageDescription and _LAYOUT.match(value))
    if isinstance(value, bytes):
        return tag in _XP
    return isinstance(value, int) and tag in _RATINGS


def _packet(image: Image.Image) -> bytes:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "surrogateescape")
    return packet if isinstance(packet, bytes) else b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        said, exif = image.info.get("dpi"), image.getexif()
        if not said:
            scale = {_INCH: 1.0, _CENTIMETRE: 2.54}[exif.get(_RESOLUTION_UNIT, _INCH)]
            said = [float(exif[tag]) * scale for tag in _RESOLUTION]
        x, y = (float(value) for value in said)
    except Exception:
        return None  # as for EXIF
    # 1 is what Pillow says of a TIFF that says nothing; JFIF fields end at 65535.
    return (x, y) if 1 < x < 65535 and 1 < y < 65535 else None
