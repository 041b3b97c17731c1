"""Charts: round ticks, everything inside the picture, names escaped, lines told apart."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cyclegan_cli.report.curves import HEIGHT, WIDTH, Line, chart, number, ticks

values = st.floats(-1e9, 1e9)
anything = st.floats(allow_nan=False, allow_infinity=False)


def parsed(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)


@given(anything, anything, st.integers(1, 10))
@example(1.0, 400400402.0, 2)
@example(-1.7e308, 1.7e308, 5)
@example(0.0, 5e-324, 5)
@example(1.0, math.nextafter(1.0, 2), 10)
def test_ticks_are_ascending_and_within(one: float, other: float, count: int) -> None:
    low, high = sorted([one, other])
    found = ticks(low, high, count)
    assert 1 <= len(found) <= count + 1
    assert all(a < b for a, b in itertools.pairwise(found))
    assert all(low <= tick <= high for tick in found)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 10))
@example(1.0, 400400401.0, 2)
def test_ticks_are_round_and_none_is_missing(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, max(count, 4))
    assume(span > 1e-6 * abs(low))  # else a float has too few digits to see the step by
    step = found[1] - found[0]
    power = 10.0 ** math.floor(math.log10(step) + 1e-3)
    digit = min((1, 2, 5), key=lambda round_: abs(step - round_ * power))
    step = digit * power
    slack = 1e-4 * step
    assert all(abs(tick - round(tick / step) * step) <= slack for tick in found)
    assert all(abs(b - a - step) <= slack for a, b in itertools.pairwise(found))
    assert found[0] - step < low + slack
    assert found[-1] + step > low + span - slack


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (0.123456, "0.123"), (2e-4, "2e-4"), (1234.5, "1,230"),
     (-3.14159, "-3.14"), (1.5e9, "1.5e9"), (300, "300")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@given(st.lists(values, min_size=1, max_size=40), st.integers(1, 25), st.integers(0, 10**6))
def test_every_point_is_drawn_inside_the_picture(some: list[float], times: int, gap: int) -> None:
    points = [(n * gap, y) for n, y in enumerate(some * times)]
    drawn = chart("k", "t", [Line("a", [(float(x), y) for x, y in points])])
    paths = re.findall(r'd="M([^"HZ]*)Z?"', drawn)
    found = [tuple(map(float, pair.split())) for path in paths for pair in path.split("L")]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in found)
    assert len(drawn) < 40_000, "many points are thinned out"


def test_a_chart_is_described_in_words_and_its_lines_do_not_rest_on_colour() -> None:
    lines = [Line("G", [(0, 1.0), (10, 0.5)]), Line("F", [(0, 1.0), (10, 0.75)])]
    lines.append(Line("floor", [(0, 0.25), (10, 0.25)], floor=True))
    tree = parsed(chart("swd", "A < title", lines))
    svg = tree.findall("svg")[0]
    assert svg.get("role") == "img"
    named = {element.get("id"): element.text for element in tree.iter() if element.get("id")}
    title, description = (named[key] for key in str(svg.get("aria-labelledby")).split())
    assert title == "A < title"
    assert description is not None
    assert "G: 1 at first, 0.5 at last" in description
    assert [item.text or "".join(item.itertext()) for item in tree.iter("li")] == [
        "G 0.5", "F 0.75", "floor 0.25",
    ]  # fmt: skip
    kinds = {path.get("class") for path in svg.iter("path")} - {"grid"}
    assert kinds == {"line-1", "line-2", "floor"}


def test_nothing_is_drawn_of_nothing_and_one_point_is_a_dot() -> None:
    assert chart("k", "t", [Line("a", []), Line("floor", [(0, 1.0)], floor=True)]) == ""
    assert "<circle" in chart("k", "t", [Line("a", [(5, 1.0)])])


def test_a_spike_at_the_start_does_not_flatten_the_rest() -> None:
    points = [(float(n), 1000.0 if n == 0 else 1.0 + n % 2) for n in range(1000)]
    heights = [
        float(y)
        for y in re.findall(r'text-anchor="end">([\d.,]+)<', chart("k", "t", [Line("a", points)]))
    ]
    assert max(heights) <= 3
