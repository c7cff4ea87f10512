"""The project's own sources: nothing in them runs what a file says.

The checker reads the syntax tree, so it knows names however they were imported. What is computed
at run time (``getattr(torch, "lo" + "ad")``) is beyond it: it is there for slips, not for malice.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("dgkd_core", "stages", "tools", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

BANNED_MODULES = (
    *("pickle", "_pickle", "cPickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"),
    *("xml", "lxml", "runpy", "code"),
)
BANNED = {  # whether called or passed on
    *("eval", "exec", "compile", "__import__", "importlib.import_module"),
    *("os.system", "os.popen", "os.startfile", "pty.spawn"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("pandas.read_pickle", "pandas.eval", "shutil.unpack_archive"),
}
BANNED_METHODS = {"extractall", "read_pickle", "to_pickle", "load_state_dict_from_url"}
NEEDED = {  # a keyword that a call must have, and its value
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
SAFE_YAML = "safe", "rt", "base"  # base makes text of everything
FIXED: dict[str, bool] = {  # a keyword that may have one value only, in whatever call
    "weights_only": True,
    "allow_pickle": False,
    "trust_remote_code": False,
    "use_safetensors": True,
    "shell": False,
}


class Checker(ast.NodeVisitor):
    """Gathers what a module must not hold, as (line, what)."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self.names: dict[str, str] = {}
        self.called: set[int] = set()

    def say(self, node: ast.AST, what: str) -> None:
        self.found.append((getattr(node, "lineno", 0), what))

    def _module(self, node: ast.AST, name: str) -> None:
        if name.split(".")[0] in BANNED_MODULES:
            self.say(node, f"import of {name}")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._module(node, alias.name)
            whole = alias.asname is not None
            self.names[alias.asname or alias.name.split(".")[0]] = (
                alias.name if whole else alias.name.split(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        self._module(node, module)
        for alias in node.names:
            name = f"{module}.{alias.name}"
            self._module(node, name)
            if alias.name == "*":
                self.say(node, f"star import from {module}")
            if name in BANNED:
                self.say(node, name)
            self.names[alias.asname or alias.name] = name

    def dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id if node.id in BANNED else f"({node.id})")
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value)}.{node.attr}"
        return ""

    def _reference(self, node: ast.Name | ast.Attribute) -> None:
        name = self.dotted(node)
        if name in BANNED or (name.startswith("os.") and name[3:8] in ("execl", "execv", "spawn")):
            self.say(node, name)
        if name in NEEDED and id(node) not in self.called:
            self.say(node, f"{name} passed on")
        if isinstance(node, ast.Attribute):
            if node.attr in BANNED_METHODS:
                self.say(node, f".{node.attr}")
            if node.attr == "from_pretrained" and id(node) not in self.called:
                self.say(node, ".from_pretrained passed on")

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):  # a field of that name calls nothing
            self._reference(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._reference(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self.dotted(node.func)
        self.called.add(id(node.func))
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        for keyword, wanted in FIXED.items():
            value = given.get(keyword)
            if value is not None and not _is(value, wanted):
                self.say(node, f"{keyword} other than {wanted}")
        if name in NEEDED and NEEDED[name][0] not in given:
            self.say(node, f"{name} without {NEEDED[name][0]}={NEEDED[name][1]}")
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            if method == "from_pretrained" and "trust_remote_code" not in given:
                self.say(node, ".from_pretrained without trust_remote_code=False")
            if method in ("eval", "query") and node.args:
                self.say(node, f".{method} of an expression")
        if name.split(".")[-1] == "YAML":
            kinds = [*node.args, *(value for key, value in given.items() if key == "typ")]
            if not all(any(_is(kind, safe) for safe in SAFE_YAML) for kind in kinds):
                self.say(node, "YAML of a type other than safe")
        self.generic_visit(node)


def _is(node: ast.expr, value: bool | str) -> bool:
    """Whether it is this constant; 0 is not False here."""
    return isinstance(node, ast.Constant) and (type(node.value), node.value) == (type(value), value)


def problems(source: str) -> list[str]:
    """What must not be in a module, a line each."""
    checker = Checker()
    checker.visit(ast.parse(source))
    return [f"{line}: {what}" for line, what in sorted(checker.found)]


def _calls(name: str) -> Iterator[Path]:
    for path in SOURCES:
        checker = Checker()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checker.visit(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and checker.dotted(node.func).endswith(name):
                yield path


def test_no_source_runs_what_a_file_says() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{problem}"
        for path in SOURCES
        for problem in problems(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_sources_that_read_weights_are_among_those_checked() -> None:
    """Else the test above could pass by looking at nothing."""
    assert len(SOURCES) > 80
    assert {path.name for path in _calls("torch.load")} == {
        *("tensors.py", "checkpoint.py", "state.py")
    }
    assert {path.name for path in _calls("numpy.load")} == {"pictures.py"}
    assert {path.name for path in _calls(".from_pretrained")} == {"files.py"}
    assert {path.name for path in _calls("subprocess.run")} == {"repository.py", "__main__.py"}


BAD = [
    "import torch\ntorch.load(p)",
    "import torch\ntorch.load(p, weights_only=False)",
    "import torch\ntorch.load(p, None, weights_only=flag)",
    "import torch as t\nt.load(p, **options)",
    "from torch import load\nload(p)",
    "from torch import load as read\nread(p, weights_only=0)",
    "import torch\nread = torch.load",
    "import torch\nlist(map(torch.load, paths))",
    "from torch import jit\njit.load(p)",
    "import torch.hub\ntorch.hub.load('a/b', 'c')",
    "import pickle",
    "import pickle as p",
    "from pickle import loads",
    "from _pickle import loads",
    "def f():\n    import marshal",
    "import shelve, os",
    "import joblib",
    "import dill",
    "import numpy as np\nnp.load(p)",
    "import numpy as np\nnp.load(p, allow_pickle=True)",
    "import numpy as np\nnp.save(p, a, allow_pickle=True)",
    "from numpy import load\nload(p, allow_pickle=yes)",
    "import pandas as pd\npd.read_pickle(p)",
    "frame.to_pickle(p)",
    "frame.query(text)",
    "AutoImageProcessor.from_pretrained(source)",
    "AutoImageProcessor.from_pretrained(source, **hub)",
    "AutoModel.from_pretrained(source, trust_remote_code=True)",
    "AutoModel.from_config(config, trust_remote_code=trust)",
    "load = AutoModel.from_pretrained",
    "AutoModel.from_pretrained(s, trust_remote_code=False, use_safetensors=False)",
    "eval(text)",
    "exec(text)",
    "compile(text, 'a', 'exec')",
    "run = eval",
    "__import__(name)",
    "from importlib import import_module",
    "import importlib as i\ni.import_module(name)",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    "import yaml\nyaml.unsafe_load(text)",
    "from yaml import full_load",
    "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
    "from ruamel.yaml import YAML\nYAML('unsafe')",
    "import ruamel.yaml\nruamel.yaml.YAML(typ=kind)",
    "import os\nos.system(text)",
    "from os import popen",
    "import os\nos.execvp(name, words)",
    "import os\nos.spawnl(0, name)",
    "import subprocess\nsubprocess.run(text, shell=True)",
    "from subprocess import Popen\nPopen(text, shell=shell)",
    "import subprocess\nsubprocess.getoutput(text)",
    "import xml.etree.ElementTree as ET",
    "from xml.dom import minidom",
    "from xml import sax",
    "from lxml import etree",
    "import zipfile\nzipfile.ZipFile(p).extractall(out)",
    "import shutil\nshutil.unpack_archive(p)",
    "from torch import *",
]

GOOD = [
    "import torch\ntorch.load(p, map_location='cpu', weights_only=True)",
    "from torch import load\nload(p, weights_only=True)",
    "import json\njson.load(file)",
    "from safetensors.torch import load_file\nload_file(p)",
    "import numpy as np\nnp.load(p, allow_pickle=False)\nnp.save(p, a)",
    "model.eval()\nmodel.load_state_dict(state)",
    "import re\nre.compile('a')",
    "AutoModel.from_pretrained(s, trust_remote_code=False, use_safetensors=True)",
    "import yaml\nyaml.safe_load(text)",
    "from ruamel.yaml import YAML\nYAML()\nYAML(typ='safe', pure=True).load(file)",
    "import subprocess\nsubprocess.run(['git', 'status'], shell=False)",
    "import defusedxml.ElementTree as ElementTree",
    "yaml = YAML()\nyaml.load(path)",
    "import os\nos.replace(a, b)\nos.path.join(a, b)",
]


@pytest.mark.parametrize("source", BAD)
def test_the_checker_finds(source: str) -> None:
    assert problems(source)


@pytest.mark.parametrize("source", GOOD)
def test_the_checker_lets_pass(source: str) -> None:
    assert problems(source) == []
