"""Numbers from the environment."""

import pytest
from support import one_line

from dgkd_core.runtime.environment import amount, whole


@pytest.mark.parametrize(("given", "value"), [("0", 0), ("12", 12), ("", None), (None, None)])
def test_whole_number(monkeypatch, given, value):
    if given is None:
        monkeypatch.delenv("DGKD_N", raising=False)
    else:
        monkeypatch.setenv("DGKD_N", given)
    assert whole("DGKD_N", "things") == value


@pytest.mark.parametrize(("given", "least"), [("x", 0), ("-1", 0), ("1.5", 0), ("²", 0), ("0", 1)])
def test_no_whole_number(monkeypatch, given, least):
    monkeypatch.setenv("DGKD_N", given)
    message = one_line(lambda: whole("DGKD_N", "things", least))
    assert message == f"DGKD_N is {given!r}, expected a whole number of things, {least} or more"


@pytest.mark.parametrize(("given", "value"), [("0", 0.0), ("1.5", 1.5), ("1e3", 1e3), ("", None)])
def test_amount(monkeypatch, given, value):
    monkeypatch.setenv("DGKD_X", given)
    assert amount("DGKD_X", "GiB") == value


@pytest.mark.parametrize("given", ["x", "-0.5", "nan", "inf", "1,5"])
def test_no_amount(monkeypatch, given):
    monkeypatch.setenv("DGKD_X", given)
    assert one_line(lambda: amount("DGKD_X", "GiB")) == (
        f"DGKD_X is {given!r}, expected a number of GiB, 0 or more"
    )
