"""Pillow, held: which formats are opened, how big a picture may be, and what an error is called."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from cyclegan_cli.errors import PictureError
from cyclegan_cli.machine import MEMORY_MARGIN, available_memory
from cyclegan_cli.media.deep import TiffImage, is_deep_png
from cyclegan_cli.media.formats import HEIF_HINT, RAW_EXTENSIONS, sniff

MAX_PIXELS = 1_000_000_000
# Bytes a pixel that decoding takes (measured: JPEG, TIFF, PNG 10 to 14; WebP 22, 16 bits 24).
_DECODING, _DECODING_MORE = 14, 24
_FRAME = 8  # bytes a pixel that a frame will take when it is painted and encoded, with its alpha
_SMALL = 2**24  # pixels that are decoded without asking how much memory there is

# Raster formats only: Pillow's EPS runs another program, and its WMF, GRIB, HDF5… are stubs.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA",
    "QOI", "PCX", "SGI", "MPO",
)  # fmt: skip

_lock = threading.Lock()
_users = 0
_limit_before: int | None = None
# How decoders say that a file is of a kind that they do not know.
_UNSUPPORTED = re.compile(
    r"unsupported|not (yet )?supported|unknown (\w+ )?mode|image mode|"
    r"data organization|not a known|cannot handle",
    re.IGNORECASE,
)
_quiet = ("ignore", re.compile("(?s).*", re.IGNORECASE), Warning, None, 0)


@contextlib.contextmanager
def held_pillow() -> Iterator[None]:
    """Silence warnings and lift Pillow's own limit of pixels while any thread decodes.

    ``warnings.catch_warnings`` is not for threads: two that overlap can leave the filters changed.
    The first to enter changes the process, and the last to leave puts it back.
    """
    global _users, _limit_before  # noqa: PLW0603 - the state of a process, guarded by the lock
    with _lock:
        if _users == 0:
            _limit_before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            warnings.filterwarnings("ignore", "(?s).*")  # a pattern of our own, to be found again
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                Image.MAX_IMAGE_PIXELS = _limit_before
                with contextlib.suppress(ValueError):
                    warnings.filters.remove(_quiet)  # type: ignore[attr-defined]


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a PictureError that names ``name`` and the reason."""
    try:
        with held_pillow():
            yield
    except PictureError:
        raise
    except IsADirectoryError as error:
        raise PictureError(f"{name} is a folder, not a picture.") from error
    except Exception as error:
        # Decoders meet bytes that nobody foresaw with errors that nobody foresaw (struct.error,
        # IndexError, SyntaxError, …): all mean that this file cannot be read.
        raise PictureError(f"{name}: {_reason(error)}.") from error


def _is_unsupported(error: Exception, file: BinaryIO | None = None) -> bool:
    """Whether a decoder says that it does not know this kind of file.

    OpenJPEG does not say why it fails: a JPEG 2000 that is whole is of a kind unknown to it.
    """
    if isinstance(error, TypeError):  # '<' not supported between …
        return False
    if file is not None:
        file.seek(0)
        if sniff(file.read(16)) == "JPEG2000":
            file.seek(-2, io.SEEK_END)
            return file.read() == b"\xff\xd9"
    return isinstance(error, NotImplementedError) or bool(_UNSUPPORTED.search(str(error)))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    text = (str(error).splitlines() or [""])[0][:100].rstrip(".") or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError | zlib.error | struct.error):
        return "the file is cut short or damaged"
    if _is_unsupported(error):
        return f"this kind of file is not supported ({text})"
    return f"the file is damaged ({text})"


@contextlib.contextmanager
def opened(source: Path | bytes, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """The picture of ``source``, opened and identified by its bytes, not by its name; not decoded.

    To be used inside ``decoding(name)``. Raises PictureError for what is empty, no picture, a
    camera's raw file, or larger than ``max_pixels``; OSError as the file system does.
    """
    if isinstance(source, Path) and source.suffix.lower() in RAW_EXTENSIONS:
        raise PictureError(
            f"{name} is a camera's raw file, of which only the small preview could be read.",
            hint="Develop it first, into a TIFF or JPEG.",
        )
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        if not head:
            raise PictureError(f"{name} is empty.")
        try:
            formats = _formats_of(head)
            if formats == ["TIFF"]:
                image: Image.Image = TiffImage(file)
            elif len(formats) == 1:  # Image.open would not say why it cannot be opened
                image = Image.OPEN[formats[0]][0](file, "")
            else:
                image = Image.open(file, formats=formats)
        except (UnidentifiedImageError, SyntaxError, IndexError, TypeError) as error:
            raise _not_a_picture(name, head, error, file) from error
        with image:
            check_size(image, name, max_pixels)
            check_memory(image, name)
            try:
                yield image
            except OSError as error:
                if _is_unsupported(error, file):
                    raise NotImplementedError(str(error)) from error
                raise


def _formats_of(head: bytes) -> list[str]:
    """Those that a file with this beginning can be of; only what they need is imported."""
    Image.preinit()
    kind = sniff(head)
    if kind == "TIFF" or (kind in FORMATS and kind in Image.OPEN):
        return [kind]
    known = known_formats()
    return [kind] if kind in known else known


@lru_cache(maxsize=1)
def known_formats() -> list[str]:
    """Those of FORMATS that this Pillow has, all of them loaded; HEIF by pillow-heif."""
    Image.init()
    if "HEIF" not in Image.OPEN:
        with contextlib.suppress(ImportError):
            from pillow_heif import register_heif_opener

            register_heif_opener()
    return [known for known in FORMATS if known in Image.OPEN]


def _not_a_picture(name: str, head: bytes, error: Exception, file: BinaryIO) -> PictureError:
    kind = sniff(head)
    if kind == "HEIF" and "HEIF" not in Image.OPEN:
        return PictureError(f"{name} is a HEIC picture, which needs pillow-heif.", hint=HEIF_HINT)
    if kind is not None and kind not in Image.OPEN:
        return PictureError(
            f"{name} is a {kind} picture, which this Pillow was built without.",
            hint="pip install --upgrade pillow",
        )
    if kind is not None and _is_unsupported(error, file):
        return PictureError(f"{name} is a {kind} file of a kind that is not supported ({error}).")
    if kind is not None:
        return PictureError(f"{name} is a {kind} file that is damaged, or of a rare kind.")
    return PictureError(f"{name} is not a picture, or of a kind that is not known here.")


def check_size(image: Image.Image, name: str, max_pixels: int, others: int = 0) -> None:
    """Raise PictureError for no pixels, or more than ``max_pixels`` with the ``others`` before."""
    width, height = image.size
    if width < 1 or height < 1:
        raise PictureError(f"{name} has no pixels ({width}×{height}).")
    if width * height + others > max_pixels:
        more = f"{others:,} in the frames before and " if others else ""
        raise PictureError(
            f"{name} has {more}{width}×{height} pixels, more than the {max_pixels:,} that are "
            "allowed.",
            hint="--max-pixels raises the limit, if you trust the file.",
        )


def check_memory(image: Image.Image, name: str, others: int = 0) -> None:
    """Raise PictureError if it is short for ``image`` and ``others``, the pixels before it."""
    pixels = image.width * image.height
    if pixels + others <= _SMALL:
        return
    stored = getattr(image, "deep", 0)
    plain = image.mode in ("RGB", "L", "CMYK") and image.format in ("JPEG", "PNG", "TIFF", "BMP")
    plain &= not stored and not is_deep_png(image)
    needed = pixels * (_DECODING if plain else _DECODING_MORE + stored) + others * _FRAME
    limit = MEMORY_MARGIN * available_memory()
    if needed > limit:
        raise PictureError(
            f"{name} has {pixels + others:,} pixels and needs {needed / 1e9:.1f} GB of memory to "
            f"be read; {limit / 1e9:.1f} GB is left for it."
        )
