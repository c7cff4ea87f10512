"""The one training loop: what differs between teacher, student and segmenter is the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from dgkd_core.errors import InputError
from dgkd_core.files import write_text
from dgkd_core.progress import Progress

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
Step = Callable[[Batch, int], Losses]


@dataclass(frozen=True)
class Recipe:
    """How to optimise. ``new_layers`` is the learning rate factor of layers without weights."""

    iterations: int
    optimizer: str
    lr: float
    lr_min: float
    lr_power: float
    lr_warmup: int
    new_layers: float
    weight_decay: float

    @classmethod
    def of(cls, section: Any) -> Recipe:
        """The recipe in a training stage's section of params.yaml."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})

    def factor(self, step: int) -> float:
        """The learning rate at ``step`` over the base rate: linear warm-up, polynomial decay."""
        floor = self.lr_min / self.lr
        decayed = floor + (1 - floor) * (1 - step / self.iterations) ** self.lr_power
        return decayed * min(1.0, (step + 1) / (self.lr_warmup + 1))


def parameter_groups(
    modules: Iterable[nn.Module], pretrained: Iterable[nn.Parameter], recipe: Recipe
) -> list[dict[str, object]]:
    """Groups by rate and decay: new layers learn faster; biases twice as fast and undecayed.

    Weights of batch norms and other one-dimensional parameters have no decay either.
    """
    old = {id(parameter) for parameter in pretrained}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = recipe.lr * (1.0 if id(parameter) in old else recipe.new_layers)
            bias = name.endswith("bias")
            decay = 0.0 if bias or parameter.ndim < 2 else recipe.weight_decay
            groups[rate * (2 if bias else 1), decay].append(parameter)
    return [
        {"params": list(ps), "lr": rate, "weight_decay": decay}
        for (rate, decay), ps in sorted(groups.items())
    ]


def make_optimizer(groups: list[dict[str, object]], recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.lr)


class _FiniteWatch:
    """Remembers, on the device, the first step at which each loss term was not finite.

    Looking at a GPU's numbers makes the host wait, so there it looks once per row of the curve.
    """

    never = 2**62

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._first: dict[str, Tensor] = {}

    def see(self, losses: Losses, step: int) -> None:
        for name, value in losses.items():
            now = torch.where(value.detach().isfinite(), self.never, step)
            self._first[name] = torch.minimum(self._first.get(name, now), now)

    def check(self) -> None:
        first = {name: int(step) for name, step in self._first.items()}
        name = min(first, key=lambda term: first[term])
        step = first[name]
        if step < self.never:
            rate = self._recipe.lr * self._recipe.factor(step)
            raise InputError(
                f"step {step + 1}: loss {name} is not finite at learning rate {rate:.3g}; "
                f"a smaller lr or a longer lr_warmup usually helps"
            )


def _send(x: Tensor, device: torch.device) -> Tensor:
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return x.to(device, non_blocking=True, memory_format=layout)


def train(
    label: str,
    step: Step,
    batches: Iterable[Batch],
    modules: Sequence[nn.Module],
    recipe: Recipe,
    device: torch.device,
    pretrained: Iterable[nn.Parameter] = (),
) -> list[dict[str, float]]:
    """Train ``modules`` for ``recipe.iterations`` steps.

    Args:
        label: the stage's name, for progress.
        step: a batch on the device and the step's number to named losses; they are summed.
        batches: at least ``recipe.iterations`` batches.
        modules: what is trained.
        pretrained: the parameters that keep the base learning rate; all others are new.

    Returns:
        the curve: about a hundred rows of step, learning rate and mean losses since the last row.

    Raises:
        InputError: a loss became non-finite.
    """
    for module in modules:
        module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(parameter_groups(modules, pretrained, recipe), recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.factor)
    amp = device.type == "cuda"
    half = torch.bfloat16 if amp and torch.cuda.is_bf16_supported() else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=amp and half == torch.float16)
    every = max(1, recipe.iterations // 100)
    curve: list[dict[str, float]] = []
    sums: dict[str, Tensor] = {}
    watch = _FiniteWatch(recipe)
    progress = Progress(islice(batches, recipe.iterations), label, recipe.iterations)
    for i, batch in enumerate(progress):
        batch = {key: _send(value, device) for key, value in batch.items()}
        with torch.autocast(device.type, half, enabled=amp):
            losses = step(batch, i)
        watch.see(losses, i)
        if not amp:
            watch.check()
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        rate = recipe.lr * recipe.factor(i)
        schedule.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
        if (i + 1) % every == 0 or i + 1 == recipe.iterations:
            count = (i % every) + 1
            means = {name: float(value) / count for name, value in sums.items()}
            watch.check()
            curve.append({"step": i + 1, "lr": rate, **means})
            progress.note(means)
            sums = {}
    for module in modules:
        module.eval()
    return curve


def write_curve(path: str | Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Write a curve as CSV: step, lr, then the losses by name; six significant digits."""
    names = ["step", "lr", *sorted({name for row in curve for name in row} - {"step", "lr"})]
    table = pd.DataFrame(list(curve), columns=names)
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
