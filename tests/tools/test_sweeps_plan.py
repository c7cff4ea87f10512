"""Plans: what they hold, and what is wrong with them."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support import ROOT, one_line

from dgkd_core.config.params import validate
from tools.sweeps.__main__ import main, plan_files
from tools.sweeps.plan import read_plan

PLOT = "plot: {{x: {x}, label: l, y: [{y}], lines: row}}\nseeds:"


def test_runs_of_a_plan_seed_by_seed(plan_file: Path) -> None:
    runs = list(read_plan(plan_file).experiments())
    names = ("alone.none", "alone.gain", "deep.gain")
    expected = [f"plan.{name}.s{seed}" for seed in (0, 1) for name in names]
    assert [run.name for run in runs] == expected
    assert runs[1].command() == [
        *("dvc", "exp", "run", "--queue", "--name", "plan.alone.gain.s0"),
        *("-S", "seed=0", "-S", "cam.source=student", "-S", "refine.depth=false"),
        *("-S", "model.exposure=gain"),
        *("-S", "distill.lambda=0", "-S", "model.dgf2=off"),
    ]
    assert runs[2].command()[10:] == [
        *("-S", "refine.depth=true", "-S", "model.exposure=gain"),
        *("-S", "cam.scales=[0.5]", "-S", "data.scenes.train=4"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[gain]", "[gian]", "deep: no variant gian, expected none, gain"),
        ("baseline: alone", "baseline: alnoe", "baseline: no row alnoe, expected alone, deep"),
        ("name: deep", "name: alone", "rows: alone is there twice"),
        ("name: deep", "name: a/b", "rows.1.name"),
        ("note:", "notes:", "notes: Extra inputs"),
        ("seeds: [0, 1]", "seeds: [a]", "seeds.0"),
        ("data: what", "data: a: b", "not readable as YAML"),
        ("title:", "1: 2\ntitle:", "must be strings"),
        (
            "seeds:",
            "scores: [segmenter]\nseeds:",
            "scores: no column segmenter, expected some of luma_dark",
        ),
        ("seeds:", PLOT.format(x="luma_dark", y="segmenter"), "plot.y: no column segmenter"),
        ("seeds:", PLOT.format(x="distill.lambda", y="cam"), "distill.lambda is None in plan.deep"),
        ("seeds:", PLOT.format(x="model.exposure", y="cam"), "model.exposure is none in plan.al"),
    ],
)
def test_a_plan_that_does_not_fit(plan_file: Path, old: str, new: str, said: str) -> None:
    text = plan_file.read_text()
    assert old in text
    plan_file.write_text(text.replace(old, new, 1))
    one_line(lambda: read_plan(plan_file), plan_file, said)


@pytest.mark.parametrize("text", ["- 1\n", "", "seeds: [0]\nvariants: {a: {}}\n"])
def test_what_is_no_plan_ends_the_command_with_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit, match=rf"^sweeps: {path}: .*\Z"):
        main(["run", str(path)])


@pytest.mark.parametrize("path", plan_files(), ids=lambda path: path.stem)
def test_every_run_of_the_plans_has_params_that_are_allowed(path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    default = YAML(typ="safe", pure=True).load(text)
    plan = read_plan(path)
    for experiment in plan.model_copy(update={"seeds": plan.seeds[:1]}).experiments():
        values = copy.deepcopy(default)
        for key, value in experiment.values.items():
            *sections, last = key.split(".")
            place, known = values, default
            for section in sections:
                place, known = place[section], known[section]
            assert last in known, f"{key} is no parameter"
            place[last] = value
        validate(values, experiment.name)


def test_a_plan_runs_on_the_params_of_its_preset_alone(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    shutil.copy(ROOT / "presets/scenes.yaml", tmp_path / "presets")
    text = (ROOT / "presets/scenes.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    plan = read_plan(ROOT / "experiments/lambda.yaml")
    plan.need_preset(tmp_path)
    changed = text.replace("train: 800", "train: 1000")
    assert changed != text
    (tmp_path / "params.yaml").write_text(changed, encoding="utf-8")
    said = "lambda: params.yaml has data.scenes.train: 1000, expected 800 as in presets/scenes.yaml"
    one_line(lambda: plan.need_preset(tmp_path), said)
