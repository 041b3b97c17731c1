"""Pictures out: every format with what it can hold of frames, depth, alpha and metadata."""

from __future__ import annotations

import io
import struct
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from cyclegan_cli.errors import PictureError, counted, reason_of
from cyclegan_cli.files import atomic_path
from cyclegan_cli.media.colour import Array, srgb_profile, to_8_bits
from cyclegan_cli.media.decoding import held_pillow, known_formats
from cyclegan_cli.media.deep import png_of, widen_tiff
from cyclegan_cli.media.formats import ANIMATED, HEIF_HINT, PAGED, PAINTED, riff_chunks
from cyclegan_cli.media.pictures import Frame, Metadata, Picture, on_white, tagged

DEFAULT_QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90, "HEIF": 90}
FULL_COLOUR = 90  # from this quality up, JPEG, AVIF and HEIF keep colour at full resolution

_WITHOUT_ALPHA = frozenset({"JPEG", "BMP", "PPM", "PCX"})
_XMP_IN_JPEG = 65_504  # bytes that one segment of a JPEG holds
_EXIF_IN_JPEG = 65_533
_XMP_IN_TIFF, _XMP_IN_PNG = 700, "XML:com.adobe.xmp"
_READ_BACK = 2**26  # pixels of a file that is decoded to see that it can be
_COMMENTS = {"GIF": "comment", "JPEG2000": "comment", "TGA": "id_section"}  # where no EXIF can be


def write_picture(
    picture: Picture,
    destination: Path | BinaryIO,
    kind: str | None = None,
    *,
    quality: int | None = None,
    strip_metadata: bool = False,
) -> int:
    """Write ``picture`` atomically to a path (whose folder is made), or to an open binary stream.

    Returns how many frames or pages the file holds. It has been opened again, and decoded where it
    is not very large: what cannot be read is not left there.

    ``kind``: Pillow's name of the format, None for the picture's own (JPEG instead of HEIF).
    ``quality`` 1..100: None is 95 for JPEG and WebP, 90 for AVIF and HEIF; these keep full colour
    resolution from 90 up; 100 is without loss for WebP. 16 bits stay 16 in PNG and TIFF; formats
    without alpha show white. ``strip_metadata`` leaves out EXIF, XMP and resolution, and with them
    the tag by which paintings are known.

    Raises PictureError where the format cannot hold the picture or the file cannot be written.
    """
    kind = kind or {"HEIF": "JPEG", "MPO": "JPEG"}.get(picture.format, picture.format)
    name = str(destination) if isinstance(destination, Path) else "stdout"
    _check_fits(picture, kind, name)
    metadata = Metadata() if strip_metadata else picture.metadata
    exif = b"" if strip_metadata else tagged(metadata.exif)
    lossless = picture.lossless and quality is None
    try:
        options = _options(kind, quality, exif, metadata, lossless=lossless)
        with held_pillow():
            if isinstance(destination, Path):
                destination.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(destination) as temporary, temporary.open("w+b") as file:
                    _encode(picture, kind, options, file)
                    return _frames_in(file, kind, picture)
            buffer = io.BytesIO()  # encoders seek, a pipe does not
            _encode(picture, kind, options, buffer)
            count = _frames_in(buffer, kind, picture)
            destination.write(buffer.getbuffer())
            destination.flush()
            return count
    except BrokenPipeError:
        raise
    except MemoryError as error:
        raise PictureError(f"{name}: there is not enough memory to encode it.") from error
    except Exception as error:
        reason = reason_of(error)
        raise PictureError(f"{name} cannot be written as {kind}: {reason}.") from error


def _frames_in(file: BinaryIO, kind: str, picture: Picture) -> int:
    """The frames or pages of what was written. Raises what Pillow does where it cannot be read."""
    height, width = picture.frames[0].pixels.shape[:2]
    file.flush()
    with Image.open(file, formats=[kind]) as image:
        if image.size != (width, height):
            raise ValueError(f"what was written is read as {image.width}×{image.height} pixels")
        count = getattr(image, "n_frames", 1)
        for page in range(count if kind in PAGED else 1):
            if count > 1:
                image.seek(page)
            if image.width * image.height <= _READ_BACK:
                image.load()
    return count


def _check_fits(picture: Picture, kind: str, name: str) -> None:
    Image.preinit()
    if kind not in Image.SAVE:
        known_formats()  # which take longer to load
    if kind not in Image.SAVE:
        hint = HEIF_HINT if kind == "HEIF" else "--format png"
        raise PictureError(f"{name}: {kind} cannot be written here.", hint=hint)
    if picture.animated and kind not in ANIMATED:
        frames = counted(len(picture.frames), "frame")
        raise PictureError(
            f"{name}: {kind} holds one picture, not an animation of {frames}.",
            hint="--format gif, webp, png or avif.",
        )
    if len(picture.frames) > 1 and not picture.animated and kind not in PAGED:
        pages = counted(len(picture.frames), "page")
        raise PictureError(f"{name}: {kind} holds one picture, not {pages}.", hint="--format tif")


def _encode(picture: Picture, kind: str, options: dict[str, Any], file: BinaryIO) -> None:
    frames = picture.frames
    if picture.poster and kind != "PNG":
        frames = frames[1:]
    if picture.animated:
        _encode_animation(picture, frames, kind, options, file)
    elif kind == "TIFF":
        _encode_tiff(frames, options, file)
    elif kind == "PNG" and (deep := _deep(frames[0])) is not None:
        png_of(deep, options, file)
    else:
        _image(frames[0], kind).save(file, kind, **options)


def _options(
    kind: str, quality: int | None, exif: bytes, metadata: Metadata, *, lossless: bool
) -> dict[str, Any]:
    """What Pillow's ``save`` takes for ``kind``. ``lossless``: of WebP."""
    quality, lossless = quality or DEFAULT_QUALITY.get(kind, 0), lossless or quality == 100
    xmp, dpi = metadata.xmp, metadata.dpi
    options: dict[str, Any] = {"icc_profile": srgb_profile()} | ({"dpi": dpi} if dpi else {})
    match kind:
        case "JPEG":
            options |= {"quality": quality, "subsampling": 0 if quality >= FULL_COLOUR else 2}
            exif = exif if len(exif) <= _EXIF_IN_JPEG else tagged(b"")
            xmp = xmp if len(xmp) <= _XMP_IN_JPEG else b""
        case "AVIF" | "HEIF":
            full = quality >= FULL_COLOUR
            subsampling = {"subsampling": "4:4:4" if full else "4:2:0"}
            chroma = {"chroma": 444 if full else 420}  # pillow-heif's name for it
            options |= {"quality": quality} | (chroma if kind == "HEIF" else subsampling)
            exif = tagged(exif, dpi) if exif else exif
        case "WEBP":
            exif = tagged(exif, dpi) if exif else exif
            # Without loss the number is effort, not quality.
            options |= {"lossless": lossless, "quality": 75 if lossless else quality}
            options |= {"method": 4, "exact": True}
        case "PNG":
            if xmp:
                options["pnginfo"] = PngInfo()
                options["pnginfo"].add_itxt(_XMP_IN_PNG, xmp.decode("utf-8", "replace"))
            xmp = b""
        case "TIFF":
            block = Image.Exif()
            if exif:
                block.load(exif)
            if xmp:
                block[_XMP_IN_TIFF] = xmp
            return options | {"exif": block}
        case _:
            comment = {_COMMENTS[kind]: PAINTED} if exif and kind in _COMMENTS else {}
            return comment | ({"dpi": dpi} if dpi and kind == "BMP" else {})
    return options | ({"exif": exif} if exif else {}) | ({"xmp": xmp} if xmp else {})


def _encode_tiff(frames: tuple[Frame, ...], options: dict[str, Any], file: BinaryIO) -> None:
    pages, deep = [], []
    for frame in frames:
        values = _deep(frame)
        deep.append(values is not None)
        if values is None:
            pages.append(_image(frame, "TIFF"))
        else:  # as the 8-bit image of the same bytes, twice as wide
            height, width, channels = values.shape
            mode, data = "RGBA" if channels == 4 else "RGB", values.astype("<u2").tobytes()
            pages.append(Image.frombytes(mode, (2 * width, height), data))
    # libtiff, which compresses, cannot write the nested parts of EXIF.
    parts = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    if not any(deep) and not any(options["exif"].get_ifd(part) for part in parts):
        options |= {"compression": "tiff_adobe_deflate"}
    pages[0].save(file, "TIFF", save_all=len(pages) > 1, append_images=pages[1:], **options)
    if any(deep):
        widen_tiff(file, deep)


def _encode_animation(
    picture: Picture, frames: tuple[Frame, ...], kind: str, options: dict[str, Any], file: BinaryIO
) -> None:
    alpha = any(frame.alpha is not None for frame in frames)
    shown = [frame.duration or 0.0 for frame in frames if frame.duration is not None]
    options |= {"save_all": True}
    if kind == "GIF":
        images, options["disposal"] = gif_frames(frames)
        options |= {"duration": whole_steps(shown, 10), "optimize": False}
        if picture.plays != 1:
            options["loop"] = max(0, picture.plays - 1)
    else:
        images = [_image(frame, kind, force_alpha=alpha) for frame in frames]
        options |= {"duration": shown if kind == "PNG" else whole_steps(shown, 1)}
        options |= {} if kind == "AVIF" else {"loop": picture.plays}
    if kind == "PNG":
        # Before the next frame it stays (0), or what was before it comes back (2). For one that
        # repeats the two are the same, and Pillow merges repeats of one disposal only.
        disposals = [0]
        for pair in pairwise(images[1:] if picture.poster else images):
            disposals.append(2 if _look_alike(*pair) and disposals[-1] == 0 else 0)
        options |= {"default_image": picture.poster, "disposal": disposals, "blend": 0}
    shown = options["duration"]
    if len(images) == 1:  # Pillow takes no lists for a single one
        options |= {name: options[name][0] for name in ("duration", "disposal") if name in options}
    buffer = io.BytesIO()
    images[0].save(buffer, kind, append_images=images[1:], **options)
    data = buffer.getvalue()
    file.write(data if kind != "WEBP" else unmerged_webp(data, shown, picture.plays))


def _deep(frame: Frame) -> Array | None:
    """H×W×3, or H×W×4 with alpha, of a frame of 16 bits; None for others."""
    if frame.pixels.dtype != np.uint16:
        return None
    if frame.alpha is None:
        return frame.pixels
    return np.concatenate([frame.pixels, frame.alpha[..., None]], axis=2)


def _image(frame: Frame, kind: str, *, force_alpha: bool = False) -> Image.Image:
    """An 8-bit image, with alpha where ``kind`` has it, else on white."""
    if kind in _WITHOUT_ALPHA or (frame.alpha is None and not force_alpha):
        return Image.fromarray(on_white(frame.pixels, frame.alpha))
    image = Image.fromarray(to_8_bits(frame.pixels))
    image.putalpha(255 if frame.alpha is None else Image.fromarray(to_8_bits(frame.alpha)))
    return image


# -- animations --------------------------------------------------------------------------------
#
# Pillow and libwebp merge a frame with one before it that looks the same. Here each stays a frame.

_CLEAR = 255  # the palette's last entry, where a frame has transparent pixels


def whole_steps(durations: Sequence[float], step: int) -> list[int]:
    """Milliseconds as multiples of ``step`` that add up; what was shown stays one step at least."""
    result: list[int] = []
    exact = given = 0.0
    for duration in durations:
        exact += duration
        shown = max(step if duration > 0 else 0, round((exact - given) / step) * step)
        result.append(shown)
        given += shown
    return result


def gif_frames(frames: Sequence[Frame]) -> tuple[list[Image.Image], list[int]]:
    """Each frame with its own palette of 256 colours, or of 255 and one that is transparent; and
    what happens to it before the next (1: it stays, 2: it is cleared).

    Median cut without dithering, whose noise would differ from frame to frame. One that repeats is
    transparent, over that before.
    """
    made = [_palette_frame(frame) for frame in frames]
    repeats = [False]
    for (image, clear), (following, clear_then) in pairwise(made):
        alike = _look_alike(image, following) and np.array_equal(clear, clear_then)
        repeats.append(alike)
    # What is transparent must not show the frame before: clear the canvas between the two.
    after = 2 if any(clear.any() for _, clear in made) else 1
    images = []
    for index, (image, clear) in enumerate(made):
        images.append(Image.new("P", image.size, _CLEAR) if repeats[index] else image)
        if repeats[index]:  # in a colour that the transparent image before it has not
            images[-1].putpalette([0] * 3 * _CLEAR + [1 + index % 2] * 3)
        if repeats[index] or clear.any():
            images[-1].info["transparency"] = _CLEAR
    return images, [1 if stays else after for stays in [*repeats[1:], False]]


def _look_alike(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a.convert("RGBA")), np.asarray(b.convert("RGBA")))


def _palette_frame(frame: Frame) -> tuple[Image.Image, NDArray[np.bool_]]:
    """A palette image, and H×W: where it is to be transparent, by the palette's last entry."""
    pixels = Image.fromarray(to_8_bits(frame.pixels))
    clear = np.zeros(frame.pixels.shape[:2], bool)
    if frame.alpha is not None:
        clear = to_8_bits(frame.alpha) < 128
    if not clear.any():
        return pixels.quantize(256, Image.Quantize.MEDIANCUT), clear
    quantized = pixels.quantize(_CLEAR, Image.Quantize.MEDIANCUT)
    indices = np.where(clear, np.uint8(_CLEAR), np.asarray(quantized))
    image = Image.fromarray(indices).convert("L")
    colours = (quantized.getpalette() or [])[: 3 * _CLEAR]
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image, clear


# -- WebP, by its container specification ------------------------------------------------------

_IMAGE_DATA = (b"ALPH", b"VP8 ", b"VP8L")
_ANIMATED, _HAS_ALPHA = 0x02, 0x10  # flags of VP8X
_CLEARED = 0x01  # flag of ANMF: its rectangle is cleared after it. Without 0x02 it is blended


def unmerged_webp(data: bytes, durations: Sequence[int], plays: int) -> bytes:
    """A WebP with ICC profile of frames of ``durations`` (milliseconds), of which libwebp merged
    some, or all: with a frame for each. One that was merged is shown for its own time, then
    transparent frames over it.
    """
    chunks = _chunks(data)
    header = bytearray(chunks[0][1])  # VP8X: flags, and from 4 the canvas less 1
    if not any(kind == b"ANMF" for kind, _ in chunks):
        frame = bytes(6) + header[4:10] + sum(durations).to_bytes(3, "little") + b"\2"
        frame += _image_data(chunks)
        first = next(index for index, chunk in enumerate(chunks) if chunk[0] in _IMAGE_DATA)
        chunks = [chunk for chunk in chunks if chunk[0] not in _IMAGE_DATA]
        chunks[first:first] = [(b"ANIM", bytes(4) + struct.pack("<H", plays)), (b"ANMF", frame)]
        header[0] |= _ANIMATED
    left, body, merged = deque(durations), b"", sum(kind == b"ANMF" for kind, _ in chunks)
    for kind, payload in chunks[1:]:
        times = [0]
        if kind == b"ANMF":
            merged -= 1
            together = int.from_bytes(payload[12:15], "little")
            times = [left.popleft()]
            while left and (sum(times) < together or not merged):
                times.append(left.popleft())
        if len(times) == 1:
            body += _chunk(kind, payload)
            continue
        header[0] |= _HAS_ALPHA
        width, height = (int.from_bytes(payload[at : at + 3], "little") + 1 for at in (6, 9))
        buffer = io.BytesIO()
        Image.new("RGBA", (width, height)).save(buffer, "WEBP", lossless=True)
        nothing = _image_data(_chunks(buffer.getvalue()))
        images = [payload[16:]] + [nothing] * (len(times) - 1)
        flags = [payload[15] & ~_CLEARED] + [0] * (len(times) - 2) + [payload[15] & _CLEARED]
        for time, flag, image in zip(times, flags, images, strict=True):
            shown = time.to_bytes(3, "little") + bytes([flag])
            body += _chunk(b"ANMF", payload[:12] + shown + image)
    body = b"WEBP" + _chunk(b"VP8X", bytes(header)) + body
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _image_data(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(_chunk(*chunk) for chunk in chunks if chunk[0] in _IMAGE_DATA)


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    file = io.BytesIO(data)
    return [(kind, file.read(length)) for kind, length in riff_chunks(file)]
