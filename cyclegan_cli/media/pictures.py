"""Pictures in: orientation, colour, alpha, metadata, depth, frames and pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from cyclegan_cli.media.colour import deep_grey, is_deep_grey, profiled, to_8_bits, to_srgb
from cyclegan_cli.media.decoding import (
    MAX_PIXELS,
    check_memory,
    check_size,
    decoding,
    is_lossless_webp,
    opened,
)
from cyclegan_cli.media.deep import is_deep_png, read_jpeg2000, read_png
from cyclegan_cli.media.formats import ANIMATED, PAGED, PICTURE_EXTENSIONS
from cyclegan_cli.media.metadata import (
    Metadata,
    exif_orientation,
    read_metadata,
    xmp_orientation,
)
from cyclegan_cli.media.profiles import deep_to_srgb, is_srgb

__all__ = [
    "PICTURE_EXTENSIONS",
    "Array",
    "Frame",
    "Picture",
    "read_picture",
    "read_rgb",
    "read_small",
]

Array: TypeAlias = NDArray[Any]  # uint8 in 0..255, or uint16 in 0..65535


@dataclass(frozen=True)
class Frame:
    """One frame or page: ``pixels`` H×W×3 sRGB, ``alpha`` H×W or None, both uint8 or uint16.

    ``duration``: milliseconds, None for what is not animated.
    """

    pixels: Array
    alpha: Array | None
    duration: float | None


@dataclass(frozen=True)
class Picture:
    """A decoded file. ``mode`` and ``format`` are Pillow's names for the original.

    ``plays``: how often an animation runs, 0 for ever. ``poster``: the first frame is what programs
    show that know no APNG, and no part of the animation. ``lossless``: the original was a WebP
    without loss.
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


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The (first) picture in ``path`` as H×W×3 sRGB in 0..255, as a viewer shows it on white.

    Its orientation and colour profile are applied; transparency is composited on white.
    Raises PictureError, naming the file and the reason, for anything that cannot be read: missing,
    empty, cut short, not a picture, more than ``max_pixels`` pixels.
    """
    name = str(path)
    with decoding(name), opened(path, name, max_pixels) as image:
        pixels, alpha = _decode(image)
        return on_white(to_8_bits(pixels), None if alpha is None else to_8_bits(alpha))


def read_small(path: Path, side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The picture in ``path`` as ``read_rgb`` gives it, but coarser where that is cheaper.

    A JPEG is decoded at the smallest fraction of its size that has at least ``side`` pixels a side;
    its file is read to the end. Returns H×W×3 sRGB in 0..255, and (width, height) of the whole
    picture, upright. Raises PictureError as ``read_rgb`` does.
    """
    name = str(path)
    with decoding(name), opened(path, name, MAX_PIXELS) as image:
        whole = image.size
        image.draft(None, (side, side))
        coarse = image.size != whole
        pixels, alpha = _decode(image)
        eight = on_white(to_8_bits(pixels), None if alpha is None else to_8_bits(alpha))
        size = (eight.shape[1], eight.shape[0])
        if coarse:
            size = (whole[1], whole[0]) if _orientation(image) >= 5 else whole
    return eight, size


def read_picture(
    source: Path | bytes, max_pixels: int = MAX_PIXELS, *, name: str | None = None
) -> Picture:
    """Everything in ``source``, a path or a file's bytes; ``name`` is what errors call it.

    ``max_pixels`` bounds the pixels of all frames together. Of a JPEG with several pictures in it
    (MPO) the first is read. Raises PictureError for anything that cannot be read.
    """
    called = name or (str(source) if isinstance(source, Path) else "stdin")
    if isinstance(source, Path) and source.is_fifo():
        with decoding(called):
            source = source.read_bytes()  # it can be read once only
    with decoding(called), opened(source, called, max_pixels) as image:
        name_of_format, mode = image.format or "", image.mode
        many = name_of_format in ANIMATED | PAGED
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
            if index == 0:
                metadata = read_metadata(image)
            frames.append(Frame(pixels, alpha, _duration(image, count, poster and index == 0)))
        return Picture(
            tuple(frames),
            mode,
            "JPEG" if name_of_format == "MPO" else name_of_format,
            _plays(image),
            poster,
            name_of_format == "WEBP" and is_lossless_webp(source),
            metadata,
        )


def _duration(image: Image.Image, count: int, poster: bool) -> float | None:
    if count == 1 or poster or image.format not in ANIMATED:
        return None
    return float(image.info.get("duration") or 0)


def _plays(image: Image.Image) -> int:
    """How often an animation runs. GIF counts repetitions, and says nothing for once."""
    loop = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loop is None else 0 if loop == 0 else int(loop) + 1
    return int(loop or 0)


def _decode(image: Image.Image) -> tuple[Array, Array | None]:
    """(H×W×3 sRGB, H×W alpha or None) of the frame that ``image`` is at, upright."""
    profile = image.info.get("icc_profile")
    # Pillow turns TIFFs, those that it decodes, as far as it knows.
    plain_tiff = image.format == "TIFF" and not getattr(image, "deep", 0)
    is_turned = plain_tiff and exif_orientation(image) is not None
    stored = _stored_deep(image)
    pixels: Array
    alpha: Array | None
    if stored is None:
        rgb, mask = to_srgb(image)
        pixels, alpha = np.array(rgb), None if mask is None else np.array(mask)
    else:
        values, alpha = stored
        if values.dtype == np.uint16 and values.shape[2:] != (4,):
            pixels = _deep_srgb(values, profile)
        else:
            pixels = _eight_bit_srgb(to_8_bits(values), profile)
            alpha = None if alpha is None else to_8_bits(alpha)
    turn = 1 if is_turned else _orientation(image)
    return _turned(pixels, turn), None if alpha is None else _turned(alpha, turn)


def _stored_deep(image: Image.Image) -> tuple[Array, Array | None] | None:
    """(H×W grey, H×W×3 RGB or H×W×4 CMYK; alpha or None) of what Pillow decodes to 8 bits or not
    at all, neither turned nor in sRGB. None for all else, which is loaded.
    """
    if getattr(image, "deep", False):
        from cyclegan_cli.media.tiff import TiffImage, read_page

        assert isinstance(image, TiffImage)
        return read_page(image)
    values = read_png(image) if is_deep_png(image) else read_jpeg2000(image)
    if values is not None:
        count = values.shape[2]
        colours = count if image.mode == "CMYK" else {1: 1, 2: 1}.get(count, 3)
        alpha = values[..., colours] if count > colours else None
        return values[..., 0] if colours == 1 else values[..., :colours], alpha
    if image.format == "PCX" and image.mode == "1":
        return _two_colours(image), None
    image.load()
    if not is_deep_grey(image):
        return None
    grey = deep_grey(image)
    clear = image.info.get("transparency")
    if not isinstance(clear, int) or not image.mode.startswith("I;16"):
        return grey, None
    return grey, np.where(grey != clear, 65535, 0).astype(np.uint16)


def _two_colours(image: Image.Image) -> NDArray[np.uint8]:
    """H×W×3 of a 1-bit PCX in the colours of its header; Pillow takes them for black and white."""
    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    image.fp.seek(0)
    header = image.fp.read(22)
    colours = np.frombuffer(header, np.uint8, 6, 16).reshape(2, 3)
    # Versions 0 and 3 have no palette; programs that write none leave it all alike.
    if header[1] in (0, 3) or (colours[0] == colours[1]).all():
        colours = np.array([[0] * 3, [255] * 3], np.uint8)
    image.load()
    return colours[np.asarray(image).astype(np.uint8)]


def _eight_bit_srgb(values: NDArray[np.uint8], profile: object) -> NDArray[np.uint8]:
    """H×W grey, H×W×3 RGB or H×W×4 CMYK as H×W×3 sRGB."""
    mode = {2: "L"}.get(values.ndim, "RGB" if values.shape[-1] == 3 else "CMYK")
    image = Image.frombytes(mode, (values.shape[1], values.shape[0]), values.tobytes())
    image.info["icc_profile"] = profile
    return np.array(to_srgb(image)[0])


def _deep_srgb(values: NDArray[np.uint16], profile: object) -> NDArray[np.uint16]:
    """H×W or H×W×3 uint16 as H×W×3 sRGB; by 8 bits where the profile is made of tables."""
    colour = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    if not isinstance(profile, bytes) or not profile or is_srgb(profile):
        return np.ascontiguousarray(colour)
    for candidate in (values, colour):
        converted = deep_to_srgb(candidate, profile)
        if converted is not None:
            return converted
    by_tables = profiled(Image.fromarray(to_8_bits(values)), profile)
    if by_tables is None:
        return np.ascontiguousarray(colour)
    eight: NDArray[np.uint16] = np.asarray(by_tables).astype(np.uint16)
    eight *= np.uint16(257)
    return eight


def on_white(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """``pixels`` as a viewer shows them on a white page."""
    if alpha is None:
        return pixels
    white = Image.new("RGB", (pixels.shape[1], pixels.shape[0]), (255, 255, 255))
    return np.array(Image.composite(Image.fromarray(pixels), white, Image.fromarray(alpha)))


def _orientation(image: Image.Image) -> int:
    """By EXIF, or by XMP where the EXIF says nothing."""
    return exif_orientation(image) or xmp_orientation(image) or 1


def _turned(pixels: Array, orientation: int) -> Array:
    """Upright, from the EXIF orientation 1 to 8 (CIPA DC-008, 4.6.4); any other is taken as 1."""
    match orientation:
        case 2:
            turned = pixels[:, ::-1]
        case 3:
            turned = pixels[::-1, ::-1]
        case 4:
            turned = pixels[::-1]
        case 5:
            turned = pixels.swapaxes(0, 1)
        case 6:
            turned = np.rot90(pixels, -1)
        case 7:
            turned = pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            turned = np.rot90(pixels)
        case _:
            turned = pixels
    return np.ascontiguousarray(turned)
