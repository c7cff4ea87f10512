"""The model that ships with dgkd: it is there, works at once, and is taken where no other is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from support import ROOT, one_line

import dgkd_core
from dgkd_core.cli.main import main
from dgkd_core.deploy import shipped
from dgkd_core.deploy.folder import digests, read_run, read_settings
from dgkd_core.scenes.drawing import render

CLASSES = ("cat", "cow", "dog", "horse", "person", "sheep")
MOST_BYTES = 8 << 20


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dark photograph in a folder without a model, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKD_DEVICE", "cpu")
    Image.fromarray(render(6, "predict", 0, 64).image // 10).save("night.jpg")
    return "night.jpg"


def test_it_is_there_whole_and_small_and_its_card_says_what_it_is_not_for() -> None:
    run = read_run(shipped.SHIPPED)
    assert run.half
    assert run.sha256 == digests(shipped.SHIPPED)
    assert run.scores["dark"].miou is not None
    side = read_settings(shipped.SHIPPED).long_side
    assert side is not None  # photographs are seen at the size of the training pictures, 256
    assert side <= 320
    files = [path for path in shipped.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    card = (shipped.SHIPPED / "README.md").read_text(encoding="utf-8")
    for word in (
        *("cat, cow, dog, horse, person, sheep", "PASCAL VOC 2012", "1732 pictures", "research"),
        *("Flickr", "ImageNet", "tf_efficientnet_lite0 (Apache 2.0)", "dark val", "guarantee"),
        *("only say *what is in a picture*", "a real camera", "decide about people"),
    ):
        assert word in card, word


def test_predict_works_at_once(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", photo, "-o", "out"])
    names = ", ".join(CLASSES)
    told = f"dgkd: the model that ships with dgkd: {names}; -m takes another\n"
    assert told in capsys.readouterr().err
    assert json.loads(Path("out/predictions.json").read_text())["model"]["classes"] == [*CLASSES]
    assert dgkd_core.load(device="cpu").classes == CLASSES
    assert Path("out/night.png").is_file()


def test_a_model_of_ones_own_goes_first(
    photo: str, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["info"])
    assert "; `dgkd info MODEL` takes another\n" in capsys.readouterr().err
    shutil.copytree(whole, "artifacts/model")
    main(["info"])
    said = capsys.readouterr()
    assert said.out.startswith("artifacts/model\n")
    assert said.err == ""
    Path("artifacts/model/model.json").unlink()  # damaged: told, and not passed over
    with pytest.raises(SystemExit, match=r"artifacts/model/model\.json: no such file"):
        main(["info"])


def test_an_installation_without_it_is_one_line(
    photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "SHIPPED", Path("nowhere"))
    one_line(dgkd_core.load, "nowhere: no such folder", "another model's folder")
    with pytest.raises(SystemExit, match="nowhere: no such folder"):
        main(["predict", photo, "-o", "out"])


def test_the_wheel_holds_it_and_all_templates(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    left = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dgkd_core", tmp_path / "dgkd_core", ignore=left)
    code = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    wanted = [*shipped.SHIPPED.glob("*"), *(ROOT / "dgkd_core").rglob("*.jinja")]
    assert len(wanted) >= 8
    with zipfile.ZipFile(wheel) as opened:
        assert {path.relative_to(ROOT).as_posix() for path in wanted} <= set(opened.namelist())
