"""Items spread over a sequence, and text broken into lines."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from dgkd_core.data.tiles import spread, wrap


@settings(deadline=None, derandomize=True, max_examples=50)
@given(length=st.integers(0, 40), count=st.integers(1, 40))
def test_spread_is_even_and_takes_the_first_and_the_last(length: int, count: int) -> None:
    order = [str(i) for i in range(length)]
    places = [int(item) for item in spread(order, count)]
    assert len(places) == min(length, count)
    assert places == sorted(set(places))
    if length:
        assert places[0] == 0
    if len(places) > 1:
        assert places[-1] == length - 1
        steps = np.diff(places)
        assert steps.max() - steps.min() <= 1 + (length - 1) % (len(places) - 1) / length


@pytest.mark.parametrize("width", [40, 90, 260])
def test_lines_hold_every_word_and_fit_the_width(width: int) -> None:
    font = ImageFont.load_default(11)
    text = "one two three, four  five unquestionably-longer-than-forty-pixels six seven"
    lines = wrap(text, font, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(0 < font.getlength(line) <= width for line in lines)
    words = text.split()
    for line, after in pairwise(lines):
        first = after.split()[0]
        if first in words:  # not the rest of a broken word
            assert font.getlength(f"{line} {first}") > width
    broken = [word for line in lines for word in line.split() if word not in words]
    assert bool(broken) == (width < 150)
    assert wrap("", font, width) == [""]
