"""How much a painted video flickers, with statistics of each frame and with steady ones.

    python -m tests.benchmarks.flicker --style FILE --photo FILE... [--frames 12]

Clips are made from each photo, with a sensor's noise: a camera that stands still, one that pans by
4 pixels a frame, and one that stands still while something bright enters at the left.

flicker: the mean absolute change of a pixel from frame to frame, the known motion taken out (and
what enters left out), of the output over the input: 1.0 flickers as much as the noise that was put
in. tone: the same of 16×16 means, in 8-bit levels: whether whole regions change colour, which is
what the eye sees most. ghost: after a cut to another photo, the mean absolute difference, in
levels, from the second scene painted by itself; the cut is found, or (blind) hidden from it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.painting.effects import Steady
from cyclegan_cli.painting.painter import Painter
from tests.painting.common import painter_of

WIDTH, HEIGHT, PAN, NOISE, RATE = 192, 128, 4, 4.0, 25.0
Clip = list[Any]


def photo(path: Path, width: int) -> Any:
    """The middle of a photo, ``width`` × 128."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
        scale = max(width / picture.width, HEIGHT / picture.height)
        size = (round(picture.width * scale), round(picture.height * scale))
        pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), np.float32)
    top, left = (pixels.shape[0] - HEIGHT) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + HEIGHT, left : left + width]


def noisy(frames: Clip, seed: int = 0) -> Clip:
    """With the noise of a sensor: normal, a standard deviation of 4 levels."""
    rng = np.random.default_rng(seed)
    return [
        np.clip(f + rng.normal(0, NOISE, f.shape) + 0.5, 0, 255).astype(np.uint8) for f in frames
    ]


def entering(still: Any, count: int) -> Clip:
    """Something bright comes in from the left and takes up to a quarter of the picture."""
    frames = []
    for k in range(count):
        frame = still.copy()
        frame[:, : WIDTH * k // (4 * count)] = (250, 240, 220)
        frames.append(frame)
    return frames


def painted(painter: Painter, clip: Clip, steady: bool, *, blind: bool = False) -> Clip:
    """Each frame painted; ``blind`` hides a cut from the detection."""
    average = Steady(RATE)
    found = []
    for frame in clip:
        if not steady:
            found.append(painter.paint(frame))
            continue
        average.look(clip[0] if blind else frame)
        found.append(
            painter.paint(frame, override_stats=average.override_stats, origin=average.origin)
        )
    return found


def changes(clip: Clip, shift: int, free: int, reduce: Callable[[Any], Any]) -> float:
    """The mean absolute change from frame to frame, in levels, the motion taken out."""
    found = []
    for before, after in itertools.pairwise(clip):
        one, other = before[:, free + shift :], after[:, free : after.shape[1] - shift]
        found.append(np.abs(reduce(one) - reduce(other)).mean())
    return float(np.mean(found))


def whole(pixels: Any) -> Any:
    return pixels.astype(np.float32)


def tones(pixels: Any) -> Any:
    """The means of 16×16 pixels."""
    height, width = (size // 16 * 16 for size in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // 16, 16, width // 16, 16, 3)
    return blocks.mean((1, 3), dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--photo", type=Path, nargs="+", required=True)
    parser.add_argument("--frames", type=int, default=12)
    chosen = parser.parse_args()
    photos = chosen.photo
    painter = painter_of(load_generator(chosen.style))
    count, names = chosen.frames, ("still", "pan", "entering")
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for path in photos:
        still, wide = photo(path, WIDTH), photo(path, WIDTH + PAN * count)
        clips = {
            "still": noisy([still] * count),
            "pan": noisy([wide[:, PAN * k : PAN * k + WIDTH] for k in range(count)]),
            "entering": noisy(entering(still, count)),
        }
        for name in names:
            shift, free = (PAN if name == "pan" else 0), (64 if name == "entering" else 0)
            own = changes(clips[name], shift, free, whole)
            for way, steady in (("frame", False), ("steady", True)):
                result = painted(painter, clips[name], steady)
                pair = (
                    changes(result, shift, free, whole) / own,
                    changes(result, shift, free, tones),
                )
                rows.setdefault((name, way), []).append(pair)
    print(f"{len(photos)} photos, {count} frames of {WIDTH}×{HEIGHT}")
    print(f"{'clip':10} {'flicker: frame':>15} {'steady':>8} {'tone: frame':>13} {'steady':>8}")
    for name in names:
        frame, steady = (np.mean(rows[name, way], axis=0) for way in ("frame", "steady"))
        print(f"{name:10} {frame[0]:15.2f} {steady[0]:8.2f} {frame[1]:13.2f} {steady[1]:8.2f}")
    ghosts(painter, [photo(path, WIDTH) for path in photos[:2]])


def ghosts(painter: Painter, scenes: list[Any]) -> None:
    """The first frames after a cut, against the second scene by itself."""
    clip = noisy([scenes[0]] * 5 + [scenes[-1]] * 3)
    alone = painted(painter, clip[5:], True)
    for label, blind in (("found", False), ("blind", True)):
        after = painted(painter, clip, True, blind=blind)[5:]
        found = [np.abs(whole(a) - whole(b)).mean() for a, b in zip(after, alone, strict=True)]
        print(f"ghost, cut {label}: " + ", ".join(f"{value:.2f}" for value in found))


if __name__ == "__main__":
    main()
