"""A full disk, refused permission: one line, and nothing is lost.

The faults are the system's own: a small disk, a folder that may not be written to, each in a forked
child. What only root may make skips. Short writes: tests/stages/test_stage_faults.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from forked import bytes_below, fork

from dgkd_core.data.pack import write_pack
from dgkd_core.models.registry import ModelConfig, build, save_model
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import write_text
from dgkd_core.runtime.result_cache import ResultCache

pytestmark = pytest.mark.full
Write = Callable[[], object]
Writer = Callable[[Path, int], Write]
"""Gets ready to write something into a folder, larger for a larger number."""


def _pack(place: Path, size: int) -> Write:
    def write() -> None:
        with write_pack(place / "x.zip") as pack:
            for i in range(size):
                pack.add(f"{i}.bin", os.urandom(3000))

    return write


def _piece(place: Path, size: int) -> Write:
    cache = ResultCache(place / "cache")
    return lambda: cache.put([(f"of size {size}", bytes(3000 * size), None)])


def _model(place: Path, size: int) -> Write:
    config = ModelConfig(
        *("network", ("cat",), "timm:test_resnet", 32, 4 * size, (1, 2, 3), "off", "none"),
        frozen=False,
    )
    model = build(config)
    return lambda: save_model(place / "model", model, config)


WRITERS: dict[str, tuple[Writer, str]] = {  # and what they write
    "text": (lambda p, n: lambda: write_text(p / "x.txt", "x" * 3000 * n), "x.txt"),
    "piece": (_piece, "cache"),
    "pack": (_pack, "x.zip"),
    "model": (_model, "model"),
}


# --- the faults ----------------------------------------------------------------------------------


def any_disk(place: Path) -> None:
    """The disk as it is."""


def small_disk(place: Path) -> None:
    """A disk of 16 MB at ``place``, in this process's own view of the file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    private, new_mounts = 1 << 18 | 1 << 14, 0x20000
    if (
        libc.unshare(new_mounts)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"none", str(place).encode(), b"tmpfs", 0, b"size=16m")
    ):
        raise SystemExit(CANNOT)


def filled(place: Path) -> None:
    """No byte left on the disk (ENOSPC)."""
    with open(place / "filler", "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def denied(place: Path) -> None:
    """The folder is not ours to write to (EACCES)."""
    for folder in [place, *(each for each in place.rglob("*") if each.is_dir())]:
        folder.chmod(0o555)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


CANNOT = 77
Fault = tuple[Callable[[Path], object], Callable[[Path], object], str]
FAULTS: dict[str, Fault] = {
    "full disk": (small_disk, filled, "No space left on device"),
    "refused permission": (any_disk, denied, "Permission denied"),
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that anybody can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def kept(path: str) -> bool:
    """Not what fills the disk, nor a half-written piece: its next writing takes that away."""
    return path != "filler" and not (path.startswith("cache/.") and path.endswith(".part"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_that_fails_says_so_and_leaves_what_was_there(
    writer: str, fault: str, place: Path
) -> None:
    (ready, name), (before, strike, reason) = WRITERS[writer], FAULTS[fault]

    def body() -> None:
        os.chdir(place)
        before(Path("."))
        if before is small_disk:
            os.chdir(place)  # onto the disk that is there now
        small, large = ready(Path("."), 1), ready(Path("."), 40)
        small()
        old = bytes_below(Path("."))
        assert old
        strike(Path("."))
        try:
            large()
        except InputError as error:
            print(json.dumps(str(error)))
        else:
            print(json.dumps("nothing was said"))
        found = bytes_below(Path("."))
        assert {path: digest for path, digest in found.items() if kept(path)} == old

    ended = fork(body)
    if ended.status == CANNOT:
        pytest.skip("no mounts allowed here")
    assert ended.status == 0, ended.output
    message = json.loads(ended.output.splitlines()[-1])
    assert "\n" not in message
    assert reason in message
    assert re.match(rf"{name}(/\w+)?: cannot be written \(", message)
