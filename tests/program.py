"""The program as a user runs it, and small pictures for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"  # real pictures, where they lie beside a checkout

SMALL = (
    *("--generator", "mobile", "--discriminator", "twoscale"),
    *("--crop-size", "64", "--load-size", "68"),
    *("--gpu", "cpu", "--history", "3", "--samples", "1"),
)


def run(
    *arguments: str,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    script: Path | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[bytes]:
    """``cyclegan ARGUMENTS`` (or ``python SCRIPT ARGUMENTS``) in a process of its own."""
    program = [str(script)] if script else ["-m", "cyclegan_cli"]
    return subprocess.run(
        [sys.executable, *program, *arguments],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        env=environment(env),
        timeout=timeout,
        check=False,
    )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with the program importable from anywhere."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **(extra or {})}


def make_pictures(folder: Path, count: int, seed: int, size: tuple[int, int] = (76, 72)) -> Path:
    """``count`` PNGs of smooth random colours; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(
            folder / f"{index:02}.png"
        )
    return folder


def read_terminal(master: int) -> bytes:
    """All that is written to a pseudo-terminal until nobody holds its other end; it is closed."""
    output = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # Linux says so where others give nothing more
            break
        if not data:
            break
        output += data
    os.close(master)
    return output


def lines(data: bytes) -> Sequence[str]:
    """Decoded lines of an output."""
    return data.decode().splitlines()
