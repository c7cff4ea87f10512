"""The training loop of all networks; they differ in their task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dgkd_core.runtime import distributed, signals
from dgkd_core.runtime.device import RandomStates, random_states, set_random_states
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.signals import Interrupted
from dgkd_core.runtime.state import State
from dgkd_core.training.finite import FiniteCheck
from dgkd_core.training.optimizer import Recipe, make_optimizer, moving_average, parameter_groups

SMALLEST_SCALE = 2.0**-16  # of the loss in float16; it begins at 2**16 and halves at an overflow

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
Row = Mapping[str, float]  # of a curve: step, and values by name
Log = Callable[[Row], None]


class Task(Protocol):
    """What is trained, with which losses.

    If it has a method ``diagnose(batch, step)``, the loop calls it, in a long run about 25
    times: named numbers, such as ``check/grad_cls``; all processes call it and get the same.

    Attributes:
        modules: what is trained; the first one is the network that is saved.
        pretrained: the parameters with the base learning rate; all others are new layers.
    """

    @property
    def modules(self) -> Sequence[nn.Module]: ...

    @property
    def pretrained(self) -> Sequence[nn.Parameter]: ...

    def __call__(self, batch: Batch, step: int) -> Losses:
        """Scalar losses by name, of a batch on the device, at a step from 0."""
        ...


def half_precision(device: torch.device) -> torch.dtype | None:
    """Autocast's dtype: bfloat16 on a GPU that has it, else float16 with a loss scale.

    None on a CPU, which computes in float32.
    """
    if device.type != "cuda":
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


@dataclass(frozen=True)
class Validation:
    """Scoring of the network during training.

    Args:
        times: how many times, at equal intervals; the end, which the stage scores, not counted.
        score: named scores of a network after a step. The network is the first module that is
            trained, or its moving average. All processes call it and get the same.
        keep: name of a score. Training then ends with the weights that had the highest value of it,
            and scores once more after the last step. None: it ends with the last weights.
    """

    times: int
    score: Callable[[nn.Module, int], Mapping[str, float]]
    keep: str | None = None

    def steps(self, iterations: int) -> set[int]:
        """After which steps."""
        evenly = {round(iterations * k / (self.times + 1)) for k in range(1, self.times + 1)}
        evenly -= {0, iterations}
        return evenly if self.keep is None else evenly | {iterations}


@contextmanager
def _untouched(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """After the block the modules' modes and buffers and the random states are what they were."""
    layers = [layer for module in modules for layer in module.modules()]
    modes = [layer.training for layer in layers]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    drawn = random_states(device)
    try:
        yield
    finally:
        for layer, training in zip(layers, modes, strict=True):
            layer.training = training
        for buffer, before in buffers:
            buffer.copy_(before)
        set_random_states(drawn, device)


class TrainingStep:
    """One step of training: send, forward, backward, update; the loop's own, call by call.

    Puts what the task trains on the device, in training mode.

    Args:
        task: what is trained.
        compiled: use torch.compile.
    """

    def __init__(
        self, task: Task, recipe: Recipe, device: torch.device, compiled: bool = False
    ) -> None:
        for module in task.modules:
            module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.task, self.recipe, self.device = task, recipe, device
        self.half = half_precision(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half == torch.float16)
        groups = parameter_groups(task.modules, task.pretrained, recipe)
        self.optimizer = make_optimizer(groups, recipe, fused=not self.scaler.is_enabled())
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, recipe.factor)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = moving_average(task.modules[0], recipe.ema) if recipe.ema else None
        self.finite = FiniteCheck(recipe)
        self.compute: Callable[[Batch, int], Losses] = task
        if compiled:
            self.compute = torch.compile(task.__call__)
        if distributed.world_size() > 1:
            from dgkd_core.training.shared import sharing

            self.compute = sharing(self.compute, task.modules, device, recipe.sync_norms)

    @property
    def network(self) -> nn.Module:
        """The network that is scored: the first module, or its moving average."""
        return self.task.modules[0] if self.average is None else self.average.module

    def parts(self) -> dict[str, Any]:
        """All that a step changes, by its name in a saved state; each has a ``state_dict``."""
        return {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
            **{f"module_{i}": module for i, module in enumerate(self.task.modules)},
            **({"average": self.average} if self.average is not None else {}),
        }

    def __call__(self, batch: Batch, i: int) -> Losses:
        """Train on a batch as step ``i``; its named losses.

        Raises:
            InputError: on a CPU, a loss or a gradient is not finite; nothing was updated.
        """
        on_cpu = self.device.type == "cpu"
        batch = self._to_device(batch)
        drawn = random_states(self.device) if on_cpu else {}
        self.optimizer.zero_grad(set_to_none=True)  # here, since the forward pass needs the memory
        try:
            with self._autocast():
                losses = self.compute(batch, i)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"compile is true: torch.compile fails here ({why})") from error
        self.finite.record(losses, i)
        self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        if not self.scaler.is_enabled():  # else it deals with too large gradients itself
            self.finite.record_gradient(self.parameters, i)
        if on_cpu:
            self.finite.check(partial(self._nonfinite_losses, batch, i, drawn))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.task.modules[0])
        return losses

    def check(self, step: int) -> None:
        """Raise InputError if a value was not finite up to this step, counted from 1.

        In float16 an overflow only lowers the loss scale; a scale below `SMALLEST_SCALE` is an
        error.
        """
        self.finite.check()
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise InputError(
                f"step {step}: the gradient of the losses' sum is not finite at any loss scale "
                f"down to {SMALLEST_SCALE:.1g}; a smaller lr or a longer lr_warmup usually helps"
            )

    def share_statistics(self) -> None:
        """Give all processes the main process's norm statistics, where each has its own."""
        if distributed.world_size() > 1 and not self.recipe.sync_norms:
            for buffer in self.network.buffers():
                buffer.copy_(distributed.broadcast(buffer))

    def diagnose(self, batch: Batch, i: int) -> Mapping[str, float]:
        """The task's ``diagnose`` before step ``i``; it changes nothing that is trained."""
        diagnose = getattr(self.task, "diagnose", None)
        if diagnose is None:
            return {}
        with _untouched(self.task.modules, self.device), self._autocast():
            return diagnose(self._to_device(batch), i)

    def finish(self) -> None:
        """Put the network into evaluation mode, its moving average in its place."""
        self.share_statistics()
        for module in self.task.modules:
            module.eval()
        if self.average is not None:
            self.task.modules[0].load_state_dict(self.average.module.state_dict())

    def _to_device(self, batch: Batch) -> Batch:
        found = {}
        for name, x in batch.items():
            layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
            found[name] = x.to(self.device, non_blocking=True, memory_format=layout)
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half, enabled=self.half is not None)

    def _nonfinite_losses(self, batch: Batch, i: int, drawn: RandomStates) -> list[str]:
        """The loss terms whose own gradient is not finite, from the same step computed again."""
        set_random_states(drawn, self.device)
        found = []
        with self._autocast():
            losses = self.task(batch, i)
        for name, value in losses.items():
            gradients = torch.autograd.grad(
                value, self.parameters, retain_graph=True, allow_unused=True
            )
            finite = all(g.isfinite().all() for g in gradients if g is not None)
            if not distributed.all_reduce_min(torch.tensor(finite, dtype=torch.int64)):
                found.append(name)
        return found


class _Run:
    """A training run between two steps: what changes, to and from its saved state.

    Attributes:
        step: how many steps are done; scored: the last one after which the network was scored.
        sums: of the losses since the curve's last row.
        best: the weights with the highest score so far, where they are to be kept.
    """

    name = "training"
    plain = ("step", "scored", "curve", "best_score", "best")  # what is saved as it is

    def __init__(self, parts: Mapping[str, Any], state: State | None, device: torch.device) -> None:
        self.parts, self.state, self.device = parts, state, device
        self.step = self.scored = 0
        self.curve: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}
        self.best_score, self.best = float("-inf"), dict[str, Tensor]()
        if state is not None and (content := state.load(self.name)) is not None:
            self._restore(content)

    def save(self) -> None:
        """All processes call this, the main process writes."""
        if self.state is None:
            return
        content = {
            **{name: getattr(self, name) for name in self.plain},
            **{name: part.state_dict() for name, part in self.parts.items()},
            "sums": distributed.gather({name: value.cpu() for name, value in self.sums.items()}),
            "random": random_states(self.device),
        }
        if distributed.is_main_process():
            self.state.save(self.name, content)

    def _restore(self, content: Mapping[str, Any]) -> None:
        for name in self.plain:
            setattr(self, name, content[name])
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        sums = content["sums"]  # each process's; as many as now get them back, others a mean
        if len(sums) == distributed.world_size():
            sums = [sums[distributed.rank()]]
        for name in sums[0]:
            mean = torch.stack([each[name] for each in sums]).mean(0)
            self.sums[name] = mean.to(self.device)
        set_random_states(content["random"], self.device)

    def add(self, losses: Losses) -> None:
        """Add a step's losses to the sums."""
        for name, value in losses.items():
            before = self.sums.get(name, torch.zeros((), device=self.device))
            self.sums[name] = before + value.detach()

    def means(self, steps: int) -> dict[str, float]:
        """The sums as means over all processes and so many steps; they begin anew."""
        sums, self.sums = self.sums, {}
        return {name: float(distributed.all_mean(x)) / steps for name, x in sums.items()}

    def keep_if_best(self, network: nn.Module, score: float) -> None:
        """Keep the network's weights if the score is higher than any before."""
        if score > self.best_score:
            self.best_score = score
            self.best = {k: v.cpu().clone() for k, v in network.state_dict().items()}


def train(
    label: str,
    task: Task,
    batches: Callable[[int], Iterable[Batch]],
    recipe: Recipe,
    device: torch.device,
    state: State | None = None,
    compiled: bool = False,
    log: Log | None = None,
    validation: Validation | None = None,
) -> list[dict[str, float]]:
    """Train what a task trains for ``recipe.iterations`` steps.

    Args:
        label: the stage's name, for progress.
        task: its losses are summed. If the recipe has a moving average, the first of its modules
            ends with that.
        batches: the batches from a given step on, at least to ``recipe.iterations``; each of
            several processes gets its part of them, and all end with the same weights.
        state: where the run is saved at intervals, when it is stopped and at its end. A saved run
            continues, and ends with the same bytes.
        compiled: use torch.compile: the first step takes minutes, and other random numbers are
            drawn.
        log: gets every row of the curve at once; of a continued run first the saved rows.
        validation: scores during training; they do not change the training.

    Returns:
        the curve: about a hundred rows of step, learning rate and mean losses since the last row,
        some with the results of ``diagnose``, and between them rows of step and scores.

    Raises:
        InputError: a loss or a gradient became non-finite, the last good state stays; or
            torch.compile does not work here.
        Interrupted: the process was asked to stop.
    """
    step, last = TrainingStep(task, recipe, device, compiled), recipe.iterations
    run = _Run(step.parts(), state, device)
    to_score = validation.steps(last) if validation is not None else set()
    every = max(1, last // 100)
    diagnose_every = every * max(4, -(-20 // every))  # 25 times in a long run
    source = islice(batches(run.step), last - run.step) if run.step < last else []
    progress = Progress(source, label, last, done=run.step, stops=False)
    shown: dict[str, dict[str, float]] = {"scores": {}, "losses": {}}  # of the latest rows

    def show(row: Row) -> None:
        if log is not None:
            log(row)
        shown["losses" if "lr" in row else "scores"] = {
            k: v for k, v in row.items() if "/" not in k and k not in ("step", "lr")
        }
        progress.note({**shown["scores"], **shown["losses"]})

    def add(row: dict[str, float]) -> None:
        run.curve.append(row)
        show(row)

    def validate() -> None:
        if validation is None or run.step not in to_score or run.scored >= run.step:
            return
        step.finite.check()
        run.save()  # whatever ends the scoring, it goes on with these weights
        step.share_statistics()
        with _untouched(task.modules, device):
            for module in task.modules:
                module.eval()
            scores = validation.score(step.network, run.step)
        run.scored = run.step
        if scores:
            add({"step": run.step, **scores})
        if validation.keep is not None and validation.keep in scores:
            run.keep_if_best(step.network, scores[validation.keep])

    for row in run.curve:
        show(row)
    for i, batch in enumerate(progress, run.step):
        validate()
        diagnostics = {} if (i + 1 - every) % diagnose_every else step.diagnose(batch, i)
        run.add(step(batch, i))
        run.step = i + 1
        if run.step % every == 0 or run.step == last:
            means = run.means(i % every + 1)
            step.check(run.step)
            add({"step": run.step, "lr": recipe.lr * recipe.factor(i), **means, **diagnostics})
        asked, due = distributed.broadcast((signals.asked(), state is not None and state.due()))
        if asked or due or run.step == last:
            step.finite.check()
            run.save()
        if asked:
            raise Interrupted(asked)
    validate()
    step.finish()
    if run.best:
        task.modules[0].load_state_dict(run.best)
    return run.curve
