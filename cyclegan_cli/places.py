"""Where things lie on this machine: runs, styles, downloads.

``CYCLEGAN_HOME`` holds what cannot be had again (runs, the user's own styles); ``CYCLEGAN_CACHE``
what can (downloads). Their defaults are the platform's user data and user cache folders.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

from cyclegan_cli.errors import UsageError

_NAME = re.compile(r"[^\W_][\w .+-]*")  # letters of any alphabet, digits; then also _ space . + -
# File names that Windows keeps for itself, with any extension.
RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(10))}


def home_dir() -> Path:
    """The folder of runs and of the user's own styles; it may not exist yet."""
    chosen = os.environ.get("CYCLEGAN_HOME")
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("cyclegan", False)


def cache_dir() -> Path:
    """The folder of what can be downloaded again; it may not exist yet."""
    chosen = os.environ.get("CYCLEGAN_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("cyclegan", False)


def runs_dir() -> Path:
    """The folder with one folder a run."""
    return home_dir() / "runs"


def styles_dir() -> Path:
    """The folder with one folder for each of the user's own styles."""
    return home_dir() / "styles"


def offline() -> bool:
    """Whether ``CYCLEGAN_OFFLINE`` forbids every request."""
    return os.environ.get("CYCLEGAN_OFFLINE", "").lower() not in ("", "0", "false", "no")


def mirror() -> str | None:
    """The address of a folder that holds the catalogue's files, from ``CYCLEGAN_MIRROR``."""
    return os.environ.get("CYCLEGAN_MIRROR", "").rstrip("/") or None


def check_name(name: str) -> str:
    """Return ``name`` if it can name a run or a style on every system.

    Raises UsageError for empty names, path separators, a leading dot, and what Windows reserves.
    """
    stem = name.split(".", maxsplit=1)[0].lower()
    if not _NAME.fullmatch(name) or name != name.rstrip(" .") or stem in RESERVED:
        raise UsageError(
            f"'{name}' cannot be a name: use letters, digits, '-', '_', '.', '+' and spaces, "
            "starting with a letter or digit."
        )
    if len(name.encode()) > 100:
        raise UsageError(f"'{name[:40]}…' is too long for a name: at most 100 bytes.")
    return name
