"""Packs have the same bytes every time, survive forks and name what is wrong with them."""

import os
import zipfile
from pathlib import Path

import pytest
from support import one_line

from dgkd_core.data import pack as pack_module
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.parallel import ordered_map

CONTENT = {"b.txt": b"hello hello hello hello", "a.bin": bytes(range(50)), "sub/c": b""}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    _write(tmp_path / "x.zip")
    return tmp_path / "x.zip"


def _write(path: Path) -> None:
    with write_pack(path) as pack:
        for name, content in CONTENT.items():
            pack.add(name, content, compress=name == "b.txt")


def test_what_is_written_is_read_by_any_tool(path: Path) -> None:
    pack = Pack(path)
    assert (pack.names(), len(pack)) == (sorted(CONTENT), 3)
    assert "a.bin" in pack
    assert "A.BIN" not in pack
    assert {name: pack.read(name) for name in CONTENT} == CONTENT
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        methods = {info.filename: info.compress_type for info in archive.infolist()}
    assert list(methods) == list(CONTENT)
    assert (methods["b.txt"], methods["a.bin"]) == (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)
    one_line(lambda: Pack("no.zip"), "no.zip: no such file (run the stage that makes it)")
    one_line(lambda: pack.read("z.png"), "x.zip: holds no 'z.png'")


def test_the_bytes_are_the_same_whenever_and_wherever(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2030, 1, 1, 0, 0, 0, 0, 1, 0))
    old = os.umask(0o077)
    try:
        _write(tmp_path / "y.zip")
    finally:
        os.umask(old)
    assert (tmp_path / "y.zip").read_bytes() == path.read_bytes()


def test_a_block_that_raises_keeps_the_old_pack(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match="stop"), write_pack(path) as pack:  # noqa: PT012
        pack.add("new", b"1")
        raise InputError("stop")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["x.zip"]


def test_damage_never_gives_other_bytes_or_another_error(path: Path) -> None:
    """One bit of any byte flipped, or cut off: the content comes through unharmed or is refused."""
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        byte = whole[place]
        flipped = whole[:place] + bytes([byte ^ 1 << place % 8]) + whole[place + 1 :]
        for damaged in (flipped, whole[:place]):
            path.write_bytes(damaged)
            for name, content in CONTENT.items():
                try:
                    assert Pack(path).read(name) == content
                    assert len(damaged) == len(whole)
                except InputError as error:
                    assert str(error).startswith(f"{path}: ")  # noqa: PT017
                    refused += 1
    assert refused > 20


def test_a_bomb_is_not_unpacked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "_MOST_BYTES", 1000)
    with write_pack(path) as pack:
        pack.add("bomb", bytes(1001), compress=True)
        pack.add("fine", bytes(1000), compress=True)
    assert Pack(path).read("fine") == bytes(1000)
    said = "'bomb' unpacks to 1001 bytes, expected at most 1000"
    one_line(lambda: Pack(path).read("bomb"), said)


def test_forked_processes_read_the_same_pack_at_once(path: Path) -> None:
    pack = Pack(path)

    def reads(turns: int) -> bool:
        return all(pack.read(n) == c for _ in range(turns) for n, c in CONTENT.items())

    assert reads(1)
    reading = ordered_map(reads, [200] * 6, processes=3, chunk=1)
    assert next(reading)
    assert reads(200)
    assert all(reading)
