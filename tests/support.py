"""What several tests share and no fixture is."""

from __future__ import annotations

import csv
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import fork
from torch import nn

from dgkd_core.config.presets import apply_preset
from dgkd_core.models.registry import ModelConfig
from dgkd_core.runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
CHAIN = (
    *("prepare", "darken", "depth_model", "depth_adapt", "depth", "teacher"),
    *("distill", "cam", "refine", "segment", "evaluate", "package", "report"),
)

CONFIG = ModelConfig(
    kind="network",
    classes=("cat", "dog"),
    backbone="timm:test_resnet",
    output_stride=8,
    width=8,
    aspp_rates=(1, 2, 3),
    dgf2="gated",
    exposure="gain",
    frozen=False,
)

TINY = """
data:
  scenes: {train: 10, val: 4, size: 48}
depth_model: {pictures: 16, held_out: 2, size: 32, width: 16, iterations: 2, batch: 4}
depth: {batch: 4}
model: {width: 8}
teacher: {iterations: 6, batch: 4, crop: 48, mask_warmup: 2, mask_weight: 1, lr_warmup: 1}
distill: {iterations: 4, batch: 4, crop: 48, night: fresh, mask_warmup: 1, lr_warmup: 1}
cam: {scales: [1.0], batch: 4}
refine: {dilations: [1, 2], iterations: 2}
segment: {iterations: 3, batch: 4, crop: 48, lr_warmup: 1}
evaluate: {sheet: 2, batch: 4}
"""


def copy_project(target: Path) -> Path:
    """Make ``target`` a copy of the project with tiny settings."""
    for name in ("dgkd_core", "stages", "presets", "data/scenes", "data/none"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", "pyproject.toml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, target / name)
    readme = target / "metrics/testset/README.md"  # a folder that DVC is to find
    readme.parent.mkdir(parents=True)
    shutil.copy(ROOT / "metrics/testset/README.md", readme)
    (target / "presets/tiny.yaml").write_text(TINY)
    with chdir(target):
        apply_preset("tiny", [])
    return target


def copy_built(project: Path, target: Path) -> Path:
    """A copy of a project whose chain has run, without git and DVC."""
    names = shutil.ignore_patterns(".git", ".dvc", ".dgkd", "__pycache__")
    return Path(shutil.copytree(project, target, ignore=names))


def read_live(folder: Path, stage: str) -> dict[str, dict[int, float]]:
    """What a stage's live files hold: values by step, by the file's name (``loss/cls``, ``lr``)."""
    place = folder / "metrics/live" / stage / "plots/metrics"
    found = {}
    for file in sorted(place.rglob("*.tsv")):
        with open(file) as opened:
            header, *rows = csv.reader(opened, delimiter="\t")
        assert header == ["step", file.stem]
        name = file.relative_to(place).with_suffix("").as_posix()
        found[name] = {int(step): float(value) for step, value in rows}
        assert len(found[name]) == len(rows)  # no step twice
    return found


def environment(**variables: str) -> dict[str, str]:
    """The environment of a user who has activated the virtual environment."""
    path = f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}"
    return {**os.environ, "PATH": path, "DGKD_WORKERS": "1", **variables}


def dvc(folder: Path, *arguments: str, **variables: str) -> str:
    """Run a DVC command that must succeed, in a forked child; all that it says."""

    def body() -> None:
        from dvc.cli import main
        from dvc.logger import setup

        for name in ("dvc", "dvc_objects", "dvc_data"):  # they hold the parent's streams
            logging.getLogger(name).handlers.clear()
        setup()
        os.environ.update(environment(**variables))
        os.chdir(folder)
        sys.exit(main(arguments))

    return fork(body).well()


def stages_run(output: str) -> list[str]:
    """The stages whose command DVC has run (with --dry: would run)."""
    return re.findall(r"Running stage '([\w@]+)'", output)


def lively(module: nn.Module) -> nn.Module:
    """Random norms, statistics too, in float64 and evaluation mode: nothing hides in ones."""
    torch.manual_seed(7)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 2)
                nn.init.normal_(part.bias, std=0.5)
    return module.double().eval()


def from_step(batches: Sequence[Any]) -> Callable[[int], Iterator[Any]]:
    """The batches as `dgkd_core.training.loop.train` asks for them."""
    return lambda first: iter(batches[first:])


@dataclass(frozen=True)
class Toy:
    """A task: losses by any function of a batch and a step."""

    losses: Callable[[Any, int], dict[str, torch.Tensor]]
    modules: Sequence[nn.Module]
    pretrained: Sequence[nn.Parameter] = ()

    def __call__(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        return self.losses(batch, step)


def cancelled_biases(module: nn.Module) -> set[str]:
    """Biases that a training batch norm right behind takes away: their gradient is but rounding."""
    found = set()
    for name, part in module.named_modules():
        children = list(part.named_children()) if isinstance(part, nn.Sequential) else []
        for (key, a), (_, b) in pairwise(children):
            if isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d) and b.training:
                found.add(f"{name}.{key}.bias".lstrip("."))
    return found


def one_line(call: Callable[[], Any], *named: str | Path) -> str:
    """What is said: an InputError of one line that names every one of ``named``."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for name in named:
        assert str(name) in message
    return message
