"""What train checks and tells before its first step."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan_cli.cli.common import arguments
from cyclegan_cli.cli.console import Console
from cyclegan_cli.engine.run import MINIMUM_HELD, Run, evaluates, now, refuse_existing_run
from cyclegan_cli.errors import DataError, UsageError, command_line, counted
from cyclegan_cli.places import styles_dir
from cyclegan_cli.randomness import choices
from cyclegan_cli.settings import Interval, TrainSettings

if TYPE_CHECKING:
    from cyclegan_cli.cli.doctor import Checkup
    from cyclegan_cli.media.survey import Survey
    from cyclegan_cli.styles.catalogue import Way

__all__ = ["default_name", "examine", "first_weights", "folders", "present", "refuse_existing"]

MINIMUM = 2  # usable pictures in a domain


_PAIRS = (("trainA", "trainB"), ("A", "B"), ("X", "Y"))  # as data sets name their domains


def folders(x_dir: Path, y_dir: Path | None) -> tuple[Path, Path]:
    """Both folders, resolved. Raises DataError where they cannot be X and Y."""
    for folder in (x_dir, y_dir):
        if folder is not None and not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise DataError(f"{folder} {what}.", hint=_two_folders(x_dir))
    if y_dir is None:
        raise DataError("Missing argument Y_DIR: X and Y are two folders.", hint=_pair(x_dir))
    x, y = x_dir.resolve(), y_dir.resolve()
    if x.samefile(y):
        raise DataError(f"{x_dir} is given twice: X and Y must be two folders.", hint=_pair(x_dir))
    if x in y.parents or y in x.parents:
        raise DataError(
            f"One of {x_dir} and {y_dir} lies inside the other: they would share pictures."
        )
    return x, y


def _two_folders(given: Path) -> str:
    """What to type where ``given`` is no folder; the name of a data set that is here is one."""
    from cyclegan_cli.styles.datasets import here, location

    name = str(given)
    if given.name == name and here(name) is not None:
        return _pair(location(name))
    return "Two folders: cyclegan train X_DIR Y_DIR"


def _pair(folder: Path) -> str:
    """The command with the two folders that ``folder`` holds, where it is a data set."""
    for names in _PAIRS:
        x, y = (folder / name for name in names)
        if x.is_dir() and y.is_dir():
            rest = [word for word in arguments() if not _is_same(word, folder)]
            return command_line("train", x, y, *rest[1:])
    return "Two folders: cyclegan train X_DIR Y_DIR"


def _is_same(word: str, folder: Path) -> bool:
    return word in (str(folder), folder.name) or Path(word) == folder


def default_name(x_dir: Path, y_dir: Path) -> str:
    return re.sub(r"[^\w.+ -]+", "-", f"{x_dir.name}2{y_dir.name}").strip("._- ") or "run"


def refuse_existing(name: str, folder: Path) -> None:
    refuse_existing_run(name, folder)
    if (styles_dir() / name).exists():
        raise UsageError(
            f"A style named '{name}' exists already.",
            hint="Give this one another --name, or: " + command_line("pretrained", "remove", name),
        )


def first_weights(settings: TrainSettings) -> dict[Way, Path]:
    """The files that G ("xy") and F ("yx") start from: those of ``init`` that are here.

    Raises UnknownNameError, StoreError, and UsageError where the style has no G or another shape.
    """
    from cyclegan_cli.styles.store import find_style, weights_file

    if settings.init is None:
        return {}
    style, spec = find_style(settings.init), settings.generator
    files: dict[Way, Path] = {"xy": weights_file(style, reverse=False)}
    if "yx" in style.directions:
        files["yx"] = weights_file(style, reverse=True)
    for way in files:
        found = style.directions[way].generator
        if replace(found, name=spec.name) != spec:
            raise UsageError(
                f"The style '{settings.init}' is of a {found.name} generator, not of a "
                f"{spec.name} one.",
                hint=f"--generator {found.name}",
            )
    return files


def examine(
    console: Console,
    name: str,
    folder: Path,
    settings: TrainSettings,
    x_dir: Path,
    y_dir: Path,
    *,
    strict: bool,
    exact: bool = False,
) -> tuple[Run, Checkup]:
    """Open every picture, hold some out, and describe the run (nothing is written).

    ``exact``: ``hold_out`` is what was asked for, and no upper bound.
    """
    from cyclegan_cli.cli.doctor import Checkup
    from cyclegan_cli.media.plan import find_pictures
    from cyclegan_cli.media.survey import survey

    found = {"x": find_pictures(x_dir), "y": find_pictures(y_dir)}
    surveys: dict[str, Survey] = {}
    with console.progress("opening pictures", sum(map(len, found.values()))) as bar:
        for domain, files in found.items():
            surveys[domain] = survey(files, max(1, settings.workers), bar.advance)
    _judge(console, surveys, {"x": x_dir, "y": y_dir}, strict=strict)
    parts = {
        domain: _hold_out(
            settings, domain, [str(p.relative_to(root)) for p in surveys[domain].usable], exact
        )
        for domain, root in (("x", x_dir), ("y", y_dir))
    }
    run = Run(
        folder=folder,
        name=name,
        settings=settings,
        x_dir=x_dir,
        y_dir=y_dir,
        x_files=parts["x"][0],
        y_files=parts["y"][0],
        x_held=parts["x"][1],
        y_held=parts["y"][1],
        created=now(),
    )
    return run, Checkup(run, surveys["x"], surveys["y"])


def _judge(
    console: Console, surveys: Mapping[str, Survey], roots: Mapping[str, Path], *, strict: bool
) -> None:
    unusable = [error for survey in surveys.values() for error in survey.unusable]
    for error in unusable:
        console.warn(f"left out: {error}")
    if unusable and strict:
        raise DataError(
            f"{counted(len(unusable), 'picture')} cannot be used, and --strict was given."
        )
    for domain, survey in surveys.items():
        if len(survey.usable) < MINIMUM:
            raise DataError(
                f"{roots[domain]} holds {counted(len(survey.usable), 'usable picture')}; a domain "
                f"needs at least {MINIMUM}, and hundreds to learn well."
            )


def _hold_out(
    settings: TrainSettings, domain: str, names: list[str], exact: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(training, held out), chosen by the seed: at most a tenth, or ``exact``ly what was asked for.

    Raises DataError where that leaves too few to train on.
    """
    count = min(max(settings.samples, settings.hold_out), len(names) // 10)
    if exact and settings.hold_out > 0:
        count = settings.hold_out
        if count > len(names) - MINIMUM:
            raise DataError(
                f"--hold-out {count}: domain {domain.upper()} has "
                f"{counted(len(names), 'usable picture')}, and at least {MINIMUM} must be left to "
                "train on.",
                hint="A lower --hold-out; without it a tenth is held out, at most 50.",
            )
    held = set(choices(settings.seed, "held", domain).sample(names, count))
    return tuple(n for n in names if n not in held), tuple(n for n in names if n in held)


def present(
    console: Console,
    run: Run,
    gpu: str,
    processes: int = 1,
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """The table before the first step, with ``more`` rows at its end.

    Raises UsageError where device or disk are not enough.
    """
    from cyclegan_cli.cli.processes import member, one_device
    from cyclegan_cli.engine.device import resolve_precision, training_needs

    s = run.settings
    # Before they are started, the first of several stands for all.
    device = one_device(gpu.split(",", maxsplit=1)[0] if member() is None else gpu)
    dtype = resolve_precision(s.precision, device.torch)
    own = -(-s.batch_size // processes)
    needs = training_needs(replace(s, batch_size=own))
    each = f": {own} in each of {processes} processes" if processes > 1 else ""
    steps = -(-max(len(run.x_files), len(run.y_files)) // s.batch_size)
    length = f"{counted(s.epochs, 'epoch')} of {counted(steps, 'step')}"
    measured = evaluates(run)
    disk = needs.checkpoint * (s.keep + 1 + measured)
    stop = f", stopping after {counted(s.max_steps, 'step')}" if s.max_steps else ""
    console.summary(
        run.name,
        [
            ("X", _domain_text(run.x_dir, run.x_files, run.x_held)),
            ("Y", _domain_text(run.y_dir, run.y_files, run.y_held)),
            ("training", f"{length}, batch {s.batch_size}{each}{stop}"),
            ("learning rate", f"{s.lr:g} for {counted(s.knee, 'epoch')}, then linearly to 0"),
            ("generator", f"{s.generator.name}, {needs.parameters / 1e6:.1f} M parameters"),
            ("device", f"{device.label}, {str(dtype).removeprefix('torch.')}"),
            ("memory", f"about {needs.memory / 2**30:.1f} GiB{' a process' * (processes > 1)}"),
            (
                "disk",
                f"{disk / 2**20:.0f} MiB for {counted(s.keep, 'checkpoint')}"
                f"{', the best' if measured else ''} and one being written",
            ),
            ("measured", _measuring_text(run)),
            *more,
            ("run", str(run.folder)),
        ],
    )
    existing = next(p for p in (run.folder, *run.folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < disk:
        raise UsageError(
            f"The checkpoints need {disk / 2**20:.0f} MiB; {existing} has {free / 2**20:.0f} free.",
            hint="Free some space, lower --keep, or set CYCLEGAN_HOME to another disk.",
        )


def _measuring_text(run: Run) -> str:
    s = run.settings
    if evaluates(run):
        return f"every {Interval.parse(s.evaluate_every)}, on the pictures held out"
    if s.evaluate_every == "never":
        return "never"
    return f"never: that takes {MINIMUM_HELD} pictures held out in each domain (a tenth of them)"


def _domain_text(folder: Path, files: tuple[str, ...], held: tuple[str, ...]) -> str:
    out = f", and {len(held)} held out" if held else ""
    return f"{folder.name}: {counted(len(files), 'picture')}{out}"
