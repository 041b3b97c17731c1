"""Named styles and where they lie: list, find, add, remove.

A style is a folder ``NAME/`` with ``style.json`` and one file of weights a direction, built under a
temporary name and renamed into place. The user's own and the downloaded ones can be written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cyclegan_cli import errors, files
from cyclegan_cli.errors import StoreError, UnknownNameError, UsageError, WeightsError, command_line
from cyclegan_cli.styles import catalogue
from cyclegan_cli.styles.catalogue import WAYS, Origin, Style, Way, is_name, obtainable, read_style

_BUNDLED = Path(__file__).parent / "bundled"
_ATTEMPTS = 3  # to read a style that may be just being replaced
_LOCK_SECONDS = 60.0
_LIST_HINT = "cyclegan pretrained list"

Write = Callable[[Path], None]  # writes one file of weights to the path that it is given


def list_styles(*, available: bool = True) -> list[Style]:
    """All styles by name, without damaged ones. Raises UsageError, StoreError."""
    found = {style.name: style for style in catalogue.available_styles()} if available else {}
    found.update(_scan()[0])
    return [style for _, style in sorted(found.items())]


def damaged_styles() -> list[tuple[Path, StoreError]]:
    """The folders that are damaged styles, each with what is wrong with it."""
    return _scan()[1]


def find_style(name_or_path: str) -> Style:
    """The style of that name (the user's own, bundled, downloaded, in the catalogue) or path.

    A name comes before a path; ``./name`` is always a path. Raises UnknownNameError, StoreError for
    a damaged style, WeightsError for a file that is not a generator of this program.
    """
    name = unicodedata.normalize("NFC", name_or_path)
    if is_name(name) and (style := _scan(name)[0].get(name)) is not None:
        return style
    path = Path(name_or_path).expanduser()
    if path.is_dir() and (path / "style.json").is_file():
        return read_style(path, None, name=None)
    if path.is_file():
        return catalogue.style_of_file(path)
    if path.is_dir() and not is_name(name_or_path):
        raise UsageError(f"{path} is a folder, but not a style's.", hint=_LIST_HINT)
    known = {style.name: style for style in list_styles()}
    if name_or_path in known:
        return known[name_or_path]
    if is_name(name) and (files.runs_dir() / name).is_dir():
        raise UsageError(
            f"The run '{name}' has made no style yet.",
            hint=f"{command_line('resume', name)}   or, from its last checkpoint: "
            + command_line("pretrained", "import", "--run", name),
        )
    raise UnknownNameError("style", name_or_path, known, hint=_LIST_HINT)


def find_styles(given: Sequence[str]) -> list[Style]:
    """Each style once; a name may be several with commas between, a path that exists is one.

    Raises UsageError where none is given or two have one name, and what :func:`find_style` raises.
    """
    names: list[str] = []
    for text in given:
        whole = Path(text).expanduser().exists()
        names += [text] if whole else [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise UsageError("Missing option --style.", hint=_LIST_HINT)
    styles: dict[str, Style] = {}
    for name in dict.fromkeys(names):
        style = find_style(name)
        other = styles.setdefault(style.name, style)
        if (other.folder, other.directions) != (style.folder, style.directions):
            raise UsageError(
                f"--style: two styles are named {style.name}; outputs are named after their style.",
                hint="Paint with them one after the other, each with a folder of its own after -o.",
            )
    return list(styles.values())


def weights_file(style: Style, reverse: bool) -> Path:
    """The file of G, or of F with ``reverse``. Raises UsageError if it is not on this machine."""
    way: Way = "yx" if reverse else "xy"
    if way in style.directions:
        file = style.directions[way].file
        root = style.folder.parent if style.folder else None
        if not file.is_file() and root in [own for own, _ in _roots()]:
            with _still(root):  # it may just have been replaced
                pass
        if not file.is_file():
            raise StoreError(
                f"The style '{style.name}' has lost a file: {file} is not there.",
                hint=command_line("pretrained", "verify", style.name),
            )
        return file
    wanted, there = f"{style.x} → {style.y}", f"{style.y} → {style.x}"
    if reverse:
        wanted, there = there, wanted
    if obtainable(style, way):
        which = f"direction {wanted} of the style" if style.directions else "style"
        raise UsageError(
            f"The {which} '{style.name}' is not on this machine yet.",
            hint=command_line("pretrained", "download", style.name),
        )
    raise UsageError(
        f"The style '{style.name}' has no direction {wanted}: only {there} is "
        f"{'here' if style.directions else 'to be had'}.",
        hint=f"{'Leave out' if reverse else 'Add'} --reverse for {there}.",
    )


def _roots() -> list[tuple[Path, Origin | None]]:
    """Folders of styles in the order of lookup; None: each style.json says its origin."""
    return [
        (files.styles_dir(), None),
        (_BUNDLED, "bundled"),
        (root_of("downloaded"), "downloaded"),
    ]


def downloaded_style(name: str) -> Style | None:
    """The downloaded style of that name, hidden or not. Raises StoreError if it is damaged."""
    return _look(root_of("downloaded"), "downloaded", name)


def root_of(origin: Origin) -> Path:
    """The folder that holds styles of that origin."""
    if origin == "bundled":
        return _BUNDLED
    return files.cache_dir() / "styles" if origin == "downloaded" else files.styles_dir()


def _scan(
    wanted: str | None = None,
) -> tuple[dict[str, Style], list[tuple[Path, StoreError]]]:
    """The styles on this machine by name, and the damaged ones; only those named ``wanted``.

    Raises StoreError where that is damaged, and no whole one comes before it.
    """
    found: dict[str, Style] = {}
    broken: list[tuple[Path, StoreError]] = []
    for root, origin in _roots():
        for name in [wanted] if wanted else _names(root):
            try:
                style = _look(root, origin, name)
            except StoreError as error:
                if wanted and not found:
                    raise
                broken.append((root / name, error))
                continue
            if style is not None:
                first = found.setdefault(name, style)
                if first is not style:
                    found[name] = replace(first, hides=(*first.hides, style.origin))
    return found, broken


def _names(root: Path) -> list[str]:
    """The names of the styles in ``root``, those that are just being replaced included."""
    try:
        entries = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _store_error(error, root, "read") from error
    moving = (entry[1:].split(".")[:-2] for entry in entries if entry.startswith("."))
    names = {*entries, *(".".join(parts) for parts in moving)}
    return sorted(name for name in names if is_name(name))


def _look(root: Path, origin: Origin | None, name: str) -> Style | None:
    """The style of that name in ``root``; one that is being replaced is missing for a moment."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return read_style(root / name, origin, name=name)
        if not (root / name).is_dir() and not any(root.glob(f".{name}.*.*")):
            continue  # neither incomplete, nor being replaced or removed
        with _still(root):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return read_style(root / name, origin, name=name)
            if (root / name).is_dir():
                raise catalogue.damaged(root / name, "it has no style.json")
    return None


def add_style(
    name: str,
    *,
    x: str,
    y: str,
    origin: Origin,
    weights: Mapping[Way, Path | Write],
    card: Mapping[str, object],
    replace: bool | Callable[[Style], bool] = False,
) -> Style:
    """Make a new style of ``weights``, as a whole or not at all, and return it.

    ``weights``: files to copy, or functions that write one to a path. ``card``: plain JSON values.
    ``replace``: whether to replace a style of that name, or what decides it from that style. Raises
    UsageError for a name that is not valid or taken, WeightsError for another file, StoreError.
    """
    name = files.check_name(unicodedata.normalize("NFC", name))
    if not weights or not set(weights) <= set(WAYS) or origin in ("bundled", "available"):
        raise UsageError(
            "A style has one direction or two, and is trained, imported or downloaded."
        )
    root = root_of(origin)
    temporary = root / f".{name}.{secrets.token_hex(6)}.tmp"
    _refuse_taken(root, name, replace)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _style_lock(root.parent):  # readers wait only for the renames
            files.remove_leftovers(root)
            temporary.mkdir()
            entries = {way: _put(weights[way], temporary, way) for way in WAYS if way in weights}
            about = {
                **{
                    "format": catalogue.STYLE_FORMAT,
                    "name": name,
                    "x": x,
                    "y": y,
                    "origin": origin,
                },
                **{"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **card},
                "directions": entries,
            }
            text = json.dumps(about, indent=1, ensure_ascii=False)
            files.write_text(temporary / "style.json", text + "\n")
            with _style_lock(root):
                files.recover_folders(root, "style.json")
                _refuse_taken(root, name, replace)
                files.swap_folder(temporary, root / name)
                said = origin if origin == "downloaded" else None
                return read_style(root / name, said, name=name)
    except OSError as error:
        if error.filename is not None:  # name the place instead of the temporary folder
            error.filename = str(error.filename).replace(str(temporary), str(root / name))
        raise _store_error(error, root, "written") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_taken(root: Path, name: str, replace: bool | Callable[[Style], bool]) -> None:
    if not (root / name).exists():
        return
    if callable(replace):
        try:
            replace = replace(read_style(root / name, None, name=name))
        except (FileNotFoundError, NotADirectoryError, StoreError):
            replace = False
    if not replace:
        raise UsageError(
            f"There is already a style named '{name}' in {root}.",
            hint=f"Choose another name, or: {command_line('pretrained', 'remove', name)}",
        )


def _put(source: Path | Write, folder: Path, way: Way) -> dict[str, object]:
    """Put one file of weights into a style being built; its entry for style.json."""
    target = folder / f"{way}.safetensors"
    if callable(source):
        source(target)
    elif not source.exists():
        raise WeightsError(f"{source} is not there.")
    else:
        shutil.copyfile(source, target)
    spec, _ = catalogue.read_generator_header(target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    digest, size = files.digest_of(target)
    return {"file": target.name, "sha256": digest, "size": size, "generator": spec.to_json()}


def remove_style(name: str, *, dry_run: bool = False) -> Path:
    """Remove (``dry_run``: only look for) the style of that name, damaged or not; its folder.

    Raises UnknownNameError, UsageError for a bundled style, StoreError.
    """
    name = unicodedata.normalize("NFC", name)
    for root, origin in _roots():
        folder = root / name
        if not is_name(name) or not folder.is_dir():
            continue
        if origin == "bundled":
            raise UsageError(f"The style '{name}' came with the program and stays.")
        if dry_run:
            return folder
        try:
            with _style_lock(root):
                files.recover_folders(root, "style.json")
                if not folder.is_dir():
                    break
                files.remove_folder(folder)
        except OSError as error:
            raise _store_error(error, root, "written") from error
        return folder
    known = [style.name for style in list_styles(available=False)]
    raise UnknownNameError("style", name, known, hint=_LIST_HINT)


@contextlib.contextmanager
def _still(root: Path) -> Iterator[None]:
    """Hold the lock of ``root``, unless it is read-only, where nothing changes anyway."""
    if not os.access(root, os.W_OK):
        yield
        return
    with _style_lock(root):
        files.recover_folders(root, "style.json")
        yield


def _store_error(error: OSError, root: Path, verb: str) -> StoreError:
    variable = "CYCLEGAN_CACHE" if root == root_of("downloaded") else "CYCLEGAN_HOME"
    return StoreError(
        f"{error.filename or root} cannot be {verb}: {errors.reason_of(error)}.",
        hint=f"Set {variable} to a folder that can be {verb}.",
    )


@contextlib.contextmanager
def _style_lock(root: Path) -> Iterator[None]:
    """Hold the lock of a folder of styles. Raises StoreError after ``_LOCK_SECONDS``."""
    from filelock import FileLock, Timeout  # slow to import, rarely needed

    lock = FileLock(root / ".lock", timeout=_LOCK_SECONDS)
    try:
        with lock:
            yield
    except Timeout:
        raise StoreError(
            f"{root} is locked by another process.", hint="Wait for it to end, and try again."
        ) from None
