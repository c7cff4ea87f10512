"""Where the parts of a chart lie."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgkd_core.report.charts import HEIGHT, WIDTH, Series, line_chart, number, ticks

NUMBERS = st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}"))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(low=NUMBERS, high=NUMBERS, most=st.integers(3, 6))
def test_ticks_are_few_round_even_and_around_all(low: float, high: float, most: int) -> None:
    low, high = sorted((low, high))
    found = ticks(low, high, most)
    assert 2 <= len(found) <= most + 1
    step = found[1] - found[0]
    assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in pairwise(found))
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    digit = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(digit - round_one) for round_one in (1, 2, 5)) < 1e-3


def test_a_line_goes_through_its_points_but_those_that_are_no_numbers() -> None:
    values = Series("a", (0, 50, 70, 100, 100), (0, 20, math.nan, 80, math.inf))
    chart = line_chart("mIoU", [values], (0, 100), (50, "here"))
    assert chart is not None
    (line,) = chart.lines
    first, middle, last = (tuple(map(float, pair.split(","))) for pair in line.points.split())
    bottom, top = chart.y_ticks[0][0], chart.y_ticks[-1][0]
    left, right = chart.x_ticks[0][0], chart.x_ticks[-1][0]
    assert 0 < left < right < WIDTH
    assert 0 < top < bottom < HEIGHT
    assert [label for _, label in chart.y_ticks] == ["0", "20", "40", "60", "80"]
    assert first == (left, bottom)
    assert last == (right, top) == line.end
    assert middle == pytest.approx(((left + right) / 2, bottom + (top - bottom) / 4), abs=0.1)
    assert chart.mark == (middle[0], "here")
    assert line.says == "a: 80 at 100"
    assert line_chart("none", [Series("a", (1,), (math.nan,))], (0, 1)) is None
    flat = line_chart("flat", [Series("a", (1,), (5,))], (1, 1))
    assert flat is not None
    labels = [number(x) for x in (0, 0.05, 0.0005, 1500, 40_000)]
    assert labels == ["0", "0.05", "0.0005", "1,500", "40k"]
