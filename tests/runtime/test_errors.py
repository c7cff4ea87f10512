"""Which errors of libraries are told as a lack of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dgkd_core.runtime.errors import out_of_memory

MUCH = 2**50  # bytes: more than any machine gives a process
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


def test_what_torch_and_numpy_say_when_memory_is_short() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(MUCH, dtype=torch.uint8)
    said = f"out of memory (another {MUCH} bytes were asked for)"
    assert out_of_memory(caught.value) == said
    with pytest.raises(MemoryError) as lack:
        np.empty(MUCH, np.uint8)
    assert out_of_memory(lack.value) == "out of memory (another 1.00 PiB were asked for)"


def test_a_gpus_memory_is_another() -> None:
    said = "out of memory of the GPU (another 2.00 GiB were asked for)"
    assert out_of_memory(torch.OutOfMemoryError(CUDA)) == said


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("out of memory")])
def test_other_errors_are_none_of_it(error: Exception) -> None:
    assert out_of_memory(error) is None
