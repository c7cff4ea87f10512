"""params.yaml is refused in one line that names the key, what was given and what is allowed."""

import copy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dgkd_core.config.params import load_params, validate
from dgkd_core.config.schema import Params
from dgkd_core.runtime.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MISSING = object()


def values() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def changed(key: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(values())
    *sections, last = key.split(".")
    section = result
    for name in sections:
        section = section[name]
    if value is MISSING:
        del section[last]
    else:
        section[last] = value
    return result


def test_the_committed_file_is_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params == validate(values())
    assert params.distill.weight == values()["distill"]["lambda"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("distill.lamda", 1, "distill.lamda: unknown key, did you mean lambda?"),
        ("distill.weight", 1, "distill.weight: unknown key, did you mean weight_decay?"),
        (
            "cam.zzz",
            1,
            "cam.zzz: unknown key, known here: source, scales, flip, batch",
        ),
        ("seed", "x", 'seed is "x": expected a valid integer'),
        ("seed", True, "seed is true: expected a valid integer"),
        ("seed", 1.0, "seed is 1.0: expected a valid integer"),
        ("seed", -1, "seed is -1: expected greater than or equal to 0"),
        ("seed", 2**31, "seed is 2147483648: expected less than 2147483648"),
        ("seed", MISSING, "seed: missing, every key must be given"),
        ("data", MISSING, "data: missing, every key must be given"),
        ("teacher.lr", MISSING, "teacher.lr: missing, every key must be given"),
        ("data", None, "data is null: expected an object"),
        ("cam.flip", 1, "cam.flip is 1: expected a valid boolean"),
        ("cam.flip", "yes", 'cam.flip is "yes": expected a valid boolean'),
        ("teacher.lr", True, "teacher.lr is true: expected a valid number"),
        ("teacher.lr", "1e-4", 'teacher.lr is "1e-4": expected a valid number'),
        ("teacher.lr", float("nan"), "teacher.lr is NaN: expected a finite number"),
        ("teacher.lr", float("inf"), "teacher.lr is Infinity: expected a finite number"),
        ("teacher.lr", 0, "teacher.lr is 0: expected greater than 0"),
        (
            "data.kind",
            "coco",
            "data.kind is \"coco\": expected 'scenes', 'voc', 'lis', 'voc2lis' or 'folder'",
        ),
        (
            "data.train_list",
            "../x",
            "data.train_list: '../x' is a path, expected a plain file name",
        ),
        ("data.labels", "a/b.csv", "data.labels: 'a/b.csv' is a path, expected a plain file name"),
        (
            "evaluate.sets",
            {"a b": "x"},
            "evaluate.sets: 'a b' is no name, expected letters, digits, _ and -",
        ),
        *(
            (
                key,
                value,
                f"{what}: expected text, put it in quotes (YAML reads a number, a date or "
                "a truth value)",
            )
            for key, value, what in (
                ("depth.revision", 10e5, "depth.revision is 1000000.0"),
                ("data.train_list", 2007_000175, "data.train_list is 2007000175"),
                ("data.root", True, "data.root is true"),
                ("data.root", date(2024, 1, 5), "data.root is 2024-01-05"),
                ("data.classes", ["cat", 1], "data.classes.1 is 1"),
                ("data.classes", [date(2024, 1, 5)], "data.classes.0 is 2024-01-05"),
                ("evaluate.sets", {"x": 2024}, "evaluate.sets.x is 2024"),
                ("evaluate.sets", {2024: "x"}, "evaluate.sets.2024 is a name"),
                ("evaluate.sets", {date(2024, 1, 5): "x"}, "evaluate.sets.2024-01-05 is a name"),
            )
        ),
        ("model.output_stride", 4, "model.output_stride is 4: expected 8, 16 or 32"),
        (
            "distill.pairs",
            ["map", "x"],
            "distill.pairs.1 is \"x\": expected 'map', 'deep' or 'shallow'",
        ),
        (
            "lowlight.physical.ratio",
            [100, 10],
            "lowlight.physical.ratio: expected [low, high] with low <= high",
        ),
        (
            "lowlight.physical.shot",
            [1e-2, 1e-3],
            "lowlight.physical.shot: expected [low, high] with low <= high",
        ),
        (
            "lowlight.simple.beta",
            [2.0, 1.0],
            "lowlight.simple.beta: expected [low, high] with low <= high",
        ),
        (
            "lowlight.physical.ratio",
            [0.5, 10],
            "lowlight.physical.ratio: 0.5 would brighten, expected at least 1",
        ),
        ("segment.scale", [1.0, 0.5], "segment.scale: expected [low, high] with low <= high"),
        ("cam.scales", [0.01], "cam.scales.0 is 0.01: expected greater than or equal to 0.1"),
        (
            "teacher.lr_min",
            1,
            "teacher.lr_min: 1.0 is above lr 0.002, expected at most lr",
        ),
        *(
            (
                "data.classes",
                ["cat", name],
                f"data.classes.1: {name!r} is no class: in masks 0 is the background and 255 does "
                "not count, neither is listed",
            )
            for name in ("background", "_Background_", "__ignore__", "bg", "VOID")
        ),
        (
            "data.classes",
            ["c\nt"],
            "data.classes.0: 'c\\nt' holds a control character",
        ),
        ("data.classes", ["a", "a"], "data.classes: a name occurs twice, expected each class once"),
        (
            "data.classes",
            ["cat"],
            "data.classes: the built-in scenes keep all their classes, expected []",
        ),
        ("refine.threshold", 1.5, "refine.threshold is 1.5: expected 'auto' or less than 1"),
        (
            "refine.threshold",
            "otto",
            "refine.threshold is \"otto\": expected 'auto' or a valid number",
        ),
    ],
)
def test_one_line_names_the_key_and_what_is_allowed(key: str, value: Any, message: str) -> None:
    given = changed(key, value)
    if key == "teacher.lr_min":
        given["teacher"]["lr"] = 0.002
    with pytest.raises(InputError) as caught:
        validate(given)
    assert str(caught.value) == f"params.yaml: {message}"


def test_every_problem_gets_its_own_line() -> None:
    given = changed("seed", -1)
    given["cam"]["flip"] = 3
    del given["depth"]["batch"]
    with pytest.raises(InputError) as caught:
        validate(given, "other.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("other.yaml: ") for line in lines)
    assert {line.split()[1].rstrip(":") for line in lines} == {"seed", "cam.flip", "depth.batch"}


def test_a_date_is_named_by_its_key(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("seed: 0\n", "seed: 2020-01-01\n"))
    with pytest.raises(InputError, match='seed is "2020-01-01": expected a valid integer'):
        load_params(path)


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.0e-4", "0.0001"])
def test_scientific_notation_is_a_number(number: str, tmp_path: Path) -> None:
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    place = lines.index("depth_model:")
    at = next(i for i in range(place, len(lines)) if lines[i].startswith("  lr: "))
    lines[at] = f"  lr: {number}"
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    assert load_params(path).depth_model.lr == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0\nseed: 1\n", 'line 2: found duplicate key "seed" with value "1"'),
        ("data: [\n", "not readable as YAML (line 2: "),
        ("data: !!python/object:os.x 1\n", "could not determine a constructor"),
        ("data: \x00", "not readable as YAML"),
        ("", "expected sections such as data: and teacher:"),
        ("- 1\n", "expected sections such as data: and teacher:"),
        ("hello\n", "expected sections such as data: and teacher:"),
    ],
)
def test_what_is_not_a_params_file_is_named_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "https://" not in str(caught.value)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"params\.yaml: not readable as YAML"):
        load_params(path)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; run from the project's root folder"):
        load_params(tmp_path / "params.yaml")


def test_params_do_not_change() -> None:
    params = validate(values())
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 3
    assert isinstance(params, Params)
