"""`dgkd serve` as a visitor has it: a real server, a real browser."""

from __future__ import annotations

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
from browser import requests, resize
from PIL import Image
from support import ROOT, environment, one_line

from dgkd_core import load
from dgkd_core.deploy import serve as module
from dgkd_core.deploy.export import dark_pictures
from dgkd_core.deploy.model import Model
from dgkd_core.deploy.serve import check_port, serve

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytest.importorskip("gradio")
CSS = pytest.importorskip("selenium.webdriver.common.by").By.CSS_SELECTOR
Wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
errors = pytest.importorskip("selenium.common.exceptions")

HERE = "127.0.0.1"
PATIENCE = 60  # seconds that a loaded machine may take


@pytest.fixture(scope="module")
def model(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an example photograph."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("serve") / "model"))
    (folder / "examples").mkdir()
    Image.fromarray(dark_pictures(1, 48, 64)[0]).save(folder / "examples/an example.png")
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a night.png"
    Image.fromarray(dark_pictures(2, 48, 64)[1]).save(path)
    return path


def _free_port() -> int:
    with socket.socket() as place:
        place.bind((HERE, 0))
        return int(place.getsockname()[1])


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    """The server's, which lives until Ctrl-C ends it and which then has nothing to say."""
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
        assert said.startswith(f"dgkd: http://{HERE}:{port} shows {model}"), said
        yield f"http://{HERE}:{port}"
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        rest, trouble = running.communicate(timeout=PATIENCE)
        assert (running.returncode, rest) == (0, "")
        assert "Traceback" not in trouble
    finally:
        running.kill()
        running.wait()


@pytest.mark.full
def test_a_dark_photograph_becomes_depth_class_map_and_mask(
    browser: Chrome, address: str, model: Path, photo: Path
) -> None:
    before = sorted(model.rglob("*"))

    def until(condition: Callable[[], Any]) -> Any:
        ignored = (errors.NoSuchElementException, errors.StaleElementReferenceException)
        return Wait(browser, PATIENCE, 0.1, ignored).until(lambda _: condition())

    def find(place: str) -> Any:
        return until(lambda: browser.find_element(CSS, place))

    browser.get(address)
    find("#photo input[type=file]").send_keys(str(photo))
    for name in ("mask", "bright", "depth", "cam"):  # each of the photograph's own size
        until(lambda name=name: find(f"#{name} img").get_property("naturalWidth") == 64)
        assert find(f"#{name} img").get_attribute("alt")
    folder = photo.parent / "downloads"
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    find("#download").click()
    (mask,) = until(lambda: list(folder.glob("*.png")))
    assert mask.name == "a night.mask.png"
    with Image.open(mask) as found, Image.open(photo) as picture:
        expected = np.asarray(load(model, "cpu")(picture))
        assert found.mode == "P"
        np.testing.assert_array_equal(np.asarray(found), expected)
    table = until(lambda: find("#areas table").text)
    for i, name in enumerate(("background", "cat", "dog | cow")):
        share = (expected == i).mean()
        assert (f"{name} {100 * share:.1f} %" in table) == (share > 0)
    resize(browser, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    asked = [url for url in requests(browser) if not url.startswith(("chrome:", "blob:"))]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((address, "about:", "data:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert sorted(model.rglob("*")) == before


def test_what_the_page_shows_of_a_photograph_and_what_is_wrong_with_one(
    model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgkd_core.deploy.page import STRONGEST, _outputs  # which needs gradio

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(photo.parent))
    loaded, text = load(model, "cpu"), photo.with_name("notes.txt")
    text.write_text("no picture")
    (problem, *_) = _outputs(loaded, photo.parent, str(text), STRONGEST)
    assert "notes.txt: " in problem.value
    assert "expected a photograph such as JPEG or PNG" in problem.value
    problem, overlay, bright, depth, _, table, download, maps = _outputs(
        loaded, photo.parent, str(photo), STRONGEST
    )
    assert not problem.value
    assert overlay.shape == bright.shape == depth.shape == (48, 64, 3)
    assert maps.shape == (2, 48, 64)
    assert "class" in table
    with Image.open(photo) as picture, Image.open(download.value["path"]) as mask:
        assert (np.asarray(mask) == np.asarray(loaded(picture))).all()

    def hungry(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Model, "predict_prepared", hungry)
    problem, *others = _outputs(loaded, photo.parent, str(photo), STRONGEST)
    assert "out of memory, expected a smaller photograph" in problem.value
    assert others[:3] == [None] * 3


def test_what_cannot_be_served_is_one_line(
    whole: Path, with_depth: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(os.environ)
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        taken.listen()
        port = taken.getsockname()[1]
        one_line(lambda: serve(whole, HERE, port, "cpu"), f"--port {port}", "in use")
    one_line(lambda: check_port("a..b", 7860), "--host a..b", "expected a free port")
    for port in (0, 65536):
        one_line(lambda port=port: check_port(HERE, port), f"--port is {port}", "1 to 65535")
    given = with_depth("given")
    one_line(lambda: serve(given, HERE, _free_port(), "cpu"), given, "measured depth")
    assert dict(os.environ) == before
    monkeypatch.setenv("GRADIO_ROOT_PATH", "dark")
    one_line(lambda: serve(whole, HERE, _free_port(), "cpu"), "GRADIO_ROOT_PATH is 'dark'", "/")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    one_line(lambda: serve(whole, HERE, 1, "cpu"), "pip install 'dgkd[serve]'")
