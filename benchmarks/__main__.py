"""The command: measure on this machine, or compare what two machines or versions gave."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.options import CASES, DTYPES, USUAL, Options
from benchmarks.report import compare, read_report, summary
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import read_json, write_json
from dgkd_core.runtime.parallel import cores

DESCRIPTION = """\
Measure on the machine at hand: seconds (median and quartiles) and peak memory. Sizes that are not
given are those of params.yaml. Run from the project's root.

  step       a step of the distill stage, split into waiting for data, student, PAMR, teacher,
             denoisers, DIST, backward and optimizer
  train      the same step, not split
  inference  the student at several scales         cam     a batch of the cam stage
  depth      a batch of the depth stage            darken  the darken stage's pictures
  data       batches of training pictures alone
  export     the segmenter on one picture: PyTorch, and its ONNX file in onnxruntime
  backbones  train with one backbone after the other (only where it is named)
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
    add = made.add_argument
    add("names", nargs="*", metavar="NAME", help="what to measure (all but backbones)")
    add("--backbone", metavar="NAME", help="model.backbone")
    add("--width", type=int, metavar="N", help="model.width, channels of the head")
    add("--crop", type=int, metavar="PIXELS", help="distill.crop")
    add("--batch", type=int, metavar="N", help="batch of distill, cam and depth")
    add("--size", type=int, metavar="PIXELS", help="side of a picture (4/3 of the crop)")
    add("--classes", type=int, default=6, metavar="N", help="foreground classes (6)")
    add("--device", help="cpu, cuda or cuda:N (that of the stages)")
    add("--dtype", default=DTYPES[0], choices=DTYPES, help="of inference and cam (float32)")
    add("--threads", type=int, metavar="N", help="threads; of darken also processes")
    add("--warmup", type=int, default=2, metavar="N", help="calls before the timed ones (2)")
    add("--repeats", type=int, default=5, metavar="N", help="timed calls (5)")
    add("--compile", action=argparse.BooleanOptionalAction, help="compile: torch.compile the step")
    add("--out", type=Path, metavar="FILE", help="write the JSON there, not after the table")
    add("--compare", nargs=2, metavar=("A", "B"), help="ratios of two such files, B over A")
    return made


def _environment(options: Options, folder: Path) -> dict[str, str]:
    """For a child: it finds this package, writes into ``folder`` only and saves no state."""
    path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "DGKD_DEVICE": options.device or "",
        "DGKD_SAVE_EVERY": "1e9",
        "OMP_NUM_THREADS": str(options.threads),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def _in_child(
    name: str, case: str, words: Sequence[str], options: Options, folder: Path
) -> list[dict[str, Any]]:
    """The records of one case of a benchmark, from a process of its own, which reads ``words``."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cases", name, case, str(folder), *words],
        env=_environment(options, folder),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise InputError(f"{name}: killed by signal {-done.returncode} (out of memory?)")
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        raise InputError(f"{name}: {lines[-1]}")
    answer = read_json(folder / "records.json")
    if isinstance(answer, str):
        raise InputError(answer)
    return answer


def _measure(
    names: Sequence[str], words: Sequence[str], options: Options
) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of all cases of some benchmarks, and what went wrong, a line each."""
    records: list[dict[str, Any]] = []
    problems = []
    with tempfile.TemporaryDirectory(prefix="benchmarks.") as made:
        folder = Path(made)
        if not set(names) <= {"export"}:  # it needs no pictures
            _in_child("draw", "", words, options, folder)
        for name, case in [(n, c) for n in names for c in CASES[n]]:
            label = f"{name}, {case}" if case else name
            print(f"benchmarks: {label} ...", file=sys.stderr, flush=True)
            try:
                found = _in_child(name, case, words, options, folder)
            except InputError as error:
                problems.append(str(error))
                continue
            if not found:
                print(f"benchmarks: {label}: not with these options, left out", file=sys.stderr)
            records += found
    return records, list(dict.fromkeys(problems))  # several cases may say the same


def _run(args: argparse.Namespace, words: Sequence[str]) -> list[str]:
    """Measure, print, write; returns what went wrong, a line each."""
    for name in args.names:
        if name not in CASES:
            raise InputError(f"{name!r} is no benchmark, expected {', '.join(CASES)}")
    if args.out is not None and args.out.is_dir():
        raise InputError(f"--out is {args.out}, a folder, expected a file")
    before, options = round(os.getloadavg()[0], 2), Options.of(args)

    import torch

    from dgkd_core.runtime.device import get_device
    from dgkd_core.runtime.machine import machine

    if options.device is not None:
        get_device(options.device)
    records, problems = _measure(list(dict.fromkeys(args.names or USUAL)), words, options)
    if records:
        report = {
            "machine": {
                "name": machine(),
                "cores": cores(),
                "load_before": before,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
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
    words = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(words)
    problems: list[str] = []
    try:
        if args.compare:
            print(compare(*map(read_report, args.compare)))
        else:
            problems = _run(args, words)
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
