"""Every benchmark once, tiny: what it promises is there. No test looks at how long it took."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import one_line

from benchmarks import child, pamr
from benchmarks.measure import Timeline
from benchmarks.names import CASES, SLOW, cases
from benchmarks.networks import Guided, make_guided
from benchmarks.options import Options, laid_over
from benchmarks.pictures import batches, crops, load
from benchmarks.step import Training, timed_step
from benchmarks.train import train
from dgkd_core.imaging.pamr import PAMR

ALL = [(name, case) for name in CASES for case in cases(name, straightforward=True)]
STEP = [
    *("waiting for data", "sending", "optimizer", "other losses", "student", "PAMR", "teacher"),
    *("DIST and maps", "denoisers", "backward", "rest"),
]
PARTS = {
    "step": STEP,
    "cam": ["pictures", "network", "class maps", "rest"],
    "depth": ["pictures", "network", "maps", "rest"],
}


@pytest.mark.full
@pytest.mark.parametrize(("name", "case"), ALL, ids=[f"{n} {c}".strip() for n, c in ALL])
def test_figures_are_finite_and_complete(
    name: str, case: str, tiny: Options, pictures: Path
) -> None:
    options = replace(tiny, threads=2) if case == "in processes" else tiny
    found = [record.as_dict() for record in child.run(name, case, options, pictures)]
    assert [record["part"] for record in found] == ["", *PARTS.get(name, [])]
    for record in found:
        seconds = record["seconds"]
        assert set(seconds) == {"first", "median", "q1", "q3"}
        assert all(math.isfinite(s) and s >= 0 for s in seconds.values())
        assert seconds["q1"] <= seconds["median"] <= seconds["q3"]
        assert record["name"].startswith(name)
        assert record["name"].endswith(case)
        assert (record["warmup"], record["repeats"]) == (1, 2)
        assert record["size"]
        assert record["device"] == "cpu"
        assert record["dtype"] in ("float32", "float64")
        assert record["threads"] == options.threads
        assert record["memory"] is None or 0 <= record["memory"]["added"] < record["memory"]["peak"]
    whole, *parts = found
    assert whole["seconds"]["median"] > 0
    assert whole["pictures"] > 0
    assert whole["pictures_per_second"] > 0
    assert whole["memory"] is not None
    if parts:
        assert sum(part["share"] for part in parts) == pytest.approx(1)
        assert all(part["seconds"]["median"] > 0 for part in parts)


def _stepped(options: Options, folder: Path, count: int) -> tuple[Guided, Any]:
    torch.manual_seed(3)
    return make_guided(options), batches(options, crops(options, load(folder, 4)), count)


def test_the_split_step_is_that_of_the_training_loop(tiny: Options, pictures: Path) -> None:
    """After three steps all weights and statistics are the same, bit for bit."""
    child.prepare(tiny)
    ends = []
    for split in (True, False):
        parts, source = _stepped(tiny, pictures, 3)
        ready, timeline = iter(list(source)), Timeline(tiny.where)
        torch.manual_seed(4)
        if split:
            step = timed_step(tiny, parts, timeline)
            training = Training(tiny, parts, ready, step, timeline, torch.float32)
            timeline.measure(training, 1, 2)
        else:
            train(tiny, parts, ready, timeline)
        ends.append({k: v for m in parts.trained for k, v in m.state_dict().items()})
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("init", ["weights", "teacher"])
def test_what_is_new_learns_as_fast_as_in_distill(init: str, tiny: Options) -> None:
    values = tiny.params.model_dump(by_alias=True, mode="json")
    values["distill"]["init"], values["model"]["weights"] = init, "a file that is not read"
    parts = make_guided(Options.from_dict({**tiny.as_dict(), "params": values}))
    names = {id(p): name for name, p in parts.student.named_parameters()}
    old = {names[id(p)] for p in parts.pretrained}
    assert any(name.startswith("head.") for name in old) == (init == "teacher")
    assert any(name.startswith("encoder.") for name in old)
    assert not any(name.startswith("prior.") for name in old)


def test_without_distillation_there_is_no_teacher(tiny: Options, pictures: Path) -> None:
    values = tiny.params.model_dump(by_alias=True, mode="json")
    values["distill"]["lambda"] = 0.0
    values["model"]["dgf2"] = "off"
    options = Options.from_dict({**tiny.as_dict(), "params": values})
    parts = [record.part for record in child.run("step", "", options, pictures)]
    assert not {"teacher", "denoisers", "DIST and maps"} & set(parts)
    assert {"student", "backward", "optimizer"} < set(parts)


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"channels_last": False}], ids=str)
def test_other_settings_of_the_step(
    settings: dict[str, Any], tiny: Options, pictures: Path
) -> None:
    options = replace(tiny, **settings)
    found = child.run("step", "", options, pictures)
    assert {record.dtype for record in found} == {settings.get("dtype", "float32")}
    assert child.run("train", "", options, pictures) == []


def test_another_backbone_and_more_classes(tiny: Options, pictures: Path) -> None:
    params = laid_over(tiny.params, {"backbone": "resnet18", "batch": 3})
    found = child.run("step", "", replace(tiny, params=params), pictures)
    assert found[0].size == "3x3x32x32, resnet18"
    more = replace(tiny, classes=9)
    assert more.class_names()[-1] == "class 9"
    assert len(set(more.class_names())) == 9
    assert child.run("dist", "map", more, pictures)[0].size == "2x10x8x8"


def test_a_compiler_that_fails_is_one_line(
    tiny: Options, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_(function: Any) -> Any:
        def fails(*args: Any, **kwargs: Any) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand much more")

        return fails

    monkeypatch.setattr(torch, "compile", compile_)
    options = replace(tiny, compile=True)
    one_line(lambda: child.run("step", "", options, pictures), "--compile", "no C++ compiler")


def test_memory_that_runs_out_is_one_line(
    tiny: Options, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(pamr, "run", fails)
    one_line(lambda: child.run("pamr", "in training", tiny, pictures), "pamr", "out of memory")


def test_the_straightforward_pamr_is_the_same_function() -> None:
    torch.manual_seed(0)
    image, mask = pamr._inputs(2, 3, 20, torch.device("cpu"))
    slow = pamr.straightforward(image, mask, 3, (1, 2))
    torch.testing.assert_close(PAMR(3, (1, 2))(image, mask), slow, rtol=1e-4, atol=1e-5)


def test_the_straightforward_form_is_measured_where_it_is_wanted() -> None:
    assert cases("pamr", False) == ["in training", "in refine", "as published"]
    assert cases("pamr", True)[1] == f"in training{SLOW}"
    assert cases("step", True) == [""]
