"""COCO's instance annotations: checked whole, and drawn by hand to compare."""

import json
import re
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from support import one_line

from dgkd_core.datasets.coco import Picture, rasterise, read_coco
from dgkd_core.runtime.errors import InputError

HEIGHT, WIDTH = 6, 8
IDS = {"cat": 1, "dog": 2}


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    """The polygon around pixels left … right-1, top … bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def good() -> dict[str, Any]:
    """2.JPG: a cat of two parts with a dog on it, and a crowd of dogs. 4.JPG: nothing."""
    two = {"id": 2, "file_name": "2.JPG", "width": WIDTH, "height": HEIGHT, "license": 1}
    four = {"id": 4, "file_name": "./JPEGImages/4.JPG", "width": 3, "height": 5}
    dog, cat = {"image_id": 2, "category_id": 7}, {"image_id": 2, "category_id": 0}
    crowd = {"size": [HEIGHT, WIDTH], "counts": [6 * 7, 6]}  # the last column
    return {
        "info": {},
        "images": [two, four],
        "categories": [{"id": i, "name": name} for i, name in ((7, "dog"), (0, " cat "), (9, "x"))],
        "annotations": [
            {**dog, "id": 5, "area": 1, "segmentation": [box(1, 1, 3, 3)]},
            {**cat, "iscrowd": 0, "segmentation": [box(0, 0, 4, 4), box(5, 5, 7, 6)]},
            {**dog, "iscrowd": 1, "segmentation": crowd},
        ],
    }


def write(folder: Path, data: Any) -> Path:
    path = folder / "lis.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


def read_one(folder: Path, segmentation: Any, height: int, width: int) -> Picture:
    """A file of one picture of this size and one cat."""
    data = {
        "images": [{"id": 1, "file_name": "1.png", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": segmentation}],
    }
    return read_coco(write(folder, data))[0]


def test_records(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(good()).encode()  # with a byte order mark
    first, second = read_coco(write(tmp_path, content))
    assert (first.file_name, first.width, first.height) == ("2.JPG", WIDTH, HEIGHT)
    assert first.labels == ("dog", "cat")
    found = [(a.category, a.crowd) for a in first.annotations]
    assert found == [("dog", False), ("cat", False), ("dog", True)]
    assert (second.file_name, second.labels, second.annotations) == ("4.JPG", (), ())


def test_the_mask_by_hand_small_instances_on_top_whatever_the_order(tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:4, :4], expected[5, 5:7] = IDS["cat"], IDS["cat"]
    expected[1:3, 1:3] = IDS["dog"]
    expected[:, 7] = 255  # a crowd
    data = good()
    for _ in range(2):
        first, second = read_coco(write(tmp_path, data))
        np.testing.assert_array_equal(rasterise(first, IDS), expected, strict=True)
        data["annotations"].reverse()
    others = np.where(expected == IDS["cat"], 255, expected)
    np.testing.assert_array_equal(rasterise(first, {"dog": 2}), others, strict=True)
    np.testing.assert_array_equal(rasterise(second, IDS), np.zeros((5, 3), np.uint8))
    same = {"image_id": 2, "segmentation": [box(0, 0, 2, 2)]}
    data["annotations"] = [{**same, "category_id": 0}, {**same, "category_id": 7}]
    assert rasterise(read_coco(write(tmp_path, data))[0], IDS)[0, 0] == IDS["dog"], "the later"


masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements={"min_value": 0, "max_value": 1},
)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(mask=masks, packed=st.booleans())
def test_run_lengths_round_trip(
    mask: np.ndarray, packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    height, width = mask.shape
    column = mask.T.reshape(-1).tolist()
    runs = [len(list(same)) for _, same in groupby(column)]
    counts: Any = [0, *runs] if column[0] else runs
    if packed:
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    folder = tmp_path_factory.getbasetemp()
    picture = read_one(folder, {"size": [height, width], "counts": counts}, height, width)
    np.testing.assert_array_equal(rasterise(picture, IDS), mask, strict=True)


MISSING = object()


def changed(*steps: Any) -> dict[str, Any]:
    """``good()`` with the value at a path of keys replaced or taken away."""
    data = good()
    *way, key, value = steps
    record: Any = data
    for step in way:
        record = record[step]
    if value is MISSING:
        del record[key]
    else:
        record[key] = value
    return data


image, category, second = (partial(changed, k, 1) for k in ("images", "categories", "annotations"))
segmented = partial(changed, "annotations", 0, "segmentation")


def runs(counts: Any, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return segmented({"size": list(size), "counts": counts})


EMPTY = {"images": [], "categories": [], "annotations": []}
HUGE = {"id": 1, "file_name": "a", "width": 60_000, "height": 5000}
DAMAGE: list[tuple[Any, str]] = [
    ([], "[], expected COCO's JSON, an object"),
    (changed("images", MISSING), "images: missing, expected a list"),
    (changed("images", 1, 3), "images[1]: 3, expected an object"),
    (EMPTY, "images: empty, expected a picture"),
    (image("id", MISSING), "images[1]: no id, expected a whole number"),
    (image("id", True), "images[1]: id True, expected a whole number"),
    (image("id", 2), "images[1]: id 2 again, expected each once"),
    (image("file_name", "./JPEGImages/2.JPG"), "file_name '2.JPG' again, images[0] has it"),
    (image("file_name", MISSING), "images[1]: no file_name, expected text"),
    (image("file_name", "../4.JPG"), "'../4.JPG' holds a path separator, expected"),
    (image("width", 0), "images[1]: width 0, expected a whole number from 1 to 65535"),
    (image("height", 5.5), "images[1]: height 5.5, expected a whole number"),
    (EMPTY | {"images": [HUGE]}, "images[0]: 60000x5000 pixels, expected 256000000 at most"),
    (category("id", 7), "categories[1]: id 7 again, expected each once"),
    (category("name", " dog"), "categories[1]: name 'dog' again, expected each once"),
    (category("name", MISSING), "categories[1]: no name, expected text"),
    (category("name", "a\nb"), "categories[1]: name 'a\\nb', expected a class's name"),
    (second("image_id", 3), "annotations[1]: image_id 3, expected the id of one of the images"),
    (second("category_id", 1), "annotations[1]: category_id 1, expected the id of a category"),
    (second("iscrowd", 2), "annotations[1]: iscrowd 2, expected a whole number from 0 to 1"),
    (segmented(MISSING), "annotations[0]: segmentation: missing, expected polygons or run lengths"),
    (segmented(box(1, 1, 3, 3)), "segmentation: a polygon 1, expected a list of numbers"),
    (segmented([[-8, 0, 16, 0] * 25_000]), "an outline of 1200000 pixels, expected 1000000 at mos"),
    (segmented([[1, 1, 2, 2, 3, 1, 4]]), "a polygon of 7 numbers, expected pairs, 3 or more"),
    (segmented([[1, 1, 2, float("nan"), 3, 1]]), "y = nan, expected -6 to 12"),
    (runs([48], (8, 6)), "size [8, 6], expected [height, width] = [6, 8]"),
    (runs(7), "segmentation: counts 7, expected a list or text"),
    (runs([40, 7]), "segmentation: runs of 47 pixels, expected 8x6"),
    (runs([40, -2, 10]), "a run of -2, expected 0 to 48 pixels"),
    (runs("o0"), "segmentation: runs of 31 pixels, expected 8x6"),
    (runs("P" * 30), "counts hold a number beyond 2^53, expected lengths of runs"),
    (runs("`1P"), "segmentation: counts end within a number, expected whole ones"),
    (runs("`1~"), "counts hold '~', expected characters from '0' to 'o'"),
    *((json, ": not readable as JSON in UTF-8 (") for json in (b"{", b"\xff\xfe", b"[" * 100_000)),
]


@pytest.mark.parametrize(("data", "said"), DAMAGE, ids=[said for _, said in DAMAGE])
def test_each_damage_names_file_and_record(data: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, data)
    with pytest.raises(InputError) as caught:
        read_coco(path)
    lines = str(caught.value).split("\n")
    assert any(said in line for line in lines)
    assert all(line.startswith(f"{path}: ") and len(line) < len(str(path)) + 250 for line in lines)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    one_line(lambda: read_coco(tmp_path / "no.json"), "no.json: no such file, expected COCO's JSON")
    one_line(lambda: read_coco(tmp_path), f"{tmp_path}: cannot be read (Is a directory)")


def test_the_problems_of_all_records_come_together(tmp_path: Path) -> None:
    data = changed("images", 1, "width", 0)
    data["categories"][2]["name"] = ""
    data["annotations"][0].update(category_id=9, segmentation=[[1]])
    data["annotations"] += 70 * [{"image_id": 1, "category_id": 7}]
    with pytest.raises(InputError) as caught:
        read_coco(write(tmp_path, data))
    lines = str(caught.value).split("\n")
    assert [re.sub(".*json: (.*?),.*", r"\1", line) for line in lines[:4]] == [
        "categories[2]: name ''",
        "images[1]: width 0",
        "annotations[0]: segmentation: a polygon of 1 numbers",
        "annotations[3]: image_id 1",
    ]
    assert lines[50:] == ["… and 23 more problems"]
