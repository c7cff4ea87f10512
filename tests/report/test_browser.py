"""The page in a browser: nothing asked for, nothing cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import requests, resize

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BEYOND = """
return [...document.querySelectorAll('body *')].filter(
  e => !e.closest('.scroll, pre, svg') && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.mark.full
def test_every_image_is_there_and_a_phone_shows_all_of_it(
    page: Callable[[], str], left: Path, browser: Chrome
) -> None:
    path, run = left / "index.html", browser.execute_script
    path.write_text(page(), encoding="utf-8")
    browser.get(path.as_uri())
    run("document.querySelectorAll('details').forEach(d => d.open = true)")
    widths = run("return [...document.images].map(i => i.naturalWidth)")
    assert widths == [670, 670, 670, 1334, 900]
    assert browser.get_log("browser") == []
    asked = requests(browser)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1

    resize(browser, 360)
    assert run("return innerWidth") == 360
    assert run("return document.documentElement.scrollWidth") <= 360
    assert run(BEYOND) == []
    # and what is wider than the phone can be reached: its own box scrolls
    wider = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > 360).map("
    assert "auto" in run(f"{wider} e => getComputedStyle(e).overflowX)")
