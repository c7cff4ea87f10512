"""Which GPU a run takes, on a machine that has some by pretence."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import spawn

from dgkd_core.runtime import device as module
from dgkd_core.runtime.device import get_device, take_gpu


@pytest.fixture(autouse=True)
def _two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(index: int) -> SimpleNamespace:
        if index not in (0, 1):
            raise AssertionError("Invalid device id")
        return SimpleNamespace(uuid=f"gpu-{index}")

    monkeypatch.delenv("DGKD_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))


class Holders:
    """Children that have taken a GPU and hold it until they are let go."""

    def __init__(self) -> None:
        self.children: dict[int, list[int]] = {}

    def take(self, call: Callable[[], int | None]) -> int:
        """The GPU that a child of its own gets."""
        reading, writing = os.pipe()

        def body() -> None:
            os.write(writing, f"{call()}\n".encode())
            signal.pause()

        child = spawn(body, writing)
        os.close(writing)
        with os.fdopen(reading) as told:
            index = int(told.readline())
        self.children.setdefault(index, []).append(child)
        return index

    def let_go(self, index: int) -> None:
        for child in self.children.pop(index):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.fixture
def holders():  # type: ignore[no-untyped-def]
    found = Holders()
    yield found
    for index in list(found.children):
        found.let_go(index)


def _of(name: str) -> int | None:
    os.environ["DGKD_DEVICE"] = name
    return get_device().index


def test_runs_side_by_side_take_different_gpus_while_there_are_enough(holders: Holders) -> None:
    taken = [holders.take(take_gpu) for _ in range(5)]
    assert taken == [0, 1, 0, 1, 0]


def test_a_gpu_is_free_again_when_its_run_has_ended_even_by_a_kill(holders: Holders) -> None:
    assert [holders.take(take_gpu) for _ in range(2)] == [0, 1]
    holders.let_go(1)
    assert holders.take(take_gpu) == 1
    holders.let_go(0)
    assert [holders.take(take_gpu) for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("named", [0, 1])
def test_a_gpu_that_a_run_names_is_left_alone_by_the_next(named: int, holders: Holders) -> None:
    assert holders.take(lambda: _of(f"cuda:{named}")) == named
    assert holders.take(lambda: _of("cuda")) == 1 - named
    assert holders.take(lambda: _of(f"cuda:{named}")) == named
    assert holders.take(lambda: _of("cuda")) == 1 - named, "of which fewer runs use it"


def test_a_run_of_several_processes_takes_one_each(
    holders: Holders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (1, 0):
        monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
        monkeypatch.setattr(module.distributed, "local_rank", lambda rank=rank: rank)
        assert holders.take(lambda: get_device().index) == rank
