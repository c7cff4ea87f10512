"""Further pictures to test on: a folder of photographs, or a list of some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dgkd_core.datasets.folder import LABELS, FolderTree
from dgkd_core.datasets.labels import read_labels_csv
from dgkd_core.datasets.source import PATHS, DataSet, Ids, Source, mask_file, read_lines
from dgkd_core.datasets.voc import VocTree
from dgkd_core.runtime.checks import PHOTO_KINDS, PHOTO_SUFFIXES, name_problem, normal_id, shown
from dgkd_core.runtime.errors import InputError


def _voc_root(path: Path) -> Path | None:
    root = path.parent.parent.parent
    kinds = ("Segmentation", "Main")
    inside = path.parent.name in kinds and path.parent.parent.name == "ImageSets"
    return root if inside and (root / "JPEGImages").is_dir() else None


def _voc_list(root: Path, path: Path, classes: Sequence[str]) -> DataSet:
    """A list of VOC's own: pictures of the day, to be darkened as val is."""
    tree = VocTree(root, classes)
    sources = tree.sources(dict.fromkeys(tree.listed(path)), "val")
    return DataSet(tuple(classes), sources, tree.problems, tree.notes)


def _picture_list(path: Path, classes: Sequence[str]) -> DataSet:
    """A list of files, one a line, relative to its folder; masks/NAME.png beside it score.

    A line may name a mask of its own behind the picture.
    """
    problems: list[str] = []
    sources: dict[str, Source] = {}
    ids = Ids(tuple(classes), tuple(classes))
    for number, line in read_lines(path):
        picture, mask = path.parent / line, path.parent / "masks" / f"{Path(line).stem}.png"
        needs_mask = False
        if not picture.is_file() and (pair := PATHS.fullmatch(line)) and pair[2]:
            picture, mask, needs_mask = path.parent / pair[1], path.parent / pair[2], True
        id_ = normal_id(picture.stem)
        if problem := name_problem(id_):
            said = f"{shown(line)} {problem}, expected a picture's name"
        elif not picture.is_file():
            said = f"{line!r} is not there, expected a picture at {picture}"
        elif picture.suffix.lower() not in PHOTO_SUFFIXES:
            said = f"{line!r} is no picture, expected {PHOTO_KINDS}"
        elif needs_mask and not mask.is_file():
            said = f"no mask at {mask}, expected one as the line says"
        elif id_ in sources:
            said = f"a second picture is named {id_}, expected different names"
        else:
            of = mask_file(mask, ids) if mask.is_file() else None
            sources[id_] = Source(id_, "val", (), None, picture, of)
            continue
        problems.append(f"{path}:{number}: {said}")
    return DataSet(tuple(classes), list(sources.values()), problems)


def _folder(path: Path, classes: Sequence[str], key: str) -> DataSet:
    """A folder as `dgkd_core.datasets.folder` describes it; labels are optional here."""
    tree, names = FolderTree(path, key), tuple(classes)
    labels: dict[str, tuple[str, ...]] = {}
    if (path / LABELS).is_file():
        table = read_labels_csv(path / LABELS, names)
        tree.problems.extend(table.problems)
        labels = {id_: row.labels for id_, row in table.rows.items()}
    sources = [tree.source(id_, "val", labels.get(id_, ()), names) for id_ in tree.ids]
    return DataSet(names, sources, tree.problems, tree.notes)


def read_testset(path: Path, classes: Sequence[str], key: str) -> DataSet:
    """The pictures of a test set, all of them val.

    Args:
        path: a folder (naturally dark photographs, or normal/ and dark/ in it; masks/ scores them),
            a .txt list of such photographs, or a list in VOC's ImageSets/Segmentation.
        classes: the names that the networks know.
        key: what params call it, for messages.

    Raises:
        InputError: neither, or nothing in it.
    """
    if path.is_dir():
        return _folder(path, classes, key)
    if path.suffix != ".txt" or not path.is_file():
        raise InputError(f"{key}: {path} is neither a folder of pictures nor a .txt list of some")
    root = _voc_root(path)
    return _voc_list(root, path, classes) if root else _picture_list(path, classes)
