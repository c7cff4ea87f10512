"""PAMR against its straightforward form: seconds, peak memory and difference.

    python -m benchmarks.pamr [--size 321] [--classes 21] [--threads N] [--runs 3]

Each form runs in a process of its own, so that its peak memory is its own; memory is what the run
adds to a process that has loaded torch and the inputs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from dgkd_core.imaging.pamr import PAMR

DILATIONS = (1, 2, 4, 8, 12, 24)


def _stacked(x: Tensor, centre: bool) -> Tensor:
    """(N, C, H, W) to all neighbours of each pixel, (N, C, 8 or 9 a dilation, H, W)."""
    height, width = x.shape[-2:]
    shifted: list[Tensor] = []
    for d in DILATIONS:
        padded = F.pad(x, (d, d, d, d), mode="replicate")
        places = [(dy, dx) for dy in (0, d, 2 * d) for dx in (0, d, 2 * d)]
        shifted += [
            padded[..., dy : dy + height, dx : dx + width]
            for dy, dx in places
            if centre or (dy, dx) != (d, d)
        ]
    return torch.stack(shifted, 2)


def straightforward(image: Tensor, mask: Tensor, iterations: int = 10) -> Tensor:
    """PAMR as its formula reads (METHOD §4): 48 shifted copies of every channel at once."""
    deviation = _stacked(image, centre=True).std(2, keepdim=True)
    distance = (_stacked(image, centre=False) - image[:, :, None]).abs()
    weights = (-distance / (1e-8 + 0.1 * deviation)).mean(1, keepdim=True).softmax(2)
    for _ in range(iterations):
        mask = (_stacked(mask, centre=False) * weights).sum(2)
    return mask


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(form: str, size: int, classes: int, threads: int, runs: int) -> dict[str, object]:
    """Time one form in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(1, 3, size // 8, size // 8), (size, size), mode="bicubic")
    image = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    mask = F.interpolate(torch.randn(1, classes, 21, 21), (size, size), mode="bilinear")
    mask = (3 * mask).softmax(1)
    refine = PAMR() if form == "ours" else straightforward
    before, seconds = _peak(), []
    for _ in range(runs):
        start = time.perf_counter()
        out = refine(image, mask)
        seconds.append(time.perf_counter() - start)
    result: dict[str, object] = {"seconds": sorted(seconds), "bytes": _peak() - before}
    if form == "ours":
        result["difference"] = float((out - straightforward(image, mask)).abs().max())
    return result


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.pamr", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=321, help="side of the picture, pixels")
    parser.add_argument("--classes", type=int, default=21, help="mask channels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--form", choices=["ours", "straightforward"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.form:
        print(json.dumps(measure(args.form, args.size, args.classes, args.threads, args.runs)))
        return
    found = {}
    for form in ("straightforward", "ours"):
        words = [sys.executable, "-m", "benchmarks.pamr", "--form", form]
        for name in ("size", "classes", "threads", "runs"):
            words += [f"--{name}", str(getattr(args, name))]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found[form] = json.loads(done.stdout)
    print(f"PAMR, 1 x {args.classes} x {args.size} x {args.size}, {args.threads} threads, CPU")
    for form, result in found.items():
        seconds = result["seconds"]
        middle = seconds[len(seconds) // 2]
        spread = f"{seconds[0]:.2f} to {seconds[-1]:.2f}"
        print(f"{form:>16}: {middle:7.2f} s ({spread}), {result['bytes'] / 1e6:7.0f} MB")
    slow, fast = found["straightforward"], found["ours"]
    times = [r["seconds"][len(r["seconds"]) // 2] for r in (slow, fast)]
    print(
        f"{times[0] / times[1]:.1f} times faster in {fast['bytes'] / slow['bytes']:.2f} of the "
        f"memory; largest difference {fast['difference']:.1e}"
    )


if __name__ == "__main__":
    main()
