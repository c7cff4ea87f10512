"""Which errors of libraries are told as a lack of memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dgkd_core.runtime.errors import OutOfMemory, enough_memory

MUCH = 2**50  # bytes: more than any machine gives a process
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


def _fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: torch.empty(MUCH, dtype=torch.uint8), f" (another {MUCH} bytes were asked for)"),
        (lambda: np.empty(MUCH, np.uint8), " (another 1.00 PiB were asked for)"),
        (
            lambda: _fail(torch.OutOfMemoryError(CUDA)),
            " of the GPU (another 2.00 GiB were asked for)",
        ),
        (lambda: _fail(MemoryError()), ""),
    ],
)
def test_short_memory_is_one_line(call: Callable[[], object], said: str) -> None:
    with pytest.raises(OutOfMemory) as caught, enough_memory("; help"):
        call()
    assert str(caught.value) == f"out of memory{said}; help"


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("out of memory")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, enough_memory():
        raise error
    assert caught.value is error
