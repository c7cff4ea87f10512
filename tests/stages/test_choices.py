"""Where class maps come from, and what sharpens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dgkd_core.config.presets import apply_preset
from dgkd_core.data.exposure import expose
from dgkd_core.data.manifest import Entry, read_manifest
from dgkd_core.data.pack import Pack
from dgkd_core.data.pictures import decode_array, decode_depth, decode_mask
from dgkd_core.data.samples import Store
from dgkd_core.evaluation.inference import infer
from dgkd_core.imaging.dense_crf import DenseCRF
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.registry import load_model
from dgkd_core.pseudo_labels.class_maps import class_maps
from dgkd_core.pseudo_labels.refinement import pseudo_label, sharpen_by_crf, sharpen_by_pamr
from dgkd_core.training import loop

pytestmark = pytest.mark.full
CPU = torch.device("cpu")
DARK, IMAGES = Path("artifacts/darken/dark.zip"), Path("artifacts/prepare/images.zip")
DEPTH = Path("artifacts/depth/depth.zip")


@pytest.fixture
def trained(project: Path, run_stages: Callable[..., None]) -> Callable[..., None]:
    """Everything up to the student, with depth that is the control's vertical gradient."""
    apply_preset("tiny", ["depth.model=gradient"])
    run_stages("prepare", "darken", "depth_model", "depth", "teacher", "distill")

    def run(*values: str) -> None:
        apply_preset("tiny", ["depth.model=gradient", *values])
        run_stages("cam", "refine")

    return run


def _maps(id_: str) -> np.ndarray:
    return decode_array(Pack(Path("artifacts/cam/train.zip")).read(f"{id_}.npy"), id_)


def _expected(entry: Entry, source: str) -> np.ndarray:
    masks, store = [], Store()
    if source in ("student", "mean"):
        student, config = load_model("artifacts/student")
        dark = store.pictures([entry], DARK, config.exposure, dark=True)
        depth = store.depths([entry], DEPTH)
        masks.append(infer(student, dark, depth, [1.0], True)[0][0])
    if source in ("teacher", "mean"):
        teacher, _ = load_model("artifacts/teacher")
        normal = store.pictures([entry], IMAGES, "none", dark=False)
        masks.append(infer(teacher, normal, None, [1.0], True)[0][0])
    labels = read_manifest("artifacts/prepare").label_vector(entry)
    return class_maps(sum(masks) / len(masks), labels)


def _guide(entry: Entry, guide: str, depth: bool) -> np.ndarray:
    store = Store()
    if guide == "dark":
        picture = expose(store.rgb(DARK, f"{entry.id}.png"), "gain")
    else:
        picture = store.rgb(IMAGES, entry.image).astype(np.float32) / 255
    if not depth:
        return picture
    beside = decode_depth(Pack(DEPTH).read(f"{entry.id}.png"), entry.id)
    return np.concatenate([picture, beside[..., None]], 2).astype(np.float32)


@pytest.mark.full
def test_sources_of_class_maps_and_guides_of_refinement(trained: Callable[..., None]) -> None:
    manifest = read_manifest("artifacts/prepare")
    entry = next(e for e in manifest.split("train") if e.labels)
    labels = manifest.label_vector(entry)
    pamr, crf = PAMR(2, (1, 2)), DenseCRF(2)
    seen = {}
    for source, method, guide, depth in (
        ("student", "pamr", "dark", False),
        ("student", "pamr", "dark", True),
        ("teacher", "pamr", "normal", False),
        ("mean", "pamr", "normal", True),
        ("mean", "crf", "normal", False),
        ("mean", "none", "dark", False),
    ):
        trained(
            f"cam.source={source}",
            f"refine.method={method}",
            f"refine.guide={guide}",
            f"refine.depth={str(depth).lower()}",
            "refine.threshold=0.5",
        )
        maps = _maps(entry.id)
        difference = np.abs(maps.astype(int) - _expected(entry, source).astype(int))
        assert difference.max() <= 1, source  # a batch of one may round otherwise
        if method == "pamr":
            sharp = sharpen_by_pamr(maps, _guide(entry, guide, depth), pamr)
        elif method == "crf":
            sharp = sharpen_by_crf(maps, _guide(entry, guide, depth), crf)
        else:
            sharp = maps.astype(np.float32) / 255
        label = Pack(Path("artifacts/refine/train.zip")).read(f"{entry.id}.png")
        expected = pseudo_label(sharp, labels, 0.5, 0.1)
        assert np.array_equal(decode_mask(label, entry.id), expected), (source, method, guide)
        seen[source, method, guide, depth] = maps.tobytes()
    assert len(set(seen.values())) == 3, "three sources, three kinds of maps"


@pytest.mark.full
def test_the_control_is_a_vertical_gradient(trained: Callable[..., None]) -> None:
    pack = Pack(DEPTH)
    for entry in read_manifest("artifacts/prepare").entries:
        depth = decode_depth(pack.read(f"{entry.id}.png"), entry.id)
        ramp = np.arange(entry.height)[:, None] / (entry.height - 1)
        np.testing.assert_allclose(depth, np.repeat(ramp, entry.width, 1), atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("init", ["teacher", "weights"])
def test_what_the_student_does_not_inherit_learns_at_the_new_layers_rate(
    project: Path, run_stages: Callable[..., None], monkeypatch: pytest.MonkeyPatch, init: str
) -> None:
    """DGF2 and the denoisers have no weights; from the teacher all the rest has."""
    rates: dict[float, int] = {}
    real = loop.parameter_groups

    def spy(*args: object) -> list[dict[str, object]]:
        groups = real(*args)  # type: ignore[arg-type]
        for group in groups:
            rates[group["lr"]] = rates.get(group["lr"], 0) + len(group["params"])  # type: ignore[index,arg-type]
        return groups

    values = ["distill.new_layers=10", "distill.lr=0.001", "depth.model=gradient"]
    apply_preset("tiny", [*values, f"distill.init={init}"])
    run_stages("prepare", "darken", "depth_model", "depth", "teacher")
    monkeypatch.setattr(loop, "parameter_groups", spy)
    run_stages("distill")
    student, _ = load_model("artifacts/student")
    new = ("prior.", "fusion.")
    old = [name for name, _ in student.named_parameters() if not name.startswith(new)]
    slow = sum(count for rate, count in rates.items() if rate < 0.005)
    assert slow == (len(old) if init == "teacher" else 0)
    assert sum(rates.values()) > len(list(student.parameters())), "the denoisers are trained too"


@pytest.mark.full
def test_denoisers_that_have_not_learned_are_named(
    project: Path, run_stages: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    apply_preset("tiny", ["depth.model=gradient", "distill.pairs=[map, deep]"])
    run_stages("prepare", "darken", "depth_model", "depth", "teacher")
    capsys.readouterr()
    run_stages("distill")
    out = capsys.readouterr().out
    assert "the denoiser of deep has not learned yet (error " in out
    assert "the denoiser of map has not learned yet (error " in out
    assert "of shallow" not in out
    apply_preset("tiny", ["depth.model=gradient", "distill.denoiser=identity"])
    run_stages("distill")
    assert "not learned" not in capsys.readouterr().out
