"""Downloaded archives of data sets, unpacked whole or not at all, whatever is in them.

tar, tar.gz and zip are told apart by their content. The MD5 of a published archive is known by its
name; it shows that a download is complete and the one that papers used, no more.
"""

from __future__ import annotations

import errno
import filecmp
import gzip
import hashlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from dgkd_core.runtime.checks import join_problems, shown
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import writing
from dgkd_core.runtime.progress import Progress

PUBLISHED = {  # by name in small letters; the values that torchvision publishes for its downloads
    "voctrainval_11-may-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
    "benchmark.tgz": "82b4d87ceb2ed10f6038a1cba92111cb",
}
MOST_RATIO = 200  # unpacked to packed size …
SMALL = 1 << 28  # … of what unpacks to more bytes than this
_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 24
_NAMES = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@dataclass(frozen=True)
class _Member:
    """An entry: its name as stored, what it is ("file", "folder" or words), and its bytes."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in self.name.split("/") if part not in ("", "."))


class _Bounded:
    """A file that tarfile reads from; what it unpacks to and the pieces asked for are bounded."""

    def __init__(self, file: IO[bytes], path: Path, most: int) -> None:
        self.file, self.path, self.most = file, path, most

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, place: int) -> int:
        if place > self.most:
            raise _bomb(self.path, self.most)
        return self.file.seek(place)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise InputError(f"{self.path}: a header of {size} bytes, expected a tar archive")
        data = self.file.read(size)
        if self.file.tell() > self.most:
            raise _bomb(self.path, self.most)
        return data


def _tar_members(file: IO[bytes], path: Path, most: int) -> Iterator[_Member]:
    """The members of a tar archive; its end is checked, too."""
    plain = _Bounded(file, path, most)
    tar = tarfile.TarFile(fileobj=plain, encoding="utf-8")  # type: ignore[arg-type]
    for info in tar:
        kind = "neither a file nor a folder"
        if info.issym() or info.islnk():
            kind = "a link"
        elif info.issparse():
            kind = "a sparse file"
        elif info.isdir():
            kind = "folder"
        elif info.isreg():
            kind = "file"
        yield _Member(info.name, kind, info.size, partial(tar.extractfile, info))
    # tarfile takes damage between members, or nothing there, for the end of the archive
    plain.seek(tar.offset)
    if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(
            f"{path}: damaged or cut short at byte {tar.offset} of the tar archive, "
            "expected a member or the end mark"
        )
    while plain.read(_BLOCK):  # to the end, where gzip's checksum is
        pass


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        form = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
        kind = "folder" if info.is_dir() else "file"
        if form not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link" if form == stat.S_IFLNK else "neither a file nor a folder"
        elif info.flag_bits & 1:
            kind = "encrypted"
        elif info.compress_type not in _METHODS:
            kind = f"compressed by method {info.compress_type}"
        yield _Member(info.filename, kind, info.file_size, partial(archive.open, info))


def _members(file: IO[bytes], path: Path, most: int) -> Iterator[_Member]:
    """The members of an archive whose kind its first bytes tell."""
    head = file.read(2)
    file.seek(0)
    if head == b"PK":
        return _zip_members(file)
    plain: Any = gzip.GzipFile(fileobj=file) if head == b"\x1f\x8b" else file
    return _tar_members(plain, path, most)


def _bomb(path: Path, most: int) -> InputError:
    packed = _size(path.stat().st_size)
    return InputError(f"{path}: {packed} that unpack to more than {_size(most)}, refused as a bomb")


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the libraries say of a damaged archive becomes one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # tarfile, zipfile and the decoders have dozens of kinds
        # of the system's own errors, EINVAL is a place before the file's start
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: damaged or cut short ({shown(said)}), expected a tar, tar.gz or zip archive"
        ) from error


def wanted_md5(archive: Path, md5: str | None) -> str | None:
    """The MD5 that an archive must have: the one given, or the published one for its name.

    ``any`` is None, no matter which.

    Raises:
        InputError: none is given or known, or it is no MD5.
    """
    wanted = PUBLISHED.get(archive.name.lower()) if md5 is None else md5.lower()
    if wanted is None:
        raise InputError(
            f"{archive}: no published MD5 is known for this name, expected --md5 HASH "
            "(or --md5 any, which unpacks whatever it is)"
        )
    if wanted == "any":
        return None
    if not re.fullmatch("[0-9a-f]{32}", wanted):
        raise InputError(f"--md5 {md5}: expected 32 hexadecimal digits or any")
    return wanted


def _member_problem(member: _Member) -> str | None:
    """What is wrong with a member: more than tarfile's data filter refuses, and in zip, too."""
    if member.kind not in ("file", "folder"):
        return f"is {member.kind}, expected plain files and folders only"
    if member.name.startswith("/"):
        return "is an absolute path, expected names within the archive"
    if ".." in member.parts:
        return "leads out of the folder, expected names within the archive"
    return None


def _check_members(path: Path, members: Iterable[_Member], most: int) -> list[_Member]:
    """The members that are files; raises all that is wrong with any member together."""
    files: list[_Member] = []
    problems: list[str] = []
    total = 0
    for member in members:
        total += member.size
        if member.size < 0:  # not one step further into such an archive
            raise InputError(f"{path}: {shown(member.name)} has {member.size} bytes, expected 0 up")
        if total > most:
            raise _bomb(path, most)
        if problem := _member_problem(member):
            problems.append(f"{path}: {shown(member.name)} {problem}")
        elif member.kind == "file":
            files.append(member)
    if problems:
        raise join_problems(problems)
    if not files:
        raise InputError(f"{path}: no file in it, expected a data set")
    return files


def _extract(path: Path, files: Sequence[_Member], part: Path) -> None:
    """Write the files into the new folder ``part``."""
    for member in Progress(files, f"unpack {path.name}"):
        target = part.joinpath(*member.parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = open(target, "xb")  # noqa: SIM115  # and not over another member
        except OSError as error:
            if error.errno not in _NAMES:
                raise
            said = f"{shown(member.name)} cannot be unpacked ({error.strerror})"
            raise InputError(f"{path}: {said}, expected a file of its own") from error
        with file, cast(IO[bytes], member.open()) as source:  # None for a folder only
            shutil.copyfileobj(source, file, _BLOCK)
        if (size := target.stat().st_size) != member.size:
            name = shown(member.name)
            raise InputError(f"{path}: {name} has {size} bytes, expected {member.size}")


def _move_in(part: Path, out: Path) -> int:
    """Move what is in ``part`` to where it belongs in ``out``; returns how much was there already.

    Raises:
        InputError: something else is there; nothing has been moved then.
    """
    moves: list[tuple[Path, Path]] = []
    problems: list[str] = []
    same = 0
    waiting = [(part, out)]
    while waiting:
        new, old = waiting.pop()
        if not os.path.lexists(old):
            moves.append((new, old))
        elif new.is_dir() and old.is_dir():
            waiting += [(child, old / child.name) for child in sorted(new.iterdir(), reverse=True)]
        elif new.is_file() and old.is_file() and filecmp.cmp(new, old, shallow=False):
            same += 1
        else:
            problems.append(f"{old}: there already with other content, expected it not to be")
    if problems:
        raise join_problems(problems)
    moved: list[tuple[Path, Path]] = []
    try:
        for new, old in moves:
            old.parent.mkdir(parents=True, exist_ok=True)
            os.rename(new, old)
            moved.append((new, old))
    except BaseException:
        for new, old in reversed(moved):
            os.rename(old, new)
        raise
    return same


def _checked_md5(file: IO[bytes], path: Path, md5: str | None) -> str:
    """A line that says what the MD5 is; refuses one that is not the wanted one."""
    wanted = wanted_md5(path, md5)
    found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]
    if wanted is None:
        return f"{path}: MD5 {found}, not compared with any"
    source = "published" if md5 is None else "given"
    if found != wanted:
        raise InputError(f"{path}: MD5 {found}, expected {wanted} as {source}; download it again")
    return f"{path}: MD5 {found}, as {source}"


def unpack(archive: Path, out: Path, md5: str | None = None) -> list[str]:
    """Unpack a tar, tar.gz or zip archive into a folder, which keeps what it has.

    Every member is checked before anything is written: plain files and folders with names that
    stay within the archive, no more bytes than there is room for and than the size of the archive
    lets expect; a file that comes twice is refused. Links are refused, also those that would stay
    within; empty folders are left out. The content is unpacked into a hidden folder in ``out``, or
    in the first folder above it that exists, and moved in when it is complete. Files that are in
    ``out`` already must be the same byte for byte, so that it can be run again; otherwise nothing
    is moved.

    Args:
        archive: the file; its name says which published MD5 it must have.
        out: a folder, made if it is not there.
        md5: what its MD5 must be instead, 32 hexadecimal digits; ``any`` compares with none.

    Returns:
        Lines to print: the MD5, and how much was unpacked where.

    Raises:
        InputError: what is wrong with the archive, or in the way, a line each, the first 50.
    """
    wanted_md5(archive, md5)
    base = next(each for each in (out, *out.absolute().parents) if os.path.lexists(each))
    if not base.is_dir():
        raise InputError(f"{base}: not a folder, expected one to unpack into")
    if not archive.is_file():
        raise InputError(f"{archive}: no such file, expected a tar, tar.gz or zip archive")
    with open(archive, "rb") as file:
        checked = _checked_md5(file, archive, md5)
        most = max(SMALL, MOST_RATIO * archive.stat().st_size)
        with _reading(archive):
            file.seek(0)
            files = _check_members(archive, _members(file, archive, most), most)
        total = sum(member.size for member in files)
        if total > (free := shutil.disk_usage(base).free):
            raise InputError(f"{base}: {_size(free)} free, expected {_size(total)} for {archive}")
        with (
            writing(out),
            tempfile.TemporaryDirectory(dir=base, prefix=f".{out.name}.") as folder,
        ):
            part = Path(folder) / "content"
            part.mkdir()
            with _reading(archive):
                _extract(archive, files, part)
            same = _move_in(part, out)
    there = f", {same:,} of them there already" if same else ""
    return [checked, f"{out}: {len(files):,} files, {_size(total)}{there}"]
