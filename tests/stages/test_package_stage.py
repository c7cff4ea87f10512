"""package: the folder that is taken away tells nothing of the machine, and everything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import package
import pytest
import yaml
from support import ROOT

from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset
from dgkd_core.deploy.folder import portable, read_run, read_settings
from dgkd_core.deploy.info import facts
from dgkd_core.models.registry import read_model_config
from dgkd_core.runtime.files import sha256, write_json

MODEL = Path("artifacts/model")


@pytest.fixture
def copy(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project whose chain has run."""
    folder = tmp_path / "copy"
    names = ("artifacts", "metrics", "presets", "params.yaml")
    for name in names:
        place = chain / name
        copied = shutil.copytree if place.is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copied(place, folder / name)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.full
def test_again_elsewhere_the_same_bytes(
    copy: Path, chain: Path, run_stages: Callable[..., None]
) -> None:
    before = sha256(chain / MODEL)
    shutil.rmtree(MODEL)
    run_stages("package")
    assert sha256(MODEL) == before


@pytest.mark.full
def test_what_the_folder_holds(copy: Path) -> None:
    names = {path.relative_to(MODEL).as_posix() for path in MODEL.rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "inference.json", "model.json", "model.safetensors", "run.json"),
        *("depth/config.json", "depth/model.safetensors", "depth/preprocessor_config.json"),
        *("student/model.json", "student/model.safetensors"),
    }
    run = read_run(MODEL)
    assert run.sha256 == {
        "model.safetensors": sha256("artifacts/segmenter/model.safetensors"),
        "student/model.safetensors": sha256("artifacts/student/model.safetensors"),
        "depth/model.safetensors": sha256("artifacts/depth_model/model.safetensors"),
    }
    scores = json.loads(Path("metrics/evaluate.json").read_text())["segmenter"]
    assert {kind: score.miou for kind, score in run.scores.items()} == scores
    assert set(run.scores["dark"].iou) == {"background", *read_model_config(MODEL).classes}
    assert read_settings(MODEL).batch == load_params().evaluate.batch


@pytest.mark.full
def test_without_the_student(copy: Path, run_stages: Callable[..., None]) -> None:
    apply_preset("tiny", ["package.student=false"])
    run_stages("package")
    assert not (MODEL / "student").exists()
    assert "student/model.safetensors" not in read_run(MODEL).sha256


@pytest.mark.full
def test_in_half_precision(copy: Path, run_stages: Callable[..., None]) -> None:
    apply_preset("tiny", ["package.half=true", "package.notes=[Of Flickr.]"])
    run_stages("package")
    known = facts(MODEL)
    assert (known["half"], known["as_packaged"]) == (True, True)
    assert "\n- Of Flickr.\n" in (MODEL / "README.md").read_text()


@pytest.mark.full
def test_the_adapted_dpt_is_taken_where_there_is_one(
    copy: Path, run_stages: Callable[..., None]
) -> None:
    adapted = Path("artifacts/depth_adapted")
    shutil.copytree("artifacts/depth_model", adapted, dirs_exist_ok=True)
    write_json(adapted / "source.json", {"adapted": True})
    write_json(adapted / "config.json", {"adapted": "one"})
    run_stages("package")
    assert json.loads((MODEL / "depth/config.json").read_text()) == {"adapted": "one"}


@pytest.mark.full
def test_the_card_s_head_is_the_hub_s_yaml(copy: Path) -> None:
    text = (MODEL / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["library_name"] == "dgkd"
    assert values["pipeline_tag"] == "image-segmentation"
    results = values["model-index"][0]["results"]
    scored = {kind: score.miou for kind, score in read_run(MODEL).scores.items()}
    assert [result["metrics"][0]["value"] for result in results] == list(scored.values())
    for name in read_model_config(MODEL).classes:
        assert f"| {name} |" in body


@pytest.mark.full
@pytest.mark.parametrize("source", ["scenes", "given", "gradient", "nobody/dpt"])
def test_where_depth_comes_from(copy: Path, source: str) -> None:
    write_json("artifacts/depth_model/source.json", {"model": source})
    config = read_model_config("artifacts/segmenter")
    expected = source if source in ("given", "gradient") else "dpt"
    assert package.depth_kind(config) == expected
    assert package.depth_kind(replace(config, dgf2="off")) == "off"


def test_paths_stay_at_home(project: Path) -> None:
    """Only what is the same elsewhere is told of the parameters."""
    secret = project / "secret place"
    for name in ("depth", "teacher", "data"):
        (secret / name).mkdir(parents=True)
        (secret / name / "model.json").write_text("x")
    weights = secret / "w.safetensors"
    weights.write_text("x")
    values = {
        "data.root": secret / "data",
        "data.depth_root": secret / "depth",
        "depth.model": secret / "depth",
        "teacher.model": secret / "teacher",
        "model.weights": weights,
        "evaluate.sets": f"{{x: {secret}}}",
    }
    apply_preset("scenes", [f"{key}={value}" for key, value in values.items()])
    params = load_params()
    told = portable(params)
    assert "secret" not in json.dumps(told)
    assert told["model"]["weights_sha256"] == sha256(weights)
    assert told["depth"]["model"] == told["teacher"]["model"] == "a local one"
    assert told["distill"]["lambda"] == params.distill.weight


def test_the_defaults_are_all_told() -> None:
    told = portable(load_params(ROOT / "params.yaml"))
    assert told["model"]["backbone"] == "timm:test_resnet"
    assert told["depth"]["model"] == "scenes"
    assert {"root", "sbd_root", "lis_root", "depth_root"}.isdisjoint(told["data"])
