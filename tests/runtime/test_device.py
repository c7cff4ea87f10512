"""Which GPU a run takes, on a machine that has two by pretence."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dgkd_core.runtime import device as module
from dgkd_core.runtime.device import get_device, take_gpu

Take = Callable[[Callable[[], int | None]], Any]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Take]:
    """A new child that takes a GPU, its ``gpu``, and holds it until it is killed."""
    monkeypatch.delenv("DGKD_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"gpu-{(0, 1)[i]}")
    )
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    number = SimpleNamespace(item=float)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: number)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    fork, children = multiprocessing.get_context("fork"), []

    def run(call: Callable[[], int | None]) -> Any:
        told = fork.SimpleQueue()

        def hold() -> None:
            try:
                told.put(call())
            except Exception as error:  # nobody is to wait for it
                told.put(repr(error))
            signal.pause()

        child: Any = fork.Process(target=hold)
        child.start()
        children.append(child)
        child.gpu = told.get()
        return child

    yield run
    for child in children:
        child.kill()
        child.join()


def test_runs_side_by_side_share_the_gpus_and_a_kill_frees_one(take: Take) -> None:
    first = [take(take_gpu) for _ in range(5)]
    assert [child.gpu for child in first] == [0, 1, 0, 1, 0]
    for child in first[1::2]:
        child.kill()
        child.join()
    assert [take(take_gpu).gpu for _ in range(4)] == [1, 1, 1, 0]


def test_a_gpu_that_a_run_names_is_left_alone_by_the_next(take: Take) -> None:
    def named(name: str) -> int | None:
        os.environ["DGKD_DEVICE"] = name
        return get_device().index

    names = "cuda:1", "cuda", "cuda:1", "cuda"
    assert [take(lambda name=name: named(name)).gpu for name in names] == [1, 0, 1, 0]


def test_a_run_of_several_processes_takes_one_each(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
    for rank in (1, 0):
        monkeypatch.setattr(module.distributed, "local_rank", lambda rank=rank: rank)
        assert take(lambda: get_device().index).gpu == rank


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_memory_that_a_tensor_leaves_serves_the_next_one() -> None:
    code = """
import resource, torch
from types import SimpleNamespace
from dgkd_core.runtime.device import start

start(SimpleNamespace(seed=0, deterministic=True, threads=1), "test")
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {**os.environ, "DGKD_DEVICE": "cpu"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    pages = 2**26 // resource.getpagesize()  # of one tensor
    assert int(done.stdout) < pages / 2
