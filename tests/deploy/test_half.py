"""Weights that are stored as float16: half the bytes, float32 networks, nearly the same masks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folder import SETTINGS, SPEC
from PIL import Image
from safetensors.torch import load_file, save_file
from support import one_line

from dgkd_core.cli.main import main
from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset
from dgkd_core.deploy.card import card
from dgkd_core.deploy.folder import digests, halve, read_run, write_run
from dgkd_core.deploy.info import described, facts
from dgkd_core.deploy.model import load
from dgkd_core.scenes.drawing import render


@pytest.fixture
def half(folder: Path) -> Path:
    """The model folder, halved."""
    halve(folder)
    write_run(folder, replace(read_run(folder), half=True, sha256=digests(folder)))
    return folder


def test_half_the_bytes_and_float32_networks(half: Path, whole: Path, tmp_path: Path) -> None:
    for name in digests(whole):
        stored = load_file(half / name)
        assert {v.dtype for v in stored.values()} <= {torch.float16, torch.int64}
        assert (half / name).stat().st_size < 0.7 * (whole / name).stat().st_size
    model, exact = load(half, "cpu"), load(whole, "cpu")
    assert model.dpt is not None
    for network in (model.segmenter, model.student[0], model.dpt[0]):
        kinds = {v.dtype for v in network.state_dict().values() if v.is_floating_point()}
        assert kinds == {torch.float32}
    photo = Image.fromarray(render(5, "night", 0, 48).image // 12)
    (found,), (expected,) = model.predict([photo]), exact.predict([photo])
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-2)
    assert (found.mask == expected.mask).mean() > 0.9

    other = Path(shutil.copytree(whole, tmp_path / "other"))
    halve(other)
    assert digests(other) == digests(half)


def test_info_and_card_say_so(half: Path, whole: Path) -> None:
    known = facts(half)
    assert (known["half"], known["as_packaged"]) == (True, True)
    assert "half precision" in described(half, known)
    assert "half precision" not in described(whole, facts(whole))
    assert "stored as float16" in card(SPEC, SETTINGS, read_run(half))
    run = json.loads((half / "run.json").read_text())
    del run["half"]  # of a folder from before
    (half / "run.json").write_text(json.dumps(run))
    assert not read_run(half).half


def test_a_number_that_float16_lacks_is_one_line(folder: Path) -> None:
    path = folder / "student/model.safetensors"
    tensors: dict[str, Any] = load_file(path)
    name = min(tensors)
    tensors[name].view(-1)[0] = -1e5
    save_file(tensors, path)
    said = one_line(lambda: halve(folder), "package.half", "student/model.safetensors", name)
    assert "1e+05" in said
    assert load_file(path)[name].isfinite().all()


@pytest.mark.full
def test_it_is_exported(half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "-m", str(half), "-o", str(tmp_path / "night.onnx")])
    assert "of the same class" in capsys.readouterr().out


def test_notes_stand_on_the_card(whole: Path) -> None:
    note = "Pictures from Flickr, for research."
    assert f"\n- {note}\n" in card(SPEC, SETTINGS, read_run(whole), [note])


def test_notes_are_single_lines(project: Path) -> None:
    apply_preset("voc12-animals", [])
    notes = load_params().package.notes
    assert any("Flickr" in note for note in notes)
    assert any("tf_efficientnet_lite0" in note for note in notes)
    one_line(lambda: apply_preset("scenes", ['package.notes=["a\\nb"]']), "package.notes")
