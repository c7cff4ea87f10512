"""The device that a stage computes on, and its random state."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import tempfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dgkd_core.runtime import distributed
from dgkd_core.runtime.environment import wanted_device
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.lock import Lock

RandomStates = Mapping[str, Any]
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of glibc's malloc.h
_marks: list[Lock] = []  # of the GPUs that this process uses; the system frees them at its end


def get_device(given: str | None = None) -> torch.device:
    """``given``, else DGKD_DEVICE, else a CUDA device where there is one, else the CPU.

    Which of several GPUs: each process of a run its own; one alone takes a free one (`take_gpu`).

    Raises:
        InputError: there is no such device.
    """
    wanted = given or wanted_device()
    try:
        chosen = torch.device(wanted)
        if chosen.type == "cuda" and torch.cuda.is_available():
            own = distributed.local_rank() if distributed.world_size() > 1 else None
            index = take_gpu(own if chosen.index is None else chosen.index)
            chosen = torch.device("cuda", index)
            torch.cuda.set_device(chosen)
        torch.zeros(1, device=chosen).item()  # the device "meta" has no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        who = "the device" if given else "DGKD_DEVICE"
        raise InputError(
            f"{who} is {wanted!r}: no such device here, expected cpu or cuda"
        ) from error
    return chosen


@cache
def take_gpu(index: int | None = None) -> int:
    """Mark a visible GPU as used until this process ends; return its index.

    Without ``index`` it is the one that fewest of this user's runs use, so that experiments side by
    side get a GPU each while there are enough.
    """
    count = torch.cuda.device_count()
    if count < 2:
        return index or 0
    folder = Path(tempfile.gettempdir(), f"dgkd-gpus-{os.getuid()}")
    candidates = range(count) if index is None else [index]
    names = {i: str(torch.cuda.get_device_properties(i).uuid) for i in candidates}
    users = 0  # of every candidate
    while True:
        for i, name in names.items():
            mark = Lock(folder / f"{name}.{users}")
            if mark.acquire():
                _marks.append(mark)
                return i
        users += 1


class Run(Protocol):
    """The parameters that concern every computation: those of params.yaml."""

    seed: int
    deterministic: bool
    threads: int | None


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
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    torch.use_deterministic_algorithms(run.deterministic, warn_only=True)
    # filling what torch.empty returns is a help to find faults, and a fifth of a step on a CPU
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not run.deterministic
    device = get_device()
    if device.type == "cpu":
        _keep_freed_memory()
    return device


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors instead of giving it back to the system.

    The system fills each page with zeros when it is used again: up to a third of the time of a
    forward pass. More memory stays in use (14 % there), but not more and more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**26}.items():
            mallopt(parameter, value)


def random_states(device: torch.device) -> RandomStates:
    """The states of all generators that a step may draw from, as tensors and plain values."""
    numpy: Any = np.random.get_state()  # noqa: NPY002
    algorithm, key, *position = numpy
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (algorithm, key.tolist(), *position),
        "python": random.getstate(),
    }


def set_random_states(states: RandomStates, device: torch.device) -> None:
    """Put the generators back to where `random_states` saw them."""
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
