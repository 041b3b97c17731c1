"""A style's generator, written for other programs."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import atomic_path
from cyclegan_cli.styles.cards import Style

__all__ = ["check_target", "export_style"]

_KINDS = (".safetensors", ".pth", ".onnx")


def check_target(file: Path, *, overwrite: bool) -> None:
    """Raises UsageError unless ``file`` can be written and its extension says in which format."""
    if file.suffix.lower() not in _KINDS:
        raise UsageError(
            f"{file} does not say in which format to export.",
            hint=f"End it in one of: {', '.join(_KINDS)}.",
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

    Raises UsageError where the format has no such generator, or its package is not installed;
    WeightsError, OSError.
    """
    if file.suffix.lower() == ".safetensors":
        with atomic_path(file) as temporary:
            shutil.copyfile(source, temporary)
        return
    from cyclegan_cli.engine.weights import load_generator

    network = load_generator(source)
    if file.suffix.lower() == ".pth":
        from cyclegan_cli.styles.publicformat import export_public

        export_public(network, file)
        return
    from cyclegan_cli.styles.onnxformat import export_onnx

    domains = (style.y, style.x) if reverse else (style.x, style.y)
    about = {"style": style.name, "from": domains[0], "to": domains[1]}
    export_onnx(network, file, {**about, "licence": str(style.card.get("licence", "unknown"))})
