"""Tiny options, and the project folder that they want."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from support import ROOT

from benchmarks.__main__ import parser
from benchmarks.options import Options
from benchmarks.project import draw
from dgkd_core.config.params import load_params

TINY = "--width 8 --crop 32 --batch 2 --size 32 --threads 1 --warmup 1 --repeats 2"


@pytest.fixture(scope="session")
def tiny() -> Options:
    with patch("benchmarks.options.load_params", lambda: load_params(ROOT / "params.yaml")):
        return Options.of(parser().parse_args(TINY.split()))


@pytest.fixture(scope="session")
def project(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    draw(tiny, folder)
    return folder


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """A benchmark sets torch up for its whole process."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn)
    torch.backends.cudnn.benchmark = benchmark
