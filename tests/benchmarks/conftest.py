"""Tiny options, and the pictures that they want."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.options import Options, laid_over
from benchmarks.pictures import draw
from dgkd_core.config.params import load_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny() -> Options:
    params = laid_over(load_params(ROOT / "params.yaml"), {"width": 8, "crop": 32, "batch": 2})
    return Options(params, "cpu", None, threads=1, warmup=1, repeats=2, size=32)


@pytest.fixture(scope="session")
def pictures(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
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
