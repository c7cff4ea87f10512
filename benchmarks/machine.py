"""What machine the figures are from."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Options
from dgkd_core.data.samples import workers
from dgkd_core.parallel import cores


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load() -> float | None:
    """Processes that have wanted a core in the last minute, on average; None where not known."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe(options: Options, before: float | None) -> dict[str, Any]:
    """Processor, cores that may be used, GPU (None on a CPU), torch, Python, threads, workers.

    ``before`` is the `load` before anything was measured.
    """
    gpu = None
    if options.where.type == "cuda":
        found = torch.cuda.get_device_properties(options.where)
        gpu = f"{found.name}, {found.total_memory / 1e9:.0f} GB"
    return {
        "cores": cores(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "load_before": before,
        "python": platform.python_version(),
        "threads": options.threads,
        "torch": torch.__version__,
        "workers": workers(options.where),
    }
