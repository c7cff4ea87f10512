"""The device that a stage computes on, and its random state."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from dgkd_core.errors import InputError

RandomStates = Mapping[str, Any]


def device() -> torch.device:
    """DGKD_DEVICE from the environment, else a CUDA device where there is one, else the CPU."""
    wanted = os.environ.get("DGKD_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(wanted)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"DGKD_DEVICE is {wanted!r}: no such device here, expected cpu or cuda"
        ) from error
    return chosen


class Run(Protocol):
    """The two parameters that concern every computation: those of params.yaml."""

    @property
    def seed(self) -> int: ...
    @property
    def deterministic(self) -> bool: ...


def start(run: Run, stage: str) -> torch.device:
    """Seed all generators from the run's seed and the stage's name; return the device to use.

    Where the run is ``deterministic``, torch chooses algorithms that give the same bytes twice and
    warns where a GPU has none; else a GPU takes the fastest ones.
    """
    value = (run.seed * 1_000_003 + zlib.crc32(stage.encode())) % 2**31
    random.seed(value)
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002  (libraries that draw from NumPy's global state)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(run.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not run.deterministic
    return device()


def random_states(device: torch.device) -> RandomStates:
    """The states of all generators that a step may draw from, as tensors and plain values."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(numpy, dict)
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
        "python": [version, list(numbers), gauss],
    }


def set_random_states(states: RandomStates, device: torch.device) -> None:
    """Put the generators back to where `random_states` saw them."""
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    numpy = states["numpy"]
    key = np.array(numpy["state"]["key"], np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})  # noqa: NPY002
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
