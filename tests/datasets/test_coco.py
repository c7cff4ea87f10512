"""COCO's instance annotations: checked whole, drawn by hand to compare, and never a crash."""

import copy
import json
import random
import re
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

from dgkd_core.datasets.coco import Coco, rasterise, read_coco
from dgkd_core.runtime.errors import InputError

HEIGHT, WIDTH = 6, 8
IDS = {"cat": 1, "dog": 2}


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    """The polygon around pixels left … right-1, top … bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def good() -> dict[str, Any]:
    """2.JPG: a cat of two parts with a dog on it, and a crowd of dogs. 4.JPG: nothing."""
    row = {"area": 1, "bbox": [0, 0, 1, 1]}
    crowd = {"size": [HEIGHT, WIDTH], "counts": [6 * 7, 6]}  # the last column
    return {
        "info": {},
        "images": [
            {"id": 2, "file_name": "2.JPG", "width": WIDTH, "height": HEIGHT, "license": 1},
            {"id": 4, "file_name": "./JPEGImages/4.JPG", "width": 3, "height": 5},
        ],
        "categories": [
            {"id": 7, "name": "dog"},
            {"id": 0, "name": " cat "},
            {"id": 9, "name": "x"},
        ],
        "annotations": [
            {**row, "id": 5, "image_id": 2, "category_id": 7, "segmentation": [box(1, 1, 3, 3)]},
            {
                **{"id": 6, "image_id": 2, "category_id": 0, "iscrowd": 0},
                "segmentation": [box(0, 0, 4, 4), box(5, 5, 7, 6)],
            },
            {"id": 7, "image_id": 2, "category_id": 7, "iscrowd": 1, "segmentation": crowd},
        ],
    }


def write(folder: Path, data: Any) -> Path:
    path = folder / "lis.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


def read_one(folder: Path, segmentation: Any, height: int, width: int) -> Coco:
    """A file of one picture of this size and one cat."""
    data = {
        "images": [{"id": 1, "file_name": "1.png", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": segmentation}],
    }
    return read_coco(write(folder, data))


def test_records(tmp_path: Path) -> None:
    coco = read_coco(write(tmp_path, good()))
    assert coco.categories == ("dog", "cat", "x")
    first, second = coco.pictures
    assert (first.id, first.file_name, first.width, first.height) == (2, "2.JPG", WIDTH, HEIGHT)
    assert first.labels == ("dog", "cat")
    assert [a.category for a in first.annotations] == ["dog", "cat", "dog"]
    assert [a.crowd for a in first.annotations] == [False, False, True]
    assert (second.file_name, second.labels, second.annotations) == ("4.JPG", (), ())


@pytest.mark.parametrize("head", ["", "\ufeff"])
def test_a_byte_order_mark_and_folders(head: str, tmp_path: Path) -> None:
    data = good()
    for given_name, name in (("JPEGImages/2.JPG", "2.JPG"), ("./Käfer 1.png", "Käfer 1.png")):
        data["images"][0]["file_name"] = given_name
        path = write(tmp_path, (head + json.dumps(data, ensure_ascii=False)).encode())
        assert read_coco(path).pictures[0].file_name == name


def test_the_mask_by_hand(tmp_path: Path) -> None:
    coco = read_coco(write(tmp_path, good()))
    expected = np.array(
        [
            [1, 1, 1, 1, 0, 0, 0, 255],
            [1, 2, 2, 1, 0, 0, 0, 255],
            [1, 2, 2, 1, 0, 0, 0, 255],
            [1, 1, 1, 1, 0, 0, 0, 255],
            [0, 0, 0, 0, 0, 0, 0, 255],
            [0, 0, 0, 0, 0, 1, 1, 255],
        ],
        np.uint8,
    )
    mask = rasterise(coco.pictures[0], IDS)
    np.testing.assert_array_equal(mask, expected, strict=True)
    assert mask.flags.c_contiguous
    others = np.where(expected == 1, 255, expected)
    np.testing.assert_array_equal(rasterise(coco.pictures[0], {"dog": 2}), others, strict=True)
    np.testing.assert_array_equal(rasterise(coco.pictures[1], IDS), np.zeros((5, 3), np.uint8))


def test_of_equal_instances_the_later_is_on_top(tmp_path: Path) -> None:
    data = good()
    same = {"image_id": 2, "segmentation": [box(0, 0, 2, 2)]}
    data["annotations"] = [{**same, "category_id": 0}, {**same, "category_id": 7}]
    assert rasterise(read_coco(write(tmp_path, data)).pictures[0], IDS)[0, 0] == IDS["dog"]


masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements={
    "min_value": 0, "max_value": 1,
})  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=60)
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
    coco = read_one(folder, {"size": [height, width], "counts": counts}, height, width)
    np.testing.assert_array_equal(rasterise(coco.pictures[0], IDS), mask, strict=True)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data(), height=st.integers(1, 30), width=st.integers(1, 30))
def test_any_polygon_that_is_let_through_is_drawn_as_cocos_tools_do(
    data: st.DataObject, height: int, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    point = st.tuples(st.floats(-width, 2 * width), st.floats(-height, 2 * height))
    polygon = st.lists(point, min_size=3, max_size=8).map(lambda p: [x for xy in p for x in xy])
    polygons = data.draw(st.lists(polygon, min_size=1, max_size=3))
    coco = read_one(tmp_path_factory.getbasetemp(), polygons, height, width)
    drawn = coco_mask.decode(coco_mask.frPyObjects(polygons, height, width)).max(axis=2)
    np.testing.assert_array_equal(rasterise(coco.pictures[0], IDS), drawn, strict=True)


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


def segmented(value: Any) -> dict[str, Any]:
    return changed("annotations", 0, "segmentation", value)


def runs(counts: Any, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return segmented({"size": list(size) if isinstance(size, tuple) else size, "counts": counts})


DAMAGE = {
    "no object": ([], "[], expected COCO's JSON, an object"),
    "no images": (changed("images", MISSING), "images: missing, expected a list"),
    "images no list": (changed("images", {}), "images: dict, expected a list"),
    "image no object": (changed("images", 1, 3), "images[1]: 3, expected an object"),
    "empty": (
        {"images": [], "categories": [], "annotations": []},
        "images: empty, expected a picture",
    ),
    "no image id": (changed("images", 1, "id", MISSING), "images[1]: no id, expected a whole numb"),
    "image id true": (
        changed("images", 1, "id", True),
        "images[1]: id True, expected a whole numb",
    ),
    "image id twice": (changed("images", 1, "id", 2), "images[1]: id 2 again, expected each once"),
    "name twice": (
        changed("images", 1, "file_name", "./JPEGImages/2.JPG"),
        "images[1]: file_name '2.JPG' again, images[0] has it",
    ),
    "no name": (changed("images", 1, "file_name", MISSING), "images[1]: no file_name, expected te"),
    "empty name": (changed("images", 1, "file_name", ""), "images[1]: file_name '' is no name, ex"),
    "dots": (
        changed("images", 1, "file_name", "JPEGImages/.."),
        "images[1]: file_name 'JPEGImages/..' is no name, expected a picture's name, ./JPEGImages/",
    ),
    "another folder": (changed("images", 1, "file_name", "a/4.JPG"), "holds a path separator, exp"),
    "leads out": (changed("images", 1, "file_name", "../4.JPG"), "'../4.JPG' holds a path separat"),
    "backslash": (changed("images", 1, "file_name", "a\\4"), "'a\\\\4' holds a path separator"),
    "surrogate": (changed("images", 1, "file_name", "\ud800"), "'\\ud800' holds a control charact"),
    "no width": (changed("images", 1, "width", MISSING), "images[1]: no width, expected a whole"),
    "width zero": (
        changed("images", 1, "width", 0),
        "images[1]: width 0, expected a whole number from 1 to 65535",
    ),
    "height fraction": (changed("images", 1, "height", 5.5), "images[1]: height 5.5, expected a w"),
    "many pixels": (
        {**changed("images", 1, "height", 60_000), "annotations": []}
        | {"images": [{"id": 1, "file_name": "a", "width": 60_000, "height": 3000}]},
        "images[0]: 60000x3000 pixels, expected 178956970 at most",
    ),
    "category twice": (changed("categories", 1, "id", 7), "categories[1]: id 7 again, expected"),
    "category name twice": (
        changed("categories", 1, "name", " dog"),
        "categories[1]: name 'dog' again, expected each once",
    ),
    "category no name": (changed("categories", 2, "name", MISSING), "categories[2]: no name, expe"),
    "unknown image": (
        changed("annotations", 1, "image_id", 3),
        "annotations[1]: image_id 3, expected the id of one of the images",
    ),
    "no image_id": (changed("annotations", 1, "image_id", MISSING), "annotations[1]: no image_id"),
    "unknown category": (
        changed("annotations", 1, "category_id", 1),
        "annotations[1]: category_id 1, expected the id of a category",
    ),
    "crowd of two": (
        changed("annotations", 1, "iscrowd", 2),
        "annotations[1]: iscrowd 2, expected a whole number from 0 to 1",
    ),
    "no segmentation": (
        changed("annotations", 0, "segmentation", MISSING),
        "annotations[0]: segmentation: missing, expected polygons or run lengths",
    ),
    "flat polygon": (segmented(box(1, 1, 3, 3)), "segmentation: a polygon 1, expected a list of n"),
    "odd polygon": (segmented([[1, 1, 2, 2, 3, 1, 4]]), "a polygon of 7 numbers, expected pairs, "),
    "not a number": (segmented([[1, 1, 2, float("nan"), 3, 1]]), "y = nan, expected -6 to 12"),
    "far away": (segmented([[1, 1, 2, 2, 1e300, 1]]), "x = 1e+300, expected -8 to 16"),
    "beyond floats": (segmented([[1, 1, 2, 2, 10**400, 1]]), "x = 1000000000000"),
    "long outline": (
        segmented([[-8, 0, 16, 0] * 25_000]),
        "an outline of 1200000 pixels, expected 1000000 at most",
    ),
    "size swapped": (runs([48], (8, 6)), "size [8, 6], expected [height, width] = [6, 8]"),
    "no size": (runs([48], None), "segmentation: size None, expected [height, width] = [6, 8]"),
    "runs too short": (runs([40, 7]), "segmentation: runs of 47 pixels, expected 8x6"),
    "runs too long": (runs([40, 9]), "segmentation: runs of 49 pixels, expected 8x6"),
    "negative run": (runs([40, -2, 10]), "a run of -2, expected 0 to 48 pixels"),
    "text too short": (runs("o0"), "segmentation: runs of 31 pixels, expected 8x6"),
    "text endless": (runs("P" * 30), "counts hold a number beyond 2^53, expected lengths of runs"),
    "text cut": (runs("`1P"), "segmentation: counts end within a number, expected whole ones"),
    "text of others": (runs("`1~"), "counts hold '~', expected characters from '0' to 'o'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_names_file_and_record(name: str, tmp_path: Path) -> None:
    data, said = DAMAGE[name]
    path = write(tmp_path, data)
    with pytest.raises(InputError) as caught:
        read_coco(path)
    lines = str(caught.value).split("\n")
    assert any(said in line for line in lines)
    assert all(line.startswith(f"{path}: ") and len(line) < len(str(path)) + 250 for line in lines)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"images": [}',
        b"\xff\xfe{}",
        json.dumps(good()).encode()[:-5],
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_malformed_json(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    one_line(lambda: read_coco(path), f"{path}: not readable as JSON in UTF-8 (")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    one_line(lambda: read_coco(tmp_path / "no.json"), "no.json: no such file, expected COCO's JSON")
    one_line(lambda: read_coco(tmp_path), f"{tmp_path}: cannot be read (Is a directory)")


def test_all_problems_come_together(tmp_path: Path) -> None:
    data = good()
    data["images"][1] = {"id": 4, "file_name": "x/4", "width": 0, "height": 5}
    data["annotations"][0].update(category_id=1, segmentation=[[1]])
    data["annotations"].append({"image_id": 4, "category_id": 7, "iscrowd": 3})
    path = write(tmp_path, data)
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert [
        line.removeprefix(f"{path}: ").split(",")[0] for line in str(caught.value).split("\n")
    ] == [
        "images[1]: file_name 'x/4' holds a path separator",
        "images[1]: width 0",
        "annotations[0]: category_id 1",
        "annotations[0]: segmentation: a polygon of 1 numbers",
        "annotations[3]: iscrowd 3",
    ]
    data["annotations"] = 70 * [{"image_id": 1, "category_id": 7}]
    with pytest.raises(InputError) as caught:
        read_coco(write(tmp_path, data))
    lines = str(caught.value).split("\n")
    assert len(lines) == 51
    assert lines[-1] == "… and 22 more problems"


def places(value: Any, way: tuple = ()) -> list[tuple]:
    """The path of every value in a JSON document."""
    if not isinstance(value, dict | list):
        return [way]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [way, *(place for key, each in inner for place in places(each, (*way, key)))]


NUMBERS = [0, -1, 1, 4, 7, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]
OTHERS = [None, True, "", "0", "a/b", "\0", "dog", [], [[]], {}, [1] * 6, [None]]
ODD = st.sampled_from([*NUMBERS, *OTHERS, {"size": [6, 8], "counts": "0"}])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(odd=st.lists(ODD, min_size=1, max_size=3), seed=st.integers(0, 10**9))
def test_odd_values_anywhere_give_a_mask_or_an_input_error(
    odd: list[Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(seed)
    data = {"": good()}
    for value in odd:
        *way, key = chance.choice(places(data)[1:])
        record: Any = data
        for step in way:
            record = record[step]
        record[key] = copy.deepcopy(value)
    check(write(tmp_path_factory.getbasetemp(), json.dumps(data[""]).encode()))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(seed=st.integers(0, 10**9))
def test_mutated_bytes_give_a_mask_or_an_input_error(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(seed)
    content = bytearray(json.dumps(good()).encode())
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(content))
        new = bytes([chance.choice([chance.randrange(256), *b'0123456789-.,:"[]{}\\'])])
        content[place : place + chance.randint(0, 2)] = chance.choice([new, b""])
    check(write(tmp_path_factory.getbasetemp(), bytes(content)))


def check(path: Path) -> None:
    """The file is refused in lines that name it, or every mask fits its picture."""
    coco, said = None, ""
    try:
        coco = read_coco(path)
    except InputError as error:
        said = str(error)
    assert all(re.match(f"{re.escape(str(path))}: |… and", line) for line in said.splitlines())
    for picture in coco.pictures if coco else ():
        mask = rasterise(picture, dict.fromkeys(coco.categories, 1))
        assert mask.shape == (picture.height, picture.width)
        assert set(np.unique(mask)) <= {0, 1, 255}
        assert picture.annotations or not mask.any()


def test_small_instances_stay_visible_whatever_the_order(tmp_path: Path) -> None:
    data = good()
    wanted = rasterise(read_coco(write(tmp_path, data)).pictures[0], IDS)
    data["annotations"].reverse()
    mask = rasterise(read_coco(write(tmp_path, data)).pictures[0], IDS)
    np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize("id_", [0, 255, -1, 256])
def test_class_ids_out_of_range(id_: int, tmp_path: Path) -> None:
    picture = read_coco(write(tmp_path, good())).pictures[0]
    with pytest.raises(ValueError, match=f"class id {id_} of 'dog', expected 1 to 254"):
        rasterise(picture, {"cat": 1, "dog": id_})
