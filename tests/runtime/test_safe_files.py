"""The project's own sources: nothing in them runs what a file says.

Ruff's rules know modules and functions however they were imported; keywords that a call must have
are looked up in the syntax tree. Both are there for slips, not for malice.
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
# exec, pickles, eval, YAML with code, shells, star imports, BANNED
RULES = "S102,S301,S302,S307,S506,S602,S604,S605,S606,F403,TID251"
BANNED = (
    *("pickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib", "code", "runpy"),
    *("xml", "lxml", "importlib.import_module", "shutil.unpack_archive", "pandas.eval"),
    *("torch.jit.load", "torch.hub", "torch.package"),
)
CALLS = ("compile", "__import__")
KEYWORDS = (  # the end of a function's name, a keyword that it must have, and the value
    ("torch.load", "weights_only", "True"),
    ("np.load", "allow_pickle", "False"),
    ("from_pretrained", "trust_remote_code", "False"),
)
VALUES = {  # that a keyword may have, in whatever call
    "weights_only": ("True",),
    "allow_pickle": ("False",),
    "trust_remote_code": ("False",),
    "use_safetensors": ("True",),
    "typ": ("'safe'", "'rt'", "'base'"),  # of YAML; base makes text of everything
}


def _by_ruff(folder: Path) -> Iterator[tuple[Path, str]]:
    banned = ", ".join(f'"{name}" = {{msg = ""}}' for name in BANNED)
    words = f"check --isolated --ignore-noqa --output-format json --select {RULES}".split()
    config = ["--config", f"lint.flake8-tidy-imports.banned-api = {{{banned}}}"]
    command = [str(Path(sys.executable).parent / "ruff"), *words, *config, str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    for found in json.loads(done.stdout):
        yield Path(found["filename"]), found["message"]


def _by_keywords(path: Path) -> Iterator[tuple[Path, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name, call = ast.unparse(node.func), ast.unparse(node)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            lacks = any(
                name.endswith(f) and given.get(key) != wanted for f, key, wanted in KEYWORDS
            )
            wrong = any(given.get(key, kinds[0]) not in kinds for key, kinds in VALUES.items())
            if lacks or wrong or name in CALLS or name.endswith(".extractall"):
                yield path, call


def _problems(folder: Path) -> list[tuple[Path, str]]:
    by_keywords = (found for path in folder.rglob("*.py") for found in _by_keywords(path))
    return [*_by_ruff(folder), *by_keywords]


def test_no_source_runs_what_a_file_says() -> None:
    assert [found for folder in FOLDERS for found in _problems(folder)] == []


BAD = [
    "import torch\ntorch.load(p)",
    "import torch\ntorch.load(p, None, weights_only=flag)",
    "import torch as t\nt.load(p, weights_only=False)",
    "from torch import load\nload(p, weights_only=False)",
    "from torch import jit\njit.load(p)",
    "import torch.hub\ntorch.hub.load('a/b', 'c')",
    "def f():\n    import marshal",
    "import numpy as np\nnp.load(p)",
    "import numpy as np\nnp.save(p, a, allow_pickle=True)",
    "import pandas as pd\npd.read_pickle(p)",
    "AutoImageProcessor.from_pretrained(source, **hub)",
    "AutoModel.from_config(config, trust_remote_code=trust)",
    "AutoModel.from_pretrained(s, trust_remote_code=False, use_safetensors=False)",
    "eval(text)",
    "exec(text)",
    "__import__(name)",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
    "import os\nos.execvp(name, words)",
    "from subprocess import Popen\nPopen(text, shell=True)",
    "from xml.dom import minidom",
    "import zipfile\nzipfile.ZipFile(p).extractall(out)",
    "from torch import *",
]
GOOD = [
    "import torch\ntorch.load(p, map_location='cpu', weights_only=True)",
    "import numpy as np\nnp.load(p, allow_pickle=False)\nnp.save(p, a)",
    "model.eval()\nmodel.load_state_dict(state)",
    "AutoModel.from_pretrained(s, trust_remote_code=False, use_safetensors=True)",
    "from ruamel.yaml import YAML\nYAML(typ='safe', pure=True).load(file)",
    "import subprocess\nsubprocess.run(['git', 'status'])",
    "import defusedxml.ElementTree as ElementTree",
]


def test_the_checks_find_what_is_bad_and_let_pass_what_is_good(tmp_path: Path) -> None:
    for i, source in enumerate([*BAD, *GOOD]):
        (tmp_path / f"{i}.py").write_text(source)
    found = {int(path.stem) for path, _ in _problems(tmp_path)}
    assert [(BAD + GOOD)[i] for i in sorted(found)] == BAD
