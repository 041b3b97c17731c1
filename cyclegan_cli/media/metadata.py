"""What travels with a picture: EXIF, XMP, resolution. Orientation and thumbnail do not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import ExifTags, Image

from cyclegan_cli.media.formats import PAINTED
from cyclegan_cli.version import __version__

__all__ = ["Metadata", "read_metadata", "tagged"]

# Tags that speak of how the pixels were stored in the original, its thumbnail or its profile, and
# would be wrong in another file: TIFF's own, JPEG-in-TIFF's, XMP (kept apart), IPTC, Photoshop.
_STORAGE = frozenset(
    {*range(254, 270), *range(273, 282), 282, 283, 284, *range(288, 298), *range(317, 352),
     *range(512, 533), 700, 33723, 34377, 34675, 37724, 50341}
)  # fmt: skip
_SIZE_TAGS = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
_XMP_ORIENTATION = re.compile(
    rb'\s*tiff:Orientation="\d+"|<tiff:Orientation>\s*\d+\s*</tiff:Orientation>'
)


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
    return Metadata(_exif(image), _xmp(image), _dpi(image))


def tagged(exif: bytes) -> bytes:
    """``exif``, with the tag by which ``media.folders.is_painting`` knows a painting."""
    block = Image.Exif()
    if exif:
        block.load(exif)
    block[ExifTags.Base.ProcessingSoftware] = f"{PAINTED.decode()} {__version__}"
    return block.tobytes()


def _exif(image: Image.Image) -> bytes:
    try:
        source = image.getexif()
        kept = Image.Exif()
        for tag, value in source.items():
            if tag not in _STORAGE and not isinstance(value, dict):
                kept[tag] = value
        details = dict(source.get_ifd(ExifTags.IFD.Exif))
        # The pixels are turned, perhaps widened: a size in there would be a guess.
        for tag in _SIZE_TAGS:
            details.pop(tag, None)
        position = dict(source.get_ifd(ExifTags.IFD.GPSInfo))
        for ifd, values in ((ExifTags.IFD.Exif, details), (ExifTags.IFD.GPSInfo, position)):
            kept.pop(ifd, None)
            if values:
                kept[ifd] = values
        if ExifTags.Base.Orientation in kept:
            del kept[ExifTags.Base.Orientation]
        return kept.tobytes() if len(kept) else b""
    except Exception:
        return b""  # parsers of EXIF fail in many ways, and the picture is what counts


def _xmp(image: Image.Image) -> bytes:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "surrogateescape")
    return _XMP_ORIENTATION.sub(b"", packet) if isinstance(packet, bytes) else b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # 1 is what Pillow says of a TIFF that says nothing; JFIF fields end at 65535.
    return (x, y) if 1 < x < 65535 and 1 < y < 65535 else None
