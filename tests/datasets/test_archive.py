"""Unpacking: everything or nothing, nothing outside, nothing overwritten."""

import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support import one_line

from dgkd_core.cli.main import main
from dgkd_core.datasets import archive
from dgkd_core.datasets.archive import PUBLISHED, unpack

FILES = {
    "VOC/JPEGImages/2007 a.jpg": bytes(range(256)) * 9,
    "VOC/Annotations/Käfer.xml": b"<annotation/>",
    "VOC/empty.txt": b"",
}
VOC = "VOCtrainval_11-May-2012.tar"


def tar_bytes(members: Iterable[tuple[str, Any]], mode: str = "w", form: int = 2) -> bytes:
    """A member's value is its bytes, or its type with the target of a link behind it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as tar:  # type: ignore[call-overload]
        for name, value in members:
            info, content = tarfile.TarInfo(name), b""
            if isinstance(value, bytes):
                info.size, content = len(value), value
            else:
                info.type, info.linkname = value
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(members: Iterable[tuple[Any, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


FOLDER = tarfile.DIRTYPE, ""
GOOD = {
    "a.tar": tar_bytes([("VOC", FOLDER), ("./VOC/Annotations/", FOLDER), *FILES.items()]),
    "ustar.tar": tar_bytes(FILES.items(), form=tarfile.USTAR_FORMAT),
    "a.tgz": tar_bytes([(f"./{name}", content) for name, content in FILES.items()], "w:gz"),
    "misnamed.tar": tar_bytes(FILES.items(), "w:gz"),
    "a.zip": zip_bytes([("VOC/", b""), *FILES.items()]),
    "lzma.zip": zip_bytes(FILES.items(), zipfile.ZIP_LZMA),
}


def tree(root: Path) -> dict[str, Any]:
    """Every path below ``root`` with a file's content; folders and broken links have None."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def files(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(root).items() if content is not None}


def save(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", GOOD)
def test_each_format_arrives_whole(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, name, GOOD[name])
    out = tmp_path / "new" / "data"
    digest = hashlib.md5(GOOD[name]).hexdigest()
    said = [f"{path}: MD5 {digest}, not compared with any", f"{out}: 3 files, 0.0 MB"]
    assert unpack(path, out, "any") == said
    assert files(out) == FILES
    assert sorted(os.listdir(tmp_path)) == sorted([name, "new"])
    assert os.listdir(tmp_path / "new") == ["data"]
    assert out.stat().st_mode == (tmp_path / "new").stat().st_mode  # not a temporary folder's


def test_what_is_there_stays_and_it_can_be_run_again(tmp_path: Path) -> None:
    path, out = save(tmp_path, "a.tar", GOOD["a.tar"]), tmp_path / "data"
    own = {"own.txt": b"mine", "VOC/JPEGImages/own.jpg": b"mine too"}
    for file, content in {**own, "VOC/empty.txt": b""}.items():
        save(out, file, content)
    for there in (1, 3):
        said = f"{out}: 3 files, 0.0 MB, {there} of them there already"
        assert unpack(path, out, "any")[1] == said
        assert files(out) == {**FILES, **own}


@pytest.mark.parametrize("name", ["VOC/empty.txt", "VOC/JPEGImages", "VOC/Annotations"])
def test_other_content_in_the_way_stops_it_before_anything_is_moved(
    name: str, tmp_path: Path
) -> None:
    path, there = save(tmp_path, "a.tar", GOOD["a.tar"]), tmp_path / "data" / name
    if name == "VOC/Annotations":
        there.parent.mkdir(parents=True)
        there.symlink_to("nowhere")
    else:
        save(tmp_path / "data", name, b"a file with other content")
    before = tree(tmp_path)
    said = f"{there}: there already with other content, expected it not to be"
    one_line(lambda: unpack(path, tmp_path / "data", "any"), said)
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


def tar(*members: tuple[str, Any]) -> bytes:
    return tar_bytes([("good.txt", b"good"), *members])


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


def zip_header(place: int, new: bytes) -> bytes:
    """A zip archive with other bytes at a place of its first member's record."""
    return patched(zipped(), zipped().index(b"PK\x01\x02") + place, new)


def long_header() -> bytes:
    """A PAX header of 64 MB, which compresses to nothing."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 26
    return gzip.compress(info.tobuf() + bytes(1 << 20))


PLAIN = "expected plain files and folders only"
OUT = "leads out of the folder, expected names within the archive"
BROKEN = "damaged or cut short (…), expected a tar, tar.gz or zip archive"
AT_3072 = "damaged or cut short at byte 3072 of the tar archive, expected a member or the end mark"
ALONE = "…cannot be unpacked (…), expected a file of its own"
NOTHING = "no file in it, expected a data set"
ODD = f"'d' is neither a file nor a folder, {PLAIN}"
STORED = zip_bytes([("b.txt", b"content")], zipfile.ZIP_STORED)
USTAR, TGZ = GOOD["ustar.tar"], GOOD["a.tgz"]
DAMAGE: dict[str, tuple[bytes, str]] = {  # … stands for anything
    "leads out": (tar(("a/../../b", b"b")), f"'a/../../b' {OUT}"),
    "absolute": (tar(("/tmp/b", b"b")), "'/tmp/b' is an absolute path, expected names within the…"),
    "long name": (tar((300 * "b", b"b")), ALONE),
    "link out": (tar(("l", (tarfile.SYMTYPE, "good.txt"))), f"'l' is a link, {PLAIN}"),
    "hard link": (tar(("l", (tarfile.LNKTYPE, "../x"))), f"'l' is a link, {PLAIN}"),
    "device": (tar(("d", (tarfile.BLKTYPE, ""))), ODD),
    "sparse": (tar(("s", (tarfile.GNUTYPE_SPARSE, ""))), f"'s' is a sparse file, {PLAIN}"),
    "twice": (tar(("b", b"b"), ("./b", b"c")), ALONE),
    "file, then folder": (tar(("b", b"b"), ("b/c", b"c")), ALONE),
    "folder, then file": (tar(("b/c", b"c"), ("b", b"b")), ALONE),
    "no name": (tar((".", b"b")), ALONE),
    "no file": (tar_bytes([("a", FOLDER)]), NOTHING),
    "empty zip": (zip_bytes([]), NOTHING),
    "empty": (b"", BROKEN),
    "text": (b"<html>404</html>" * 99, BROKEN),
    "cut in the tar's data": (GOOD["a.tar"][:2000], BROKEN),
    "cut in a tar's header": (USTAR[: 512 + 2560 + 100], AT_3072),
    "cut between members": (USTAR[: 512 + 2560], AT_3072),
    "damaged tar header": (patched(USTAR, 3072 + 10, b"??"), AT_3072),
    "cut gzip checksum": (TGZ[:-3], BROKEN),
    "wrong gzip checksum": (patched(TGZ, len(TGZ) - 6, b"??"), BROKEN),
    "gzip of text": (gzip.compress(b"no tar" * 999), BROKEN),
    "negative size": (tar_size(b"\xff" * 12), "'b.txt' has -1 bytes, expected 0 up"),
    "size beyond the end": (tar_size(b"00000777000\0"), BROKEN),
    "huge size": (
        tar_size(b"77777777777\0"),
        "0.0 MB that unpack to more than 268.4 MB, refused as a bomb",
    ),
    "long header": (long_header(), "a header of 67108864 bytes, expected a tar archive"),
    "zip leads out": (zipped(("../b", b"b")), f"'../b' {OUT}"),
    "zip link": (zipped((zip_info("l", stat.S_IFLNK), b"/etc")), f"'l' is a link, {PLAIN}"),
    "zip encrypted": (zip_header(8, b"\1"), f"'good.txt' is encrypted, {PLAIN}"),
    "zip method": (zip_header(10, b"\x09\0"), f"'good.txt' is compressed by method 9, {PLAIN}"),
    "zip cut": (GOOD["a.zip"][:-30], BROKEN),
    "zip corrupt": (
        STORED.replace(b"content", b"CONTENT"),
        f"{BROKEN[:21]}…Bad CRC-32 for file 'b.txt'…",
    ),
    "zip head alone": (b"PK\x03\x04" + bytes(100), BROKEN),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_is_one_line_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    content, said = DAMAGE[name]
    path = save(tmp_path, "in/x.tar", content)
    save(tmp_path, "in/data/own.txt", b"mine")
    before = tree(tmp_path)
    for out in (tmp_path / "in" / "data", tmp_path / "in" / "new" / "er"):
        message = one_line(lambda out=out: unpack(path, out, "any"))  # type: ignore[misc]
        expected = ".*".join(re.escape(part) for part in f"{path}: {said}".split("…"))
        assert re.fullmatch(expected, message)
        assert len(message) < len(str(path)) + 300
        assert tree(tmp_path) == before


ZEROS = [("good.txt", b"good"), ("zeros", bytes(1_000_000))]


@pytest.mark.parametrize(
    "content",
    [
        tar_bytes(ZEROS, "w:gz"),
        zip_bytes(ZEROS),
        gzip.compress(GOOD["a.tar"] + bytes(1_000_000)),  # behind the last member
    ],
)
def test_a_bomb(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MB of zeros: fine in a tar archive that is as large, a bomb in a thousandth of that."""
    plain = save(tmp_path, "plain", tar_bytes(ZEROS))
    path = save(tmp_path, "x", content)
    monkeypatch.setattr(archive, "SMALL", 100_000)
    unpack(plain, tmp_path / "large", "any")
    one_line(lambda: unpack(path, tmp_path / "data", "any"), path, "refused as a bomb")
    assert sorted(os.listdir(tmp_path)) == ["large", "plain", "x"]


def test_what_cannot_be_unpacked_or_unpacked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = save(tmp_path, "x.tar", GOOD["a.tar"]), tmp_path / "data"
    (tmp_path / "link").symlink_to("nowhere")
    no_folder = "not a folder, expected one to unpack into"
    for source, target, said in (
        *((path, place, no_folder) for place in (path, path / "below", tmp_path / "link")),
        (tmp_path / "no.tar", out, "no such file, expected a tar, tar.gz or zip archive"),
        (tmp_path, out, "no such file"),
    ):
        one_line(lambda a=source, b=target: unpack(a, b, "any"), said)  # type: ignore[misc]
    usage = type("Usage", (), {"free": 2000})
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda base: usage)
    said = f"{tmp_path}: 0.0 MB free, expected 0.0 MB for {path}"
    one_line(lambda: unpack(path, out, "any"), said)
    assert sorted(tree(tmp_path)) == ["link", "x.tar"]


def test_the_command_compares_the_md5_and_ends_with_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    published = "6cd6e144f989b92b3379bac3b3de84fd"
    assert PUBLISHED[VOC.lower()] == published
    assert PUBLISHED["benchmark.tgz"] == "82b4d87ceb2ed10f6038a1cba92111cb"
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "good.zip", GOOD["a.zip"])
    save(tmp_path, VOC, content := tar(("../b", b"b")))
    found = hashlib.md5(content).hexdigest()
    for arguments, said in {
        "good.zip data": "good.zip: no published MD5 is known for this name, expected --md5 ",
        f"{VOC} good.zip data": "good.zip: no published MD5 is known for this name, expected",
        f"{VOC} data": f"{VOC}: MD5 {found}, expected {published} as published; download it again",
        f"--md5 {32 * 'A'} {VOC} data": f"{VOC}: MD5 {found}, expected {32 * 'a'} as given; down",
        "good.zip data --md5 123": "--md5 123: expected 32 hexadecimal digits or any",
        f"good.zip {VOC} data --md5 any": "--md5 with 2 archives, expected one",
        f"--md5 any {VOC} data": f"{VOC}: '../b' leads out of the folder, expected",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["unpack", *arguments.split()])
        printed = capsys.readouterr()
        assert ended.value.code == 1 or printed.err == ""
        assert re.fullmatch(f"dgkd: {re.escape(said)}.*\n", printed.err or f"{ended.value.code}\n")
        assert printed.out == ""
        assert not (tmp_path / "data").exists()
    digest = hashlib.md5(GOOD["a.zip"]).hexdigest()
    for name in ("good.zip", "again.zip"):
        save(tmp_path, name, GOOD["a.zip"])
        monkeypatch.setitem(PUBLISHED, name, digest)
    main(["unpack", "good.zip", "again.zip", "data"])
    said = capsys.readouterr().out
    assert f"again.zip: MD5 {digest}, as published\n" in said
    assert "data: 3 files, 0.0 MB, 3 of them there already" in said
    assert files(tmp_path / "data") == FILES
