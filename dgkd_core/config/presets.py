"""Laying presets and single values over params.yaml, its comments kept."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import CommentToken

from dgkd_core.config.params import read_yaml, validate, wants_text
from dgkd_core.config.schema import DATA_ROOTS, NOT_USED
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import sha256, write_text
from dgkd_core.runtime.paths import for_experiments, resolve

_SPECIAL_DEPTH = ("scenes", "given", "gradient")
_BY_NAME = ("evaluate.sets",)  # the user names the keys: replaced as a whole
_FAR = 1000  # columns, beyond every comment


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    # null is written out, as it stands in params.yaml
    yaml.representer.add_representer(
        type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _read(path: Path) -> CommentedMap:
    values = read_yaml(path, _yaml())
    if not isinstance(values, CommentedMap):
        raise InputError(f"{path}: expected sections such as data: and teacher:")
    return values


def _end_comments(section: CommentedMap) -> dict[str, CommentToken]:
    """The comments at the end of a section's lines, by key."""
    tokens = {key: places[2] for key, places in section.ca.items.items()}
    return {key: token for key, token in tokens.items() if token and token.value.startswith("#")}


def _comment_column(section: CommentedMap) -> int:
    """The leftmost column of all comments at the ends of lines: where the others belong too."""
    columns = [token.column for token in _end_comments(section).values()]
    columns += [_comment_column(v) for v in section.values() if isinstance(v, CommentedMap)]
    return min(columns, default=_FAR)


def _lists_on_one_line(section: CommentedMap) -> None:
    """Write lists as [a, b] again: `dvc exp run -S` leaves one item a line, comments in between."""
    for key, value in section.items():
        if isinstance(value, CommentedMap):
            _lists_on_one_line(value)
        elif isinstance(value, CommentedSeq) and not value.fa.flow_style():
            comment = _end_comments(section).get(key)
            section[key] = _row(value)
            if key in section.ca.items:
                section.ca.items[key] = [None, None, comment, None]


def _row(values: Sequence[Any]) -> CommentedSeq:
    """A list that is written on one line."""
    row = CommentedSeq(values)
    row.fa.set_flow_style()
    return row


def _lay_over(
    target: CommentedMap, values: Mapping[str, Any], where: str = "", column: int | None = None
) -> None:
    column = _comment_column(target) if column is None else column
    comments = _end_comments(target)
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in target:
            raise InputError(f"{name}: params.yaml has no such key")
        old = target[key]
        if name in _BY_NAME and isinstance(value, Mapping):
            row = CommentedMap(value)
            row.fa.set_flow_style()
            target[key] = row
            continue
        if isinstance(old, CommentedMap) != isinstance(value, Mapping):
            kind = "a section" if isinstance(old, CommentedMap) else "a value"
            raise InputError(f"{name}: is {kind} in params.yaml")
        if isinstance(old, CommentedMap):
            _lay_over(old, value, f"{name}.", column)
            continue
        target[key] = _row(value) if isinstance(value, list) else value
        if key in comments:  # a longer value before had pushed it to the right
            comments[key].column = column


def _as_written(parsed: Any, text: Any) -> Any:
    """A YAML value with the text of what YAML took for a number or a date: 10e5, 2024, [1, 2]."""
    if isinstance(parsed, dict):
        pairs = zip(text.items(), parsed.values(), strict=True)
        return {key: _as_written(value, written) for (key, written), value in pairs}
    if isinstance(parsed, list):
        return [_as_written(value, written) for value, written in zip(parsed, text, strict=True)]
    return None if parsed is None else text


def _assignment(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise InputError(f"{text!r}: expected key=value, such as distill.lambda=0.5")
    try:
        parsed = YAML(typ="safe", pure=True).load(value) if value else None
        if wants_text(key.split(".")):
            parsed = _as_written(parsed, YAML(typ="base", pure=True).load(value))
    except YAMLError as error:
        raise InputError(f"{text!r}: {value!r} is not a YAML value") from error
    nested: Any = parsed
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value)
    return value


def _expand_home(section: CommentedMap) -> None:
    """Write ~ out: DVC, which reads paths from params.yaml too, does not expand it."""
    for key, value in section.items():
        if isinstance(value, CommentedMap):
            _expand_home(value)
        elif isinstance(value, str) and value.startswith("~"):
            section[key] = str(Path(value).expanduser())


def _pin(params: CommentedMap, folder: Path) -> None:
    """Pin the files that params name: another content under the same name is another parameter."""
    model, depth = params["model"], params["depth"]

    def pinned(key: str, value: str, kind: str) -> str:
        path = resolve(value, folder)
        if not (path.is_dir() if kind == "folder" else path.is_file()):
            raise InputError(f"{key}: {path} is not a {kind}")
        return sha256(path)

    weights, source = model["weights"], depth["model"]
    for section, key in (("teacher", "model"), ("segment", "teacher")):
        given, name = params[section][key], f"{section}.{key}"
        params[section][f"{key}_sha256"] = given and pinned(name, given, "folder")
    local = weights not in (None, "imagenet")
    model["weights_sha256"] = pinned("model.weights", weights, "file") if local else None
    if source in _SPECIAL_DEPTH:
        depth["revision"] = None
    elif (path := resolve(source, folder)).is_dir():
        depth["revision"] = sha256(path)
    elif len(str(depth["revision"])) == 64:  # a folder's pin, and this one is on the hub
        depth["revision"] = None


def preset_names(folder: Path) -> list[str]:
    """The presets that the project has."""
    return sorted(path.stem for path in (folder / "presets").glob("*.yaml"))


def _overlays(name: str, folder: Path, seen: tuple[str, ...] = ()) -> list[CommentedMap]:
    """A preset's values, those of the preset that it names as its ``base`` first."""
    path = folder / "presets" / f"{name}.yaml"
    if name not in preset_names(folder):
        known = ", ".join(preset_names(folder)) or "none"
        raise InputError(f"preset {name!r}: no {path}; there are: {known}")
    if name in seen:
        raise InputError(f"{path}: base: {name} is based on itself")
    values = _read(path)
    base = values.pop("base", None)
    return [*(_overlays(str(base), folder, (*seen, name)) if base is not None else []), values]


def apply_preset(name: str, assignments: Sequence[str], folder: str | Path = ".") -> list[str]:
    """Lay presets/NAME.yaml and then ``key=value`` assignments over params.yaml.

    A preset may name another one that is laid first: ``base: NAME``.

    The file is written only when the result is valid. Weights files and depth folders are pinned by
    their SHA-256; paths of data outside of the project become absolute.

    Returns:
        notes for the user, a line each.

    Raises:
        InputError: unknown preset or key, a value out of range, a weights file that is not there.
    """
    folder = Path(folder)
    path = folder / "params.yaml"
    overlays = _overlays(name, folder)
    params = _read(path)
    _lists_on_one_line(params)
    for overlay in overlays:
        _lay_over(params, overlay)
    for text in assignments:
        _lay_over(params, _assignment(text))
    _expand_home(params)
    validate(_plain(params))
    _pin(params, folder)
    notes = []
    data, sets = params["data"], params["evaluate"]["sets"]
    places = [("data.", data, key) for key in DATA_ROOTS]
    places += [("evaluate.sets.", sets, name) for name in sets]
    for where, section, key in places:
        found, given = resolve(section[key], folder), section[key]
        if (findable := for_experiments(given, folder)) != given:
            section[key] = findable
        if given != NOT_USED and not found.exists():
            notes.append(f"{where}{key}: {found} is not there yet")
    buffer = io.StringIO()
    _yaml().dump(params, buffer)
    text = buffer.getvalue()
    if _plain(YAML(typ="safe", pure=True).load(text)) != _plain(params):
        raise RuntimeError(f"{path} would not read back as what is written to it")
    write_text(path, text)
    return notes
