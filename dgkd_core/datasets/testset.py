"""Further pictures to test on: a folder of photographs, or a list of some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dgkd_core.datasets.folder import LABELS, FolderTree
from dgkd_core.datasets.labels import read_labels_csv
from dgkd_core.datasets.source import PATHS, DataSet, Ids, MaskFile, Source, read_lines
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
    tree, problems = VocTree(root, classes), list[str]()
    listed = [(id_, "val") for id_ in dict.fromkeys(tree.listed(path, problems))]
    sources = tree.sources(listed, problems)
    return DataSet(tuple(classes), sources, problems, tree.notes)


def _picture_list(path: Path, classes: Sequence[str]) -> DataSet:
    """A list of files, one a line, relative to its folder; masks/NAME.png beside it score.

    A line may name a mask of its own behind the picture.
    """
    problems: list[str] = []
    sources: dict[str, Source] = {}
    ids = Ids.of(classes, classes)
    for number, line in read_lines(path):
        picture, mask = path.parent / line, None
        if not picture.is_file() and (pair := PATHS.fullmatch(line)) and pair[2]:
            picture, mask = path.parent / pair[1], path.parent / pair[2]
        id_ = normal_id(picture.stem)
        if problem := name_problem(id_):
            problems.append(f"{path}:{number}: {shown(line)} {problem}, expected a picture's name")
        elif not picture.is_file():
            problems.append(
                f"{path}:{number}: {line!r} is not there, expected a picture at {picture}"
            )
        elif picture.suffix.lower() not in PHOTO_SUFFIXES:
            problems.append(f"{path}:{number}: {line!r} is no picture, expected {PHOTO_KINDS}")
        elif mask and not mask.is_file():
            problems.append(f"{path}:{number}: no mask at {mask}, expected one as the line says")
        elif id_ in sources:
            problems.append(
                f"{path}:{number}: a second picture is named {id_}, expected different names"
            )
        else:
            mask = mask or path.parent / "masks" / f"{picture.stem}.png"
            of = MaskFile(mask, ids) if mask.is_file() else None
            sources[id_] = Source(id_, "val", (), None, picture, of)
    return DataSet(tuple(classes), list(sources.values()), problems)


def _folder(path: Path, classes: Sequence[str], key: str) -> DataSet:
    """A folder as `dgkd_core.datasets.folder` describes it; labels are optional here."""
    tree = FolderTree(path, key)
    problems, ids = tree.problems, Ids.of(classes, classes)
    labels: dict[str, tuple[str, ...]] = {}
    if (path / LABELS).is_file():
        table = read_labels_csv(path / LABELS, classes)
        problems.extend(table.problems)
        labels = {id_: row.labels for id_, row in table.rows.items()}
    sources = [tree.source(id_, "val", labels.get(id_, ()), ids) for id_ in tree.ids]
    return DataSet(tuple(classes), sources, problems, tree.notes)


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
