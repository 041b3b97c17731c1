"""The matrix: small pictures of every kind, each with what it must look like when it comes out."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.media import rawfiles as raw
from tests.media.rawfiles import Array

H, W = 17, 23


@dataclass
class Case:
    """``frames``: H×W×3 uint8 or uint16, what must come out; ``alpha``: one for each, or None.

    ``tolerance``: the greatest difference of any number (uint8: of 255, uint16: of 65535);
    ``mean``: where it is given, of the mean instead, for formats that lose something.
    """

    name: str
    data: bytes
    frames: list[Array]
    format: str
    alpha: list[Array] | None = None
    tolerance: int = 0
    mean: float | None = None
    durations: list[float] | None = None
    loop: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def base() -> Array:
    """H×W×3 uint8: no two rows, columns, channels or mirrorings are alike; smooth."""
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([20 + 9 * x, 15 + 13 * y, 200 - 3 * x - 6 * y], axis=2).astype(np.uint8)


def deep() -> Array:
    """H×W×3 uint16 whose low bytes are not guessed from the high ones."""
    return np.random.default_rng(7).integers(0, 65536, (H, W, 3), dtype=np.uint16)


def ramp_alpha() -> Array:
    return (np.add.outer(np.arange(H), np.arange(W)) * 6).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def luma(pixels: Array) -> Array:
    """H×W×3 grey of L = (299 R + 587 G + 114 B) / 1000, as Pillow rounds it."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    return np.repeat(grey[..., None], 3, axis=2)


Image.init()
AVIF = "AVIF" in Image.SAVE  # not every Pillow was built with it


def cases() -> list[Case]:
    found = [*lossless(), *lossy(), *png_modes(), *tiff_modes(), *deep_files(), *orientations()]
    return [*found, *pcx_of_1_bit(), *profiles(), *mislabelled(), *animations()]


def lossless() -> list[Case]:
    image = Image.fromarray(base())
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("png", "PNG", {}), ("tif", "TIFF", {}), ("bmp", "BMP", {}), ("dib", "DIB", {}),
        ("webp", "WEBP", {"lossless": True, "exact": True}), ("ppm", "PPM", {}), ("tga", "TGA", {}),
        ("pcx", "PCX", {}), ("sgi", "SGI", {}), ("jp2", "JPEG2000", {}),
        ("j2k", "JPEG2000", {"no_jp2": True}),
    ]  # fmt: skip
    result = [
        Case(f"rgb.{ext}", saved(image, kind, **options), [base()], "BMP" if ext == "dib" else kind)
        for ext, kind, options in kinds
    ]
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = saved(image, "TIFF", compression=compression)
        result.append(Case(f"rgb_{compression}.tif", data, [base()], "TIFF"))
    result.append(Case("rle.tga", saved(image, "TGA", compression="tga_rle"), [base()], "TGA"))
    few = base() // 64 * 64
    result.append(Case("still.gif", saved(Image.fromarray(few).quantize(256), "GIF"), [few], "GIF"))
    grey = Image.fromarray(base()).convert("L")
    result.append(Case("grey.pgm", saved(grey, "PPM"), [luma(base())], "PPM"))
    odd = base()[:1, :3]
    result.append(Case("3x1.png", saved(Image.fromarray(odd), "PNG"), [odd], "PNG"))
    return result


def lossy() -> list[Case]:
    image, result = Image.fromarray(base()), []
    for name, kind, options in (
        ("q95.jpg", "JPEG", {"quality": 95}),
        ("progressive.jpeg", "JPEG", {"quality": 92, "progressive": True}),
        ("full.jpe", "JPEG", {"quality": 95, "subsampling": 0}),
        ("lossy.webp", "WEBP", {"quality": 90}),
        ("still.avif", "AVIF", {"quality": 90}),
    ):
        if kind != "AVIF" or AVIF:
            result.append(Case(name, saved(image, kind, **options), [base()], kind, mean=4.0))
    grey = image.convert("L")
    result.append(Case("grey.jpg", saved(grey, "JPEG"), [luma(base())], "JPEG", mean=4.0))
    cmyk = image.convert("CMYK")
    result.append(Case("cmyk.jpg", saved(cmyk, "JPEG", quality=95), [base()], "JPEG", mean=5.0))
    return result


def pcx_of_1_bit() -> list[Case]:
    ones = luma(base())[..., 0] > 110
    plain = three(np.where(ones, 255, 0).astype(np.uint8))
    coloured = np.where(ones[..., None], (0, 40, 200), (250, 240, 10)).astype(np.uint8)
    white_first = b"\xff\xff\xff\0\0\0"
    return [
        Case("one.pcx", raw.pcx1(ones, b"\0\0\0\xff\xff\xff"), [plain], "PCX"),
        Case("one_unsaid.pcx", raw.pcx1(ones, b""), [plain], "PCX"),
        Case("one_inverted.pcx", raw.pcx1(ones, white_first), [255 - plain], "PCX"),
        Case("one_old.pcx", raw.pcx1(ones, white_first, version=3), [plain], "PCX"),
        Case("one_coloured.pcx", raw.pcx1(ones, bytes([250, 240, 10, 0, 40, 200])), [coloured],
             "PCX"),
        Case("one_pillow.pcx", saved(Image.fromarray(ones), "PCX"), [plain], "PCX"),
    ]  # fmt: skip


def png_modes() -> list[Case]:
    pixels, alpha = base(), ramp_alpha()
    image = Image.fromarray(pixels)
    grey = luma(pixels)[..., 0]
    black = grey > 110
    la = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))
    rgba = Image.fromarray(np.dstack([pixels, alpha]))
    palette = image.quantize(64)
    colours = np.asarray(palette.convert("RGB"))
    indices = np.asarray(palette)
    table = bytes((index * 4) % 256 for index in range(64))
    seen = np.frombuffer(table, np.uint8)[indices]
    whites = np.repeat(np.where(black, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    few = grey // 17 * 17
    clear = tuple(int(v) for v in pixels[3, 4])
    keyed = np.where((pixels == clear).all(axis=2), 0, 255).astype(np.uint8)
    one = np.where(indices == 5, 0, 255).astype(np.uint8)
    grey_keyed = np.where(grey == grey[2, 2], 0, 255).astype(np.uint8)
    grey3 = luma(pixels)
    bilevel = Image.fromarray(black)
    return [
        Case("bilevel.png", saved(bilevel, "PNG"), [whites], "PNG"),
        Case("l.png", saved(Image.fromarray(grey), "PNG"), [grey3], "PNG"),
        Case("l4.png", raw.png4(few // 17), [np.dstack([few] * 3)], "PNG"),
        Case("la.png", saved(la, "PNG"), [grey3], "PNG", [alpha]),
        Case("p.png", saved(palette, "PNG"), [colours], "PNG"),
        Case("p_trns.png", saved(palette, "PNG", transparency=table), [colours], "PNG", [seen]),
        Case("p_index.png", saved(palette, "PNG", transparency=5), [colours], "PNG", [one]),
        Case("rgba.png", saved(rgba, "PNG"), [pixels], "PNG", [alpha]),
        Case(
            "rgba.webp", saved(rgba, "WEBP", lossless=True, exact=True), [pixels], "WEBP", [alpha]
        ),
        Case("rgba.tga", saved(rgba, "TGA"), [pixels], "TGA", [alpha]),
        Case("rgba.jp2", saved(rgba, "JPEG2000"), [pixels], "JPEG2000", [alpha]),
        Case("rgb_key.png", saved(image, "PNG", transparency=clear), [pixels], "PNG", [keyed]),
        Case(
            "l_key.png",
            saved(Image.fromarray(grey), "PNG", transparency=int(grey[2, 2])),
            [grey3],
            "PNG",
            [grey_keyed],
        ),
    ]


def tiff_modes() -> list[Case]:
    pixels, alpha = base(), ramp_alpha()
    image = Image.fromarray(pixels)
    grey = luma(pixels)[..., 0]
    rgba = Image.fromarray(np.dstack([pixels, alpha]))
    palette = image.quantize(64)
    ints = Image.fromarray(grey.astype(np.int32) * 200)
    # 0..1 is a fraction of white; other ranges are stretched.
    unit = Image.fromarray((grey / 255).astype(np.float32))
    wide = Image.fromarray(((grey.astype(np.float32) - grey.min()) * 10 - 300).astype(np.float32))
    stretched = (grey - grey.min()) / (grey.max() - grey.min())
    whites = np.where(grey > 110, 255, 0).astype(np.uint8)
    cmyk = Image.merge("CMYK", [Image.fromarray(c) for c in (*np.moveaxis(255 - pixels, 2, 0),)]
                       + [Image.new("L", (W, H), 0)])  # fmt: skip
    return [
        Case("bilevel.tif", saved(Image.fromarray(grey > 110), "TIFF"), [three(whites)], "TIFF"),
        Case("g4.tif", saved(Image.fromarray(grey > 110), "TIFF", compression="group4"),
             [three(whites)], "TIFF"),
        Case("l.tif", saved(Image.fromarray(grey), "TIFF"), [three(grey)], "TIFF"),
        Case("p.tif", saved(palette, "TIFF"), [np.asarray(palette.convert("RGB"))], "TIFF"),
        Case("rgba.tif", saved(rgba, "TIFF"), [pixels], "TIFF", [alpha]),
        Case("cmyk.tif", saved(cmyk, "TIFF"), [pixels], "TIFF"),
        Case("int32.tif", saved(ints, "TIFF"), [three(grey.astype(np.uint16) * 200)], "TIFF"),
        Case("float.tif", saved(unit, "TIFF"), [three(grey.astype(np.uint16) * 257)], "TIFF",
             tolerance=1),
        Case("float_wide.tif", saved(wide, "TIFF"),
             [three(np.rint(stretched * 65535).astype(np.uint16))], "TIFF", tolerance=1),
    ]  # fmt: skip


def three(grey: Array) -> Array:
    return np.repeat(grey[..., None], 3, axis=2)


def deep_files() -> list[Case]:
    pixels = deep()
    alpha = np.random.default_rng(8).integers(0, 65536, (H, W), dtype=np.uint16)
    grey = pixels[..., 0]
    key = tuple(int(v) for v in pixels[1, 2])
    keyed = np.where((pixels == key).all(axis=2), 0, 65535).astype(np.uint16)
    trns = np.array(key, ">u2").tobytes()
    pages = [Image.fromarray(base()), Image.fromarray(base()[:5])]
    rgba = np.dstack([pixels, alpha])
    return [
        Case("rgb16.png", raw.png16(pixels), [pixels], "PNG"),
        Case("rgba16.png", raw.png16(rgba), [pixels], "PNG", [alpha]),
        Case("la16.png", raw.png16(np.dstack([grey, alpha])), [three(grey)], "PNG", [alpha]),
        Case("l16.png", raw.png16(grey), [three(grey)], "PNG"),
        Case("rgb16_key.png", raw.png16(pixels, [(b"tRNS", trns)]), [pixels], "PNG", [keyed]),
        Case("l16.tif", saved(Image.fromarray(grey), "TIFF"), [three(grey)], "TIFF"),
        Case("rgb16.tif", raw.tiff16(pixels), [pixels], "TIFF"),
        Case("rgb16_big.tif", raw.tiff16(pixels, order=">"), [pixels], "TIFF"),
        Case("rgba16.tif", raw.tiff16(rgba), [pixels], "TIFF", [alpha]),
        Case("rgba16_big.tif", raw.tiff16(rgba, order=">"), [pixels], "TIFF", [alpha]),
        Case("planar16.tif", raw.tiff16(pixels, planar=True), [pixels], "TIFF"),
        Case("planar16_big.tif", raw.tiff16(pixels, planar=True, order=">"), [pixels], "TIFF"),
        Case("pages.tiff", saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
             [base(), base()[:5]], "TIFF"),
    ]  # fmt: skip


def upright(pixels: Array, orientation: int) -> Array:
    """What a viewer shows, by where the stored row 0 and column 0 lie (CIPA DC-008, 4.6.4)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)  # stored rows are columns
    flip_rows = orientation in (3, 4, 7, 8)  # row 0, or column 0 that became it, is at the bottom
    flip_columns = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def orientations() -> list[Case]:
    result = []
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        image, shown = Image.fromarray(base()), upright(base(), number)
        for ext, kind, options, mean in (
            ("png", "PNG", {}, None),
            ("tif", "TIFF", {}, None),
            ("webp", "WEBP", {"lossless": True}, None),
            ("jpg", "JPEG", {"quality": 95, "subsampling": 0}, 3.0),
        ):
            data = saved(image, kind, exif=exif, **options)
            result.append(Case(f"turn{number}.{ext}", data, [shown], kind, mean=mean))
    return result


def profiles() -> list[Case]:
    pixels, wide = base(), deep()
    adobe = raw.adobe_profile()
    image = Image.fromarray(pixels)
    shown = np.rint(raw.adobe_to_srgb(pixels / 255) * 255).astype(np.uint8)
    shown16 = np.rint(raw.adobe_to_srgb(wide / 65535) * 65535).astype(np.uint16)
    grey = luma(pixels)[..., 0]
    linear = np.rint(raw.encode_srgb(grey / 255) * 255).astype(np.uint8)
    grey16 = wide[..., 0]
    linear16 = np.rint(raw.encode_srgb(grey16 / 65535) * 65535).astype(np.uint16)
    flat = Image.fromarray(grey)
    iccp = [(b"iCCP", b"x\0\0" + raw.zlib.compress(adobe))]
    grey_iccp = [(b"iCCP", b"x\0\0" + raw.zlib.compress(raw.grey_profile(1.0)))]
    return [
        Case("adobe.png", saved(image, "PNG", icc_profile=adobe), [shown], "PNG", tolerance=2),
        Case("adobe.tif", saved(image, "TIFF", icc_profile=adobe), [shown], "TIFF", tolerance=2),
        Case("adobe.webp", saved(image, "WEBP", icc_profile=adobe, lossless=True), [shown], "WEBP",
             tolerance=2),
        Case("adobe.jpg", saved(image, "JPEG", icc_profile=adobe, quality=95, subsampling=0),
             [shown], "JPEG", mean=4.0),
        Case("adobe16.png", raw.png16(wide, iccp), [shown16], "PNG", tolerance=130),
        Case("adobe16.tif", raw.tiff16(wide, profile=adobe), [shown16], "TIFF", tolerance=130),
        Case("linear.png", saved(flat, "PNG", icc_profile=raw.grey_profile(1.0)), [three(linear)],
             "PNG", tolerance=2),
        Case("linear16.png", raw.png16(grey16, grey_iccp), [three(linear16)], "PNG", tolerance=2),
        Case("broken.png", saved(image, "PNG", icc_profile=b"no profile"), [pixels], "PNG"),
        Case("other.png", saved(image, "PNG", icc_profile=raw.grey_profile(1.0)), [pixels], "PNG"),
    ]  # fmt: skip


def mislabelled() -> list[Case]:
    image = Image.fromarray(base())
    return [
        Case("png_inside.jpg", saved(image, "PNG"), [base()], "JPEG", mean=3.0),
        Case("jpg_inside.png", saved(image, "JPEG", quality=95), [base()], "PNG", mean=3.0),
    ]


def moving(alpha: bool) -> tuple[list[Array], list[Array]]:
    """Five frames of a square that moves over few colours; where it was, a hole moves too."""
    frames, holes = [], []
    for index in range(5):
        pixels = np.zeros((H, W, 3), np.uint8)
        pixels[...] = (40 * index, 10, 200 - 30 * index)
        pixels[index : index + 6, 2 * index : 2 * index + 6] = (255, 0, 3 * index)
        frames.append(pixels)
        hole = np.full((H, W), 255, np.uint8)
        hole[2 * index : 2 * index + 4, 12:20] = 0
        holes.append(hole)
    return frames, holes if alpha else []


def animations() -> list[Case]:
    times = [30.0, 50.0, 100.0, 70.0, 40.0]
    frames, holes = moving(True)
    plain = [Image.fromarray(frame) for frame in frames]
    clear = [Image.fromarray(np.dstack(both)) for both in zip(frames, holes, strict=True)]
    poster = Image.fromarray(base())
    loss = {"lossless": True, "exact": True}

    def moved(images: list[Image.Image], kind: str, **options: Any) -> bytes:
        durations = [int(time) for time in times]
        options = {"duration": durations, "loop": 0} | options
        return saved(images[0], kind, save_all=True, append_images=images[1:], **options)

    def case(name: str, data: bytes, kind: str, **options: Any) -> Case:
        return Case(name, data, frames, kind, durations=times, **options)

    palettes = [image.quantize(64) for image in plain]
    apng = PngImagePlugin.Disposal
    once = saved(
        palettes[0],
        "GIF",
        save_all=True,
        append_images=palettes[1:],
        duration=[int(t) for t in times],
    )
    avif = {"quality": 95, "subsampling": "4:4:4"}
    return [
        case("forever.gif", moved(palettes, "GIF"), "GIF", loop=0),
        case("twice.gif", moved(palettes, "GIF", loop=1), "GIF", loop=1),
        case("once.gif", once, "GIF", loop=None),
        case("clear.gif", moved(clear, "GIF", disposal=2), "GIF", loop=0, alpha=holes),
        case("moving.png", moved(plain, "PNG"), "PNG", loop=0),
        case("thrice.apng", moved(plain, "PNG", loop=3), "PNG", loop=3),
        case("clear.png", moved(clear, "PNG"), "PNG", loop=0, alpha=holes),
        case("back.png", moved(clear, "PNG", disposal=apng.OP_BACKGROUND), "PNG", loop=0,
             alpha=holes),
        Case("poster.png", saved(poster, "PNG", save_all=True, default_image=True,
                                 append_images=plain, duration=[int(t) for t in times]),
             [base(), *frames], "PNG", durations=times, loop=0, extra={"poster": True}),
        case("moving.webp", moved(plain, "WEBP", **loss), "WEBP", loop=0),
        case("twice.webp", moved(plain, "WEBP", **loss | {"loop": 2}), "WEBP", loop=2),
        case("clear.webp", moved(clear, "WEBP", **loss), "WEBP", loop=0, alpha=holes),
        *([case("moving.avif", moved(plain, "AVIF", **avif), "AVIF", mean=4.0)] if AVIF else []),
    ]  # fmt: skip
