"""Renames of whole styles under one lock a folder, and the undoing of those that were cut off."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from cyclegan_cli.errors import StoreError
from cyclegan_cli.files import remove_leftovers, sync_folder

__all__ = ["building", "recover", "style_lock", "swap_in", "take_away"]

_LOCK_SECONDS = 60.0


def swap_in(temporary: Path, place: Path) -> None:
    """Rename ``temporary`` to ``place``; what was there is put back if that fails."""
    aside = place.with_name(f".{place.name}.{secrets.token_hex(6)}.swap")
    there_was = place.exists()
    if there_was:
        place.rename(aside)
    try:
        temporary.rename(place)
    except BaseException:
        if there_was:
            aside.rename(place)
        raise
    sync_folder(place.parent)
    if there_was:
        shutil.rmtree(aside, ignore_errors=True)


def take_away(place: Path) -> None:
    """Remove a style, under the lock: out of sight in one step, then for good."""
    aside = place.with_name(f".{place.name}.{secrets.token_hex(6)}.gone")
    place.rename(aside)
    sync_folder(place.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover(root: Path) -> None:
    """Under the lock: undo a replacement or a removal that was cut off."""
    for folder in root.glob(".*.*"):
        name, _, kind = folder.name[1:].rpartition(".")
        place = root / name.rpartition(".")[0]
        if kind == "swap" and not place.exists() and (folder / "style.json").is_file():
            folder.rename(place)
        elif kind in ("swap", "gone"):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def building(root: Path) -> Iterator[None]:
    """Build a style in ``root``, one process at a time: what lies half built is nobody's, and goes.

    Raises StoreError after a minute of waiting.
    """
    with style_lock(root.parent):
        remove_leftovers(root)
        yield


@contextlib.contextmanager
def style_lock(root: Path) -> Iterator[None]:
    """Hold the one lock of a folder of styles, which exists. Raises StoreError after a minute."""
    from filelock import FileLock, Timeout  # slow to import, and seldom wanted

    lock = FileLock(root / ".lock", timeout=_LOCK_SECONDS)
    try:
        with lock:
            yield
    except Timeout:
        raise StoreError(
            f"{root} is locked by another process.", hint="Wait for it to end, and try again."
        ) from None
