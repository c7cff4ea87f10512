"""Any user's pictures: a folder with normal or dark pictures or pairs, labels and maybe masks.

    normal/NAME.jpg      pictures in normal light      at least one of the two; the pictures of a
    dark/NAME.jpg        pictures in low light         pair have one name, suffixes may differ
    labels.csv           columns id, labels (joined by ;) and, optionally, split (train or val)
    masks/NAME.png       optional, to score: palette or grey PNG, ids in the order of the classes

Pictures right in the folder count as dark ones. Without the column split, pictures that have a mask
are val and all others train.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

from dgkd_core.config.choices import MOST_CLASSES
from dgkd_core.datasets.labels import Labels, read_labels_csv
from dgkd_core.datasets.source import DataSet, Ids, Source, file_id, mask_file, pictures_by_id
from dgkd_core.runtime.checks import PHOTO_SUFFIXES
from dgkd_core.runtime.errors import InputError

LABELS = "labels.csv"
_NAMES = ("normal", "dark", "masks", "depth", LABELS)


class FolderTree:
    """The pictures and masks of a folder, by name.

    Raises:
        InputError: there are none.
    """

    def __init__(self, root: Path, key: str = "data.root", labels: Path | None = None) -> None:
        if not root.is_dir():
            raise InputError(f"{key}: {root} is not a folder, expected one with pictures")
        self.root, self.problems, self.notes = root, list[str](), list[str]()
        folders = {"normal": root / "normal", "dark": root / "dark"}
        if not any(folder.is_dir() for folder in folders.values()):
            folders = {"dark": root}
        self.pictures = {
            kind: pictures_by_id(path, self.problems, PHOTO_SUFFIXES) if path.is_dir() else {}
            for kind, path in folders.items()
        }
        self.normal, self.dark = self.pictures.get("normal", {}), self.pictures["dark"]
        self.ids = sorted({*self.normal, *self.dark})
        for path in sorted(root.iterdir()):
            if path.name not in _NAMES and path.name.casefold() in _NAMES:
                self.problems.append(f"{path}: expected the name {path.name.casefold()}")
        if not self.ids and not self.problems:
            raise InputError(
                f"{key}: {root} holds no picture, expected some in normal/ or dark/, or in itself"
            )
        masks = root / "masks"
        self.masks = pictures_by_id(masks, self.problems) if masks.is_dir() else {}
        used = {*self.normal.values(), *self.dark.values(), *self.masks.values(), labels}
        for folder in dict.fromkeys((root, *folders.values(), masks)):
            if folder.is_dir():
                self._note_unread(folder, used)

    def _note_unread(self, folder: Path, used: Collection[Path | None]) -> None:
        """Say what lies in a folder and is not read, but may be meant to be."""
        kinds: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if path.name[0] != "." and path.name.casefold() not in _NAMES and path not in used:
                suffix = path.suffix.casefold()
                kind = "folder" if path.is_dir() else f"{suffix} file" if suffix else "file"
                kinds.setdefault(kind, []).append(path)
        for kind, paths in kinds.items():
            names = ", ".join(path.name for path in paths[:3]) + (" …" if paths[3:] else "")
            many = "s" if paths[1:] else ""
            self.notes.append(f"{folder}: {len(paths)} {kind}{many} not read ({names})")

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Every file in the folder and below it, masks left out, by its name in small letters."""
        files = (path for path in sorted(self.root.rglob("*"), reverse=True) if path.is_file())
        return {file_id(p).casefold(): p for p in files if p.parent.name != "masks"}

    def elsewhere(self, id_: str) -> str:
        """Where a file of that name is, in other capitals or not read, for messages."""
        if near := [known for known in self.ids if known.casefold() == id_.casefold()]:
            return f", did you mean {near[0]}?"
        path = self._files.get(id_.casefold())
        return f" (there is {path.relative_to(self.root)}, which is not read)" if path else ""

    def source(
        self, id_: str, split: str, labels: tuple[str, ...], classes: tuple[str, ...]
    ) -> Source:
        """One picture's files; its mask only where classes give the ids in it names."""
        file = self.masks.get(id_) if classes else None
        mask = mask_file(file, Ids(classes, classes)) if file else None
        return Source(id_, split, labels, self.normal.get(id_), self.dark.get(id_), mask)


def _splits(tree: FolderTree, table: Labels, problems: list[str]) -> dict[str, str]:
    """train or val by id: as the table says, else by whether there is a mask."""
    given = {id_: row.split for id_, row in table.rows.items() if row.split}
    if given:
        problems.extend(
            f"{table.path}: {id_} has no split, expected train or val as others have"
            for id_ in table.rows
            if id_ not in given
        )
        return given
    return {id_: "val" if id_ in tree.masks else "train" for id_ in table.rows}


def read_folder(root: Path, classes: Sequence[str], labels: Path | None = None) -> DataSet:
    """A folder data set; ``classes`` [] takes the names that the labels hold, sorted.

    Raises:
        InputError: no picture, or no table of labels.
    """
    tree = FolderTree(root, labels=labels)
    table = read_labels_csv(labels or root / LABELS, classes or None)
    problems = [*table.problems, *tree.problems]
    names = tuple(classes or table.classes)
    if not table.rows:  # then every picture lacks one, which is not worth a line each
        return DataSet(names, [], problems)
    if len(names) > MOST_CLASSES:
        problems.append(
            f"{table.path}: {len(names)} classes, expected at most {MOST_CLASSES} (masks are bytes)"
        )
    if tree.masks and not classes:
        problems.append(
            f"{root / 'masks'}: there are masks, but data.classes is []; expected the names in the "
            f"order of their ids, such as [{', '.join(names[:2])}]"
        )
    rows, there = table.rows, frozenset(tree.ids)
    problems.extend(
        f"{table.path}:{row.line}: {id_} has a row, but there is no picture of that name"
        f"{tree.elsewhere(id_)}"
        for id_, row in rows.items()
        if id_ not in there
    )
    for id_ in tree.ids:
        if id_ not in rows and id_ not in table.rejected:
            path = tree.normal.get(id_) or tree.dark[id_]
            problems.append(f"{path}: no label, expected a row for {id_} in {table.path.name}")
    for id_, path in tree.masks.items():
        if id_ not in there:
            problems.append(f"{path}: a mask without a picture, expected one named {id_}")
    split = _splits(tree, table, problems)
    sources = [
        tree.source(id_, split[id_], rows[id_].labels, tuple(classes))
        for id_ in tree.ids
        if id_ in rows and id_ in split
    ]
    train = [source for source in sources if source.split == "train"]
    alone = [source.dark for source in train if source.normal is None]
    if len(alone) < len(train):  # a data set of dark pictures alone is another matter
        problems.extend(
            f"{path}: no picture of that name in normal/, expected one as others have"
            for path in alone
        )
    if not problems and not train:
        problems.append(
            f"{root}: no train picture; without a column split in {table.path.name} those with a "
            "mask are val, expected that column, or pictures without a mask"
        )
    if not problems and not any(source.split == "val" for source in sources):
        problems.append(
            f"{root}: no val picture, expected masks for some pictures or a column split in "
            f"{table.path.name}"
        )
    notes = tree.notes
    made = [source.id for source in sources if source.dark is None]
    if 0 < len(made) < len(sources):
        notes.append(
            f"{len(made)} of {len(sources)} pictures have no real dark one, darken makes them "
            f"({made[0]} is the first)"
        )
    return DataSet(names, sources, problems, notes)
