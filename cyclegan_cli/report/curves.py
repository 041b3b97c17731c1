"""Curves as small SVG charts, coloured by the page's style sheet.

Written by hand: a chart is a few polylines; matplotlib takes seconds to import and writes 100 kB
for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape

from cyclegan_cli.report.record import smoothed

WIDTH, HEIGHT = 400, 210  # of the viewBox: at 350 px on a phone its 12 px text is still legible
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 34
_POINTS = 240  # of one line; more are thinned to means, with the range behind them
_SMOOTH_FROM = 20  # fewer points are shown as they are


@dataclass(frozen=True)
class Line:
    """One curve of (step, value). ``floor``: a reference, dotted. ``exact``: never smoothed."""

    name: str
    points: Sequence[tuple[float, float]]
    floor: bool = False
    exact: bool = False


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{float(f'{value:.3g}'):,.10g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Ascending multiples, within [low, high], of 1, 2 or 5 times a power of ten.

    At least one and at most ``count`` + 1, ``count`` ≥ 1; [low] unless low < high are finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    # Exact, so that no quotient over- or underflows, and no multiple falls outside by rounding.
    lowest, highest = Fraction(low), Fraction(high)
    rough = (highest - lowest) / count
    power = Fraction(10) ** math.floor(math.log10(rough.numerator) - math.log10(rough.denominator))
    for step in (power / 2, power, 2 * power, 5 * power, 10 * power):
        first, last = math.ceil(lowest / step), math.floor(highest / step)
        if last - first <= count:
            break
    # Where low and high are neighbours among floats, several multiples become the same float.
    return list(dict.fromkeys(float(k * step) for k in range(first, last + 1)))


def chart(key: str, title: str, lines: Sequence[Line], *, zero: bool = True) -> str:
    """A figure with a legend and the last values; empty if no line has a point.

    ``key``: unique on the page. ``zero``: whether the axis begins at 0 if no value is below it.
    """
    lines = [line for line in lines if line.points]
    curves = [line for line in lines if not line.floor]
    if not curves:
        return ""
    axes = _Axes.around(lines, zero=zero)
    body = [axes.drawn()]
    legend, described, colour = [], [], 0
    for line in lines:
        colour += not line.floor
        kind = "floor" if line.floor else f"line-{colour}"
        body.append(_drawn(line, axes, kind))
        last = number(smoothed(line.points)[-1][1] if _is_smoothed(line) else line.points[-1][1])
        legend.append(
            f'<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true">'
            f'<path class="{kind}" d="M0 4H24"/></svg>{escape(line.name)} <b>{last}</b></li>'
        )
        described.append(f"{line.name}: {number(line.points[0][1])} at first, {last} at last")
    return (
        f'<figure class="chart"><figcaption id="{key}-title">{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<desc id="{key}-desc">{escape("; ".join(described))}.</desc>{"".join(body)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )


@dataclass(frozen=True)
class _Axes:
    """Data to viewBox coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, lines: Sequence[Line], *, zero: bool) -> _Axes:
        xs = [x for line in lines for x, _ in line.points]
        # The highest percent may leave the chart: a spike at the start must not flatten the rest.
        ys = sorted(y for line in lines for _, y in line.points)
        high = ys[min(len(ys) - 1, int(len(ys) * 0.99))] if len(ys) > 200 else ys[-1]
        low = 0.0 if zero and ys[0] >= 0 else ys[0]
        margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return cls(min(0.0, *xs), max(xs) or 1.0, low if low == 0 else low - margin, high + margin)

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, (value - self.y_low) / (self.y_high - self.y_low)))
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def drawn(self) -> str:
        parts = []
        for value in ticks(self.y_low, self.y_high, 4):
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
            parts.append(
                f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
            )
        for value in ticks(self.x_low, self.x_high, 4):
            x = self.x(value)
            anchor = "end" if x > WIDTH - 30 else "middle"
            label = f"{value:,.10g}"
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="{anchor}">{label}</text>'
            )
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">step</text>')
        return "".join(parts)


def _is_smoothed(line: Line) -> bool:
    return not (line.floor or line.exact) and len(line.points) >= _SMOOTH_FROM


def _drawn(line: Line, axes: _Axes, kind: str) -> str:
    """The line, smoothed where it is long, over the range of what was measured."""
    parts = []
    if _is_smoothed(line):
        buckets = _buckets(line.points)
        if len(buckets) < len(line.points):
            above = [(x, high) for x, _, _, high in buckets]
            below = [(x, low) for x, _, low, _ in reversed(buckets)]
            parts.append(f'<path class="range {kind}-range" d="{_path(axes, [*above, *below])}Z"/>')
        else:
            parts.append(f'<path class="each {kind}" d="{_path(axes, line.points)}"/>')
        points = [(x, mean) for x, mean, _, _ in _buckets(smoothed(line.points))]
    else:
        points = list(line.points)
    if len(points) == 1:
        x, y = points[0]
        parts.append(f'<circle class="{kind}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3"/>')
    else:
        parts.append(f'<path class="{kind}" d="{_path(axes, points)}"/>')
    return "".join(parts)


def _path(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in points)


def _buckets(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """At most ``_POINTS`` of (mean step, mean, lowest, highest)."""
    size = -(-len(points) // _POINTS)
    result = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ys = [y for _, y in part]
        x = sum(x for x, _ in part) / len(part)
        result.append((x, sum(ys) / len(ys), min(ys), max(ys)))
    return result
