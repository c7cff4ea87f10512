"""Files that appear whole or not at all, and always with the same bytes."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from dgkd_core.runtime.errors import InputError, no_such_file, reason

if TYPE_CHECKING:
    import pandas as pd


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # folders of VirtualBox and some network drives have none
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def flush(folder: Path) -> None:
    """Have all that lies in a folder on the disk, where a power failure leaves it."""
    for place in [*folder.rglob("*"), folder]:
        _sync(place)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError about this path, or about its temporary file, becomes an InputError.

    Raises:
        InputError: names the path; also where the OSError names no file. Other errors pass.
    """
    try:
        yield
    except OSError as error:
        stand_in = f".{path.name}."
        place = Path(error.filename) if isinstance(error.filename, str) else path
        ours = place in (path, *path.parents) or any(
            part.startswith(stand_in) for part in place.parts
        )
        if not ours:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    except SafetensorError as error:  # the library's own word for a full disk
        raise InputError(f"{path}: cannot be written ({error})") from error


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends well.

    The content is flushed to disk before the rename. When the block raises, ``path`` keeps what
    it had and the temporary file is removed.

    Raises:
        InputError: it cannot be written: the disk is full, the folder is read-only.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            yield part
            _sync(part)
            part.chmod(0o644)
            os.replace(part, path)
            _sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces it when the block ends well.

    Raises:
        InputError: it cannot be written: the disk is full, the folder around it is read-only.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        old = part.with_suffix(".old")
        try:
            yield part
            part.chmod(0o755)
            for place in part.rglob("*"):
                place.chmod(0o755 if place.is_dir() else 0o644)
            flush(part)
            if path.exists():
                os.rename(path, old)
            os.rename(part, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if old.exists():
                if path.exists():
                    shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
                else:
                    os.rename(old, path)


def clear_stand_ins(path: str | Path) -> None:
    """Remove what a killed process left beside ``path`` while it wrote it; no other may run now.

    A folder that was killed between its two renames is put back.
    """
    path = Path(path)
    for place in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if place.suffix == ".old" and not path.exists():
            os.rename(place, path)
        elif place.suffix in (".part", ".old"):
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; an unreadable or malformed one is an InputError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: {no_such_file(Path(path))}") from error
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not JSON, endless
        raise InputError(f"{path}: not a readable JSON file ({error})") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _fixed(value: Any, indent: str = "") -> str:
    if isinstance(value, Mapping):
        deeper = f"{indent}  "
        rows = [
            f"{deeper}{json.dumps(str(key), ensure_ascii=False)}: {_fixed(value[key], deeper)}"
            for key in sorted(value, key=str)
        ]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}" if rows else "{}"
    if isinstance(value, float):
        return f"{value:.2f}" if math.isfinite(value) else "null"
    return json.dumps(value, ensure_ascii=False)


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write a metrics file: nested mappings, sorted keys, floats with two decimals.

    NaN (no pixel of that class, say) and infinity, which JSON lacks, become null.
    """
    write_text(path, _fixed(metrics) + "\n")


def ignored_names(path: Path) -> list[str]:
    """The patterns in a .dvcignore, to be compared with names of files and folders."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in map(str.strip, lines) if line and not line.startswith("# ")]


def sha256(path: str | Path, ignore: Collection[str] = ()) -> str:
    """SHA-256 of a file, or of a folder's files by relative name, as 64 hex digits.

    Args:
        ignore: patterns of names of files and folders that do not count, as `fnmatch` reads them.

    Raises:
        InputError: a file cannot be read.
    """
    path = Path(path)

    def counts(file: Path) -> bool:
        names = file.relative_to(path).parts
        return not any(fnmatch(name, pattern) for name in names for pattern in ignore)

    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file() and counts(p)):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
        return digest.hexdigest()
    try:
        with open(path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def check_pin(path: str | Path, pin: str | None, key: str) -> None:
    """Refuse a file or folder whose SHA-256 is not what params.yaml has under ``key``, if any.

    Raises:
        InputError: it is another one, or cannot be read.
    """
    if pin is not None and (found := sha256(path)) != pin:
        raise InputError(
            f"{path}: SHA-256 {found[:12]}…, {key} expects {pin[:12]}…; "
            f"`dgkd preset` writes the pin anew"
        )


def read_bytes(path: Path) -> bytes:
    """A file's content; one that cannot be read is an InputError that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_table(path: Path, columns: Collection[str] = (), separator: str = ",") -> pd.DataFrame:
    """A table of text.

    Raises:
        InputError: it cannot be read, or lacks one of ``columns``.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # pandas' own are ValueErrors
        raise InputError(f"{path}: not a readable table ({reason(error)})") from error
    if missing := [column for column in columns if column not in table]:
        raise InputError(f"{path}: no column {missing[0]}, expected {', '.join(columns)}")
    return table
