"""What one sees of a training as it goes: a few lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.console import Console, draws_live, encodable, wrapped

if TYPE_CHECKING:
    from rich.text import Text

    from cyclegan_cli.engine.run import Place
    from cyclegan_cli.media.plan import Job
    from cyclegan_cli.painting.batch import FramePainted

__all__ = ["TrainingView", "VideoPace", "duration", "flowed"]

_EARLY, _LATE = 10.0, 60.0  # seconds between two plain lines, in the first minutes and later
_EARLY_FOR = 300.0
_WINDOW = 200  # steps whose pace tells how long the rest will take
_SMOOTH = 0.8  # weight of what was, at each measure
_GAP = "   "


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def flowed(items: Sequence[str], width: int) -> list[str]:
    """``items`` side by side on as few lines as hold them; one too long for a line is cut short."""
    lines: list[str] = []
    for item in items:
        short = item if len(item) <= width else item[: max(width - 1, 0)] + "…"
        if lines and len(lines[-1]) + len(_GAP) + len(short) <= width:
            lines[-1] += _GAP + short
        else:
            lines.append(short)
    return lines


def figures(losses: Mapping[str, float]) -> list[str]:
    """The losses, each pair (of X and Y, of G and F) together."""
    pairs = [
        ("G/F", "G", "F"),
        ("D_X/D_Y", "D_X", "D_Y"),
        ("cycle", "cycle_X", "cycle_Y"),
        ("identity", "identity_X", "identity_Y"),
    ]
    return [
        f"{title} {losses[a]:.2f}/{losses[b]:.2f}"
        for title, a, b in pairs
        if a in losses and b in losses
    ]


class VideoPace:
    """How far a video is, how fast it goes, and how long it will take."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._since = 0.0

    def text(self, event: FramePainted) -> str:
        now = time.monotonic()
        if event.job is not self._job:
            self._job, self._since = event.job, now
        spent = now - self._since  # since the first frame, which tells nothing yet
        if spent <= 0:
            return f"frame {event.number}/{event.frames}"
        rate = (event.number - 1) / spent
        left = duration((event.frames - event.number) / rate) if rate else "?"
        return f"frame {event.number}/{event.frames}, {rate:.1f} frames/s, {left} left"


class TrainingView:
    """Shows what it is told; nothing under --quiet.

    ``total``: steps that the training will have; ``epochs``: those that it will begin. ``memory``:
    the bytes taken, where that is known.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        place: Place,
        total: int,
        epochs: int,
        memory: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._console = console
        self._name, self._total, self._epochs = name, total, epochs
        self._place = place
        self._memory = memory
        self._used: int | None = None
        self._began = self._told = time.monotonic()
        self._pace: deque[tuple[float, int]] = deque([(self._began, place.step)], _WINDOW)
        self._losses: dict[str, float] = {}  # smoothed
        self._new = False  # whether they changed since they were said
        self._weight = 0.0
        self._rate = self._speed = 0.0
        self._saved: tuple[int, float] | None = None
        self._order = math.inf
        self._best: tuple[float, int] | None = None
        self._warning = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[TrainingView]:
        """Draw while the block runs; what was drawn is gone after it."""
        if self._console.quiet or not draws_live():
            yield self
        else:
            with self._console.live(self._drawn):
                yield self

    # -- what it is told ---------------------------------------------------------------------

    def step(self, place: Place) -> None:
        """One more step."""
        self._place = place
        now = time.monotonic()
        self._pace.append((now, place.step))
        interval = _EARLY if now - self._began < _EARLY_FOR else _LATE
        if now - self._told >= interval and not self._console.drawing:
            self._told = now
            # Losses that were said already are not said again.
            new, self._new = figures(self._losses) if self._new else [], False
            self._console.note(" ".join(["training", *self._progress(), *new]))

    def measured(self, losses: Mapping[str, float], rate: float, speed: float) -> None:
        """New means of the losses, the learning rate, pictures a second."""
        self._new = True
        self._weight = _SMOOTH * self._weight + 1 - _SMOOTH
        share = (1 - _SMOOTH) / self._weight  # no bias towards the first
        for name, loss in losses.items():
            before = self._losses.get(name, loss)
            self._losses[name] = before + share * (loss - before)
        self._rate, self._speed = rate, speed
        self._used = self._memory()

    def epoch_done(self, place: Place, losses: Mapping[str, float]) -> None:
        """An epoch is over, with these means of its losses: a line that stays."""
        if not self._losses:  # none was measured yet
            self._losses = dict(losses)
        epoch = f"epoch {place.epoch}/{self._epochs}"
        self._console.note(" ".join([epoch, *figures(losses)]))

    def saved(self, step: int) -> None:
        """A checkpoint is on the disk."""
        self._saved = (step, time.monotonic())

    def evaluated(self, epoch: int, scores: Mapping[str, Any]) -> None:
        """An evaluation, as metrics.jsonl has it."""
        found = [scores[domain]["swd"] for domain in ("y", "x") if "swd" in scores.get(domain, {})]
        if found and math.isfinite(sum(found)):
            mean = sum(found) / len(found)
            # By what the best checkpoint is kept: SWD in units of its floor.
            order = float(scores.get("distance", mean))
            if self._best is None or order < self._order:
                self._best, self._order = (mean, epoch), order

    def warned(self, step: int, message: str, hint: str = "") -> None:
        """A warning, which stays in view and is said at once."""
        self._warning = f"warning at step {step:,}: {message}"
        self._console.warn(f"step {step:,}: {message}")
        if hint:
            self._console.note(f"  → {hint}")

    # -- what it shows -----------------------------------------------------------------------

    def _progress(self) -> list[str]:
        place, total = self._place, max(self._total, 1)
        items = [
            f"epoch {min(place.epoch + 1, self._epochs)}/{self._epochs}",
            f"step {place.step:,}/{self._total:,}",
            f"{100 * place.step / total:.1f} %",
        ]
        left = self._left()
        return items if left is None else [*items, f"{duration(left)} left"]

    def _left(self) -> float | None:
        (since, first), (until, last) = self._pace[0], self._pace[-1]
        if last == first:
            return None
        return (until - since) / (last - first) * max(0, self._total - last)

    def _lines(self, width: int) -> list[tuple[str, str]]:
        """(line, style), none longer than ``width``."""
        facts = figures(self._losses)
        facts += [f"lr {self._rate:.2g}", f"{self._speed:.1f} pictures/s"] if facts else []
        if self._used:
            facts.append(f"memory {self._used / 2**30:.1f} GiB")
        kept = []
        if self._saved is not None:
            step, at = self._saved
            kept.append(f"checkpoint at step {step:,}, {duration(time.monotonic() - at)} ago")
        if self._best is not None:
            kept.append(f"best epoch {self._best[1]} (SWD {self._best[0]:.1f})")
        lines = [(line, "bold") for line in flowed([self._name, *self._progress()], width)]
        lines.append((_bar(self._place.step / max(self._total, 1), width), "cyan"))
        lines += [(line, "") for line in flowed(facts, width)]
        lines += [(line, "") for line in flowed(kept, width)]
        if self._warning:
            lines += [(line, "yellow") for line in wrapped(self._warning, width)]
        return lines

    def _drawn(self, width: int) -> Text:
        from rich.text import Text

        # One column stays free: some terminals wrap a line that fills the last one.
        parts = [Text(encodable(line), style) for line, style in self._lines(max(width - 1, 1))]
        return Text("\n", no_wrap=True, overflow="crop").join(parts)


def _bar(share: float, width: int) -> str:
    full = round(min(max(share, 0.0), 1.0) * min(width, 60))
    return "━" * full + "╌" * (min(width, 60) - full)
