"""The whole chain under DVC, small but real: what it leaves, and what DVC would run again."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from compileall import compile_dir
from contextlib import closing
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support import CHAIN, ROOT, dvc, stages_run

from dgkd_core.pipeline import dvc_yaml
from dgkd_core.pipeline.dvc_yaml import stage_key
from tools.docs import load_stages, paths

Changed = Callable[[], set[str]]


def test_all_thirteen_stages_leave_what_dvc_yaml_promises(chain: Path) -> None:
    stages = load_stages(chain)
    assert tuple(stages) == (*CHAIN[:-1], "testset", "report")
    for name in CHAIN:
        outs = paths(stages[name], "outs", "metrics", "plots")
        assert [out for out in outs if not (chain / out).exists()] == []
    text = (chain / "metrics/evaluate.json").read_text()
    evaluated = json.loads(text)
    assert set(evaluated) == {"train", "teacher", "student", "segmenter"}
    assert set(evaluated["teacher"]) == {"normal", "dark", "dark_exposed"}
    assert evaluated["train"]["scored_pictures"] == 10
    assert re.search(r'"dark": \d+\.\d\d,', text)


def test_a_second_repro_with_another_number_of_processes_does_nothing(built: Path) -> None:
    output = dvc(built, "repro", DGKD_PROCESSES="2")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date" in output


def test_only_evaluate_depends_on_training_masks() -> None:
    stages = load_stages(ROOT)
    listed = {name for name in stages if any("masks_train" in d for d in stages[name]["deps"])}
    assert listed == {"evaluate"}
    for name in {*CHAIN, "testset"} - {"prepare", "evaluate"}:
        assert "masks_train" not in (ROOT / "stages" / f"{name}.py").read_text()


@pytest.fixture
def changed(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Changed]:
    """The stages that DVC would run again for what they themselves read."""
    from dvc.repo import Repo

    monkeypatch.chdir(built)  # DVC names stages from here
    with closing(Repo(str(built))) as repo:
        yield lambda: set(repo.status())


def test_a_changed_module_concerns_the_stages_that_list_its_folder_and_no_other_file_does(
    built: Path, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By DVC's judgement, and by the key that a stage's kept state has."""
    monkeypatch.setattr(dvc_yaml, "CODE", built)
    stages = load_stages(built)
    keys = {name: stage_key(name) for name in CHAIN}

    def seen() -> list[set[str]]:
        return [changed(), {name for name in CHAIN if stage_key(name) != keys[name]}]

    code, no_code = built / "dgkd_core", ("x.py~", ".#x.py", "x.py.bak", "#x.py#", "x.pyc")
    places = [code / "runtime" / name for name in no_code]
    places += [code / "data/.vscode/settings.json"]
    for path in places:
        path.parent.mkdir(exist_ok=True)
        path.write_text("no code")
    assert compile_dir(code / "models", force=True, quiet=1)
    assert seen() == [set(), set()]
    for path in places:
        path.unlink()
    for module in ("distill/dist.py", "evaluation/scores.py", "runtime/paths.py"):
        before = (code / module).read_text()
        (code / module).write_text(f"{before}# touched\n")
        found = seen()
        (code / module).write_text(before)
        folder = f"dgkd_core/{Path(module).parent}"
        assert found == [{name for name in CHAIN if folder in stages[name]["deps"]}] * 2, module


def test_a_changed_or_added_file_of_the_data_set_reruns_prepare(
    built: Path, changed: Changed
) -> None:
    readme, other = built / "data/scenes/README.md", built / "data/scenes/other.md"
    before = readme.read_text()
    readme.write_text(f"{before}changed\n")
    assert changed() == {"prepare"}
    readme.write_text(before)
    other.write_text(before)
    assert changed() == {"prepare"}
    other.unlink()
    assert changed() == set()


def test_a_changed_parameter_reruns_the_stages_that_list_it(built: Path, changed: Changed) -> None:
    """Which stage lists what: docs/params.md, that dvc.yaml is compared with (tests/tools)."""
    params, yaml = built / "params.yaml", YAML(typ="safe", pure=True)
    before = params.read_text()
    values = yaml.load(params)
    values["depth"]["adapt"]["iterations"] = 1
    yaml.dump(values, params)
    found = changed()
    params.write_text(before)
    assert found == {"depth_adapt", "package", "report"}


def test_every_plot_is_drawn_and_its_template_filled(chain: Path) -> None:
    shown = json.loads(dvc(chain, "plots", "show", "--json"))
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
        with open(chain / path) as file:
            rows = [dict(zip(fields, row, strict=True)) for row in list(csv.reader(file))[1:]]
        values = plot["content"]["data"]["values"]
        assert [{key: value[key] for key in fields} for value in values] == rows
    (threshold,) = plots["Background threshold"]
    sources = {value["filename"] for value in threshold["content"]["data"]["values"]}
    assert sources == {"cam.csv", "refine.csv"}
