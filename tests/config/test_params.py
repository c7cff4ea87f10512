"""params.yaml is refused in one line that names the key, what was given and what is allowed."""

import copy
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support import ROOT, one_line

from dgkd_core.config.params import load_params, validate
from dgkd_core.runtime.errors import InputError

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
MISSING = object()
QUOTES = "expected text, put it in quotes (YAML reads a number, a date or a truth value)"
# key, value, and what is said after the key
BAD: list[tuple[str, Any, str]] = [
    ("distill.lamda", 1, ": unknown key, did you mean lambda?"),
    ("cam.zzz", 1, ": unknown key, known here: source, scales, flip, batch"),
    ("seed", True, " is true: expected a valid integer"),
    ("seed", 2**31, " is 2147483648: expected less than 2147483648"),
    ("data", MISSING, ": missing, every key must be given"),
    ("data", None, " is null: expected an object"),
    ("teacher.lr", "1e-4", ' is "1e-4": expected a valid number'),
    ("teacher.lr", float("nan"), " is NaN: expected a finite number"),
    ("teacher.lr_min", 1, ": 1.0 is above lr LR, expected at most lr"),
    ("data.kind", "x", " is \"x\": expected 'scenes', 'voc', 'lis', 'voc2lis' or 'folder'"),
    ("data.train_list", "../x", ": '../x' is a path, expected a plain file name"),
    ("evaluate.sets", {"a b": "x"}, ": 'a b' is no name, expected letters, digits, _ and -"),
    ("depth.revision", 10e5, f" is 1000000.0: {QUOTES}"),
    ("data.root", True, f" is true: {QUOTES}"),
    ("data.root", date(2024, 1, 5), f" is 2024-01-05: {QUOTES}"),
    ("data.classes", ["cat", 1], f".1 is 1: {QUOTES}"),
    ("evaluate.sets", {"x": 2024}, f".x is 2024: {QUOTES}"),
    ("evaluate.sets", {2024: "x"}, f".2024 is a name: {QUOTES}"),
    ("lowlight.physical.ratio", [100, 10], ": expected [low, high] with low <= high"),
    (
        "segment.jitter",
        [0.5, 0, 0, 0],
        ": is [0.5, 0.0, 0.0, 0.0] with night: fixed, whose dark pictures are made already, "
        "expected [0, 0, 0, 0] or night: fresh",
    ),
    (
        "segment.night_ratio",
        [1.5, 100],
        ": is [1.5, 100.0] with night: fixed, whose dark pictures are made already, expected null "
        "or night: fresh",
    ),
    ("lowlight.physical.ratio", [0.5, 10], ": 0.5 would brighten, expected at least 1"),
    ("cam.scales", [0.01], ".0 is 0.01: expected greater than or equal to 0.1"),
    (
        "data.classes",
        ["cat", "_Background_"],
        ".1: '_Background_' is no class: in masks 0 is the background and 255 does not count, "
        "neither is listed",
    ),
    ("data.classes", ["a", "a"], ": a name occurs twice, expected each class once"),
    ("data.classes", ["cat"], ": the built-in scenes keep all their classes, expected []"),
    ("refine.threshold", 1.5, " is 1.5: expected 'auto' or less than 1"),
]


COMMITTED = YAML(typ="safe", pure=True).load(TEXT)


def changed(key: str, value: Any) -> dict[str, Any]:
    result = section = copy.deepcopy(COMMITTED)
    *sections, last = key.split(".")
    for name in sections:
        section = section[name]
    section[last] = value
    if value is MISSING:
        del section[last]
    return result


@pytest.mark.parametrize(("key", "value", "said"), BAD)
def test_one_line_names_the_key_and_what_is_allowed(key: str, value: Any, said: str) -> None:
    expected = said.replace("LR", str(COMMITTED["teacher"]["lr"]))
    assert one_line(lambda: validate(changed(key, value))) == f"params.yaml: {key}{expected}"


def test_every_problem_gets_its_own_line() -> None:
    given = changed("seed", -1)
    given["cam"]["flip"] = 3
    del given["depth"]["batch"]
    with pytest.raises(InputError) as caught:
        validate(given, "other.yaml")
    keys = [re.match(r"other\.yaml: ([\w.]+)", line) for line in str(caught.value).splitlines()]
    assert {key and key[1] for key in keys} == {"seed", "cam.flip", "depth.batch"}


def test_the_committed_file_is_valid_and_scientific_notation_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"(?s)(depth_model:.*?\n  lr: )\S+", r"\g<1>1e-4", TEXT, count=1))
    params = load_params(path)
    assert params.depth_model.lr == 1e-4
    assert params.distill.lambda_ == COMMITTED["distill"]["lambda"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: 0\nseed: 1\n", 'line 2: found duplicate key "seed" with value "1"'),
        (TEXT.replace("seed: 0\n", "seed: 2020-01-01\n").encode(), 'seed is "2020-01-01": expecte'),
        (b"data: [\n", "not readable as YAML (line 2: "),
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"seed: " + b"[" * 9999, "not readable as YAML"),
        (b"seed: &a [*a]\n", "not readable as YAML (Circular reference detected)"),
        (b"- 1\n", "expected sections such as data: and teacher:"),
        (None, "no such file; run from the project's root folder"),
    ],
)
def test_what_is_not_a_params_file_is_named_in_one_line(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    found = one_line(lambda: load_params(path), said)
    assert found.startswith(f"{path}: ")
    assert "https://" not in found
