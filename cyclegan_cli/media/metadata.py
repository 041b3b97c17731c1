"""What travels with a picture: EXIF, XMP, resolution. Orientation and thumbnail do not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import ExifTags, Image

from cyclegan_cli.media.formats import PAINTED
from cyclegan_cli.version import __version__

__all__ = ["Metadata", "exif_orientation", "read_metadata", "tagged", "xmp_orientation"]

# What says who made a picture, when and how: text, ratings, and the numbers of the exposure. Other
# tags say how pixels are stored, here or by some program, and could make another file unreadable.
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


@dataclass(frozen=True)
class Metadata:
    """``exif``: a TIFF structure, or empty; ``xmp``: a packet, or empty; ``dpi``: None, unknown."""

    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


def read_metadata(image: Image.Image) -> Metadata:
    """What ``image`` carries, with the orientation reset and without thumbnail.

    A block that cannot be parsed is left out: it would be no use to a reader either.
    """
    return Metadata(_exif(image), _XMP_ORIENTATION.sub(b"", _packet(image)), _dpi(image))


def exif_orientation(image: Image.Image) -> int | None:
    """The orientation in the EXIF, or None. Pillow adds that of XMP in its usual spelling."""
    try:
        return int(image.getexif()[ExifTags.Base.Orientation])
    except Exception:
        return None  # EXIF that cannot be parsed has no say; parsers of it fail in many ways


def xmp_orientation(image: Image.Image) -> int | None:
    """The orientation in the XMP, or None."""
    found = _XMP_ORIENTATION.search(_packet(image))
    return int(found[1] or found[2]) if found else None


def tagged(exif: bytes, dpi: tuple[float, float] | None = None) -> bytes:
    """``exif``, with the tag by which ``media.formats.is_painting`` knows a painting.

    ``dpi``: the resolution, for formats that have no other place for it.
    """
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
        for tag, value in source.items():
            if _is_kept(tag, value):
                kept[tag] = value
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
        x, y = (float(value) for value in image.info.get("dpi") or _exif_dpi(image.getexif()))
    except Exception:
        return None  # as for EXIF
    # 1 is what Pillow says of a TIFF that says nothing; JFIF fields end at 65535.
    return (x, y) if 1 < x < 65535 and 1 < y < 65535 else None


def _exif_dpi(exif: Image.Exif) -> list[float]:
    scale = {_INCH: 1.0, _CENTIMETRE: 2.54}[exif.get(_RESOLUTION_UNIT, _INCH)]
    return [float(exif[tag]) * scale for tag in _RESOLUTION]
