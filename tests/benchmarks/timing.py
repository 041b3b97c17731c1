"""Interleaved runs, ratios with their spread, and rows of a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Ratio:
    """The baseline's time over the other's, run by run: the median and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, baseline: list[float], other: list[float]) -> Ratio:
        """From times of the same rounds, in order."""
        ratios = sorted(b / o for b, o in zip(baseline, other, strict=True))
        if len(ratios) < 4:
            return cls(statistics.median(ratios), ratios[0], ratios[-1])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({self.low:.2f} to {self.high:.2f})"


@dataclass
class Row:
    """One line of the table. Seconds are medians; ``facts`` are further figures by name."""

    name: str
    work: str
    target: str = ""
    baseline: float | None = None
    seconds: float | None = None
    ratio: Ratio | None = None
    baseline_error: float | None = None
    error: float | None = None
    runs: int = 0
    facts: dict[str, float | str] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)

    def cells(self) -> list[str]:
        """As the table shows it."""
        facts = "; ".join(
            f"{name} {value if isinstance(value, str) else f'{value:.3g}'}"
            for name, value in self.facts.items()
        )
        return [
            self.work,
            _seconds(self.baseline),
            _seconds(self.seconds),
            "" if self.ratio is None else str(self.ratio),
            self.target,
            _error(self.baseline_error),
            _error(self.error),
            facts,
        ]


HEADER = ["work", "baseline", "here", "ratio", "target", "its error", "error here", "besides"]


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.0f} ms" if value < 10 else f"{value:.1f} s"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def interleave(
    works: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 20.0,
    least: int = 5,
    most: int = 50,
    warm: int = 1,
) -> dict[str, list[float]]:
    """Run ``works`` in turn for about ``seconds``; the seconds of each run of each.

    A busy machine slows all alike, so that ratios within a round hold where times do not. The order
    turns from round to round: what runs after what does not decide.
    """
    names = list(works)
    for name in names * warm:
        works[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    started = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - started > seconds:
            break
        for name in names if number % 2 == 0 else reversed(names):
            before = time.perf_counter()
            works[name]()
            found[name].append(time.perf_counter() - before)
    return found


def compared(
    row: Row, works: Mapping[str, Callable[[], object]], *, quick: bool, seconds: float = 20.0
) -> Row:
    """``row`` with the times of ``works``: ``baseline`` and ``here``, and their ratio."""
    limits = {"seconds": 0.0, "least": 3, "most": 3} if quick else {"seconds": seconds}
    times = interleave(works, **limits)  # type: ignore[arg-type]
    row.baseline, row.seconds = (statistics.median(times[n]) for n in ("baseline", "here"))
    row.ratio = Ratio.of(times["baseline"], times["here"])
    row.runs = len(times["here"])
    return row
