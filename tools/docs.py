"""Write what the documentation says about parameters, files and scores from where it is defined.

    python tools/docs.py            renew docs/params.md and the blocks inside docs/stages/*.md
    python tools/docs.py --check    only compare, status 1 where they differ

Meanings and ranges are those of dgkd_core/config/schema.py, defaults those of presets/scenes.yaml
(what params.yaml is in a fresh clone), readers and files those of dvc.yaml. A page holds its blocks
between ``<!-- KIND: tools/docs.py -->`` and ``<!-- end -->``:

    params     the parameters that the page's stage reads
    files      what it reads and writes, and who writes and reads that
    results    a table of the keys of metrics/STAGE.json, the last cell of each row renewed

A key with a word in capitals stands for all keys with any word there. Scores are renewed and never
compared: a run of one's own changes metrics/, and that must not make a page wrong.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dgkd_core.config.leaves import leaves  # noqa: E402
from dgkd_core.config.schema import Params  # noqa: E402
from dgkd_core.runtime.errors import InputError  # noqa: E402
from dgkd_core.runtime.files import read_json, write_text  # noqa: E402

BLOCK = re.compile(r"(<!-- (\w+): tools/docs\.py -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)
ROW = re.compile(r"(\| `([^`|]+)` \|.*\|) [^|]*\|")
SCHEMA = Params.model_json_schema()
HEAD = """# Parameters

All parameters are in [`params.yaml`](../params.yaml). `make docs` writes this page from
[`schema.py`](../dgkd_core/config/schema.py). A value that is not allowed ends a stage, or
`dgkd preset`, with a line that says what is allowed. Change single values in `params.yaml` or by
`dvc exp run -S key=value`; `dgkd preset` writes whole settings ([data.md](data.md)).

*Reruns* names the stages that read a parameter and so rerun when it changes; the stages after them
rerun where an output has changed. Formulas: [how-it-works.md](how-it-works.md). Differences from
the paper: [method.md](method.md).
"""

Stages = Mapping[str, Mapping[str, Any]]


def load_stages(root: Path) -> Stages:
    """The stages of dvc.yaml; of one that is repeated (foreach) what it does each time.

    ``reads`` are the keys of the parameters that it reads, in `params` or as `${key}`.
    """
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    return {
        name: {
            **stage.get("do", stage),
            "reads": [
                *stage.get("do", stage)["params"],
                *re.findall(r"\$\{([\w.]+)\}", json.dumps(stage)),
            ],
        }
        for name, stage in stages.items()
    }


def covers(key: str, leaf: str) -> bool:
    """Whether ``leaf`` (a dotted parameter or a path) is ``key`` or lies under it."""
    return leaf == key or leaf.startswith((f"{key}.", f"{key}/"))


def readers(stages: Stages, leaf: str) -> list[str]:
    """The stages that read a parameter."""
    return [name for name in stages if any(covers(key, leaf) for key in stages[name]["reads"])]


def schema_of(leaf: str) -> tuple[dict[str, Any], str]:
    """A parameter's JSON schema, and its meaning."""
    node: dict[str, Any] = SCHEMA
    for part in leaf.split("."):
        node = resolved(node)["properties"][part]
    if "description" not in node:
        raise InputError(
            f"dgkd_core/config/schema.py: {leaf} has no description, expected its meaning"
        )
    return node, node["description"]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the one that it refers to."""
    return SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def one_of(words: list[str]) -> str:
    """a, b or c."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def limits(node: Mapping[str, Any]) -> str:
    """The range of a number, in words or signs; nothing where it has none."""
    low, high = node.get("minimum"), node.get("maximum")
    if node["type"] == "integer" and "exclusiveMaximum" in node:
        high = node["exclusiveMaximum"] - 1
    if low is not None and high is not None:
        return f"{low:.10g} to {high:.10g}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{signs[key]} {node[key]:g}" for key in signs if key in node)


def values_of(node: dict[str, Any]) -> str:
    """What a schema allows, in words: ``number > 0``, ``list of 3 whole numbers``."""
    node = resolved(node)
    if "anyOf" in node:
        return one_of([values_of(each) for each in node["anyOf"]])
    if "const" in node or "enum" in node:
        return one_of([f"`{word}`" for word in node.get("enum", [node.get("const")])])
    kind = node["type"]
    if kind in ("integer", "number"):
        name = "whole number" if kind == "integer" else "number"
        step = f", multiple of {node['multipleOf']}" if "multipleOf" in node else ""
        return f"{name} {limits(node)}".strip() + step
    if kind == "array":
        items = node.get("prefixItems", [])
        if not items:
            most = f", at most {node['maxItems']}" if "maxItems" in node else ""
            return f"list of {values_of(node['items'])}{most}"
        each = list(dict.fromkeys(values_of(item) for item in items))
        return f"list of {len(items)}: {', then '.join(each)}"
    if kind == "object":
        return f"{values_of(node['additionalProperties'])} by name"
    if "[0-9a-f]{64}" in node.get("pattern", ""):
        return "64 hexadecimal digits"
    return {"boolean": "`true` or `false`", "null": "`null`"}.get(kind, "text")


def default_of(value: Any) -> str:
    """A value as params.yaml shows it."""
    if isinstance(value, list):
        return f"[{', '.join(default_of(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else f"{value:.1f}"
    return value if isinstance(value, str) else json.dumps(value)


def link(names: list[str]) -> str:
    """Stages by name, each leading to its page."""
    return ", ".join(f"[{name}]({name}.md)" for name in names)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def parameter_row(leaf: str, value: Any) -> list[str]:
    node, meaning = schema_of(leaf)
    cell = [f"`{leaf}`", f"`{default_of(value)}`", values_of(node), meaning]
    return [text.replace("|", "\\|") for text in cell]


PARAMETER = ["parameter", "default", "values", "meaning"]


def params_page(stages: Stages, defaults: Mapping[str, Any]) -> str:
    """docs/params.md: a table for each section, with the stages that a change reruns."""
    parts = [HEAD]
    sections = {key: {key: value} for key, value in defaults.items() if isinstance(value, Mapping)}
    general = {key: value for key, value in defaults.items() if key not in sections}
    for name, values in {"general": general, **sections}.items():
        intro = resolved(SCHEMA["properties"][name])["description"] if name in sections else ""
        found = dict(leaves(values))
        users = {leaf: ", ".join(readers(stages, leaf)) for leaf in found}
        same = len(set(users.values())) == 1
        if same:
            intro = f"{intro} Reruns {next(iter(users.values()))}.".strip()
        rows = [
            parameter_row(leaf, value) + ([] if same else [users[leaf]])
            for leaf, value in found.items()
        ]
        heading = f"\n## {name}\n\n" + (f"{intro}\n\n" if intro else "")
        parts.append(heading + table(PARAMETER + ([] if same else ["reruns"]), rows))
    return "".join(parts)


def params_block(stage: str, stages: Stages, defaults: Mapping[str, Any]) -> str:
    """The parameters that a stage reads."""
    read = [(leaf, value) for leaf, value in leaves(defaults) if stage in readers(stages, leaf)]
    return table(PARAMETER, [parameter_row(leaf, value) for leaf, value in read])


def paths(stage: Mapping[str, Any], *kinds: str) -> list[str]:
    """What a stage lists under ``kinds``, without options and modules."""
    listed = [each for kind in kinds for each in stage.get(kind, [])]
    names = [each if isinstance(each, str) else next(iter(each)) for each in listed]
    return [name for name in names if not name.startswith(("dgkd_core/", "stages/"))]


def files_block(stage: str, stages: Stages) -> str:
    """What a stage reads and who writes it; what it writes and who reads that."""
    made = {name: paths(each, "outs", "metrics", "plots") for name, each in stages.items()}
    read = {name: paths(each, "deps") for name, each in stages.items()}

    def whose(path: str, lists: Mapping[str, list[str]]) -> list[str]:
        """The stages that list a path, one that lies in it, or one that it lies in."""
        return [
            name
            for name, others in lists.items()
            if any(covers(path, other) or covers(other, path) for other in others)
        ]

    rows = []
    for path in read[stage]:
        shown, source = f"`{path}`", "part of the project"
        if key := re.fullmatch(r"\$\{([\w.]+)\}", path):
            item = key[1] == "item"
            shown = "the entry of `evaluate.sets`" if item else f"the folder in `{key[1]}`"
            source = "yours"
        makers = whose(path, made)
        rows.append(["reads", shown, f"written by {link(makers)}" if makers else source])
    for path in made[stage]:
        users = whose(path, read)
        shown = f"`{path.replace('${key}', 'NAME')}`"
        rows.append(["writes", shown, f"read by {link(users)}" if users else "yours to read"])
    return table(["", "file or folder", ""], rows)


def shown_result(values: list[Any]) -> str:
    """One value, or the range of several, with the digits of a metrics file."""
    known = [f"{v:.2f}" if isinstance(v, float) else f"{v}" for v in sorted(values)]
    return " to ".join(dict.fromkeys([known[0], known[-1]])) if known else "–"


def results_block(stage: str, results: Mapping[str, Any], old: str) -> str:
    """The table of a metrics file with the last cell of each row renewed.

    Raises:
        InputError: a key of the file has no row.
    """
    named = {row[2] for row in ROW.finditer(old)}
    left = {key: value for key, value in results.items() if value is not None}
    told: set[str] = set()

    def renew(row: re.Match[str]) -> str:
        pattern = ".".join(
            ".+" if part.isupper() else re.escape(part) for part in row[2].split(".")
        )
        keys = [key for key in left if key == row[2] or key not in named]
        keys = [key for key in keys if re.fullmatch(pattern, key)]
        told.update(keys)
        return f"{row[1]} {shown_result([left[key] for key in keys])} |"

    new = ROW.sub(renew, old)
    if missing := sorted(left.keys() - told):
        raise InputError(f"docs/stages/{stage}.md: no row for {missing[0]} of metrics/{stage}.json")
    return new


def pages(root: Path, scores: bool) -> dict[Path, str]:
    """All pages that hold something from elsewhere, as they should be.

    Args:
        scores: renew the results too; else they stay as they are.

    Raises:
        InputError: a stage has no page, a page no stage, or a block is of an unknown kind.
    """
    stages = load_stages(root)
    defaults = YAML(typ="safe", pure=True).load(root / "presets/scenes.yaml")
    made = {root / "docs/params.md": params_page(stages, defaults)}
    folder = root / "docs/stages"
    for stage in sorted({*stages, *(path.stem for path in folder.glob("*.md"))}):
        path = folder / f"{stage}.md"
        if stage not in stages:
            raise InputError(f"{path}: dvc.yaml has no stage {stage}")
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected a page for the stage {stage}")

        def block(match: re.Match[str], stage: str = stage, path: Path = path) -> str:
            begin, kind, old, end = match.groups()
            if kind == "params":
                return begin + params_block(stage, stages, defaults) + end
            if kind == "files":
                return begin + files_block(stage, stages) + end
            if kind != "results":
                raise InputError(f"{path}: block {kind}, expected params, files or results")
            if not scores:
                return match[0]
            found = dict(leaves(read_json(root / f"metrics/{stage}.json")))
            return begin + results_block(stage, found, old) + end

        made[path] = BLOCK.sub(block, path.read_text(encoding="utf-8"))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Renew the pages, or with --check compare them; trouble ends with one line and status 1."""
    check = "--check" in (sys.argv if arguments is None else arguments)
    try:
        made = pages(ROOT, scores=not check)
    except InputError as error:
        sys.exit(f"docs: {error}")
    wrong = [
        path
        for path, text in made.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    names = ", ".join(path.relative_to(ROOT).as_posix() for path in wrong)
    if wrong and check:
        sys.exit(f"docs: {names} differ from what defines them; run `make docs`")
    for path in wrong:
        write_text(path, made[path])
    if wrong:
        print(f"docs: renewed {names}")


if __name__ == "__main__":
    main()
