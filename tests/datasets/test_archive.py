"""Unpacking: everything or nothing, nothing outside, nothing overwritten."""

import gzip
import hashlib
import io
import os
import random
import re
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import one_line

from dgkd_core.cli.main import main
from dgkd_core.datasets import archive
from dgkd_core.datasets.archive import unpack, wanted_md5
from dgkd_core.runtime.errors import InputError

FILES = {
    "VOC/JPEGImages/2007 a.jpg": bytes(range(256)) * 9,
    "VOC/Annotations/Käfer.xml": b"<annotation/>",
    "VOC/empty.txt": b"",
}
VOC = "VOCtrainval_11-May-2012.tar"


def tar_bytes(members: Iterable[tuple[str, Any]], mode: str = "w", form: int = 2) -> bytes:
    """A member's value is its bytes, None for a folder, or a TarInfo to take as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as tar:  # type: ignore[call-overload]
        for name, value in members:
            info = value if isinstance(value, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = value if isinstance(value, bytes) else b""
            if value is None:
                info.type = tarfile.DIRTYPE
            if isinstance(value, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(members: Iterable[tuple[Any, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


GOOD = {
    "a.tar": tar_bytes([("VOC", None), ("./VOC/Annotations/", None), *FILES.items()]),
    "pax.tar": tar_bytes(FILES.items(), form=tarfile.PAX_FORMAT),
    "ustar.tar": tar_bytes(FILES.items(), form=tarfile.USTAR_FORMAT),
    "a.tgz": tar_bytes(FILES.items(), "w:gz"),
    "a.tar.gz": tar_bytes([(f"./{name}", content) for name, content in FILES.items()], "w:gz"),
    "misnamed.tar": tar_bytes(FILES.items(), "w:gz"),
    "a.zip": zip_bytes([("VOC/", b""), *FILES.items()]),
    "stored.zip": zip_bytes(FILES.items(), zipfile.ZIP_STORED),
    "lzma.zip": zip_bytes(FILES.items(), zipfile.ZIP_LZMA),
}


def tree(root: Path) -> dict[str, Any]:
    """Every path below ``root`` with a file's content, a link's target or None."""
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        link = path.is_symlink()
        found[name] = os.readlink(path) if link else path.read_bytes() if path.is_file() else None
    return found


def files(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(root).items() if content is not None}


def save(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", GOOD)
def test_each_format_arrives_whole(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, name, GOOD[name])
    out = tmp_path / "new" / "data"
    lines = unpack(path, out, "any")
    digest = hashlib.md5(GOOD[name]).hexdigest()
    assert lines == [
        f"{path}: MD5 {digest}, not compared with any",
        f"{out}: 3 files, 0.0 MB",
    ]
    assert files(out) == FILES
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "new"])
    assert os.listdir(tmp_path / "new") == ["data"]
    assert stat.S_IMODE((out / "VOC/empty.txt").stat().st_mode) & 0o600 == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_what_is_there_stays_and_it_can_be_run_again(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, name, GOOD[name])
    out = tmp_path / "data"
    own = {"own.txt": b"mine", "VOC/JPEGImages/own.jpg": b"mine too"}
    for file, content in {**own, "VOC/empty.txt": b""}.items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_bytes(content)
    assert unpack(path, out, "any")[1] == f"{out}: 3 files, 0.0 MB, 1 of them there already"
    assert files(out) == {**FILES, **own}
    assert unpack(path, out, "any")[1].endswith("3 of them there already")
    assert files(out) == {**FILES, **own}


@pytest.mark.parametrize(
    ("name", "value"),
    [("VOC/empty.txt", b"changed"), ("VOC/JPEGImages", b"a file"), ("VOC/Annotations", "link")],
)
def test_other_content_in_the_way_stops_it_before_anything_is_moved(
    name: str, value: Any, tmp_path: Path
) -> None:
    path = save(tmp_path, "a.tar", GOOD["a.tar"])
    out = tmp_path / "data"
    (out / name).parent.mkdir(parents=True)
    if isinstance(value, bytes):
        (out / name).write_bytes(value)
    else:
        (out / name).symlink_to("nowhere")
    before = tree(tmp_path)
    one_line(
        lambda: unpack(path, out, "any"),
        f"{out / name}: there already with other content, expected it not to be",
    )
    assert tree(tmp_path) == before


def test_a_failing_move_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "a.tar", tar_bytes([(f"{name}.txt", b"1") for name in "abcd"]))
    save(tmp_path, "data/own.txt", b"mine")
    before = tree(tmp_path)
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if target.name == "c.txt":
            raise OSError(28, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr(archive.os, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        unpack(path, tmp_path / "data", "any")
    assert tree(tmp_path) == before


def test_the_published_md5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_md5(Path(VOC), None) == "6cd6e144f989b92b3379bac3b3de84fd"
    assert wanted_md5(Path("x/BENCHMARK.TGZ"), None) == "82b4d87ceb2ed10f6038a1cba92111cb"
    path = save(tmp_path, VOC.upper(), GOOD["a.tar"])
    before = tree(tmp_path)
    digest = hashlib.md5(GOOD["a.tar"]).hexdigest()
    said = f"MD5 {digest}, expected 6cd6e144f989b92b3379bac3b3de84fd as published; download it aga"
    one_line(lambda: unpack(path, tmp_path / "data"), path, said)
    one_line(lambda: unpack(path, tmp_path / "data", 32 * "a"), f"expected {32 * 'a'} as given")
    assert tree(tmp_path) == before
    assert unpack(path, tmp_path / "data", digest.upper())[0] == f"{path}: MD5 {digest}, as given"
    monkeypatch.setitem(archive.PUBLISHED, VOC.lower(), digest)
    assert unpack(path, tmp_path / "data")[0] == f"{path}: MD5 {digest}, as published"
    assert files(tmp_path / "data") == FILES


def tar(*members: tuple[str, Any], mode: str = "w", form: int = 2) -> bytes:
    return tar_bytes([("good.txt", b"good"), *members], mode, form)


def zipped(*members: tuple[Any, bytes]) -> bytes:
    return zip_bytes([("good.txt", b"good"), *members])


def zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def patched(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def tar_size(size: bytes) -> bytes:
    """A tar archive whose second member declares a size, 12 bytes, with its checksum put right."""
    raw = bytearray(tar(("b.txt", b"b")))
    header = raw[1024:1536]
    header[124:136] = size
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    raw[1024:1536] = header
    return bytes(raw)


def encrypted() -> bytes:
    raw = bytearray(zipped())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(raw)


def corrupt_zip() -> bytes:
    raw = zip_bytes([("good.txt", b"good"), ("b.txt", bytes(range(256)))], zipfile.ZIP_STORED)
    return raw.replace(bytes(range(100)), bytes(100))


def long_header() -> bytes:
    """A PAX header of 64 MB, which compresses to nothing."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 26
    return gzip.compress(info.tobuf() + bytes(1 << 20))


NAME = "expected names within the archive"
BROKEN = ("damaged or cut short", "expected a tar, tar.gz or zip archive")
DAMAGE: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "leads out": (tar(("../b", b"b")), ("'../b' leads out of the folder", NAME)),
    "leads out within": (tar(("a/../../b", b"b")), ("'a/../../b' leads out of the folder", NAME)),
    "absolute": (tar(("/tmp/b", b"b")), ("'/tmp/b' is an absolute path", NAME)),
    "long name": (tar((300 * "b", b"b")), ("cannot be unpacked (",)),
    "link out": (
        tar(special("l", tarfile.SYMTYPE, "/etc")),
        ("'l' is a link, expected plain fil",),
    ),
    "link in": (tar(special("l", tarfile.SYMTYPE, "good.txt")), ("'l' is a link, expected plain",)),
    "hard link": (tar(special("l", tarfile.LNKTYPE, "../x")), ("'l' is a link, expected plain",)),
    "device": (tar(special("d", tarfile.BLKTYPE)), ("'d' is neither a file nor a folder, expec",)),
    "pipe": (tar(special("d", tarfile.FIFOTYPE)), ("'d' is neither a file nor a folder, expec",)),
    "unknown type": (tar(special("d", b"Z")), ("'d' is neither a file nor a folder, expected",)),
    "sparse": (tar(special("s", tarfile.GNUTYPE_SPARSE)), ("'s' is a sparse file, expected plai",)),
    "twice": (tar(("b", b"b"), ("./b", b"c")), ("cannot be unpacked (",)),
    "file, then folder": (tar(("b", b"b"), ("b/c", b"c")), ("cannot be unpacked (",)),
    "folder, then file": (tar(("b/c", b"c"), ("b", b"b")), ("cannot be unpacked (",)),
    "no name": (tar((".", b"b")), ("cannot be unpacked (",)),
    "no file": (tar_bytes([("a", None)]), ("no file in it, expected a data set",)),
    "empty archive": (tar_bytes([]), ("no file in it, expected a data set",)),
    "empty zip": (zip_bytes([]), ("no file in it, expected a data set",)),
    "empty": (b"", BROKEN),
    "text": (b"<html>404</html>" * 99, BROKEN),
    "cut in the tar's data": (GOOD["a.tar"][:2000], BROKEN),
    "cut in a tar's header": (
        GOOD["ustar.tar"][: 512 + 2560 + 100],
        ("damaged or cut short at byte 3072 of the tar archive, expected a member or the end",),
    ),
    "cut between members": (
        GOOD["ustar.tar"][: 512 + 2560],
        ("damaged or cut short at byte 3072 of the tar archive, expected a member or the end",),
    ),
    "damaged tar header": (
        patched(GOOD["ustar.tar"], 3072 + 10, b"??"),
        ("damaged or cut short at byte 3072 of the tar archive, expected a member or the end",),
    ),
    "cut gzip": (GOOD["a.tgz"][:-40], BROKEN),
    "cut gzip checksum": (GOOD["a.tgz"][:-3], BROKEN),
    "wrong gzip checksum": (patched(GOOD["a.tgz"], len(GOOD["a.tgz"]) - 6, b"??"), BROKEN),
    "damaged gzip": (patched(GOOD["a.tgz"], 200, bytes(40)), BROKEN),
    "gzip of text": (gzip.compress(b"no tar" * 999), BROKEN),
    "negative size": (tar_size(b"\xff" * 12), ("'b.txt' has -1 bytes, expected 0 up",)),
    "size beyond the end": (tar_size(b"00000777000\0"), BROKEN),
    "huge size": (
        tar_size(b"77777777777\0"),
        ("0.0 MB that unpack to more than 268.4 MB, refused as a bomb",),
    ),
    "long header": (long_header(), ("a header of 67108864 bytes, expected a tar archive",)),
    "zip leads out": (zipped(("../b", b"b")), ("'../b' leads out of the folder", NAME)),
    "zip absolute": (zipped(("/b", b"b")), ("'/b' is an absolute path", NAME)),
    "zip twice": (
        zip_bytes([("b", b"b"), ("./b", b"c")]),
        ("cannot be unpacked (",),
    ),
    "zip link": (
        zipped((zip_info("l", stat.S_IFLNK | 0o777), b"/etc")),
        ("'l' is a link, expected plain files and folders only",),
    ),
    "zip pipe": (
        zipped((zip_info("p", stat.S_IFIFO), b"")),
        ("'p' is neither a file nor a folder, ex",),
    ),
    "zip encrypted": (encrypted(), ("'good.txt' is encrypted, expected plain files and folders",)),
    "zip method": (
        patched(zipped(), zipped().index(b"PK\x01\x02") + 10, struct.pack("<H", 9)),
        ("'good.txt' is compressed by method 9, expected plain files and folders only",),
    ),
    "zip cut": (GOOD["a.zip"][:-30], BROKEN),
    "zip corrupt": (corrupt_zip(), (BROKEN[0], "Bad CRC-32 for file 'b.txt'")),
    "zip head alone": (b"PK\x03\x04" + bytes(100), BROKEN),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_is_one_line_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    content, said = DAMAGE[name]
    path = save(tmp_path, "in/x.tar", content)
    save(tmp_path, "in/data/own.txt", b"mine")
    before = tree(tmp_path)
    for out in (tmp_path / "in" / "data", tmp_path / "in" / "new" / "er"):
        message = one_line(lambda out=out: unpack(path, out, "any"), *said)  # type: ignore[misc]
        assert message.startswith(f"{path}: ")
        assert len(message) < len(str(path)) + 300
        assert tree(tmp_path) == before


def test_all_problems_come_together(tmp_path: Path) -> None:
    members = [*((f"../{i}", b"x") for i in range(60)), special("l", tarfile.SYMTYPE, "x")]
    path = save(tmp_path, "x.tar", tar(*members))
    with pytest.raises(InputError) as caught:
        unpack(path, tmp_path / "data", "any")
    lines = str(caught.value).split("\n")
    assert len(lines) == 51
    assert lines[7] == f"{path}: '../7' leads out of the folder, expected names within the archive"
    assert lines[-1] == "… and 11 more problems"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("form", ["w", "w:gz", "zip"])
def test_a_bomb(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MB of zeros: fine in a tar archive that is as large, a bomb in a thousandth of that."""
    members = [("good.txt", b"good"), ("zeros", bytes(1_000_000))]
    content = zip_bytes(members) if form == "zip" else tar_bytes(members, form)
    path = save(tmp_path, "x", content)
    unpack(path, tmp_path / "small", "any")
    shutil.rmtree(tmp_path / "small")
    monkeypatch.setattr(archive, "SMALL", 100_000)
    if form == "w":
        assert len(unpack(path, tmp_path / "data", "any")) == 2
        return
    one_line(lambda: unpack(path, tmp_path / "data", "any"), path, "refused as a bomb")
    assert sorted(tree(tmp_path)) == ["x"]


def test_a_bomb_that_lies_behind_the_last_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SMALL", 100_000)
    path = save(tmp_path, "x", gzip.compress(GOOD["a.tar"] + bytes(1_000_000)))
    one_line(lambda: unpack(path, tmp_path / "data", "any"), path, "refused as a bomb")
    assert sorted(tree(tmp_path)) == ["x"]


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, "x.tar", GOOD["a.tar"])
    usage = type("Usage", (), {"free": 2000})
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda base: usage)
    said = f"{tmp_path}: 0.0 MB free, expected 0.0 MB for {path}"
    one_line(lambda: unpack(path, tmp_path / "data", "any"), said)
    assert sorted(tree(tmp_path)) == ["x.tar"]


def test_a_target_that_is_no_folder_and_archives_that_are_no_files(tmp_path: Path) -> None:
    path = save(tmp_path, "x.tar", GOOD["a.tar"])
    (tmp_path / "link").symlink_to("nowhere")
    for out in (path, path / "below", tmp_path / "link"):
        one_line(lambda out=out: unpack(path, out, "any"), "not a folder, expected one to unpack")  # type: ignore[misc]
    for source in (tmp_path / "no.tar", tmp_path):
        one_line(lambda source=source: unpack(source, tmp_path / "data", "any"), "no such file")  # type: ignore[misc]
    assert sorted(tree(tmp_path)) == ["link", "x.tar"]


@pytest.mark.full
@settings(deadline=None, derandomize=True, max_examples=80)
@given(seed=st.integers(0, 10**9), name=st.sampled_from(["a.tar", "pax.tar", "a.tgz", "a.zip"]))
def test_mutated_bytes_stay_within_or_are_refused(
    seed: int, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For gzip the damage is in the tar archive, out of sight of the checksum."""
    chance = random.Random(seed)
    raw = bytearray(GOOD["pax.tar"] if name == "a.tgz" else GOOD[name])
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(min(len(raw), 6000))
        raw[place] = chance.choice([chance.randrange(256), *b"/.\0L7x", raw[place] ^ 1])
    if chance.random() < 0.1:
        del raw[chance.randrange(len(raw)) :]
    folder = tmp_path_factory.getbasetemp() / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = save(folder, name, gzip.compress(bytes(raw)) if name == "a.tgz" else bytes(raw))
    said = ""
    try:
        unpack(path, folder / "data", "any")
    except InputError as error:
        said = str(error)
    assert all(line.startswith(f"{path}: ") for line in said.splitlines())
    assert sorted(each.name for each in folder.iterdir()) == sorted([name, *["data"][bool(said) :]])
    assert not any(each.is_symlink() for each in folder.rglob("*"))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = save(tmp_path, "a.zip", GOOD["a.zip"])
    other = save(tmp_path, "b.tar", tar(("b.txt", b"b")))
    monkeypatch.setitem(archive.PUBLISHED, "a.zip", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(archive.PUBLISHED, "b.tar", hashlib.md5(other.read_bytes()).hexdigest())
    main(["unpack", str(path), str(other), str(tmp_path / "data")])
    assert files(tmp_path / "data") == {**FILES, "good.txt": b"good", "b.txt": b"b"}
    lines = [line for line in capsys.readouterr().out.splitlines() if "spent" not in line]
    assert [line.split(", ")[-1] for line in lines[::2]] == ["as published", "as published"]
    for line, count in zip(lines[1::2], (3, 2), strict=True):
        assert line.startswith(f"{tmp_path / 'data'}: {count} files")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x.tar", "data"], "dgkd: x.tar: no published MD5 is known for this name, expected --md5"),
        (["x.tar", VOC, "data"], "dgkd: x.tar: no published MD5 is known for this name, expected"),
        ([VOC, "data"], f"dgkd: {VOC}: MD5 "),
        (["x.tar", "data", "--md5", "123"], "dgkd: --md5 123: expected 32 hexadecimal digits or a"),
        (["x.tar", VOC, "data", "--md5", "any"], "dgkd: --md5 with 2 archives, expected one"),
        (
            ["--md5", "any", "x.tar", "data"],
            "dgkd: x.tar: '../b' leads out of the folder, expected",
        ),
        (["--md5", "any", "no.tar", "data"], "dgkd: no.tar: no such file, expected a tar, tar.gz"),
    ],
)
def test_the_command_ends_with_one_line_and_status_1(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("x.tar", VOC):
        save(tmp_path, name, tar(("../b", b"b")))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["unpack", *arguments])
    printed = capsys.readouterr()
    assert ended.value.code == 1 or printed.err == ""
    assert re.fullmatch(re.escape(said) + ".*\n", printed.err or f"{ended.value.code}\n")
    assert printed.out == ""
    assert sorted(tree(tmp_path)) == sorted(["x.tar", VOC])
