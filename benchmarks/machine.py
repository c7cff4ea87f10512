"""What machine the figures are from."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from benchmarks.options import Options
from dgkd_core.data.samples import workers
from dgkd_core.runtime.machine import processor
from dgkd_core.runtime.parallel import cores


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
        "cpu": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "load_before": before,
        "python": platform.python_version(),
        "threads": options.threads,
        "torch": torch.__version__,
        "workers": workers(options.where),
    }
