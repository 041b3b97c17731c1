"""What train says of the pictures themselves: whole under --dry-run, in short before a training."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.console import Console
from cyclegan_cli.engine.run import Run, list_runs

if TYPE_CHECKING:
    from cyclegan_cli.media.survey import Survey, Symptom

__all__ = ["Checkup", "expectation", "past_speed"]

_SHOWN = 5  # files that a finding names before it only counts
# What so many pictures in the smaller domain are good for: (fewer than, words).
_EXPECTATIONS = (
    (50, "very few pictures: colours and tones, hardly brushwork; watch the samples, stop early"),
    (200, "few pictures: colours and coarse texture; expect repeated marks; more help most"),
    (1000, "enough for one painter's style (the paper has 401 by Van Gogh, 584 by Cezanne)"),
)
_PLENTY = "plenty: as many as the paper's larger sets"


def expectation(count: int) -> str:
    """What to expect of ``count`` pictures in the smaller domain."""
    return next((words for limit, words in _EXPECTATIONS if count < limit), _PLENTY)


class Checkup:
    """The findings on the pictures of ``run``."""

    def __init__(self, run: Run, x: Survey, y: Survey) -> None:
        self._run = run
        self._surveys = {"x": x, "y": y}

    @cached_property
    def symptoms(self) -> list[Symptom]:
        """What is amiss, the gravest first."""
        from cyclegan_cli.media.survey import Domain, diagnose

        run = self._run
        return diagnose(
            Domain(run.x_dir.name, self._surveys["x"].looks),
            Domain(run.y_dir.name, self._surveys["y"].looks),
            crop_size=run.settings.crop_size,
        )

    def rows(self, *, full: bool) -> list[tuple[str, str]]:
        """For the table before the first step."""
        rows = [("expect", expectation(self._smaller()))]
        if full:
            rows = [(f"sizes of {d.upper()}", self._sizes_text(d)) for d in "xy"] + rows
        speed = past_speed(self._run)
        if speed is not None:
            name, pictures = speed
            when = f"about {_duration(self._pictures() / pictures)}, at the speed of run '{name}'"
            rows.append(("time", when))
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
        run = self._run
        record: dict[str, Any] = {"dry_run": True, "name": run.name, "steps": self._steps()}
        for domain, survey in self._surveys.items():
            record[domain] = {
                "folder": str(run.x_dir if domain == "x" else run.y_dir),
                "usable": len(survey.looks),
                "unusable": [str(error) for error in survey.unusable],
                "grey": sum(look.grey for look in survey.looks),
                "sizes": self._sizes(domain),
            }
        record["expect"] = expectation(self._smaller())
        speed = past_speed(run)
        record["seconds"] = None if speed is None else round(self._pictures() / speed[1])
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

    # -- figures -----------------------------------------------------------------------------

    def _smaller(self) -> int:
        return min(len(survey.looks) for survey in self._surveys.values())

    def _steps(self) -> int:
        run, s = self._run, self._run.settings
        epoch = -(-max(len(run.x_files), len(run.y_files)) // s.batch_size)
        return min(epoch * s.epochs, s.max_steps or epoch * s.epochs)

    def _pictures(self) -> int:
        return self._steps() * self._run.settings.batch_size

    def _sizes(self, domain: str) -> dict[str, tuple[int, int]]:
        from cyclegan_cli.media.survey import sizes

        return dict(
            zip(("smallest", "middle", "largest"), sizes(self._surveys[domain].looks), strict=True)
        )

    def _sizes_text(self, domain: str) -> str:
        return ", ".join(f"{what} {w}×{h}" for what, (w, h) in self._sizes(domain).items())

    def _short(self, path: Path) -> str:
        """The path below the folders that were named."""
        for root in (self._run.x_dir, self._run.y_dir):
            with contextlib.suppress(ValueError):
                return str(Path(root.name, path.relative_to(root)))
        return str(path)


def past_speed(run: Run) -> tuple[str, float] | None:
    """(name, pictures a second) of the last run here of the same networks and sizes, if any."""
    from cyclegan_cli.report.record import read_metrics

    s = run.settings
    wanted = (s.generator, s.crop_size, s.batch_size)
    for state in list_runs():
        t = state.run.settings
        if (t.generator, t.crop_size, t.batch_size) != wanted or state.run.name == run.name:
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = read_metrics(state.run.folder / "metrics.jsonl")
            speeds = [line["pictures_per_s"] for line in lines if "pictures_per_s" in line]
            if speeds and min(speeds[-5:]) > 0:
                return state.run.name, sum(speeds[-5:]) / len(speeds[-5:])
    return None


def _duration(seconds: float) -> str:
    """Two hours are said in hours, two weeks in days."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
