"""A style's generator, written for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path

from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import atomic_path
from cyclegan_cli.styles.cards import Style
from cyclegan_cli.styles.store import weights_file

__all__ = ["check_target", "export_style"]

_KINDS = (".safetensors", ".pth")


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
        raise UsageError(f"The folder {file.parent} is not there.", hint=f"mkdir -p {file.parent}")


def export_style(style: Style, file: Path, *, reverse: bool = False) -> None:
    """Write one direction of ``style`` to ``file``, in the format that its extension names.

    Raises UsageError where that direction is not there or the format has no such generator,
    WeightsError, StoreError, OSError.
    """
    source = weights_file(style, reverse)
    if file.suffix.lower() == ".safetensors":
        with atomic_path(file) as temporary:
            shutil.copyfile(source, temporary)
        return
    from cyclegan_cli.engine.weights import load_generator
    from cyclegan_cli.styles.publicformat import export_public

    export_public(load_generator(source), file)
