"""Plans: what they hold, what is wrong with them, and the command lists beside them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support import ROOT, one_line

from dgkd_core.config.params import validate
from tools.sweeps.__main__ import main
from tools.sweeps.plan import HEADINGS, read_plan

PLOT = "plot: {{x: {x}, label: l, y: [{y}], lines: row}}\nseeds:"
PLANS = sorted((ROOT / "experiments").glob("*.yaml"))


def test_runs_of_a_plan_seed_by_seed(plan_file: Path) -> None:
    runs = list(read_plan(plan_file).experiments())
    assert [run.name for run in runs] == [
        *("plan.alone.none.s0", "plan.alone.gain.s0", "plan.deep.gain.s0"),
        *("plan.alone.none.s1", "plan.alone.gain.s1", "plan.deep.gain.s1"),
    ]
    assert runs[1].command() == [
        *("dvc", "exp", "run", "--queue", "--name", "plan.alone.gain.s0"),
        *("-S", "seed=0", "-S", "cam.source=student", "-S", "refine.depth=false"),
        *("-S", "model.exposure=gain"),
        *("-S", "distill.lambda=0", "-S", "model.dgf2=off"),
    ]
    assert runs[2].command()[6:] == [
        *("-S", "seed=0", "-S", "cam.source=student", "-S", "refine.depth=true"),
        *("-S", "model.exposure=gain"),
        *("-S", 'distill.pairs=["deep"]', "-S", "data.scenes.train=4"),
    ]


def test_a_plan_that_extends_another(plan_file: Path) -> None:
    other = plan_file.with_name("other.yaml")
    other.write_text("extends: plan.yaml\ntitle: Elsewhere\nseeds: [7]\n")
    plan, whole = read_plan(other), read_plan(plan_file)
    changed = {"name": "other", "title": "Elsewhere", "seeds": [7]}
    assert plan == whole.model_copy(update=changed)
    more = "{name: shallow, title: t, set: {distill.pairs: [shallow]}}"
    other.write_text(f"extends: plan.yaml\nmore_rows:\n  - {more}\n")
    assert [row.name for row in read_plan(other).rows] == ["alone", "deep", "shallow"]
    other.write_text("extends: missing.yaml\n")
    one_line(lambda: read_plan(other), "missing.yaml: No such file")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[gain]", "[gian]", "deep: no variant gian, expected none, gain"),
        ("baseline: alone", "baseline: alnoe", "baseline: no row alnoe, expected alone, deep"),
        ("name: deep", "name: alone", "rows: alone is there twice"),
        ("name: deep", "name: a/b", "rows.1.name"),
        ("note:", "notes:", "notes: Extra inputs"),
        ("seeds: [0, 1]", "seeds: [a]", "seeds.0"),
        ("data: what", "data: a: b", "not a readable YAML"),
        ("rows:", "more_rows: true\nrows:", "must be an iterable"),
        ("seeds:", PLOT.format(x="luma_dark", y="segmenter"), "plot.y: no column segmenter"),
        ("seeds:", PLOT.format(x="distill.lambda", y="cam"), "distill.lambda is None in plan.deep"),
        ("seeds:", PLOT.format(x="model.exposure", y="cam"), "model.exposure is none in plan.al"),
    ],
)
def test_a_plan_that_does_not_fit(plan_file: Path, old: str, new: str, said: str) -> None:
    text = plan_file.read_text()
    assert old in text
    plan_file.write_text(text.replace(old, new))
    one_line(lambda: read_plan(plan_file), plan_file, said)


@pytest.mark.parametrize("text", ["- 1\n", "", "seeds: [0]\nvariants: {a: {}}\n", "1: 2\n"])
def test_what_is_no_plan(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    one_line(lambda: read_plan(path), path)
    with pytest.raises(SystemExit, match=rf"^sweeps: {path}: .*") as ended:
        main(["run", str(path)])
    assert len(str(ended.value).splitlines()) == 1


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_run_of_the_plans_has_params_that_are_allowed(path: Path) -> None:
    plan, yaml = read_plan(path), YAML(typ="safe", pure=True)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    default = yaml.load(text)
    first = plan.model_copy(update={"seeds": plan.seeds[:1]})
    for experiment in first.experiments():
        values = copy.deepcopy(default)
        for key, value in experiment.values.items():
            *sections, last = key.split(".")
            place, known = values, default
            for section in sections:
                place, known = place[section], known[section]
            assert last in known, f"{key} is no parameter"
            place[last] = value
        validate(values, experiment.name)
    if plan.plot is not None:
        assert set(plan.plot.y) <= set(HEADINGS)
        varied = {key for run in plan.experiments() for key in run.values}
        assert plan.plot.x in {*HEADINGS, *varied}


def test_there_are_plans() -> None:
    assert {"ablation", "ablation-voc6", "darkness", "lambda"} <= {path.stem for path in PLANS}
