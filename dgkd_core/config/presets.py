"""Laying presets and single values over params.yaml."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from dgkd_core.config.params import read_yaml, validate, wants_text
from dgkd_core.config.schema import DATA_ROOTS, NOT_USED, Params
from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import sha256, write_text
from dgkd_core.runtime.paths import for_experiments, resolve, with_home

_NULL = ("", "~", "null", "Null", "NULL")
_QUOTES = "\"'[{|>&*!"  # with one of these at its beginning, text is read as YAML
_SPECIAL_DEPTH = ("scenes", "given", "gradient")
_BY_NAME = ("evaluate.sets",)  # the user names the keys: replaced as a whole


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


def _dump(params: CommentedMap) -> str:
    buffer = io.StringIO()
    _yaml().dump(params, buffer)
    return buffer.getvalue()


def _check(text: str) -> None:
    validate(YAML(typ="safe", pure=True).load(text))


def _on_one_line(value: Any) -> Any:
    """A list or a mapping as it is to be written: [a, b]; other values as they are."""
    if isinstance(value, (list, Mapping)):
        value = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
        value.fa.set_flow_style()
    return value


def _lay_over(target: CommentedMap, values: Mapping[str, Any], where: str = "") -> None:
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in target:
            raise InputError(f"{name}: params.yaml has no such key")
        old = target[key]
        if isinstance(old, CommentedMap) != isinstance(value, Mapping):
            kind = "a section" if isinstance(old, CommentedMap) else "a value"
            raise InputError(f"{name}: is {kind} in params.yaml")
        if isinstance(old, CommentedMap) and name not in _BY_NAME:
            _lay_over(old, value, f"{name}.")
        else:
            target[key] = _on_one_line(value)


def _assignment(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise InputError(f"{text!r}: expected key=value, such as distill.lambda=0.5")
    as_text, parsed = wants_text(key.split(".")), None
    try:
        if as_text and value not in _NULL and value[0] not in _QUOTES:
            parsed = value  # a path with " #" or ": " is no YAML
        elif value not in _NULL:  # text in lists as written: 10e5, 2024
            yaml = YAML(typ="base", pure=True) if as_text else YAML(typ="safe", pure=True)
            parsed = yaml.load(value)
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date
        raise InputError(f"{shown(text)}: {shown(value)} is not a YAML value") from error
    nested: Any = parsed
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def _expand_home(section: CommentedMap) -> None:
    """Write ~ out: DVC, which reads paths from params.yaml too, does not expand it."""
    for key, value in section.items():
        if isinstance(value, CommentedMap):
            _expand_home(value)
        elif isinstance(value, str) and value.startswith("~"):
            section[key] = str(with_home(value))


def _pin(params: CommentedMap) -> None:
    """Pin the files that params name: another content under the same name is another parameter."""
    model, depth = params["model"], params["depth"]

    def pinned(key: str, value: str, kind: str) -> str:
        path = resolve(value)
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
    elif (path := resolve(source)).is_dir():
        depth["revision"] = sha256(path)
    elif len(str(depth["revision"])) == 64:  # a folder's pin, and this one is on the hub
        depth["revision"] = None


def preset_names() -> list[str]:
    """The presets that the project has."""
    return sorted(path.stem for path in Path("presets").glob("*.yaml"))


def _overlays(name: str, seen: tuple[str, ...] = ()) -> list[CommentedMap]:
    """A preset's values, those of the preset that it names as its ``base`` first."""
    path = Path("presets", f"{name}.yaml")
    if name not in preset_names():
        known = ", ".join(preset_names()) or "none"
        raise InputError(f"preset {name!r}: no {path}; there are: {known}")
    if name in seen:
        raise InputError(f"{path}: base: {name} is based on itself")
    values = _read(path)
    base = values.pop("base", None)
    return [*(_overlays(str(base), (*seen, name)) if base is not None else []), values]


def apply_preset(name: str, assignments: Sequence[str]) -> list[str]:
    """Lay presets/NAME.yaml and then ``key=value`` assignments over params.yaml, in this folder.

    A preset may name another one that is laid first: ``base: NAME``. One with all sections takes
    the place of params.yaml, whatever is in it.

    The file is written only when the result is valid. Weights files and depth folders are pinned by
    their SHA-256; paths of data outside of the project become absolute.

    Returns:
        notes for the user, a line each.

    Raises:
        InputError: unknown preset or key, a value out of range, a weights file that is not there.
    """
    path, overlays = Path("params.yaml"), _overlays(name)
    whole = overlays[0].keys() >= Params.model_fields.keys()  # as presets/scenes.yaml is
    params = overlays.pop(0) if whole else _read(path)
    for overlay in overlays:
        _lay_over(params, overlay)
    for text in assignments:
        _lay_over(params, _assignment(text))
    _expand_home(params)
    _check(_dump(params))
    _pin(params)
    notes = []
    data, sets = params["data"], params["evaluate"]["sets"]
    places = [("data.", data, key) for key in DATA_ROOTS]
    places += [("evaluate.sets.", sets, name) for name in sets]
    for where, section, key in places:
        found, given = resolve(section[key]), section[key]
        if (findable := for_experiments(given)) != given:
            section[key] = findable
        if given != NOT_USED and not found.exists():
            notes.append(f"{where}{key}: {found} is not there yet")
    _check(text := _dump(params))
    write_text(path, text)
    return notes
