"""`dgkd serve` as a visitor has it: a real server, a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import resize
from PIL import Image
from support import ROOT, environment, one_line

from dgkd_core import load
from dgkd_core.deploy import serve as module
from dgkd_core.deploy.export import dark_pictures
from dgkd_core.deploy.serve import check_port, serve

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytest.importorskip("gradio")
By = pytest.importorskip("selenium.webdriver.common.by").By
Wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

PICTURES = ("mask", "bright", "depth", "cam")
PATIENCE = 60  # seconds that a loaded machine may take


@pytest.fixture(scope="module")
def model(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an example photograph."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("serve") / "model"))
    (folder / "examples").mkdir()
    Image.fromarray(dark_pictures(1, 48, 64)[0]).save(folder / "examples/an example.png")
    return folder


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address, and the process, which Ctrl-C ends and which then has nothing to say."""
    port = str(_free_port())
    running = subprocess.Popen(
        [sys.executable, "-m", "dgkd_core", "serve", "-m", str(model), "--port", port],
        env=environment(
            DGKD_DEVICE="cpu",
            PYTHONPATH=str(ROOT),
            http_proxy="http://127.0.0.1:9",  # where nobody answers
            all_proxy="socks5://127.0.0.1:9",
            SSL_CERT_FILE=str(model / "none.pem"),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    try:
        said = running.stdout.readline()
        assert said.startswith(f"dgkd: http://127.0.0.1:{port} shows {model}"), said
        yield f"http://127.0.0.1:{port}", running
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=PATIENCE)
        assert running.returncode == 0
        assert rest == ""
        assert "Traceback" not in errors
    finally:
        running.kill()
        running.wait()


def _until(browser: Chrome, condition: Callable[[], Any]) -> Any:
    def met(_: Chrome) -> Any:
        return condition()

    from selenium.common.exceptions import (
        NoSuchElementException,
        StaleElementReferenceException,
    )

    ignored = (NoSuchElementException, StaleElementReferenceException)
    return Wait(browser, PATIENCE, 0.1, ignored).until(met)


def _upload(browser: Chrome, path: Path) -> None:
    find = (By.CSS_SELECTOR, "#photo input[type=file]")
    _until(browser, lambda: browser.find_element(*find)).send_keys(str(path))


def _seen(browser: Chrome, name: str) -> int:
    """The width of a picture on the page, pixels of its own; 0 where it was not drawn."""
    picture = browser.find_element(By.CSS_SELECTOR, f"#{name} img")
    return int(picture.get_property("naturalWidth"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a night.png"
    Image.fromarray(dark_pictures(1, 48, 64, seed=4)[0]).save(path)
    return path


def _requests(browser: Chrome) -> set[str]:
    """Addresses that the page has asked for; those of the browser's own pages are left out."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    found = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    return {url for url in found if not url.startswith(("chrome:", "data:", "blob:", "about:"))}


@pytest.mark.full
def test_a_dark_photograph_becomes_depth_class_map_and_mask(
    browser: Chrome,
    server: tuple[str, subprocess.Popen[str]],
    model: Path,
    photo: Path,
) -> None:
    address, _ = server
    browser.get(address)
    _upload(browser, photo)
    for name in PICTURES:
        _until(browser, lambda name=name: _seen(browser, name) == 64)
        label = browser.find_element(By.CSS_SELECTOR, f"#{name} img").get_attribute("alt")
        assert label
    table = browser.find_element(By.CSS_SELECTOR, "#areas table").text
    folder = photo.parent / "downloads"
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    browser.find_element(By.ID, "download").click()
    (mask,) = _until(browser, lambda: list(folder.glob("*.png")))
    assert mask.name == "a night.mask.png"
    with Image.open(mask) as found, Image.open(photo) as picture:
        expected = load(model, "cpu")(picture)
        assert found.mode == "P"
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    for name, share in zip(
        ("background", "cat", "dog | cow"),
        np.bincount(np.asarray(expected).ravel(), minlength=3) / (48 * 64),
        strict=True,
    ):
        assert (f"{name} {100 * share:.1f} %" in table) == (share > 0)
    resize(browser, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    asked = _requests(browser)
    assert len(asked) > 10
    assert {url for url in asked if not url.startswith(address)} == set()
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


@pytest.mark.full
def test_an_example_is_shown_and_the_model_folder_left_as_it_is(
    browser: Chrome, server: tuple[str, subprocess.Popen[str]], model: Path
) -> None:
    before = sorted(model.rglob("*"))
    browser.get(server[0])
    find = (By.CSS_SELECTOR, ".gallery button, button.gallery-item")
    _until(browser, lambda: browser.find_element(*find)).click()
    _until(browser, lambda: _seen(browser, "mask") == 64)
    assert sorted(model.rglob("*")) == before


@pytest.mark.full
def test_a_damaged_picture_and_a_text_file_are_told_and_the_server_lives_on(
    browser: Chrome, server: tuple[str, subprocess.Popen[str]], photo: Path
) -> None:
    address, running = server
    damaged, text = photo.with_name("damaged.png"), photo.with_name("notes.txt")
    damaged.write_bytes(photo.read_bytes()[:200])
    text.write_text("no picture")
    browser.get(address)
    _upload(browser, text)
    toast = (By.CSS_SELECTOR, ".toast-wrap")
    assert "notes.txt" in _until(browser, lambda: browser.find_element(*toast).text)
    _upload(browser, damaged)
    alert = (By.CSS_SELECTOR, "#problem [role=alert]")
    assert "damaged.png" in _until(browser, lambda: browser.find_element(*alert).text)
    browser.refresh()
    _upload(browser, photo)
    _until(browser, lambda: _seen(browser, "mask") == 64)
    assert running.poll() is None


@pytest.mark.full
def test_what_is_wrong_with_a_photograph_is_told_on_the_page(
    model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgkd_core.deploy import page  # which needs gradio

    loaded, text = load(model, "cpu"), tmp_path / "notes.txt"
    text.write_text("no picture")
    (problem, *_) = page._outputs(loaded, tmp_path, str(text), page.STRONGEST)
    assert "notes.txt: " in problem.value
    assert "expected a photograph such as JPEG or PNG" in problem.value

    def hungry(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(page, "look", hungry)
    problem, *others = page._outputs(loaded, tmp_path, str(photo), page.STRONGEST)
    assert "out of memory, expected a smaller photograph" in problem.value
    assert others[:3] == [None] * 3


def test_what_cannot_be_served_is_one_line(
    whole: Path, with_depth: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, here = dict(os.environ), "127.0.0.1"
    with socket.socket() as taken:
        taken.bind((here, 0))
        taken.listen()
        port = taken.getsockname()[1]
        one_line(lambda: serve(whole, here, port, "cpu"), f"--port {port}", "in use")
    one_line(lambda: check_port("a..b", 7860), "--host a..b", "expected a free port")
    for port in (0, 65536):
        one_line(lambda port=port: check_port(here, port), f"--port is {port}", "1 to 65535")
    given = with_depth("given")
    one_line(lambda: serve(given, here, _free_port(), "cpu"), given, "measured depth")
    assert dict(os.environ) == before
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    one_line(lambda: serve(whole, here, 1, "cpu"), "pip install 'dgkd[serve]'")
