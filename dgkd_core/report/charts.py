"""Where the parts of a line chart lie; ``charts.html`` draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 200  # of the drawing, in its own pixels: a phone shows them one to one
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 26


@dataclass(frozen=True)
class Series:
    """Numbers y at x, in the order of x."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """A series as the points of an SVG polyline, and its last point with what it says."""

    name: str
    points: str
    end: tuple[float, float]
    says: str


@dataclass(frozen=True)
class Chart:
    """A chart's lines, its ticks as (place, label) and a mark on the x axis, where there is one."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    mark: tuple[float, str] | None = None


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` + 1 round numbers, of which the first is <= low and the last >= high."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [float(f"{i * step:.10g}") for i in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """A short label: 0.05, 1,500, 40k, 1e-05."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:,.6g}"


def line_chart(
    title: str,
    series: Sequence[Series],
    across: tuple[float, float],
    mark: tuple[float, str] | None = None,
) -> Chart | None:
    """A chart of the series that have points; None where none has.

    Args:
        across: the ends of the x axis.
        mark: a vertical line at x, and what it is.
    """
    drawn = [
        Series(each.name, tuple(x for x, _ in known), tuple(y for _, y in known))
        for each in series
        if (known := [p for p in zip(each.x, each.y, strict=True) if all(map(math.isfinite, p))])
    ]
    if not drawn:
        return None
    ys = [y for each in drawn for y in each.y]
    y_ticks = ticks(0.0 if 0 <= min(ys) < max(ys) / 2 else min(ys), max(ys), 4)
    x_ticks = [x for x in ticks(*across, 5) if across[0] <= x <= across[1]]

    def right(x: float) -> float:
        share = (x - across[0]) / ((across[1] - across[0]) or 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    return Chart(
        title,
        tuple(
            Line(
                each.name,
                " ".join(f"{right(x)},{down(y)}" for x, y in zip(each.x, each.y, strict=True)),
                (right(each.x[-1]), down(each.y[-1])),
                f"{each.name}: {each.y[-1]:g} at {number(each.x[-1])}",
            )
            for each in drawn
        ),
        tuple((right(x), number(x)) for x in x_ticks),
        tuple((down(y), number(y)) for y in y_ticks),
        (right(mark[0]), mark[1]) if mark else None,
    )
