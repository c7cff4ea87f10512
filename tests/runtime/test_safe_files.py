"""The project's own sources: nothing in them runs what a file says.

Ruff knows modules and functions however they were imported; keywords that a call must have are
looked up in the syntax tree. What is computed at run time (``getattr(torch, "lo" + "ad")``) is
beyond both: they are there for slips, not for malice.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

FOLDERS = [ROOT / name for name in ("dgkd_core", "stages", "tools", "benchmarks")]
RULES = "F403,S602,S604,S605,S606,TID251"  # star imports, shells, BANNED
BANNED = (
    *("pickle", "_pickle", "cPickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"),
    *("xml", "lxml", "runpy", "code", "importlib.import_module", "pty.spawn"),
    *("asyncio.create_subprocess_shell", "shutil.unpack_archive", "pandas.read_pickle"),
    *("torch.jit.load", "torch.hub.load", "torch.package", "pandas.eval"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load"),
)
BANNED_FUNCTIONS = ("eval", "exec", "compile", "__import__")
BANNED_METHODS = ("extractall", "to_pickle", "load_state_dict_from_url")
NEEDED = {  # a keyword that a call must have
    "torch.load": "weights_only",
    "np.load": "allow_pickle",
    "from_pretrained": "trust_remote_code",
}
FIXED = {  # the values that a keyword may have, in whatever call
    "weights_only": ("True",),
    "allow_pickle": ("False",),
    "trust_remote_code": ("False",),
    "use_safetensors": ("True",),
    "typ": ("'safe'", "'rt'", "'base'"),  # of YAML; base makes text of everything
}


def _by_ruff(*places: Path) -> Iterator[tuple[Path, str]]:
    banned = ", ".join(f'"{name}" = {{msg = ""}}' for name in BANNED)
    words = f"check --isolated --ignore-noqa --output-format json --select {RULES}".split()
    config = ["--config", f"lint.flake8-tidy-imports.banned-api = {{{banned}}}"]
    command = [str(Path(sys.executable).parent / "ruff"), *words, *config, *map(str, places)]
    done = subprocess.run(command, capture_output=True, check=False)
    for found in json.loads(done.stdout):
        yield Path(found["filename"]), found["message"]


def _by_keywords(path: Path) -> Iterator[tuple[Path, str]]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    given = {id(call.func): {keyword.arg for keyword in call.keywords} for call in calls}
    for node in nodes:
        match node:
            case ast.Import(names):
                bad = any(name.name == "torch" and name.asname for name in names)
            case ast.ImportFrom("torch" | "numpy", names):
                bad = any(name.name == "load" for name in names)
            case ast.Name(name, ast.Load()):
                bad = name in BANNED_FUNCTIONS
            case ast.Attribute(value, name):
                whole = f"{value.id}.{name}" if isinstance(value, ast.Name) else name
                needed = NEEDED.get(whole) or NEEDED.get(name)
                lacks = needed is not None and needed not in given.get(id(node), ())
                bad = lacks or name in BANNED_METHODS
            case ast.keyword(name, value):
                bad = name in FIXED and ast.unparse(value) not in FIXED[name]
            case ast.Call(ast.Name(name) | ast.Attribute(_, name), [_, *_]):
                bad = name in ("YAML", "query")  # a type by position; an expression of pandas
            case _:
                bad = False
        if bad:
            yield path, ast.unparse(node)


def _problems(*folders: Path) -> list[tuple[Path, str]]:
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    return [*_by_ruff(*folders), *(found for path in sources for found in _by_keywords(path))]


def test_no_source_runs_what_a_file_says() -> None:
    assert _problems(*FOLDERS) == []


BAD = [
    "import torch\ntorch.load(p)",
    "import torch\ntorch.load(p, weights_only=False)",
    "import torch\ntorch.load(p, None, weights_only=flag)",
    "import torch as t\nt.load(p, **options)",
    "from torch import load\nload(p)",
    "import torch\nread = torch.load",
    "from torch import jit\njit.load(p)",
    "import torch.hub\ntorch.hub.load('a/b', 'c')",
    "import pickle as p",
    "from _pickle import loads",
    "def f():\n    import marshal",
    "import numpy as np\nnp.load(p)",
    "import numpy as np\nnp.save(p, a, allow_pickle=True)",
    "import pandas as pd\npd.read_pickle(p)",
    "frame.query(text)",
    "AutoImageProcessor.from_pretrained(source, **hub)",
    "AutoModel.from_config(config, trust_remote_code=trust)",
    "load = AutoModel.from_pretrained",
    "AutoModel.from_pretrained(s, trust_remote_code=False, use_safetensors=False)",
    "run = eval",
    "exec(text)",
    "__import__(name)",
    "import importlib as i\ni.import_module(name)",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    "from yaml import full_load",
    "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
    "from ruamel.yaml import YAML\nYAML('unsafe')",
    "from os import popen\npopen(text)",
    "import os\nos.execvp(name, words)",
    "from subprocess import Popen\nPopen(text, shell=True)",
    "from xml.dom import minidom",
    "import zipfile\nzipfile.ZipFile(p).extractall(out)",
    "from torch import *",
]
GOOD = [
    "import torch\ntorch.load(p, map_location='cpu', weights_only=True)",
    "import json\njson.load(file)",
    "import numpy as np\nnp.load(p, allow_pickle=False)\nnp.save(p, a)",
    "model.eval()\nmodel.load_state_dict(state)",
    "AutoModel.from_pretrained(s, trust_remote_code=False, use_safetensors=True)",
    "from ruamel.yaml import YAML\nYAML()\nYAML(typ='safe', pure=True).load(file)",
    "import subprocess\nsubprocess.run(['git', 'status'])",
    "import defusedxml.ElementTree as ElementTree",
]


def test_the_checks_find_what_is_bad_and_let_pass_what_is_good(tmp_path: Path) -> None:
    for i, source in enumerate([*BAD, *GOOD]):
        (tmp_path / f"{i}.py").write_text(source)
    found = {int(path.stem) for path, _ in _problems(tmp_path)}
    assert [(BAD + GOOD)[i] for i in sorted(found)] == BAD
