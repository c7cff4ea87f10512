"""What a user of DVC relies on, kept by this chain: nothing computed twice, nothing lost."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from support import CHAIN, dvc, environment, stages_run

from dgkd_core.data.manifest import read_manifest
from dgkd_core.data.pictures import encode_depth, encode_rgb
from dgkd_core.runtime.files import sha256
from dgkd_core.scenes.drawing import render

pytestmark = pytest.mark.full
ONE_CORE = {"OMP_NUM_THREADS": "1"}


def meaning(path: str, content: bytes) -> bytes:
    """A file's bytes; of dvc.lock what it says, since DVC writes null in two ways."""
    return json.dumps(YAML(typ="safe").load(content)).encode() if path == "dvc.lock" else content


def contents(folder: Path) -> dict[str, bytes]:
    """dvc.lock and every file of artifacts/ and metrics/."""
    files = [path for name in ("artifacts", "metrics") for path in (folder / name).rglob("*")]
    return {
        path.relative_to(folder).as_posix(): meaning(path.name, path.read_bytes())
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
        now = contents(built)
        for path in ["dvc.lock", *(path for path in now if "metrics/" in path)]:
            assert meaning(path, in_experiment(built, name, path)) == now[path], (name, path)
        locks[name] = now["dvc.lock"]
    assert locks["one"] != locks["other"]


def test_going_back_to_earlier_parameters_restores_all_and_computes_nothing(built: Path) -> None:
    before, changed = contents(built), ["refine", "segment", "evaluate", "package", "report"]
    preset(built, "refine.margin=0.9")
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


def test_a_forced_repro_repeats_every_byte_and_a_second_one_meanwhile_names_it(
    built: Path,
) -> None:
    """With two data processes."""
    before = contents(built)
    forced = start_dvc(built, "repro", "--force", DGKD_WORKERS="2")
    assert forced.stdout is not None
    said = next((line for line in forced.stdout if stages_run(line)), "")
    second = start_dvc(built, "repro")
    refused, _ = second.communicate()
    said += forced.communicate()[0]
    assert forced.returncode == 0, said
    assert sorted(stages_run(said)) == sorted(CHAIN)
    assert contents(built) == before
    assert second.returncode == 255
    assert re.search(
        rf"ERROR: failed to reproduce '\w+': '.+' is busy, it is being blocked by:\n"
        rf"  \(PID {forced.pid}\): .*dvc repro --force\n",
        refused,
    ), refused
    assert stages_run(refused) == []
    assert "Traceback" not in refused


def draw_night(folder: Path, *numbers: int) -> None:
    """Dark scenes NUMBER.png."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        picture = encode_rgb(render(9, "night", number, 40).image // 16)
        (folder / f"{number}.png").write_bytes(picture)


def test_a_further_test_set_runs_alone_and_again_when_its_pictures_change(built: Path) -> None:
    night = built.parent / "night photos"
    draw_night(night, 0, 1)
    before = (built / "params.yaml").read_bytes()
    preset(built, "evaluate.sets={night: ../night photos}")
    assert stages_run(dvc(built, "repro")) == ["testset@night", "report"]
    metrics = json.loads((built / "metrics/testset/night.json").read_text())
    assert metrics["pictures"] == {"count": 2, "scored": 0}
    assert "metrics/testset/night.json" in dvc(built, "metrics", "show")
    assert stages_run(dvc(built, "repro")) == []
    draw_night(night, 2)
    assert stages_run(dvc(built, "repro", "--dry")) == ["testset@night"]
    (built / "params.yaml").write_bytes(before)
    (built / "metrics/testset/night.json").unlink()
    assert stages_run(dvc(built, "repro", "--dry")) == ["report"]
    assert stages_run(dvc(built, "repro")) == []  # DVC has that page still


def test_an_experiment_in_a_temporary_folder_follows_relative_paths(built: Path) -> None:
    """`dvc exp run --temp` with data.depth_root outside the project, given relatively."""
    outside = built.parent / "measured"
    outside.mkdir(exist_ok=True)
    for entry in read_manifest(built / "artifacts/prepare").entries:
        depth = np.linspace(0, 1, 20 * 20).reshape(20, 20)
        (outside / f"{entry.id}.png").write_bytes(encode_depth(depth))
    preset(built, "depth.model=given", "data.depth_root=../measured")
    output = dvc(built, "exp", "run", "--temp", "-n", "measured-depth", "-S", "distill.lambda=0")
    ran = set(stages_run(output))
    assert {"depth", "distill"} <= ran
    assert not {"prepare", "darken", "teacher"} & ran
    difference = json.loads(dvc(built, "metrics", "diff", "HEAD", "measured-depth", "--json"))
    assert "metrics/depth.json" in json.dumps(difference)


def test_the_segmenter_is_had_by_its_name_and_version(built: Path, tmp_path: Path) -> None:
    tag = ["git", "tag", "-a", "segmenter@v1.0.0", "-m", "the first"]  # DVC sees annotated ones
    subprocess.run(tag, cwd=built, check=True)
    try:
        got = tmp_path / "model"
        words = ["artifacts", "get", str(built), "segmenter", "--rev", "v1.0.0", "-o", str(got)]
        dvc(tmp_path, *words)
    finally:
        subprocess.run(["git", "tag", "-d", "segmenter@v1.0.0"], cwd=built, check=True)
    assert sha256(got) == sha256(built / "artifacts/model")
