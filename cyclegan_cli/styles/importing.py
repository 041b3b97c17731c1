"""A style from files of weights that were made elsewhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from cyclegan_cli.engine.weights import save_generator
from cyclegan_cli.errors import WeightsError
from cyclegan_cli.files import digest_of
from cyclegan_cli.styles.cards import Origin, Style, Way
from cyclegan_cli.styles.publicformat import read_generator
from cyclegan_cli.styles.store import Write, add_style
from cyclegan_cli.styles.verification import check_generator

__all__ = ["convert", "import_style", "other_direction"]


def import_style(
    name: str,
    files: Mapping[Way, Path],
    *,
    x: str,
    y: str,
    origin: Origin = "imported",
    card: Mapping[str, object] | None = None,
    replace: bool = False,
) -> Style:
    """Make a style of generators of this program or of the public PyTorch CycleGAN.

    Each file is read without running a byte of it, converted, and tried on a test picture before
    the style appears. Raises WeightsError, UsageError, StoreError, OSError (see ``read_generator``
    and ``add_style``).
    """
    weights: dict[Way, Path | Write] = {
        way: functools.partial(convert, file, about={"x": x, "y": y, "direction": way})
        for way, file in files.items()
    }
    sources = {
        way: {"file": file.name, "sha256": digest_of(file)[0]} for way, file in files.items()
    }
    about = {"sources": sources, **(card or {})}
    return add_style(name, x=x, y=y, origin=origin, weights=weights, card=about, replace=replace)


def convert(source: Path, target: Path, *, about: dict[str, object]) -> None:
    """Write the generator in ``source`` to ``target`` in this program's format, and try it.

    Raises WeightsError, OSError; ``target`` is not there unless it was tried with success.
    """
    save_generator(target, read_generator(source), about)
    try:
        check_generator(target)
    except WeightsError as error:
        target.unlink()
        raise WeightsError(str(error).replace(str(target), str(source))) from error


def other_direction(file: Path) -> Path | None:
    """The file beside ``file`` that holds the pair's other direction, by the public code's names.

    ``latest_net_G_A.pth`` has ``latest_net_G_B.pth``; None where there is no such file.
    """
    match = re.fullmatch(r"(.*_net_G_)([AB])(\.\w+)", file.name)
    if match is None:
        return None
    other = file.with_name(f"{match[1]}{'B' if match[2] == 'A' else 'A'}{match[3]}")
    return other if other.is_file() else None
