"""The files of this program: where they lie, the one writer of them, and readers: of TOML, of
safetensors headers, of digests.

``CYCLEGAN_HOME`` holds what cannot be had again (runs, the user's own styles); ``CYCLEGAN_CACHE``
what can (downloads). Their defaults are the platform's user data and user cache folders.

Every file is written to a temporary name beside its place, flushed to the disk, and renamed: a
reader sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs

from cyclegan_cli.errors import UsageError, reason_of

# Names of what is being written: this program's; of earlier versions, safetensors' and Python's.
_LEFTOVER = re.compile(r"\..*\.[0-9a-f]{12}\.tmp(\.[^.]*)?|\.tmp\w{6}|tmp[a-z0-9_]{8}", re.DOTALL)
_HEADER_LIMIT = 100_000_000  # the safetensors format's own limit, in bytes

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


# -- writing and removing -----------------------------------------------------------------------


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what a kill in the middle of a write left in ``folder``; what cannot be, stays.

    ``name``: only what was to become the folder of that name. The caller holds the lock under which
    this program writes there.
    """
    pattern = _LEFTOVER
    if name is not None:
        pattern = re.compile(rf"\.{re.escape(name)}\.([0-9a-f]{{12}}\.tmp|[a-z0-9_]{{8}})")
    try:
        with os.scandir(folder) as scan:
            entries = list(scan)
    except OSError:
        return
    for entry in entries:
        if not pattern.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()


@contextlib.contextmanager
def atomic_path(path: Path, *, apart: bool = False) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder; on a clean exit it becomes ``path``.

    The folder must exist. On any exception, Ctrl-C included, the temporary file is removed and
    ``path`` is untouched. The temporary name keeps ``path``'s extension, since encoders choose the
    format by it, and starts with a dot, so that folder walks skip it. ``apart``: it lies in a
    temporary folder, for writers that make more files beside it, or ones for their owner alone.

    Raises OSError as the file system does, and where ``path`` is a device or the like, which a
    rename would destroy (/dev/null, where the user may).
    """
    if is_special(path):
        raise OSError(errno.EINVAL, "It is no ordinary file", str(path))
    beside = path.with_name(f".{path.stem[:60]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    temporary = beside / path.name if apart else beside
    try:
        if apart:
            beside.mkdir()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if apart:  # the folder has what the umask allows
            with contextlib.suppress(OSError):
                temporary.chmod(stat.S_IMODE(beside.stat().st_mode) & 0o666)
        with contextlib.suppress(OSError):  # what is replaced keeps its mode, where there is one
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        if apart:
            shutil.rmtree(beside, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def is_special(path: Path) -> bool:
    """Whether ``path`` is a device, a pipe, a socket, or one of the system's links to such."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    if stat.S_ISLNK(mode):  # /dev/stdout, /dev/fd/63
        folder = path.parent.resolve()
        return folder == Path("/dev") or Path("/proc") in folder.parents
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut (where there is support)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def swap_folder(temporary: Path, place: Path) -> None:
    """Rename the folder ``temporary`` to ``place``; what was there is put back if that fails."""
    aside = place.with_name(f".{place.name}.{secrets.token_hex(6)}.swap")
    existed = place.exists()
    if existed:
        place.rename(aside)
    try:
        temporary.rename(place)
    except BaseException:
        if existed:
            aside.rename(place)
        raise
    sync_folder(place.parent)
    if existed:
        shutil.rmtree(aside, ignore_errors=True)


def remove_folder(place: Path) -> None:
    """Remove a folder: renamed in one step, then deleted."""
    aside = place.with_name(f".{place.name}.{secrets.token_hex(6)}.gone")
    place.rename(aside)
    sync_folder(place.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover_folders(root: Path, mark: str) -> None:
    """Undo a ``swap_folder`` or finish a ``remove_folder`` in ``root`` that was cut off.

    ``mark``: a file that every complete folder has. The caller holds the lock of ``root``.
    """
    for folder in root.glob(".*.*"):
        name, _, kind = folder.name[1:].rpartition(".")
        place = root / name.rpartition(".")[0]
        if kind == "swap" and not place.exists() and (folder / mark).is_file():
            folder.rename(place)
        elif kind in ("swap", "gone"):
            shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with Unix line ends."""
    write_bytes(path, text.encode())


# -- reading ------------------------------------------------------------------------------------


def read_safetensors_header(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the tensor table of a safetensors file, without its data.

    Returns (``__metadata__``, {tensor name: {"dtype", "shape", "data_offsets"}}).
    Raises ValueError if it is not a complete safetensors file, OSError if it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        head = start + (file.read(length) if length <= _HEADER_LIMIT else b"")
    return parse_safetensors_header(head, path.stat().st_size)


def parse_safetensors_header(data: bytes, size: int) -> tuple[dict[str, str], dict[str, Any]]:
    """``read_safetensors_header`` of a file of ``size`` bytes that begins with ``data``."""
    length = int.from_bytes(data[:8], "little")
    if size < 8 or not 2 <= length <= min(_HEADER_LIMIT, size - 8):
        raise ValueError("not a safetensors file")
    try:
        header = json.loads(data[8 : 8 + length])
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError("not a safetensors file") from error
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(map(_is_entry, header.values())):
        raise ValueError("not a safetensors file")
    end = 0
    for first, last in sorted(entry["data_offsets"] for entry in header.values()):
        if first != end or last < first:
            raise ValueError("not a safetensors file: its tensors overlap or leave gaps")
        end = last
    if 8 + length + end != size:
        raise ValueError("the file is cut short or has bytes that do not belong to it")
    return {str(k): str(v) for k, v in metadata.items()}, header


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    offsets = entry.get("data_offsets")
    return (
        isinstance(entry.get("dtype"), str)
        and isinstance(entry.get("shape"), list)
        and isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(number) is int for number in (*entry["shape"], *offsets))
    )


def read_toml(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """What a TOML file says; nothing where ``missing_ok`` and there is none.

    Raises UsageError where it cannot be read or understood.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    return found


def digest_of(path: Path) -> tuple[str, int]:
    """The SHA-256 and the size in bytes of a file. Raises OSError where it cannot be read."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def folder_size(folder: Path) -> int:
    """Bytes of all files below ``folder``; 0 if it does not exist."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(base, name).lstat().st_size
    return total
