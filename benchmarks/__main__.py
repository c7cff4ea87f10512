"""The command: measure on this machine, or compare what two machines or versions gave.

Torch is imported where something is measured only, so that --help and --compare answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.names import CASES, DRAW, NO_PICTURES, cases
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import write_json

DESCRIPTION = """\
Measure on the machine at hand: seconds (median and quartiles) and peak memory. Sizes that are not
given are those of params.yaml. Run from the project's root.

  step       a distillation step, split into waiting for data, student, PAMR, teacher, denoisers,
             DIST, backward and optimizer
  train      the same step inside the training loop itself, not split
  pamr       PAMR in training and in refine        dist    DIST, forwards and backwards
  inference  the student at several scales         cam     a batch of the cam stage
  depth      a batch of the depth stage            darken  the darken stage's pictures
  data       batches of training pictures alone
  export     the segmenter on one picture: PyTorch, and its ONNX file in onnxruntime
"""
EXAMPLES = """\
examples:
  python -m benchmarks --out before.json
  python -m benchmarks step --backbone wide_resnet38 --crop 129 --batch 2 --device cpu
  python -m benchmarks --compare before.json after.json
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SystemExit(f"benchmarks: {message}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(
        "python -m benchmarks",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, flag = made.add_argument, argparse.BooleanOptionalAction
    add("names", nargs="*", metavar="NAME", help="what to measure; all where none is given")
    add("--backbone", metavar="NAME", help="model.backbone")
    add("--width", type=int, metavar="N", help="model.width, channels of the head")
    add("--crop", type=int, metavar="PIXELS", help="distill.crop")
    add("--batch", type=int, metavar="N", help="batch of distill, cam and depth")
    add("--size", type=int, metavar="PIXELS", help="side of a picture (4/3 of the crop)")
    add("--classes", type=int, metavar="N", help="foreground classes (6)")
    add("--device", help="cpu, cuda or cuda:N (that of the stages)")
    add("--dtype", help="float32, bfloat16 or float16, of the networks (that of the stages)")
    add("--threads", type=int, metavar="N", help="of torch, and processes of darken")
    add("--warmup", type=int, default=2, metavar="N", help="calls before the timed ones (2)")
    add("--repeats", type=int, default=5, metavar="N", help="timed calls (5)")
    add("--channels-last", action=flag, default=True, help="layout of the step's tensors")
    add("--compile", action=flag, default=False, help="torch.compile in the step")
    add("--deterministic", action=flag, default=None, help="deterministic algorithms only")
    add("--straightforward", action="store_true", help="pamr: its formula written out, too")
    add("--out", type=Path, metavar="FILE", help="write the JSON there, not after the table")
    add("--compare", nargs=2, metavar=("A", "B"), help="ratios of two such files, B over A")
    return made


def _options(args: argparse.Namespace) -> Any:
    import torch

    from benchmarks.options import (
        DTYPES,
        Options,
        check_device,
        check_dtype,
        default_size,
        laid_over,
    )
    from dgkd_core.config.params import load_params
    from dgkd_core.runtime.device import get_device

    params = laid_over(load_params(), vars(args))
    if args.dtype is not None and args.dtype not in DTYPES:
        raise InputError(f"--dtype is {args.dtype!r}, expected {', '.join(DTYPES)}")
    if args.device is not None:
        check_device(args.device)
    usual = {} if args.classes is None else {"classes": args.classes}
    options = Options(
        params,
        args.device or str(get_device()),
        args.dtype,
        torch.get_num_threads() if args.threads is None else args.threads,
        args.warmup,
        args.repeats,
        default_size(params.distill.crop) if args.size is None else args.size,
        channels_last=args.channels_last,
        compile=args.compile,
        deterministic=params.deterministic if args.deterministic is None else args.deterministic,
        straightforward=args.straightforward,
        **usual,
    )
    check_dtype(options.where, options.autocast())
    return options


def _environment(options: Any, folder: Path) -> dict[str, str]:
    """For a child: it finds this package, and writes into ``folder`` only."""
    path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    threads = str(options.threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def _in_child(name: str, case: str, options: Any, folder: Path) -> list[dict[str, Any]]:
    """The records of one case of a benchmark, from a process of its own."""
    (folder / "options.json").write_text(json.dumps(options.as_dict()), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", name, case, str(folder)],
        env=_environment(options, folder),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise InputError(f"{name}: killed by signal {-done.returncode} (out of memory?)")
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        print(done.stderr, file=sys.stderr)
        raise InputError(f"{name}: {lines[-1]}")
    answer = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    if "error" in answer:
        raise InputError(answer["error"])
    records: list[dict[str, Any]] = answer["records"]
    return records


def _measure(
    names: Sequence[str], options: Any, folder: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of all cases of some benchmarks, and what went wrong, a line each."""
    records: list[dict[str, Any]] = []
    problems = []
    if not set(names) <= set(NO_PICTURES):
        _in_child(DRAW, "", options, folder)
    for name, case in ((n, c) for n in names for c in cases(n, options.straightforward)):
        label = f"{name}, {case}" if case else name
        print(f"benchmarks: {label} ...", file=sys.stderr, flush=True)
        try:
            found = _in_child(name, case, options, folder)
        except InputError as error:
            problems.append(str(error))
            continue
        if not found:
            print(f"benchmarks: {label}: not with these options, left out", file=sys.stderr)
        records += found
    return records, list(dict.fromkeys(problems))  # several cases may say the same


def _run(args: argparse.Namespace) -> list[str]:
    """Measure, print, write; returns what went wrong, a line each."""
    from benchmarks.machine import describe, load
    from benchmarks.report import summary

    for name in args.names:
        if name not in CASES:
            raise InputError(f"{name!r} is no benchmark, expected {', '.join(CASES)}")
    if args.out is not None and args.out.is_dir():
        raise InputError(f"--out is {args.out}, a folder, expected a file")
    before, options = load(), _options(args)
    with tempfile.TemporaryDirectory(prefix="benchmarks.") as folder:
        names = list(dict.fromkeys(args.names or CASES))
        records, problems = _measure(names, options, Path(folder))
    if records:
        report = {
            "machine": describe(options, before),
            "options": options.summary(),
            "records": records,
        }
        print(summary(report), flush=True)
        if args.out is None:
            print("\n" + json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
        else:
            write_json(args.out, report)
    return problems


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; unusable input ends with one line and exit status 1."""
    args = parser().parse_args(arguments)
    try:
        if args.compare:
            from benchmarks.report import compare, read_report

            print(compare(*map(read_report, args.compare)))
            return
        problems = _run(args)
    except InputError as error:
        problems = [str(error)]
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        problems = [f"{name}{error.strerror or error}"]
    except KeyboardInterrupt:
        problems = ["interrupted"]
    if problems:
        sys.exit("\n".join(f"benchmarks: {line}" for line in problems))


if __name__ == "__main__":
    main()
