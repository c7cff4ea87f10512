"""What a user of DVC relies on, kept by this chain: nothing computed twice, nothing lost."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support import CHAIN, dvc, environment, stages_run
from test_pipeline import READERS, covers, leaves, listed, row_of

from dgkd_core.config.params import validate
from dgkd_core.runtime.errors import InputError

pytestmark = pytest.mark.full
ROOT = Path(__file__).resolve().parent.parent
ONE_CORE = {"OMP_NUM_THREADS": "1"}


def meaning(path: str, content: bytes) -> bytes:
    """A file's bytes; of dvc.lock what it says, since DVC writes null in two ways."""
    return json.dumps(YAML(typ="safe").load(content)).encode() if path == "dvc.lock" else content


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of dvc.lock and of every file of artifacts/ and metrics/."""
    files = [path for name in ("artifacts", "metrics") for path in (folder / name).rglob("*")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            meaning(path.name, path.read_bytes())
        ).hexdigest()
        for path in [folder / "dvc.lock", *files]
        if path.is_file()
    }


def preset(folder: Path, *values: str) -> None:
    """Lay the tiny settings and then ``values`` over params.yaml; others stay."""
    command = ["dgkd", "preset", "tiny", *values]
    subprocess.run(command, cwd=folder, env=environment(), check=True)


def start_dvc(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A DVC command that runs beside the test; all that it says is its stdout."""
    return subprocess.Popen(
        ["dvc", *arguments],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def in_experiment(folder: Path, name: str, path: str) -> bytes:
    """A file as git holds it for the experiment ``name``."""

    def git(*arguments: str) -> bytes:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout

    references = git("for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}").decode()
    return git("show", f"{references.strip()}:{path}")


def test_experiments_at_once_make_what_they_make_one_after_the_other(built: Path) -> None:
    changes = {"one": ["segment.lr=0.002"], "other": ["segment.lr=0.004", "segment.init=weights"]}
    before, running, locks = contents(built), {}, {}
    for name, values in changes.items():
        sets = [f"--set-param={value}" for value in values]
        running[name] = start_dvc(built, "exp", "run", "--temp", "-n", name, *sets, **ONE_CORE)
    said = {name: process.communicate()[0] for name, process in running.items()}
    for name, process in running.items():
        assert process.returncode == 0, said[name]
        assert stages_run(said[name]) == ["segment", "evaluate", "package", "report"]
    assert contents(built) == before
    for name, values in changes.items():
        preset(built, *values)
        output = dvc(built, "repro", "--no-run-cache", **ONE_CORE)
        assert stages_run(output) == ["segment", "evaluate", "package", "report"]
        for path in ["dvc.lock", *(path for path in contents(built) if "metrics/" in path)]:
            found = meaning(path, in_experiment(built, name, path))
            assert found == meaning(path, (built / path).read_bytes()), (name, path)
        locks[name] = meaning("dvc.lock", (built / "dvc.lock").read_bytes())
    assert locks["one"] != locks["other"]


def test_going_back_to_earlier_parameters_restores_all_and_computes_nothing(built: Path) -> None:
    before, changed = contents(built), ["refine", "segment", "evaluate", "package", "report"]
    preset(built, "refine.margin=0.2")
    assert stages_run(dvc(built, "repro")) == changed
    assert contents(built) != before
    preset(built, "refine.margin=0.1")
    output = dvc(built, "repro")
    assert stages_run(output) == []
    skipped = re.findall(r"'(\w+)' is cached - skipping run, checking out outputs", output)
    assert skipped == changed
    assert contents(built) == before


def test_a_clone_pulls_every_artifact_and_has_nothing_to_run(built: Path, tmp_path: Path) -> None:
    remote, clone = str(tmp_path / "remote"), tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(built), str(clone)], check=True)
    assert not (clone / "artifacts").exists()
    for folder, command in ((built, "push"), (clone, "pull")):
        dvc(folder, "remote", "add", "--local", "--force", "--default", "store", remote)
        dvc(folder, command)
    assert contents(clone) == contents(built)
    output = dvc(clone, "repro")
    assert "Data and pipelines are up to date" in output
    assert len(re.findall(r"Stage '\w+' didn't change, skipping", output)) == len(CHAIN)
    status = ["git", "status", "--porcelain"]
    assert subprocess.run(status, cwd=clone, check=True, capture_output=True).stdout == b""


@dataclass(frozen=True)
class Beside:
    """A forced repro with two data processes, and the repro that was tried while it ran."""

    forced: str
    refused: str
    status: int
    pid: int
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def beside(chain: Path) -> Beside:
    before = contents(chain)
    forced = start_dvc(chain, "repro", "--force", DGKD_WORKERS="2")
    assert forced.stdout is not None
    lines: Iterator[str] = iter(forced.stdout)
    said = next((line for line in lines if stages_run(line)), "")
    second = start_dvc(chain, "repro")
    refused, _ = second.communicate()
    said += "".join(lines)
    assert forced.wait() == 0, said
    return Beside(said, refused, second.returncode, forced.pid, before, contents(chain))


def test_a_forced_repro_repeats_every_byte_with_two_data_processes(beside: Beside) -> None:
    assert sorted(stages_run(beside.forced)) == sorted(CHAIN)
    assert beside.after == beside.before


def test_a_second_repro_meanwhile_names_the_first_and_runs_nothing(beside: Beside) -> None:
    assert beside.status == 255
    assert re.search(
        rf"ERROR: failed to reproduce '\w+': '.+' is busy, it is being blocked by:\n"
        rf"  \(PID {beside.pid}\): .*dvc repro --force\n",
        beside.refused,
    ), beside.refused
    assert stages_run(beside.refused) == []
    assert "Traceback" not in beside.refused


# values to change a parameter to: the first that is allowed
OTHERS = (
    *("data/none", "data/scenes", "other", "0" * 64, "resnet18", "folder", "simple", "paper"),
    *("gamma", "identity", "weights", "trained", "frozen", "best", "sgd", "teacher"),
    *("kaiming", "none", "normal", 0.5, 8, 32, 2, 0, True, False),
    *([4, 16], [1, 2, 3], ["map"], [0.5, 0.5], [0.1, 0.1, 0.1, 0.1]),
)


def replaced(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested values with other ones at dotted keys."""
    values = copy.deepcopy(values)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        section[last] = value
    return values


def another(values: dict[str, Any], leaf: str) -> Any:
    """A value of ``leaf`` other than its own that is allowed (of a folder: scenes fix more)."""
    for value in OTHERS:
        if value == leaves(values)[leaf]:
            continue
        with suppress(InputError):
            validate(replaced(values, {"data.kind": "folder", leaf: value}))
            return value
    raise AssertionError(f"{leaf}: no other value is allowed, add one to OTHERS")


def test_dvc_reruns_the_stages_of_the_table(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One parameter of every key that dvc.yaml names, by DVC's own judgement."""
    from dvc.repo import Repo

    from dgkd_core.data.pictures import encode_rgb
    from dgkd_core.scenes.drawing import render

    dusk = built.parent / "dusk"
    dusk.mkdir()
    (dusk / "0.png").write_bytes(encode_rgb(render(9, "dusk", 0, 40).image // 16))
    preset(built, "evaluate.sets={dusk: ../dusk}")
    assert stages_run(dvc(built, "repro")) == ["testset@dusk", "report"]
    yaml, params = YAML(typ="safe", pure=True), built / "params.yaml"
    values = yaml.load(params)
    keys = set().union(*listed(built).values())
    representative = {
        (row_of(leaf), *sorted(key for key in keys if covers(key, leaf))): leaf
        for leaf in leaves(values)
    }
    monkeypatch.chdir(built)  # DVC names stages from here
    found = {}
    with closing(Repo(str(built))) as repo:
        assert repo.status() == {}
        for leaf in representative.values():
            yaml.dump(replaced(values, {leaf: another(values, leaf)}), params)
            found[leaf] = {stage.split("@")[0] for stage in repo.status()}
    assert found == {leaf: {"report", *READERS[row_of(leaf)].split()} for leaf in found}


def test_a_further_test_set_runs_alone_and_again_when_its_pictures_change(built: Path) -> None:
    from dgkd_core.data.pictures import encode_rgb
    from dgkd_core.scenes.drawing import render

    night = built.parent / "night photos"
    night.mkdir()
    for index in range(2):
        (night / f"{index}.png").write_bytes(encode_rgb(render(9, "night", index, 40).image // 16))
    before = (built / "params.yaml").read_bytes()
    sets = ["dgkd", "preset", "tiny", "evaluate.sets={night: ../night photos}"]
    subprocess.run(sets, cwd=built, env=environment(), check=True)
    try:
        assert stages_run(dvc(built, "repro")) == ["testset@night", "report"]
        metrics = json.loads((built / "metrics/testset/night.json").read_text())
        assert metrics["pictures"] == {"count": 2, "scored": 0}
        assert "metrics/testset/night.json" in dvc(built, "metrics", "show")
        assert stages_run(dvc(built, "repro")) == []
        (night / "2.png").write_bytes(encode_rgb(render(9, "night", 2, 40).image // 16))
        assert stages_run(dvc(built, "repro", "--dry")) == ["testset@night"]
    finally:
        (built / "params.yaml").write_bytes(before)
    (built / "metrics/testset/night.json").unlink()
    assert stages_run(dvc(built, "repro", "--dry")) == ["report"]
    assert stages_run(dvc(built, "repro")) == []  # DVC has that page still


def test_an_experiment_in_a_temporary_folder_follows_relative_paths(
    built: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`dvc exp run --temp` with data.depth_root outside the project, given relatively."""
    import numpy as np

    from dgkd_core.data.manifest import read_manifest
    from dgkd_core.data.pictures import encode_depth

    outside = built.parent / "measured"
    outside.mkdir(exist_ok=True)
    for entry in read_manifest(built / "artifacts/prepare").entries:
        depth = np.linspace(0, 1, 20 * 20).reshape(20, 20)
        (outside / f"{entry.id}.png").write_bytes(encode_depth(depth))
    subprocess.run(
        ["dgkd", "preset", "tiny", "depth.model=given", "data.depth_root=../measured"],
        cwd=built,
        env=environment(),
        check=True,
    )
    output = dvc(built, "exp", "run", "--temp", "-n", "measured-depth", "-S", "distill.lambda=0")
    ran = stages_run(output)
    assert "depth" in ran
    assert "distill" in ran
    assert not {"prepare", "darken", "teacher"} & set(ran)
    difference = json.loads(dvc(built, "metrics", "diff", "HEAD", "measured-depth", "--json"))
    assert "metrics/depth.json" in json.dumps(difference)


def test_the_segmenter_is_had_by_its_name_and_version(built: Path, tmp_path: Path) -> None:
    tag = ["git", "tag", "-a", "segmenter@v1.0.0", "-m", "the first"]  # DVC sees annotated ones
    subprocess.run(tag, cwd=built, check=True)
    try:
        got = tmp_path / "model"
        dvc(
            tmp_path, "artifacts", "get", str(built), "segmenter", "--rev", "v1.0.0", "-o", str(got)
        )
    finally:
        subprocess.run(["git", "tag", "-d", "segmenter@v1.0.0"], cwd=built, check=True)
    made = built / "artifacts/model"
    names = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert names
    assert {path.relative_to(got) for path in got.rglob("*") if path.is_file()} == names
    assert all((got / name).read_bytes() == (made / name).read_bytes() for name in names)
