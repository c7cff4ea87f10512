"""Where the parts of a chart lie."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgkd_core.report.charts import HEIGHT, WIDTH, Chart, Series, line_chart, number, ticks

SETTINGS = settings(deadline=None, derandomize=True, max_examples=60)
NUMBERS = st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}"))


@SETTINGS
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


def points(chart: Chart) -> list[tuple[float, ...]]:
    return [tuple(map(float, pair.split(","))) for pair in chart.lines[0].points.split()]


def test_a_line_goes_through_its_points() -> None:
    chart = line_chart("mIoU", [Series("a", (0, 50, 100), (0, 20, 80))], (0, 100), (50, "here"))
    assert chart is not None
    first, middle, last = points(chart)
    bottom, top = chart.y_ticks[0][0], chart.y_ticks[-1][0]
    left, right = chart.x_ticks[0][0], chart.x_ticks[-1][0]
    assert [label for _, label in chart.y_ticks] == ["0", "20", "40", "60", "80"]
    assert first == (left, bottom)
    assert last == (right, top) == chart.lines[0].end
    assert middle == pytest.approx(((left + right) / 2, bottom + (top - bottom) / 4), abs=0.1)
    assert chart.mark == (middle[0], "here")
    assert chart.lines[0].says == "a: 80 at 100"
    labels = [number(x) for x in (0, 0.05, 0.0005, 1500, 40_000)]
    assert labels == ["0", "0.05", "0.0005", "1,500", "40k"]


@SETTINGS
@given(st.lists(st.tuples(st.integers(0, 500), st.floats()), max_size=8))
def test_everything_is_inside_and_what_is_no_number_is_left_out(
    values: list[tuple[int, float]],
) -> None:
    values = [(x, y) for x, y in values if not 1e12 < abs(y) < math.inf]
    known = sum(math.isfinite(y) for _, y in values)
    x, y = zip(*values, strict=True) if values else ((), ())
    chart = line_chart("any", [Series("a", x, y)], (0, 500))
    assert (chart is None) == (known == 0)
    if chart is not None:
        assert len(points(chart)) == known
        assert all(0 <= px <= WIDTH and 0 <= py <= HEIGHT for px, py in points(chart))
