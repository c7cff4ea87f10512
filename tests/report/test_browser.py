"""The page in a browser: nothing asked for, nothing cut off, legible by day and by night."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import resize

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.full

TEXTS = "p, td, th, caption, figcaption, summary, dt, dd, small, code, a, h1, h2, h3, li, footer"
COLOURS = """
const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (colour != 'rgba(0, 0, 0, 0)') return colour;
  }
  return 'none';
};
const page = getComputedStyle(document.body).backgroundColor;
return [...document.querySelectorAll(arguments[0])].filter(e => e.innerText.trim()).map(
  e => [e.tagName, getComputedStyle(e).color, behind(e), page]
);
"""


@pytest.fixture
def opened(page: Callable[[], str], left: Path, browser: Chrome) -> Chrome:
    """The page of a run with 20 classes, opened from its file."""
    path = left / "index.html"
    path.write_text(page(), encoding="utf-8")
    browser.get(path.as_uri())
    return browser


def _rgb(colour: str) -> tuple[list[float], float]:
    """'rgb(1, 2, 3)' or 'rgba(1, 2, 3, 0.5)' as numbers."""
    *rgb, alpha = [float(x) for x in re.findall(r"[\d.]+", colour)] + (
        [] if colour.startswith("rgba") else [1.0]
    )
    return rgb, alpha


def _luminance(rgb: list[float]) -> float:
    """WCAG's relative luminance."""
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (v / 255 for v in rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(text: str, background: str, page: str) -> float:
    """WCAG's contrast of a text on a background, which may be translucent over the page's."""
    (rgb, alpha), (below, _) = _rgb(background), _rgb(page)
    seen = [alpha * a + (1 - alpha) * b for a, b in zip(rgb, below, strict=True)]
    light, dark = sorted((_luminance(_rgb(text)[0]), _luminance(seen)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_image_is_there_and_nothing_is_asked_of_a_network(opened: Chrome) -> None:
    opened.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    widths = opened.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert widths == [670, 670, 670, 1334, 900]
    rows = opened.execute_script(
        "return [...document.querySelectorAll('tbody')].map(t => t.rows.length)"
    )
    assert len(rows) >= 8
    assert min(rows) >= 1
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in urls) == 1


def test_a_phone_shows_all_of_it_in_its_width(opened: Chrome) -> None:
    opened.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    resize(opened, 360)
    assert opened.execute_script("return innerWidth") == 360
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
    beyond = """
    return [...document.querySelectorAll('body *')].filter(
      e => !e.closest('.scroll, pre, svg') && e.getBoundingClientRect().right > innerWidth + 1
    ).map(e => e.outerHTML.slice(0, 80))
    """
    assert opened.execute_script(beyond) == []
    # and what is wider than the phone can be reached: its own box scrolls
    wider = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > 360).map("
    assert "auto" in opened.execute_script(f"{wider} e => getComputedStyle(e).overflowX)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_by_day_and_by_night(opened: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = {tuple(colours) for colours in opened.execute_script(COLOURS, TEXTS)}
    pages = {page for *_, page in found}
    assert len(pages) == 1
    assert (_luminance(_rgb(pages.pop())[0]) > 0.5) == (scheme == "light")
    weak = {key: round(value, 2) for key in found if (value := contrast(*key[1:])) < 4.5}
    assert weak == {}
    assert len(found) > 10


def test_print_leaves_the_folded_tables_out(opened: Chrome) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).length"
    assert opened.execute_script(shown, "details, nav") == 0
    assert opened.execute_script(shown, "table") >= 4
