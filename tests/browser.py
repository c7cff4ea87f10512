"""A headless Chromium for tests of pages: no network of its own, nothing kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"),
    *("disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "window-size=1280,900"),
)


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Chromium with ``profile`` for its empty folder; skips the test where there is none.

    Its logs `browser` (errors of scripts, failed requests) and `performance` (every request) are
    kept for ``get_log``.
    """
    selenium = pytest.importorskip("selenium.webdriver")
    driver = shutil.which("chromedriver")
    binary = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if driver is None or binary is None:
        pytest.skip("no chromedriver and Chromium here (Debian: chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for option in (*OPTIONS, f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def requests(browser: Chrome) -> list[str]:
    """The addresses that the page has asked for since this was last called."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def resize(browser: Chrome, width: int, height: int = 800) -> None:
    """Make the page's viewport as wide as a phone's, say: a window cannot be below 500 pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def reset(browser: Chrome) -> None:
    """An empty page in an ordinary window, and empty logs."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
