"""LIS, the Low-light Instance Segmentation data set: 1,561 real pairs to train, 669 to test on.

Layout: ``RGB-normal/JPEGImages/N.png`` and ``RGB-dark/JPEGImages/N+1.JPG`` show one scene (pictures
right in ``RGB-normal`` and ``RGB-dark`` are found, too), ``annotations/lis_coco_JPG_train+1.json``
and ``…_test+1.json`` hold the objects of the dark ones. Instead of these, lists of dark ids
(``train.txt``), a CSV of labels and masks by dark id (``masks/N+1.png``, ids 1 to 8) do as well.
A picture's id here is that of its dark picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dgkd_core.datasets.coco import Picture, rasterise, read_coco
from dgkd_core.datasets.labels import read_labels_csv
from dgkd_core.datasets.names import LIS as CLASSES
from dgkd_core.datasets.source import Ids, Listed, Mask, Tree, mask_file, pictures_by_id, read_ids
from dgkd_core.runtime.errors import InputError

_ANNOTATIONS = ("lis_coco_JPG_{}+1.json", "lis_coco_png_{}+1.json")

_MASKS = ("masks", "SegmentationClass")


class LisTree(Tree):
    """LIS's files.

    Args:
        key: what params call ``root``, for messages.
        labels: a CSV of image-level labels in place of those in the annotations.

    Raises:
        InputError: ``root`` has another layout.
    """

    def __init__(
        self, root: Path, classes: Sequence[str], key: str, labels: Path | None = None
    ) -> None:
        table = read_labels_csv(labels, CLASSES) if labels else None
        super().__init__(root, _MASKS, classes, table)
        self._pictures: dict[str, dict[str, Path]] = {}
        for kind in ("normal", "dark"):
            folders = (root / f"RGB-{kind}" / "JPEGImages", root / f"RGB-{kind}")
            folder = next((folder for folder in folders if folder.is_dir()), None)
            if folder is None:
                raise InputError(
                    f"{key}: {root} holds no RGB-{kind} folder, expected LIS's layout "
                    f"(RGB-normal and RGB-dark)"
                )
            self._pictures[kind] = pictures_by_id(folder, self.problems)
        dark = "RGB-dark/JPEGImages", "RGB-dark"
        self._listed = Listed(dark, _MASKS, self._pictures["dark"].__contains__)
        self.annotated: dict[str, tuple[Path, Picture]] = {}  # by dark id

    def ids(self, name: str) -> tuple[str, list[str]]:
        """The dark ids of a list, from the annotations or from NAME.txt."""
        names = [pattern.format(name) for pattern in _ANNOTATIONS]
        paths = [self.root / "annotations" / file for file in names]
        if path := next((path for path in paths if path.is_file()), None):
            found = [(Path(picture.file_name).stem, picture) for picture in read_coco(path)]
            self.annotated |= {id_: (path, picture) for id_, picture in found}
            return path.name, [id_ for id_, _ in found]
        path = self.root / f"{name}.txt"
        if not path.is_file():
            raise InputError(
                f"{self.root}: no list {name!r}, expected annotations/{names[0]} or {name}.txt"
            )
        return path.name, read_ids(path, self._listed, self.problems, self.notes)

    def mask(self, id_: str) -> Mask | None:
        for folder in _MASKS:
            path = self.root / folder / f"{id_}.png"
            if path.is_file():
                return mask_file(path, Ids(CLASSES, self.classes))
        if id_ not in self.annotated:
            return None
        path, picture = self.annotated[id_]
        ids = {name: i for i, name in enumerate(self.classes, 1)}
        return Mask(path, partial(rasterise, picture, ids))

    def labels(self, id_: str) -> tuple[str, ...]:
        if id_ not in self.annotated:
            raise InputError(
                f"{self.root}: {id_} has no labels, expected annotations/"
                f"{_ANNOTATIONS[0].format('train')} or data.labels, a CSV"
            )
        return self.annotated[id_][1].labels

    def pictures(self, id_: str, split: str) -> tuple[Path, Path]:
        if not id_.isdecimal() or int(id_) < 1:
            raise InputError(f"{self.root}: {id_!r} is not the number of a dark picture")
        normal = str(int(id_) - 1)
        for kind, name in (("dark", id_), ("normal", normal)):
            if name not in self._pictures[kind]:
                why = "" if kind == "dark" else f", the normal twin of {id_}"
                raise InputError(
                    f"{self.root}: no picture {name} in RGB-{kind}{why}, but the {split} list "
                    f"names it"
                )
        return self._pictures["normal"][normal], self._pictures["dark"][id_]
