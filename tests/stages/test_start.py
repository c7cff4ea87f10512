"""How a stage starts: with one line where something lacks, and only with the packages it uses."""

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
HEAVY = ("accelerate", "diffusers", "dvclive", "timm", "torchvision", "transformers")
LIGHT = ("prepare", "darken", "depth_adapt", "report")  # depth_adapt mostly does nothing
IMPORT_EACH = """
import importlib, json, os, sys
found = {}
for stage in sys.argv[3:]:
    if stage == "torch":  # what follows needs it, and it takes seconds
        import torch
        continue
    reading, writing = os.pipe()
    if os.fork() == 0:
        importlib.import_module(stage)
        with os.fdopen(writing, "w") as out:
            json.dump(sorted(set(json.loads(sys.argv[2])) & set(sys.modules)), out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as out:
        found[stage] = json.load(out)
print(json.dumps(found))
"""


def test_missing_packages_and_missing_params_are_one_line_and_status_1(tmp_path: Path) -> None:
    """-S leaves site-packages out, -E the environment's PYTHONPATH."""

    def said(*words: str, stage: str = "prepare") -> str:
        command = [sys.executable, *words, str(ROOT / f"stages/{stage}.py")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (1, "", [])
        (line,) = done.stderr.splitlines()
        return line

    assert len(STAGES) == 14
    for stage in STAGES:
        line = said("-S", "-E", stage=stage)
        assert line.startswith(f"{stage}: this Python ({sys.executable}) lacks torch, ")
        assert "ruamel.yaml" in line
        assert line.endswith("run `make setup` once, then `source .venv/bin/activate`")
    expected = "prepare: params.yaml: no such file; run from the project's root folder"
    assert said() == expected


def test_a_stage_imports_what_it_uses_when_it_uses_it() -> None:
    """No stage module brings in more than torch; those that need no torch not even that."""
    others = sorted(set(STAGES) - set(LIGHT))
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1])" + IMPORT_EACH]
    done = subprocess.run(
        [*command, ROOT / "stages", json.dumps([*HEAVY, "torch"]), *LIGHT, "torch", *others],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found == {stage: [] if stage in LIGHT else ["torch"] for stage in STAGES}
