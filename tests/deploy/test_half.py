"""Weights that are stored as float16: half the bytes, float32 networks, nearly the same masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support import one_line

from dgkd_core.deploy.folder import digests, halve, read_run, write_run
from dgkd_core.deploy.info import described, facts
from dgkd_core.deploy.model import load
from dgkd_core.scenes.drawing import render


def test_half_the_bytes_and_float32_networks(folder: Path, whole: Path) -> None:
    halve(folder)
    for name in digests(whole):
        stored = load_file(folder / name)
        assert {v.dtype for v in stored.values()} <= {torch.float16, torch.int64}
        assert (folder / name).stat().st_size < 0.7 * (whole / name).stat().st_size
    model, exact = load(folder, "cpu"), load(whole, "cpu")
    assert model.dpt is not None
    for network in (model.segmenter, model.student[0], model.dpt[0]):
        kinds = {v.dtype for v in network.state_dict().values() if v.is_floating_point()}
        assert kinds == {torch.float32}
    photo = Image.fromarray(render(5, "night", 0, 48).image // 12)
    (found,), (expected,) = model.predict([photo]), exact.predict([photo])
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-2)
    assert (found.mask == expected.mask).mean() > 0.9
    write_run(folder, replace(read_run(folder), half=True))
    assert "half precision" in described(folder, facts(folder))


def test_a_number_that_float16_lacks_is_one_line(folder: Path) -> None:
    path = folder / "student/model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    tensors[name].view(-1)[0] = -1e5
    save_file(tensors, path)
    one_line(lambda: halve(folder), "package.half", "student/model.safetensors", name, "1e+05")
