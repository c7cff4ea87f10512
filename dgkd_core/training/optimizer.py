"""The optimizer: learning rates and weight decay by kind of layer, and a moving average."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


@dataclass(frozen=True)
class Recipe:
    """How to optimise.

    Attributes:
        new_layers: learning rate factor of layers that start from random weights.
        ema: decay of the moving average of the weights, 0 to below 1; 0: none.
        bias_lr: learning rate factor of biases.
        no_decay: what has no weight decay: biases, norms (their scales, and other vectors).
        sync_norms: with several processes, norms use the statistics of the whole batch.
        layer_decay: learning rate factor from one block of a backbone to the one before it.
    """

    iterations: int
    optimizer: str
    lr: float
    lr_min: float
    lr_power: float
    lr_warmup: int
    new_layers: float
    weight_decay: float
    ema: float = 0.0
    bias_lr: float = 2.0
    no_decay: Sequence[str] = ("biases", "norms")
    sync_norms: bool = True
    layer_decay: float = 1.0

    @classmethod
    def of(cls, section: Any) -> Recipe:
        """The recipe in a training stage's section of params.yaml."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})

    def factor(self, step: int) -> float:
        """Learning rate at ``step`` (from 0) / base rate: linear warm-up, polynomial decay."""
        floor = self.lr_min / self.lr
        decayed = floor + (1 - floor) * (1 - step / self.iterations) ** self.lr_power
        return decayed * min(1.0, (step + 1) / (self.lr_warmup + 1))


def parameter_groups(
    modules: Iterable[nn.Module], pretrained: Iterable[nn.Parameter], recipe: Recipe
) -> list[dict[str, object]]:
    """The trained parameters, grouped by learning rate and weight decay as the recipe says."""
    modules, old = list(modules), {id(parameter) for parameter in pretrained}
    below: dict[nn.Parameter, int] = {}  # how many blocks of its backbone lie above a parameter
    if recipe.layer_decay < 1:
        for layer in (layer for module in modules for layer in module.modules()):
            if (distances := getattr(layer, "distances", None)) is not None:  # an Encoder
                below |= distances()
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in (named for module in modules for named in module.named_parameters()):
        if not parameter.requires_grad:
            continue
        rate = recipe.lr * (1.0 if id(parameter) in old else recipe.new_layers)
        rate *= recipe.layer_decay ** below.get(parameter, 0)
        bias = name.endswith("bias")
        kind = "biases" if bias else "norms" if parameter.ndim < 2 else "weights"
        decay = 0.0 if kind in recipe.no_decay else recipe.weight_decay
        groups[rate * (recipe.bias_lr if bias else 1), decay].append(parameter)
    return [
        {"params": list(ps), "lr": rate, "weight_decay": decay}
        for (rate, decay), ps in sorted(groups.items())
    ]


def make_optimizer(
    groups: list[dict[str, object]], recipe: Recipe, fused: bool
) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW.

    Args:
        fused: PyTorch's fused implementation; 3 (SGD) and 30 times (AdamW) as fast on a CPU core.
            Not with a loss scale: if the first step overflows and is skipped, SGD's momentum would
            be uninitialised.
    """
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and of its norms' statistics.

    After the first update it equals the network. Update n + 1 makes it d·average + (1 − d)·network
    with d = min(decay, (1 + n) / (10 + n)), so that a short run forgets its first, random weights;
    buffers of whole numbers are copied.
    """

    def update(average: Any, now: Any, _: Any) -> None:
        if average[0].is_floating_point():
            n = int(averaged.n_averaged)  # on the CPU: no waiting for a GPU
            torch._foreach_lerp_(average, now, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(average, now)

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    averaged.eval().requires_grad_(False)
    return averaged
