"""Styles from and to other files: import, export, and the test translation of both."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from cyclegan_cli.engine.weights import load_generator, load_weights, save_generator
from cyclegan_cli.errors import StoreError, UsageError, WeightsError
from cyclegan_cli.files import atomic_path, digest_of
from cyclegan_cli.styles.catalogue import Direction, Origin, Style, Way
from cyclegan_cli.styles.store import Write, add_style, find_style

__all__ = [
    "check_generator",
    "check_target",
    "convert",
    "export_style",
    "import_style",
    "other_direction",
    "verify_style",
]

_FORMATS = (".safetensors", ".pth", ".onnx")
_TEST_SIZE = 32  # pixels along each side of the test picture
_FLAT = 1e-4  # standard deviation below which a translation counts as a single colour


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

    Each file is read without executing a byte of it, converted, and tried on a test picture before
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

    Raises WeightsError, OSError; then ``target`` does not exist.
    """
    from cyclegan_cli.styles.publicformat import read_generator

    save_generator(target, read_generator(source), about)
    try:
        check_generator(target)
    except WeightsError as error:
        target.unlink()
        raise WeightsError(str(error).replace(str(target), str(source))) from error


def other_direction(file: Path) -> Path | None:
    """The file of the pair's other direction beside ``file``, by the public code's names.

    ``latest_net_G_A.pth`` has ``latest_net_G_B.pth``; None if there is no such file.
    """
    match = re.fullmatch(r"(.*_net_G_)([AB])(\.\w+)", file.name)
    if match is None:
        return None
    other = file.with_name(f"{match[1]}{'B' if match[2] == 'A' else 'A'}{match[3]}")
    return other if other.is_file() else None


def check_target(file: Path, *, overwrite: bool) -> None:
    """Raise UsageError unless ``file`` can be written and its extension is that of a format."""
    if file.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"{file} does not say in which format to export.",
            hint=f"End it in one of: {', '.join(_FORMATS)}.",
        )
    if file.exists() and (not overwrite or not file.is_file()):
        raise UsageError(f"{file} is already there.", hint="--overwrite replaces it.")
    if not file.parent.is_dir():
        raise UsageError(
            f"The folder {file.parent} is not there.",
            hint=f"mkdir -p {shlex.quote(str(file.parent))}",
        )


def export_style(style: Style, source: Path, file: Path, *, reverse: bool = False) -> None:
    """Write ``source``, one direction of ``style``, to ``file`` in the format of its extension.

    Raises UsageError if the format has no such generator or its package is not installed;
    WeightsError, OSError.
    """
    if file.suffix.lower() == ".safetensors":
        with atomic_path(file) as temporary:
            shutil.copyfile(source, temporary)
        return
    if file.suffix.lower() == ".pth":
        from cyclegan_cli.styles.publicformat import export_public

        export_public(load_generator(source), file)
        return
    from cyclegan_cli.styles.onnxformat import export_onnx

    domains = (style.y, style.x) if reverse else (style.x, style.y)
    about: dict[str, object] = {"style": style.name, "from": domains[0], "to": domains[1]}
    about["licence"] = str(style.card.get("licence", "unknown"))
    export_onnx(load_weights(source), file, about)


def verify_style(style: Style) -> list[str]:
    """What is wrong with ``style``, one sentence each; empty if nothing is.

    Each direction's size and SHA-256 are compared with the recorded ones, then it translates a test
    picture. A style that another process has replaced meanwhile is checked again.
    """
    problems = _problems(style)
    if problems and style.folder is not None:
        try:
            now = find_style(style.name)
        except StoreError:
            return problems
        if now.folder == style.folder and now.directions != style.directions:
            return _problems(now)
    return problems


def _problems(style: Style) -> list[str]:
    found = ((direction.file, _problem(direction)) for direction in style.directions.values())
    return [f"{file}: {problem}" for file, problem in found if problem]


def _problem(direction: Direction) -> str:
    try:
        digest, size = digest_of(direction.file)
        if size != direction.size:
            return f"it has {size} bytes, and had {direction.size}"
        if digest != direction.sha256:
            return f"its SHA-256 is {digest[:12]}…, and was {direction.sha256[:12]}…"
        if load_generator(direction.file).spec != direction.generator:
            return "its generator is not the one that the style's card names"
        check_generator(direction.file)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except WeightsError as error:
        return str(error).removeprefix(f"{direction.file} ").rstrip(".")
    return ""


def check_generator(path: Path) -> None:
    """Translate a test picture with the generator in ``path``, on the CPU.

    Raises WeightsError if the result is not finite or a single colour.
    """
    import torch

    network = load_generator(path)
    ramp = torch.linspace(-1, 1, _TEST_SIZE)
    picture = torch.stack(
        [ramp.expand(_TEST_SIZE, -1), ramp[:, None].expand(-1, _TEST_SIZE), ramp.outer(ramp)]
    )
    x = picture.repeat(2, 1, 1)[None, : network.spec.in_channels]
    if network.spec.code > 0:  # it has the grain as a further channel
        x = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
    with torch.inference_mode():
        result = network(x)
    if not bool(torch.isfinite(result).all()):
        raise WeightsError(f"{path} translates a test picture into numbers that are not finite.")
    if float(result.std(dim=(2, 3)).max()) < _FLAT:
        raise WeightsError(f"{path} translates a test picture into a single colour.")
