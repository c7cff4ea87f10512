"""Which GPU a run takes, on a machine that has two by pretence."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import spawn

from dgkd_core.runtime import device as module
from dgkd_core.runtime.device import get_device, take_gpu


class Holders:
    """Children that have taken a GPU and hold it until they are killed."""

    def __init__(self) -> None:
        self.children: list[tuple[int, int]] = []

    def take(self, call: Callable[[], int | None]) -> int:
        """The GPU that a child of its own gets."""
        reading, writing = os.pipe()

        def body() -> None:
            os.write(writing, f"{call()}\n".encode())
            signal.pause()

        child = spawn(body, writing)
        os.close(writing)
        with os.fdopen(reading) as told:
            gpu = int(told.readline())
        self.children.append((gpu, child))
        return gpu

    def kill(self, *gpus: int) -> None:
        for gpu, child in list(self.children):
            if gpu in gpus:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                self.children.remove((gpu, child))


@pytest.fixture
def holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holders]:
    monkeypatch.delenv("DGKD_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"gpu-{(0, 1)[i]}")
    )
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    found = Holders()
    yield found
    found.kill(0, 1)


def _of(name: str) -> int | None:
    os.environ["DGKD_DEVICE"] = name
    return get_device().index


def test_runs_side_by_side_share_the_gpus_and_a_kill_frees_one(holders: Holders) -> None:
    assert [holders.take(take_gpu) for _ in range(5)] == [0, 1, 0, 1, 0]
    holders.kill(1)
    assert [holders.take(take_gpu) for _ in range(4)] == [1, 1, 1, 0]


@pytest.mark.parametrize("named", [0, 1])
def test_a_gpu_that_a_run_names_is_left_alone_by_the_next(named: int, holders: Holders) -> None:
    for _ in range(2):
        assert holders.take(lambda: _of(f"cuda:{named}")) == named
        assert holders.take(lambda: _of("cuda")) == 1 - named, "of which fewer runs use it"


def test_a_run_of_several_processes_takes_one_each(
    holders: Holders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
    for rank in (1, 0):
        monkeypatch.setattr(module.distributed, "local_rank", lambda rank=rank: rank)
        assert holders.take(lambda: get_device().index) == rank
