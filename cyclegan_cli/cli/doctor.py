"""cyclegan doctor and docs: what helps when something does not work."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer

from cyclegan_cli import __version__
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import argument, command, one_of
from cyclegan_cli.cli.processes import importing
from cyclegan_cli.errors import (
    CycleganError,
    PictureError,
    UnknownNameError,
    command_line,
    counted,
    pip_extra,
    reason_of,
    size_text,
)
from cyclegan_cli.files import folder_size

_LOW_DISK = 2_000_000_000  # bytes: a few checkpoints of the paper's networks
_VARIABLES = (
    *("CYCLEGAN_HOME", "CYCLEGAN_CACHE", "CYCLEGAN_OFFLINE", "CYCLEGAN_MIRROR"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)
# Flags of /proc/cpuinfo that decide which code runs.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd")
_PURPOSES = {
    "heif": "HEIC pictures",
    "features": "train --lambda-feature, --lambda-content; evaluate --perceptual",
    "onnx": "pretrained export to .onnx",
    "tensorboard": "train --tensorboard",
    "metrics": "evaluate --fid",
}


@dataclass(frozen=True)
class Check:
    """One line of ``cyclegan doctor``. ``state``: ok, note (worth knowing) or bad."""

    name: str
    state: str
    found: str
    advice: str = ""


@command("json")
def doctor(console: Console) -> None:
    """Check this installation: versions, processor, GPU, folders, formats.

    Each line says ok, or what to do. Add the output to a problem report. The exit code is 1 if
    something is broken, else 0. Nothing is changed, and nothing is sent anywhere.

    \b
    Examples:
      cyclegan doctor
      cyclegan doctor --json > report.jsonl
    """
    checks = []
    for group in (_versions, _processor, _kernels, _gpu, _folders, _formats, _extras, _styles):
        try:
            checks += list(group())
        except Exception as error:  # one check that fails must not hide the others
            name = group.__name__.strip("_")
            checks.append(Check(name, "bad", f"{type(error).__name__}: {error}"))
    rows = [
        (
            "BAD" if check.state == "bad" else check.state,
            check.name,
            f"{check.found} → {check.advice}" if check.advice else check.found,
        )
        for check in checks
    ]
    console.table(("", "check", "found"), rows, [vars(check) for check in checks])
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def _versions() -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Check("cyclegan", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()}, {system}")
    found, missing = _installed("")
    yield Check("packages", "ok", ", ".join(found))
    if missing:
        what = "training and styles that need it" if "torch" in missing else "some commands"
        advice = f"pip install {' '.join(missing)}   (for {what})"
        yield Check("missing", "note", ", ".join(missing), advice)
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    if given:
        yield Check("environment", "ok", " ".join(given))


def _installed(extra: str) -> tuple[list[str], list[str]]:
    """The packages that an extra, or the program itself (""), names: with versions, and missing."""
    found, missing = [], []
    for line in metadata.requires("cyclegan") or ():
        package, _, condition = line.partition(";")
        name = re.split(r"[^\w.-]", package, maxsplit=1)[0]
        if f'"{extra}"' in condition.replace("'", '"') if extra else not condition:
            try:
                found.append(f"{name} {metadata.version(name)}")
            except metadata.PackageNotFoundError:
                missing.append(name)
    return found, missing


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
    from cyclegan_cli.engine.fast.kernels import library

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
        found = f"PyTorch cannot be loaded: {reason_of(error)}"
        yield Check("gpu", "note", found, "pip install torch")
        return
    names = available()
    del names["cpu"]
    for name, label in names.items():
        memory = ""
        if name.isdigit():
            free, total = torch.cuda.mem_get_info(int(name))
            memory = f", {size_text(free)} of {size_text(total)} free"
        yield Check(f"gpu {name}", "ok", f"{label}{memory}")
    if not names:
        advice = f"torch {torch.__version__} does not use it: install a build for CUDA"
        unused = driver != "none found"
        seen = f"no GPU that PyTorch can use; NVIDIA driver: {driver}"
        yield Check("gpu", "note" if unused else "ok", seen, advice * unused)


def _folders() -> Iterator[Check]:
    from cyclegan_cli.engine.run import list_runs
    from cyclegan_cli.files import cache_dir, home_dir

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

    from cyclegan_cli.media.video import ffmpeg_program

    codecs = {"JPEG": "jpg", "PNG": "zlib", "WebP": "webp", "AVIF": "avif", "TIFF": "libtiff"}
    codecs["JPEG 2000"] = "jpg_2000"
    here = [name for name, codec in codecs.items() if features.check(codec)]
    missing = [name for name in codecs if name not in here]
    yield Check("pictures", "note" if missing else "ok", ", ".join(here))
    if missing:
        yield Check("codecs", "note", f"missing: {', '.join(missing)}", "pip install -U pillow")
    try:
        command = [ffmpeg_program(), "-version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        yield Check("videos", "ok", f"ffmpeg {said[2]}")
    except PictureError as error:
        yield Check("videos", "note", str(error), error.hint or "")
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        yield Check("videos", "note", f"ffmpeg does not run: {error}", "pip install imageio-ffmpeg")


def _extras() -> Iterator[Check]:
    for extra, purpose in _PURPOSES.items():
        found, missing = _installed(extra)
        text = f"not installed; needed for {purpose}" if missing else ", ".join(found)
        yield Check(f"[{extra}]", "ok", text, pip_extra(extra) * bool(missing))


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


# -- docs --------------------------------------------------------------------------------------


def doc_pages() -> dict[str, Path]:
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


@command("json")
def docs(
    console: Console,
    page: str | None = argument(
        None, "PAGE", "A page's name. Without it: the list.", one_of(doc_pages)
    ),
) -> None:
    """Read the documentation in the terminal.

    In a terminal, pages are formatted; when piped, their Markdown is printed.

    \b
    Examples:
      cyclegan docs
      cyclegan docs guide | less
    """
    pages = doc_pages()
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
    if console.as_json:
        console.result("", {"page": wanted, "path": str(pages[wanted]), "text": text})
    elif sys.stdout.isatty():
        from rich.markdown import Markdown

        rich = console.rich(stderr=False)
        rich.print(Markdown(text), width=min(rich.width, 100))
    else:
        console.document(text)


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return next((line[2:].strip() for line in file if line.startswith("# ")), "")
