"""Items spread over a sequence, and text broken into lines."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from dgkd_core.imaging.tiles import spread, wrap


@settings(deadline=None, derandomize=True, max_examples=100)
@given(length=st.integers(0, 40), count=st.integers(1, 40))
def test_spread_is_even_and_takes_the_first_and_the_last(length: int, count: int) -> None:
    order = [str(i) for i in range(length)]
    places = [int(item) for item in spread(order, count)]
    assert len(places) == min(length, count)
    assert places == sorted(set(places))
    if count == 1 and length:
        assert places == [0]
    if len(places) > 1:
        assert (places[0], places[-1]) == (0, length - 1)
        steps = np.diff(places)
        assert steps.max() - steps.min() <= 1 + (length - 1) % (len(places) - 1) / length


def test_spread_by_hand() -> None:
    assert spread(list("abcdefghi"), 5) == list("acegi")
    assert spread(list("abc"), 9) == list("abc")
    assert spread([], 3) == []


@pytest.mark.parametrize("width", [40, 90, 200])
def test_lines_hold_every_word_and_fit_the_width(width: int) -> None:
    font = ImageFont.load_default(11)
    text = "one two three, four  five unquestionably-longer-than-forty-pixels six seven"
    lines = wrap(text, font, width)
    assert " ".join(lines) == " ".join(text.split())
    for line in lines:
        assert font.getlength(line) <= width or " " not in line
    for line, after in pairwise(lines):
        assert font.getlength(f"{line} {after.split()[0]}") > width
    assert wrap("", font, width) == [""]
