"""What machine this is, in words that name no host."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

from dgkd_core.runtime.parallel import cores


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    """Such as "2 cores, Intel(R) Xeon(R) Processor, no GPU": the cores that may be used here."""
    import torch  # not for those who ask for the processor only

    names = Counter(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    gpus = [name if count == 1 else f"{count} × {name}" for name, count in names.items()]
    count = cores()
    unit = "core" if count == 1 else "cores"
    return ", ".join([f"{count} {unit}", processor(), *(gpus or ["no GPU"])])
