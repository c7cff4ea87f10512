"""Packs have the same bytes every time, survive forks and name what is wrong with them."""

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dgkd_core.data import pack as pack_module
from dgkd_core.data.pack import Pack, write_pack
from dgkd_core.runtime.errors import InputError

CONTENT = {"b.txt": b"hello hello hello hello", "a.bin": bytes(range(50)), "sub/c": b""}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    _write(tmp_path / "x.zip")
    return tmp_path / "x.zip"


def _write(path: Path) -> None:
    with write_pack(path) as pack:
        for name, content in CONTENT.items():
            pack.add(name, content, compress=name == "b.txt")


def test_what_is_written_is_read(path: Path) -> None:
    pack = Pack(path)
    assert pack.names() == sorted(CONTENT)
    assert len(pack) == 3
    assert "a.bin" in pack
    assert "A.BIN" not in pack
    assert {name: pack.read(name) for name in CONTENT} == CONTENT


def test_it_is_an_ordinary_zip_file(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(CONTENT)
        kinds = {i.filename: i.compress_type for i in archive.infolist()}
    assert kinds["b.txt"] == zipfile.ZIP_DEFLATED
    assert kinds["a.bin"] == zipfile.ZIP_STORED


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


def test_a_missing_archive_and_a_missing_member(path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.zip: no such file \(run the stage that makes it\)"):
        Pack(path.with_name("no.zip"))
    with pytest.raises(InputError, match=r"x\.zip: holds no 'z\.png'"):
        Pack(path).read("z.png")


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all, but text"])
def test_no_archive_at_all(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.zip: not a readable zip archive"):
        Pack(path)


def test_damage_never_gives_other_bytes_or_another_error(path: Path) -> None:
    """One bit of any byte flipped: the content comes through unharmed or is refused."""
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place % len(whole)] ^= 1 << place % 8
        path.write_bytes(damaged)
        for name, content in CONTENT.items():
            try:
                assert Pack(path).read(name) == content
            except InputError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017
                refused += 1
    assert refused > 50


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_hostile_archive_is_refused_or_read(path: Path, method: int) -> None:
    """Made by others, compressed in every way, with names that are no ASCII; bytes changed."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("ü.png", b"abc" * 400)
        archive.writestr("../../out of the folder", b"1")
    whole, rng, lines = path.read_bytes(), random.Random(method), []
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            damaged[rng.randrange(len(whole))] = rng.choice((0, 255, rng.randrange(256)))
        path.write_bytes(damaged)
        try:
            pack = Pack(path)
            for name in pack.names():
                pack.read(name)
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 25
    assert all(line.startswith(f"{path}: ") and line.isprintable() for line in lines)
    assert os.listdir(path.parent) == ["x.zip"], "a member's name is no path"


def test_a_bomb_is_not_unpacked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "_MOST_BYTES", 1000)
    with write_pack(path) as pack:
        pack.add("bomb", bytes(1001), compress=True)
        pack.add("fine", bytes(1000), compress=True)
    assert Pack(path).read("fine") == bytes(1000)
    with pytest.raises(InputError, match="'bomb' unpacks to 1001 bytes, expected at most 1000"):
        Pack(path).read("bomb")


def _reads(pack: Pack, turns: int) -> bool:
    return all(pack.read(n) == c for _ in range(turns) for n, c in CONTENT.items())


def test_forked_processes_read_the_same_pack_at_once(path: Path) -> None:
    pack = Pack(path)
    assert _reads(pack, 1)
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        jobs = [pool.apply_async(_reads, (pack, 200)) for _ in range(6)]
        assert _reads(pack, 200)
        assert all(job.get(60) for job in jobs)


def test_a_pack_can_be_sent_to_another_process(path: Path) -> None:
    pack = Pack(path)
    _reads(pack, 1)
    assert _reads(pickle.loads(pickle.dumps(pack)), 1)


def test_a_block_that_raises_prints_nothing_else(tmp_path: Path) -> None:
    """ZipFile closes itself when it is collected; it must not complain then."""
    code = (
        "import sys\nfrom dgkd_core.data.pack import write_pack\n"
        "try:\n    with write_pack(sys.argv[1]) as pack:\n"
        "        pack.add('a', b'1')\n        raise ValueError('stop')\n"
        "except ValueError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.zip")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "stop\n")
    assert os.listdir(tmp_path) == []


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            Pack(path).read("b.txt")
