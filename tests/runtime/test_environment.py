"""Numbers from the environment."""

import pytest
from support import one_line

from dgkd_core.runtime.environment import amount, whole


@pytest.mark.parametrize(
    ("read", "given", "value"),
    [(whole, "0", 0), (whole, "", None), (amount, "0", 0.0), (amount, "1e3", 1e3)],
)
def test_a_number_is_read(monkeypatch, read, given, value):
    monkeypatch.delenv("DGKD_N", raising=False)
    assert read("DGKD_N", "things") is None
    monkeypatch.setenv("DGKD_N", given)
    assert read("DGKD_N", "things") == value


@pytest.mark.parametrize(("given", "least"), [("x", 0), ("-1", 0), ("1.5", 0), ("²", 0), ("0", 1)])
def test_no_whole_number_is_named(monkeypatch, given, least):
    monkeypatch.setenv("DGKD_N", given)
    message = one_line(lambda: whole("DGKD_N", "things", least))
    assert message == f"DGKD_N is {given!r}, expected a whole number of things, {least} or more"


@pytest.mark.parametrize("given", ["x", "-0.5", "nan", "inf", "1,5"])
def test_no_amount_is_named(monkeypatch, given):
    monkeypatch.setenv("DGKD_X", given)
    message = one_line(lambda: amount("DGKD_X", "GiB"))
    assert message == f"DGKD_X is {given!r}, expected a number of GiB, 0 or more"
