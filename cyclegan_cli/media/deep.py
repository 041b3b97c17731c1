"""What Pillow decodes to 8 bits, wrongly or not at all: TIFF by tifffile, and PNG and JPEG 2000 of
16 bits by imagecodecs. Metadata are Pillow's.

TIFFs of 16 bits are written by Pillow: a row of W 16-bit pixels is, byte for byte, a row of 2W
8-bit pixels; width and depth are corrected in the file's directory.
"""

from __future__ import annotations

import io
import logging
import re
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from cyclegan_cli.media.colour import Array, sample_range, to_8_bits, to_16_bits

if TYPE_CHECKING:
    import tifffile

_HEADER = 8 + 25  # bytes of a PNG's signature and IHDR
_SIZ = b"\xff\x4f\xff\x51"  # the beginning of a JPEG 2000 codestream
_SYCC = re.compile(rb"colr\x01..\0\0\0\x12", re.DOTALL)  # the box that says so, in a JP2

for _library in ("tifffile", "PIL"):
    logging.getLogger(_library).addHandler(logging.NullHandler())  # it would write to stderr

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_PLANAR, _INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 284, 332, 338, 339
_SMALLEST, _LARGEST, _PROFILE = 340, 341, 34675
_JPEG, _YCBCR, _LAB, _WHITE_IS_ZERO, _CMYK = (6, 7), 6, 8, 0, 5
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of extra samples that are alpha
_MOST = 16  # samples a pixel: more would take more memory than is asked for
_COLOURS = {0: 1, 1: 1, 2: 3, _CMYK: 4}  # samples of each photometric interpretation


class TiffImage(TiffImagePlugin.TiffImageFile):
    """An opened TIFF. ``deep``: bytes a pixel of its page, where ``read_page`` is to decode it:
    more than 8 bits a sample, signed integers, floats, or samples in separate planes.
    """

    deep = 0
    _whole: tifffile.TiffFile | None = None

    def _setup(self) -> None:
        self.info.pop("icc_profile", None)  # the page before may have had one
        size = self.tag_v2.get(_SAMPLES, 1) * max(self.tag_v2.get(_BITS, (1,))) // 8 or 1
        self.deep = size if _is_deep(self.tag_v2) else 0
        try:
            super()._setup()
        except (SyntaxError, KeyError, IndexError):  # no mode for these samples or planes
            if _WIDTH not in self.tag_v2 or _LENGTH not in self.tag_v2:
                raise
            self.deep, self.tile = size, []
            self._mode = "RGB"
            self._size = (self.tag_v2[_WIDTH], self.tag_v2[_LENGTH])
        if _PROFILE in self.tag_v2:
            self.info["icc_profile"] = self.tag_v2[_PROFILE]

    def samples(self) -> Array:
        """H×W×samples of the current page, as stored. Raises EOFError if any are missing."""
        import tifffile

        assert self.fp is not None
        if self._whole is None:
            self.fp.seek(0)
            self._whole = tifffile.TiffFile(self.fp)
        page = self._whole.pages[self.tell()]
        assert isinstance(page, tifffile.TiffPage)
        end = page.parent.filehandle.size
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        # tifffile takes what is not there for zeros.
        whole = all(count > 0 and 0 < offset <= end - count for offset, count in segments)
        if not whole or len(segments) < int(np.prod(page.chunked)):
            raise EOFError("strips or tiles are missing")
        values = page.asarray(squeeze=False, maxworkers=1)
        planes, depth, height, width, samples = values.shape
        if depth != 1:
            raise NotImplementedError("a volume is not supported")
        return np.moveaxis(values[:, 0], 0, 2).reshape(height, width, planes * samples)


def _is_deep(tags: Any) -> bool:
    if max(tags.get(_BITS, (1,))) > 8 or set(tags.get(_SAMPLE_FORMAT, (1,))) - {1, 4}:
        return True
    separate = tags.get(_PLANAR) == 2 and tags.get(_SAMPLES, 1) > 1
    by_pillow = tags.get(_COMPRESSION) in _JPEG or tags.get(_PHOTOMETRIC) in (_YCBCR, _LAB)
    return separate and not by_pillow


def read_page(image: TiffImage) -> tuple[Array, Array | None]:
    """Colour and alpha of the page that ``image`` is at, as stored: neither turned nor profiled.

    Returns (H×W grey, H×W×3 RGB or H×W×4 CMYK; H×W alpha or None), not premultiplied, white (in
    CMYK full ink) at the top of the range: uint16, or uint8 for unsigned samples of up to 8 bits.
    Raises NotImplementedError for what has no meaning here, and what tifffile raises.
    """
    tags = image.tag_v2
    if tags.get(_SAMPLES, 1) > _MOST:
        raise NotImplementedError(f"{tags[_SAMPLES]} samples a pixel are not supported")
    values = image.samples()
    photometric = tags.get(_PHOTOMETRIC, 1 if values.shape[2] < 3 else 2)
    count = _COLOURS.get(photometric, 0)
    others = values.shape[2] - count
    # One sample more than the colours, not said to be anything, is taken for alpha, as Pillow does.
    extra = tags.get(_EXTRA_SAMPLES, (_UNASSOCIATED if others == 1 else 0,) * others)
    inks = photometric == _CMYK and tags.get(_INK_SET, 1) != 1
    if not count or inks or len(extra) != others or values.dtype.kind not in "buif":
        raise NotImplementedError(
            f"photometric interpretation {photometric} with {values.shape[2]} samples of "
            f"{values.dtype} is not supported"
        )
    colour = values[..., 0] if count == 1 else values[..., :count]
    bits = max(tags.get(_BITS, (1,)))
    low, high = _said_range(tags, colour, bits)
    alpha = None
    if extra and extra[0] in (_ASSOCIATED, _UNASSOCIATED):
        opaque = 1.0 if values.dtype.kind == "f" else 2.0 ** (bits - (values.dtype.kind == "i")) - 1
        alpha = to_16_bits(values[..., count], 0, opaque)
        if extra[0] == _ASSOCIATED:
            colour = _divided(colour, alpha)
    colour = to_16_bits(colour, low, high, invert=photometric == _WHITE_IS_ZERO)
    if bits <= 8 and values.dtype.kind in "bu":
        return to_8_bits(colour), None if alpha is None else to_8_bits(alpha)
    return colour, alpha


def _said_range(tags: Any, colour: Array, bits: int) -> tuple[float, float]:
    """Black and white: SMinSampleValue and SMaxSampleValue, else what the format means."""
    low, high = sample_range(colour, bits)
    said = [tags.get(tag) for tag in (_SMALLEST, _LARGEST)]
    said_low, said_high = (
        default if value is None else float(choose(value) if isinstance(value, tuple) else value)
        for value, default, choose in zip(said, (low, high), (min, max), strict=True)
    )
    return (said_low, said_high) if -np.inf < said_low < said_high < np.inf else (low, high)


def _divided(colour: Array, alpha: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Colour that was multiplied by alpha, without it; black where nothing is seen."""
    seen = alpha.astype(np.float32) / 65535
    if colour.ndim == 3:
        seen = seen[..., None]
    result = np.zeros(colour.shape, np.float32)
    return np.divide(colour, seen, out=result, where=seen > 0)


def read_deep(image: Image.Image) -> Array | None:
    """H×W×channels uint16 of a PNG, HEIF or JPEG 2000 that Pillow gives 8 bits of; else None."""
    if is_deep_png(image):
        import imagecodecs

        data = file_bytes(image)
        image.load()  # for what follows the pixels, and for Pillow's words where they are cut short
        pixels: Array = imagecodecs.png_decode(data)
        return pixels
    if image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        from pillow_heif import open_heif

        data = file_bytes(image)
        file = open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        values = np.atleast_3d(np.asarray(file[file.primary_index]))
        return to_16_bits(values, 0, 2.0 ** image.info["bit_depth"] - 1)
    if image.format == "JPEG2000" and image.mode not in ("P", "PA"):
        return _read_jpeg2000(file_bytes(image))
    return None


def is_deep_png(image: Image.Image) -> bool:
    """Whether an opened, not decoded, file is a still PNG of 16-bit colour or grey with alpha."""
    if image.format != "PNG" or getattr(image, "is_animated", False):
        return False
    assert isinstance(image, ImageFile.ImageFile)
    return any(tile.args in ("RGB;16B", "RGBA;16B", "LA;16B") for tile in image.tile)


def _read_jpeg2000(data: bytes) -> Array | None:
    """Pillow turns white into black where there are more bits than 8, into grey where fewer."""
    start = data.index(_SIZ)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    depths = {data[start + 42 + 3 * index] for index in range(channels)}
    if depths <= {7, 0x87}:  # bits less 1, and whether the numbers are signed
        return None
    if len(depths) > 1 or _SYCC.search(data[:start]):
        raise NotImplementedError("JPEG 2000 with channels of different kinds is not supported")
    import imagecodecs

    (depth,) = depths
    values = imagecodecs.jpeg2k_decode(data)
    white = 2.0 ** ((depth & 0x7F) + 1) - 1
    low = -(white + 1) / 2 if depth & 0x80 else 0.0
    return to_16_bits(np.atleast_3d(values), low, low + white)


def file_bytes(image: Image.Image) -> bytes:
    """All of the file that ``image`` was opened from, which stays where it is."""
    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    here = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(here)
    return data


def png_of(pixels: NDArray[np.uint16], metadata: dict[str, Any], file: BinaryIO) -> None:
    """Write H×W×3 or H×W×4 uint16 as a 16-bit PNG. ``metadata``: what Pillow's save would take."""
    import imagecodecs

    carrier = io.BytesIO()
    Image.new("RGB", (1, 1)).save(carrier, "PNG", **metadata)
    chunks = carrier.getvalue()[_HEADER:]
    encoded = imagecodecs.png_encode(pixels, level=4, filter=imagecodecs.PNG.FILTER.UP)
    file.write(encoded[:_HEADER] + chunks[: chunks.rindex(b"IDAT") - 4] + encoded[_HEADER:])


def widen_tiff(file: BinaryIO, deep_pages: list[bool]) -> None:
    """Make pages of 2W 8-bit pixels, in a TIFF that Pillow wrote, W 16-bit ones."""
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file, mode="r+") as tiff:
        for page, deep in zip(tiff.pages, deep_pages, strict=True):
            if deep:
                assert isinstance(page, tifffile.TiffPage)
                page.tags[_WIDTH].overwrite(page.imagewidth // 2)
                page.tags[_BITS].overwrite((16,) * page.samplesperpixel)
