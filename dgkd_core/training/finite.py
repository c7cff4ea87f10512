"""Finds the first loss term or gradient that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from dgkd_core.runtime import distributed
from dgkd_core.runtime.errors import InputError
from dgkd_core.training.optimizer import Recipe


class FiniteCheck:
    """Remembers, on the device, the first step at which a value was not finite.

    Reading a value from a GPU makes the CPU wait. So on a GPU it is read once per row of the curve
    and before a state is saved, on a CPU after every step.
    """

    never = 2**62
    gradient = "gradient"

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._first: dict[str, Tensor] = {}

    def record(self, values: Mapping[str, Tensor], step: int) -> None:
        """Note the scalars, by name, of a step from 0; without waiting for the device."""
        for name, value in values.items():
            now = torch.where(value.detach().isfinite(), self.never, step)
            self._first[name] = torch.minimum(self._first.get(name, now), now)

    def record_gradient(self, parameters: Sequence[nn.Parameter], step: int) -> None:
        """Note the largest gradient, which is not finite where any is not."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.record({self.gradient: get_total_norm(gradients, torch.inf)}, step)

    def check(self, nonfinite_losses: Callable[[], list[str]] = list) -> None:
        """Raise at what has gone wrong first; losses before the gradient.

        Args:
            nonfinite_losses: finds the loss terms whose gradient is not finite, at this step.
        """
        if not self._first:
            return
        steps = distributed.all_reduce_min(torch.stack(list(self._first.values()))).tolist()
        first = dict(zip(self._first, steps, strict=True))
        name = min(first, key=lambda term: (first[term], term == self.gradient))
        step = first[name]
        if step == self.never:
            return
        what = f"loss {name}"
        if name == self.gradient:
            terms = ", ".join(nonfinite_losses())
            what = "the gradient of " + (f"loss {terms}" if terms else "the losses' sum")
        rate = self._recipe.lr * self._recipe.factor(step)
        raise InputError(
            f"step {step + 1}: {what} is not finite at learning rate {rate:.3g}; "
            f"a smaller lr or a longer lr_warmup usually helps"
        )
