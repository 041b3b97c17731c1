"""What train checks and tells before its first step; under --dry-run, all of it."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.processes import arguments, member, one_device
from cyclegan_cli.engine.run import MINIMUM_HELD, Run, evaluates, list_runs, refuse_existing_run
from cyclegan_cli.errors import DataError, UsageError, command_line, counted, duration, size_text
from cyclegan_cli.files import styles_dir
from cyclegan_cli.randomness import choices
from cyclegan_cli.settings import Interval, TrainSettings

if TYPE_CHECKING:
    from cyclegan_cli.media.survey import Survey, Symptom
    from cyclegan_cli.styles.catalogue import Way

MINIMUM = 2  # usable pictures in a domain
_PAIRS = (("trainA", "trainB"), ("A", "B"), ("X", "Y"))  # as data sets name their domains
_SHOWN = 5  # files that a finding names before it only counts
# What so many pictures in the smaller domain are good for: (fewer than, words).
_EXPECTATIONS = (
    (50, "very few pictures: colours and tones, hardly brushwork; watch the samples, stop early"),
    (200, "few pictures: colours and coarse texture; expect repeated marks; more help most"),
    (1000, "enough for one painter's style (the paper has 401 by Van Gogh, 584 by Cezanne)"),
    (10**9, "plenty: as many as the paper's larger sets"),
)


def require_folder(folder: Path, hint: str | None = None) -> None:
    """Raise DataError where ``folder`` is none."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}.", hint=hint)


def folders(x_dir: Path, y_dir: Path | None) -> tuple[Path, Path]:
    """Both folders, resolved. Raises DataError where they cannot be X and Y."""
    for folder in filter(None, (x_dir, y_dir)):
        if not folder.is_dir():
            require_folder(folder, _two_folders(x_dir))
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
            same = (folder, Path(folder.name))
            rest = [word for word in arguments() if Path(word) not in same]
            return command_line("train", x, y, *rest[1:])
    return "Two folders: cyclegan train X_DIR Y_DIR"


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
        # The noise is no part of the weights: a style may go on with another.
        alike = {"name", "grain", "coarse", "smooth_chroma"}  # whatever they are, weights fit
        if replace(found, **{name: getattr(spec, name) for name in alike}) != spec:
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
) -> Checkup:
    """Open every picture, hold some out, and describe the run (nothing is written).

    ``exact``: ``hold_out`` is what was asked for, and no upper bound.
    """
    from cyclegan_cli.media.folders import find_pictures
    from cyclegan_cli.media.survey import survey

    roots = {"x": x_dir, "y": y_dir}
    found = {domain: find_pictures(root) for domain, root in roots.items()}
    with console.progress("opening pictures", sum(map(len, found.values()))) as bar:
        threads = max(1, settings.workers)
        surveys = {one: survey(files, threads, bar.advance) for one, files in found.items()}
    _judge(console, surveys, roots, strict=strict)
    names = {one: [str(p.relative_to(roots[one])) for p in surveys[one].usable] for one in roots}
    (x, x_held), (y, y_held) = (_hold_out(settings, one, names[one], exact) for one in roots)
    run = Run(folder, name, settings, x_dir, y_dir, x, y, x_held, y_held, created=time.time())
    return Checkup(run, surveys)


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
    console: Console, run: Run, gpu: str, processes: int = 1, more: Sequence[tuple[str, str]] = ()
) -> None:
    """The table before the first step, with ``more`` rows at its end.

    Raises UsageError where device or disk are not enough.
    """
    from cyclegan_cli.engine.device import resolve_precision, training_needs

    s = run.settings
    # Before they are started, the first of several stands for all.
    device = one_device(gpu.split(",", maxsplit=1)[0] if member() is None else gpu)
    dtype = resolve_precision(s.precision, device.torch)
    own = -(-s.batch_size // processes)
    needs = training_needs(replace(s, batch_size=own))
    each = f": {own} in each of {processes} processes" if processes > 1 else ""
    length = f"{counted(s.epochs, 'epoch')} of {counted(run.steps_per_epoch, 'step')}"
    measured = evaluates(run)
    disk = needs.checkpoint * (s.keep + 1 + measured)
    kept = counted(s.keep, "checkpoint") + (", the best" if measured else "")
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
            ("memory", f"about {size_text(needs.memory)}{' a process' * (processes > 1)}"),
            ("disk", f"{size_text(disk)} for {kept} and one being written"),
            ("measured", _measuring_text(run)),
            *more,
            ("run", str(run.folder)),
        ],
    )
    existing = next(p for p in (run.folder, *run.folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < disk:
        raise UsageError(
            f"The checkpoints need {size_text(disk)}; {existing} has {size_text(free)} free.",
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


# -- the pictures themselves ------------------------------------------------------------------


@dataclass(frozen=True)
class Checkup:
    """The findings on the pictures of ``run``."""

    run: Run
    surveys: Mapping[str, Survey]  # of x and of y

    @cached_property
    def symptoms(self) -> list[Symptom]:
        """All problems found, the most serious first."""
        from cyclegan_cli.media.survey import Domain, diagnose

        names = (self.run.x_dir.name, self.run.y_dir.name)
        x, y = (Domain(name, s.looks) for name, s in zip(names, self.surveys.values(), strict=True))
        return diagnose(x, y, crop_size=self.run.settings.crop_size)

    def rows(self, *, full: bool) -> list[tuple[str, str]]:
        """For the table before the first step."""
        rows = []
        for domain, survey in self.surveys.items() if full else ():
            sizes = ", ".join(f"{what} {w}×{h}" for what, (w, h) in _sizes(survey).items())
            rows.append((f"sizes of {domain.upper()}", sizes))
        rows.append(("expect", self._expectation()))
        if (found := self._seconds()) is not None:
            name, seconds = found
            rows.append(("time", f"about {duration(seconds)}, at the speed of run '{name}'"))
        return rows

    def tell(self, console: Console, *, full: bool) -> None:
        """A warning for each finding; with its cure and its files under --dry-run."""
        for symptom in self.symptoms:
            console.warn(symptom.message)
            if full:
                console.note(f"  → {symptom.hint}")
                for group in symptom.files[:_SHOWN]:
                    console.note(f"    {'  =  '.join(self._short(path) for path in group)}")
                if len(symptom.files) > _SHOWN:
                    console.note(f"    and {len(symptom.files) - _SHOWN} more (--json has all)")
        if self.symptoms and not full:
            console.note("  → cyclegan train … --dry-run   says which pictures, and what helps")
        elif full and not self.symptoms:
            console.note("No problems found.")

    def record(self) -> dict[str, Any]:
        """All of it, for --json."""
        run = self.run
        record: dict[str, Any] = {"dry_run": True, "name": run.name, "steps": run.steps}
        for domain, survey in self.surveys.items():
            record[domain] = {
                "folder": str(run.x_dir if domain == "x" else run.y_dir),
                "usable": len(survey.looks),
                "unusable": [str(error) for error in survey.unusable],
                "grey": sum(look.grey for look in survey.looks),
                "sizes": _sizes(survey),
            }
        record["expect"] = self._expectation()
        record["seconds"] = round(found[1]) if (found := self._seconds()) else None
        record["findings"] = [
            {
                "kind": symptom.kind,
                "message": symptom.message,
                "hint": symptom.hint,
                "files": [[str(path) for path in group] for group in symptom.files],
            }
            for symptom in self.symptoms
        ]
        return record

    def _expectation(self) -> str:
        count = min(len(survey.looks) for survey in self.surveys.values())
        return next(words for limit, words in _EXPECTATIONS if count < limit)

    def _seconds(self) -> tuple[str, float] | None:
        """(run, seconds): what it takes at the speed of the last run of the same kind, if any."""
        from cyclegan_cli.report.record import read_record

        def kind(s: TrainSettings) -> tuple[object, ...]:
            return s.generator, s.crop_size, s.batch_size

        s = self.run.settings
        for state in list_runs():
            if kind(state.run.settings) == kind(s) and state.run.name != self.run.name:
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    if speed := read_record(state.run.folder).speed:
                        return state.run.name, self.run.steps * s.batch_size / speed
        return None

    def _short(self, path: Path) -> str:
        """The path below the folders that were named."""
        for root in (self.run.x_dir, self.run.y_dir):
            with contextlib.suppress(ValueError):
                return str(Path(root.name, path.relative_to(root)))
        return str(path)


def _sizes(survey: Survey) -> dict[str, tuple[int, int]]:
    from cyclegan_cli.media.survey import sizes

    return dict(zip(("smallest", "middle", "largest"), sizes(survey.looks), strict=True))
