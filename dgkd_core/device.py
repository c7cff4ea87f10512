"""The device that a stage computes on, and its random state."""

from __future__ import annotations

import os
import zlib

import numpy as np
import torch

from dgkd_core.errors import InputError


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


def start(seed: int, stage: str) -> torch.device:
    """Seed torch and NumPy from the run's seed and the stage's name; return the device to use.

    Torch is told to choose deterministic algorithms where it has them.
    """
    value = (seed * 1_000_003 + zlib.crc32(stage.encode())) % 2**31
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002  (libraries that draw from NumPy's global state)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    return device()
