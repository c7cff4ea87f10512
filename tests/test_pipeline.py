"""The whole chain under DVC, small but real."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support import CHAIN, dvc, environment, stages_run

pytestmark = pytest.mark.full


def test_all_thirteen_stages_leave_what_dvc_yaml_promises(built: Path) -> None:
    stages = YAML(typ="safe").load(built / "dvc.yaml")["stages"]
    assert tuple(stages) == (*CHAIN[:-1], "testset", "report")
    for stage in (stages[name] for name in CHAIN):
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path = built / (out if isinstance(out, str) else next(iter(out)))
            assert path.exists(), path
    evaluated = json.loads((built / "metrics/evaluate.json").read_text())
    assert set(evaluated) == {"train", "teacher", "student", "segmenter"}
    assert set(evaluated["teacher"]) == {"normal", "dark", "dark_exposed"}
    assert evaluated["train"]["scored_pictures"] == 10
    text = (built / "metrics/evaluate.json").read_text()
    assert re.search(r'"dark": \d+\.\d\d,', text)


def test_a_second_repro_does_nothing(built: Path) -> None:
    output = dvc(built, "repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date" in output


def test_another_number_of_processes_does_nothing(built: Path) -> None:
    assert stages_run(dvc(built, "repro", DGKD_PROCESSES="2")) == []


def test_a_changed_module_reruns_the_stages_that_import_it(built: Path) -> None:
    module = built / "dgkd_core/evaluation/figures.py"
    before = module.read_text()
    module.write_text(before + "\n# touched\n")
    try:
        assert stages_run(dvc(built, "repro", "--dry")) == ["evaluate"]
    finally:
        module.write_text(before)


@pytest.mark.full
def test_a_changed_added_or_removed_file_of_the_data_set_reruns_prepare(built: Path) -> None:
    root, readme = built / "data/scenes", built / "data/scenes/README.md"
    before = readme.read_text()

    def direct() -> list[str]:
        return stages_run(dvc(built, "repro", "--dry"))

    try:
        readme.write_text(before + "changed\n")
        assert "prepare" in direct()
        readme.unlink()
        (root / "other.md").write_text(before)
        assert "prepare" in direct()
        readme.write_text(before)
        assert "prepare" in direct()
    finally:
        (root / "other.md").unlink(missing_ok=True)
        readme.write_text(before)
    assert direct() == []


@pytest.mark.full
def test_a_further_test_set_runs_alone_and_again_when_its_pictures_change(built: Path) -> None:
    from dgkd_core.data.pictures import encode_rgb
    from dgkd_core.scenes.drawing import render

    night = built.parent / "night photos"
    night.mkdir()
    for index in range(2):
        (night / f"{index}.png").write_bytes(encode_rgb(render(9, "night", index, 40).image // 16))
    before = (built / "params.yaml").read_bytes()
    sets = ["dgkd", "preset", "tiny", "evaluate.sets={night: ../night photos}"]
    subprocess.run(sets, cwd=built, env=environment(), check=True)
    try:
        assert stages_run(dvc(built, "repro")) == ["testset@night", "report"]
        metrics = json.loads((built / "metrics/testset/night.json").read_text())
        assert metrics["pictures"] == {"count": 2, "scored": 0}
        assert "metrics/testset/night.json" in dvc(built, "metrics", "show")
        assert stages_run(dvc(built, "repro")) == []
        (night / "2.png").write_bytes(encode_rgb(render(9, "night", 2, 40).image // 16))
        assert stages_run(dvc(built, "repro", "--dry")) == ["testset@night"]
    finally:
        (built / "params.yaml").write_bytes(before)
    (built / "metrics/testset/night.json").unlink()
    assert stages_run(dvc(built, "repro", "--dry")) == ["report"]
    assert stages_run(dvc(built, "repro")) == []  # DVC has that page still


def test_only_evaluate_depends_on_training_masks() -> None:
    root = Path(__file__).parent.parent
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    readers = [
        name
        for name, stage in stages.items()
        if any("masks_train" in dep for dep in stage.get("do", stage)["deps"])
    ]
    assert readers == ["evaluate"]
    for name in {*CHAIN, "testset"} - {"prepare", "evaluate"}:
        assert "masks_train" not in (root / "stages" / f"{name}.py").read_text()


@pytest.mark.full
def test_an_experiment_in_a_temporary_folder_follows_relative_paths(
    built: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`dvc exp run --temp` with data.depth_root outside the project, given relatively."""
    import numpy as np

    from dgkd_core.data.manifest import read_manifest
    from dgkd_core.data.pictures import encode_depth

    outside = built.parent / "measured"
    outside.mkdir(exist_ok=True)
    for entry in read_manifest(built / "artifacts/prepare").entries:
        depth = np.linspace(0, 1, 20 * 20).reshape(20, 20)
        (outside / f"{entry.id}.png").write_bytes(encode_depth(depth))
    subprocess.run(
        ["dgkd", "preset", "tiny", "depth.model=given", "data.depth_root=../measured"],
        cwd=built,
        env=environment(),
        check=True,
    )
    output = dvc(built, "exp", "run", "--temp", "-n", "measured-depth", "-S", "distill.lambda=0")
    ran = stages_run(output)
    assert "depth" in ran
    assert "distill" in ran
    assert not {"prepare", "darken", "teacher"} & set(ran)
    difference = json.loads(dvc(built, "metrics", "diff", "HEAD", "measured-depth", "--json"))
    assert "metrics/depth.json" in json.dumps(difference)


def test_every_plot_is_drawn_and_its_template_filled(built: Path) -> None:
    shown = json.loads(dvc(built, "plots", "show", "--json"))
    assert "errors" not in shown
    plots = shown["data"]
    examples = {f"artifacts/evaluate/examples/{name}.png" for name in ("best", "median", "worst")}
    assert examples < set(plots)
    filled = json.dumps([plot.get("content") for found in plots.values() for plot in found])
    assert "<DVC_METRIC" not in filled
    for path, fields in {
        "metrics/per_class.csv": ("network", "pictures", "class", "iou"),
        "metrics/confusion.csv": ("truth", "predicted", "share"),
    }.items():
        (plot,) = plots[path]
        with open(built / path) as file:
            rows = [dict(zip(fields, row, strict=True)) for row in list(csv.reader(file))[1:]]
        values = plot["content"]["data"]["values"]
        assert [{key: value[key] for key in fields} for value in values] == rows
    (threshold,) = plots["Background threshold"]
    sources = {value["filename"] for value in threshold["content"]["data"]["values"]}
    assert sources == {"cam.csv", "refine.csv"}


def test_the_segmenter_is_had_by_its_name_and_version(built: Path, tmp_path: Path) -> None:
    tag = ["git", "tag", "-a", "segmenter@v1.0.0", "-m", "the first"]  # DVC sees annotated ones
    subprocess.run(tag, cwd=built, check=True)
    try:
        got = tmp_path / "model"
        dvc(
            tmp_path, "artifacts", "get", str(built), "segmenter", "--rev", "v1.0.0", "-o", str(got)
        )
    finally:
        subprocess.run(["git", "tag", "-d", "segmenter@v1.0.0"], cwd=built, check=True)
    made = built / "artifacts/model"
    names = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert names
    assert {path.relative_to(got) for path in got.rglob("*") if path.is_file()} == names
    assert all((got / name).read_bytes() == (made / name).read_bytes() for name in names)
