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
from support import copy_built

from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset
from dgkd_core.deploy.folder import portable, read_run, read_settings
from dgkd_core.deploy.info import facts
from dgkd_core.models.registry import read_model_config
from dgkd_core.runtime.files import sha256, write_json

MODEL = Path("artifacts/model")


@pytest.fixture
def copy(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is a copy of a project whose chain has run."""
    monkeypatch.chdir(copy_built(chain, tmp_path / "copy"))


@pytest.mark.full
def test_what_the_folder_holds_the_same_bytes_again(
    copy: None, run_stages: Callable[..., None]
) -> None:
    made = sha256(MODEL)
    shutil.rmtree(MODEL)
    run_stages("package")
    assert sha256(MODEL) == made
    names = {path.relative_to(MODEL).as_posix() for path in MODEL.rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "inference.json", "model.json", "model.safetensors", "run.json"),
        *("depth/config.json", "depth/model.safetensors", "depth/preprocessor_config.json"),
        *("student/model.json", "student/model.safetensors"),
    }
    run, classes = read_run(MODEL), read_model_config(MODEL).classes
    assert run.sha256 == {
        "model.safetensors": sha256("artifacts/segmenter/model.safetensors"),
        "student/model.safetensors": sha256("artifacts/student/model.safetensors"),
        "depth/model.safetensors": sha256("artifacts/depth_model/model.safetensors"),
    }
    scores = json.loads(Path("metrics/evaluate.json").read_text())["segmenter"]
    assert {kind: score.miou for kind, score in run.scores.items()} == scores
    assert set(run.scores["dark"].iou) == {"background", *classes}
    assert read_settings(MODEL).batch == load_params().evaluate.batch
    # the card's head is the Hub's YAML
    _, head, body = (MODEL / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["library_name"] == "dgkd"
    assert values["pipeline_tag"] == "image-segmentation"
    results = values["model-index"][0]["results"]
    told = [result["metrics"][0]["value"] for result in results]
    assert told == [score.miou for score in run.scores.values()]
    assert all(f"| {name} |" in body for name in classes)


@pytest.mark.full
def test_what_params_choose_is_packaged(copy: None, run_stages: Callable[..., None]) -> None:
    """No student, half precision, notes, and the adapted DPT where there is one."""
    adapted = Path("artifacts/depth_adapted")
    shutil.copytree("artifacts/depth_model", adapted, dirs_exist_ok=True)
    write_json(adapted / "source.json", {"adapted": True})
    (adapted / "config.json").write_text((adapted / "config.json").read_text() + "\n")
    chosen = ["package.student=false", "package.half=true", "package.notes=[Of Flickr.]"]
    apply_preset("tiny", chosen)
    run_stages("package")
    assert not (MODEL / "student").exists()
    assert "student/model.safetensors" not in read_run(MODEL).sha256
    known = facts(MODEL)
    assert (known["half"], known["as_packaged"]) == (True, True)
    assert "\n- Of Flickr.\n" in (MODEL / "README.md").read_text()
    assert sha256(MODEL / "depth/config.json") == sha256(adapted / "config.json")
    config = read_model_config("artifacts/segmenter")
    for source in ("scenes", "nobody/dpt", "given", "gradient"):
        write_json("artifacts/depth_model/source.json", {"model": source})
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
        "segment.teacher": secret / "teacher",
        "model.weights": weights,
        "evaluate.sets": f"{{x: {secret}}}",
    }
    apply_preset("scenes", [f"{key}={value}" for key, value in values.items()])
    params = load_params()
    weights.rename(secret / "moved")  # since it was read
    told = portable(params)
    assert "secret" not in json.dumps(told)
    assert {"root", "sbd_root", "lis_root", "depth_root"}.isdisjoint(told["data"])
    assert told["model"]["weights_sha256"] == sha256(secret / "moved")
    assert told["model"]["backbone"] == "timm:test_resnet"
    assert told["depth"]["model"] == told["teacher"]["model"] == "a local one"
    assert told["distill"]["lambda"] == params.distill.lambda_
