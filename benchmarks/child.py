"""One case of a benchmark in a process of its own, so that its peak memory is its own.

    python -m benchmarks.child NAME CASE FOLDER

FOLDER is a temporary one: options.json is read there, and records.json written. NAME `DRAW` draws
the pictures that the others find there.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Record
from benchmarks.names import DRAW
from benchmarks.options import Options, check_dtype
from benchmarks.pictures import draw
from dgkd_core.runtime.errors import InputError


def prepare(options: Options) -> None:
    """Torch as the stages have it (`dgkd_core.runtime.device.start`), with the options' threads."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.params.seed)
    torch.use_deterministic_algorithms(options.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not options.deterministic
    if options.where.type == "cuda":
        torch.cuda.set_device(options.where)
    check_dtype(options.where, options.autocast())


def run(name: str, case: str, options: Options, folder: Path) -> list[Record]:
    """Run one case of a benchmark in this process.

    Raises:
        InputError: the options do not fit this machine, or its memory ran out.
    """
    prepare(options)
    if name == DRAW:
        draw(options, folder)
        return []
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        found: list[Record] = module.run(options, folder, case)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{name}: out of memory on {options.device}, try a smaller size"
        ) from error
    return found


def main() -> None:
    name, case, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    options = Options.from_dict(json.loads((folder / "options.json").read_text(encoding="utf-8")))
    answer: dict[str, Any]
    try:
        answer = {"records": [record.as_dict() for record in run(name, case, options, folder)]}
    except InputError as error:
        answer = {"error": str(error)}
    (folder / "records.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
