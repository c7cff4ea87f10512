"""`dgkd doctor`: whether this machine and this project are fit for `dvc repro`.

Nothing is fetched, and nothing of the project is changed.
"""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal, get_args

from packaging.requirements import Requirement

from dgkd_core.config.params import load_params
from dgkd_core.config.schema import DATA_ROOTS, NOT_USED, Params
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.files import sha256
from dgkd_core.runtime.paths import for_experiments, resolve

Level = Literal["ok", "warn", "problem"]
GB = 10**9
EXTRAS = ("", "pipeline", "export", "serve")
TOLD = ("torch", "torchvision", "transformers", "diffusers", "timm", "dvc", "dvclive")
LITTLE_DISK = 5 * GB  # below that a run of some size ends with a full disk
NO_DISK = GB // 5
LITTLE_MEMORY = 2 * GB  # the built-in scenes take 1.4 GB
LITTLE_SHARED = GB // 2  # of /dev/shm, through which the processes of several GPUs talk


@dataclass(frozen=True)
class Finding:
    """One line: a problem stops `dvc repro`, a warning may spoil it."""

    level: Level
    text: str


ok, warn, problem = (partial(Finding, level) for level in get_args(Level))


def packages() -> Iterator[Finding]:
    """Python and what pyproject.toml asks for: the rest, the chain's and those of other extras."""
    yield ok(f"Python {platform.python_version()}, {platform.system()}")
    wrong: dict[str, list[str]] = {}
    for text in requires("dgkd") or []:
        wanted = Requirement(text)
        marker = wanted.marker
        extra = next((e for e in EXTRAS if not marker or marker.evaluate({"extra": e})), None)
        if extra is None:
            continue
        try:
            found = version(wanted.name)
            if not wanted.specifier.contains(found, prereleases=True):
                what = f"{wanted.name} {found}, expected {wanted.specifier}"
                wrong.setdefault(extra, []).append(what)
        except PackageNotFoundError:
            wrong.setdefault(extra, []).append(f"{wanted.name} is not installed")
    for extra, lines in wrong.items():
        needed = extra in ("", "pipeline")
        whom = "" if needed else f", which `dgkd {extra}` needs"
        get = f"pip install 'dgkd[{extra}]'" if extra else "pip install dgkd"
        yield Finding("problem" if needed else "warn", f"{'; '.join(lines)}{whom} ({get})")
    if not wrong.keys() & {"", "pipeline"}:
        yield ok(", ".join(f"{name} {version(name)}" for name in TOLD))


def _convolve(device: Any) -> None:
    import torch

    layer = torch.nn.Conv2d(3, 8, 3, padding=1).to(device)
    y = layer(torch.ones(2, 3, 32, 32, device=device))
    y.mean().backward()
    if not bool(y.isfinite().all()):
        raise RuntimeError("a convolution gives numbers that are not finite")


def devices() -> Iterator[Finding]:
    """The device that stages would take, and whether a training step's heart beats there."""
    import torch

    from dgkd_core.runtime.device import get_device

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(gpus):
        found = torch.cuda.get_device_properties(index)
        yield ok(f"GPU {index}: {found.name}, {found.total_memory / GB:.0f} GB")
    shared = Path("/dev/shm")
    if gpus > 1 and shared.is_dir() and (free := shutil.disk_usage(shared).free) < LITTLE_SHARED:
        said = f"{shared}: {free / GB:.2f} GB free, little for {gpus} GPUs' processes"
        yield warn(f"{said} (docker: --shm-size)")
    if Path("/proc/driver/nvidia").exists() and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield warn(f"an NVIDIA driver, but torch (built {built}) finds no GPU")
    device = get_device()
    try:
        _convolve(device)
    except RuntimeError as error:
        yield problem(f"device {device}: a convolution fails ({reason(error)})")
        return
    small = "" if device.type == "cuda" else "; the paper's settings need a GPU, the scenes do not"
    yield ok(f"device {device}: a convolution forward and backward{small}")


def machine() -> Iterator[Finding]:
    """Cores, memory, and whether worker processes start."""
    from dgkd_core.runtime.parallel import cores, memory, ordered_map, wanted_workers

    threads = os.environ.get("OMP_NUM_THREADS")
    workers = wanted_workers()
    told = [f"{cores()} cores"]
    told += [f"OMP_NUM_THREADS={threads}"] if threads else []
    told += [f"DGKD_WORKERS={workers}"] if workers is not None else []
    yield ok(", ".join(told))
    few = memory() < LITTLE_MEMORY
    yield Finding("warn" if few else "ok", f"{memory() / GB:.1f} GB of memory")
    if workers != 0:
        list(ordered_map(str, [0], 1))


def _disk(folder: Path, what: str) -> Finding:
    free = shutil.disk_usage(folder).free
    level: Level = "problem" if free < NO_DISK else "warn" if free < LITTLE_DISK else "ok"
    more = "" if level == "ok" else f", expected {LITTLE_DISK / GB:.0f} GB or more"
    return Finding(level, f"{what}: {free / GB:.1f} GB free{more}")


def repository() -> Iterator[Finding]:
    """git, DVC and its cache, and the disks that they lie on; whether DVC bears place and user."""
    import pygit2
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import Git
    from scmrepo.exceptions import SCMError

    here = str(Path.cwd())
    yield _disk(Path(), "this folder")
    if set("{}") & set(here):
        yield problem(f"{here}: DVC fails where a path holds {{ or }}; move the project")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        who = f"user {os.getuid()} has no name in /etc/passwd, and DVC needs one"
        yield problem(f"{who} (export USER=me)")
        return
    try:
        with closing(Repo(str(Path.cwd()))) as repo:
            if isinstance(repo.scm, Git):
                dirty = "changed files" if repo.scm.is_dirty(untracked_files=False) else "clean"
                yield ok(f"git: {repo.scm.get_rev()[:7]}, {dirty}")
                try:
                    pygit2.Repository(repo.scm.root_dir)
                except pygit2.GitError as error:
                    way = f"git config --global --add safe.directory '{repo.scm.root_dir}'"
                    yield problem(f"git: {reason(error)} ({way})")
            else:
                yield warn("git: no repository, so `dvc exp` has nothing to keep it in")
            cache = Path(repo.cache.local.path)
            place = next(path for path in (cache, *cache.parents) if path.exists())
            yield _disk(place, f"DVC's cache {cache}")
            if set("#?") & set(here) or not f"{here}{cache}".isascii():
                said = f"{here}: `dvc exp run --temp` and the queue fail where the project's path"
                yield warn(f"{said} or its cache's holds #, ? or letters beyond ASCII")
    except (DvcException, SCMError, OSError) as error:
        yield problem(f"DVC: {reason(error)} (`dvc init` makes a repository)")


def _data(params: Params) -> Iterator[Finding]:
    from dgkd_core.datasets.find import find

    data = params.data
    if data.kind == "scenes":
        yield ok("data: scenes, drawn by the code")
        return
    found = find(data)
    counts = ", ".join(
        f"{sum(source.split == split for source in found.sources)} {split}"
        for split in ("train", "val")
    )
    if found.problems:
        first = found.problems[0]
        more = f" … and {len(found.problems) - 1} more" if found.problems[1:] else ""
        yield problem(f"data.root: {first}{more} (`prepare` names all)")
    else:
        yield ok(f"data: {data.kind} in {resolve(data.root)}: {counts} pictures")


def _measured(params: Params) -> Iterator[Finding]:
    root = resolve(params.data.depth_root)
    if params.depth.model == "given":
        there = params.data.depth_root != NOT_USED and root.is_dir()
        said = f"data.depth_root: {root}"
        yield ok(said) if there else problem(f"{said} is no folder, expected maps ID.png")


def _watched(params: Params) -> Iterator[Finding]:
    """Data that DVC, which watches it, would not find or not take."""
    data = params.data
    given = {f"data.{key}": getattr(data, key) for key in DATA_ROOTS}
    given |= {f"evaluate.sets.{name}": path for name, path in params.evaluate.sets.items()}
    for key, path in given.items():
        if (ignoring := resolve(path) / ".dvcignore").exists():
            yield problem(f"{key}: {ignoring}: DVC takes no data that holds one; remove it")
        if (absolute := for_experiments(path)) != path:
            said = f"{key}: `dvc exp run --temp` and the queue do not find {path}"
            yield warn(f"{said}; give {absolute}, as `dgkd preset` does")


def _pinned(key: str, path: Path, pin: str | None, kind: str) -> Finding:
    """A file or folder that params name and pin."""
    if not (path.is_file() if kind == "file" else path.is_dir()):
        return problem(f"{key}: {path} is no {kind}")
    if pin is not None and sha256(path) != pin:
        said = f"{key}: {path} is not the pinned one (`dgkd preset` writes the pin anew)"
        return problem(said)
    return ok(f"{key}: {path}" + (", as pinned" if pin else ""))


def _on_hub(hub_id: str, revision: str | None) -> Finding:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError

    from dgkd_core.depth.files import WEIGHTS

    said = f"depth.model: {hub_id}"
    try:
        cached = try_to_load_from_cache(hub_id, WEIGHTS, revision=revision)
    except HFValidationError:
        return problem(f"{said} is neither a folder nor a hub id such as Intel/dpt-large")
    if isinstance(cached, str):
        return ok(f"{said}, in the hub's cache")
    if HF_HUB_OFFLINE:
        lacking = "is neither a folder nor in the hub's cache, and HF_HUB_OFFLINE is set"
        return problem(f"{said} {lacking}")
    return warn(f"{said} is no folder here; depth_model will fetch it from the hub")


def _weights(params: Params) -> Iterator[Finding]:
    model, depth, teacher = params.model, params.depth, params.teacher
    if model.weights == "imagenet":
        yield warn("model.weights: imagenet, fetched from the network when first used")
    elif model.weights is not None:
        path = resolve(model.weights)
        yield _pinned("model.weights", path, model.weights_sha256, "file")
    if depth.model not in ("scenes", "given", "gradient"):
        path = resolve(depth.model)
        local = path.is_dir()
        pin = depth.revision
        yield _pinned("depth.model", path, pin, "folder") if local else _on_hub(depth.model, pin)
    if teacher.model is not None:
        yield _pinned("teacher.model", resolve(teacher.model), teacher.model_sha256, "folder")
    if (before := params.segment.teacher) is not None:
        yield _pinned("segment.teacher", resolve(before), params.segment.teacher_sha256, "folder")


def project() -> Iterator[Finding]:
    """What the params.yaml of this folder asks for, and whether it is there."""
    if not Path("params.yaml").exists():
        here = "no params.yaml here: run it in the project's root to look at data and weights"
        yield warn(here)
        return
    params = load_params()
    yield ok("params.yaml: every value is allowed")
    for part in (_data, _measured, _watched, _weights):
        yield from _guarded(partial(part, params))
    yield from _guarded(repository)


def _guarded(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a part finds; what ends it is a problem."""
    try:
        yield from part()
    except InputError as error:
        yield from (problem(line) for line in str(error).splitlines())
    except (ImportError, OSError) as error:
        yield problem(reason(error))


def examine() -> int:
    """Print what is found; 1 where something would stop `dvc repro`, else 0."""
    counts: Counter[Level] = Counter()
    for part in (packages, devices, machine, project):
        for finding in _guarded(part):
            counts[finding.level] += 1
            print(f"{finding.level:<8} {finding.text}", flush=True)
    problems, warnings = counts["problem"], counts["warn"]
    told = f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    print(f"dgkd doctor: {told}", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0
