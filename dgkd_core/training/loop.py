"""The one training loop: what differs between teacher, student and segmenter is the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from dgkd_core.runtime import distributed, signals
from dgkd_core.runtime.device import RandomStates, random_states, set_random_states
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.progress import Progress
from dgkd_core.runtime.signals import Interrupted
from dgkd_core.runtime.state import State

SMALLEST_SCALE = 2.0**-16  # of the loss in float16; it begins at 2**16 and halves at an overflow

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
Step = Callable[[Batch, int], Losses]
Row = Mapping[str, float]  # of a curve: step, and values by name
Log = Callable[[Row], None]


@dataclass(frozen=True)
class Recipe:
    """How to optimise.

    Attributes:
        new_layers: learning rate factor of layers without weights.
        ema: decay of the moving average of the weights, 0 to below 1; 0: none.
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


def make_optimizer(
    groups: list[dict[str, object]], recipe: Recipe, fused: bool = True
) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW.

    Args:
        fused: 3 and 30 times as fast as without on a CPU core. Not where the loss is scaled: a
            first step that overflows, and so is left out, leaves SGD's momentum uninitialised.
    """
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and of its norms' statistics.

    After the first update it is the network itself, after each other decay·average +
    (1 − decay)·network; buffers of whole numbers are copied.
    """

    def update(average: Any, now: Any, updates: Any) -> None:
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, now, 1 - decay)
        else:
            torch._foreach_copy_(average, now)

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    averaged.eval().requires_grad_(False)
    return averaged


class _Watch:
    """Remembers, on the device, the first step at which each loss term was not finite.

    So for the gradient of their sum. Looking at a GPU's numbers makes the host wait, so there it
    looks once per row of the curve and before a state is saved; on a CPU after every step.
    """

    never = 2**62
    gradient = "gradient"

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._first: dict[str, Tensor] = {}

    def see(self, values: Mapping[str, Tensor], step: int) -> None:
        for name, value in values.items():
            now = torch.where(value.detach().isfinite(), self.never, step)
            self._first[name] = torch.minimum(self._first.get(name, now), now)

    def see_gradient(self, parameters: Sequence[nn.Parameter], step: int) -> None:
        """Note the largest gradient, which is not finite where any is not."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            self.see({self.gradient: get_total_norm(gradients, torch.inf)}, step)

    def check(self, blame: Callable[[], list[str]] | None = None) -> None:
        """Raise at what has gone wrong first; losses before the gradient.

        Args:
            blame: finds the loss terms whose gradient is not finite, at the step just seen.
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
            terms = blame() if blame is not None else []
            what = "the gradient of " + (f"loss {', '.join(terms)}" if terms else "the losses' sum")
        rate = self._recipe.lr * self._recipe.factor(step)
        raise InputError(
            f"step {step + 1}: {what} is not finite at learning rate {rate:.3g}; "
            f"a smaller lr or a longer lr_warmup usually helps"
        )


def _send(x: Tensor, device: torch.device) -> Tensor:
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return x.to(device, non_blocking=True, memory_format=layout)


@dataclass(frozen=True)
class Precision:
    """What a training step computes in: ``half`` under autocast or None, and whether to scale."""

    half: torch.dtype | None
    scale: bool

    @classmethod
    def of(cls, device: torch.device) -> Precision:
        """bfloat16 on a GPU that has it, else float16 with a loss scale; float32 on a CPU."""
        if device.type != "cuda":
            return cls(None, False)
        brain = torch.cuda.is_bf16_supported()
        return cls(torch.bfloat16 if brain else torch.float16, scale=not brain)


class _Run:
    """A training run between two steps: what changes, to and from its saved state."""

    name = "training"

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizer: Any,
        schedule: Any,
        scaler: Any,
        average: AveragedModel | None,
    ) -> None:
        self.parts = {
            "optimizer": optimizer,
            "schedule": schedule,
            "scaler": scaler,
            **{f"module_{i}": module for i, module in enumerate(modules)},
        }
        if average is not None:
            self.parts["average"] = average
        self.step = 0
        self.scored = 0  # the last step after which it was scored
        self.curve: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}

    def content(self, device: torch.device) -> dict[str, Any]:
        """What the first process is to save; all of them call this."""
        return {
            "step": self.step,
            "scored": self.scored,
            "curve": self.curve,
            "sums": distributed.gather({name: value.cpu() for name, value in self.sums.items()}),
            "random": random_states(device),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }

    def take(self, content: Mapping[str, Any], device: torch.device) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        self.step, self.scored = content["step"], content["scored"]
        self.curve = content["curve"]
        sums = content["sums"]  # each process's; as many as now get them back, others a mean
        mine = [sums[distributed.rank()]] if len(sums) == distributed.world_size() else sums
        self.sums = {
            name: torch.stack([each[name] for each in mine]).mean(0).to(device) for name in sums[0]
        }
        set_random_states(content["random"], device)


@dataclass(frozen=True)
class Validation:
    """Scores of the network on the way.

    Args:
        times: how many, evenly spread; none at the end, where the stage scores what it has made.
        score: named scores of a network after a step: of the first module that is trained, or of
            its moving average; all processes call it and get the same.
    """

    times: int
    score: Callable[[nn.Module, int], Mapping[str, float]]

    def steps(self, iterations: int) -> set[int]:
        """After which steps."""
        evenly = {round(iterations * k / (self.times + 1)) for k in range(1, self.times + 1)}
        return evenly - {0, iterations}


@contextmanager
def _evaluating(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Modules in evaluation mode; after the block modes and random states are what they were."""
    modes = [(layer, layer.training) for module in modules for layer in module.modules()]
    drawn = random_states(device)
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
        set_random_states(drawn, device)


def train(
    label: str,
    step: Step,
    batches: Callable[[int], Iterable[Batch]],
    modules: Sequence[nn.Module],
    recipe: Recipe,
    device: torch.device,
    pretrained: Iterable[nn.Parameter] = (),
    state: State | None = None,
    compiled: bool = False,
    log: Log | None = None,
    validation: Validation | None = None,
) -> list[dict[str, float]]:
    """Train ``modules`` for ``recipe.iterations`` steps.

    Args:
        label: the stage's name, for progress.
        step: a batch on the device and the step's number to named losses; they are summed.
        batches: the batches from a given step on, at least to ``recipe.iterations``; of several
            processes each gets its part of them, and all end with the same weights.
        modules: what is trained; the first of them becomes its moving average at the end, where
            the recipe has one.
        pretrained: the parameters that keep the base learning rate; all others are new.
        state: where the run is saved now and then, when it is asked to stop and at its end; a run
            that finds itself there goes on, and ends with the same bytes.
        compiled: put the step through torch.compile: the first one takes minutes, and other random
            numbers are drawn.
        log: gets every row of the curve at once, first those of a run that goes on.
        validation: scores on the way; they change nothing of what is trained.

    Returns:
        the curve: about a hundred rows of step, learning rate and mean losses since the last row,
        and between them rows of step and scores.

    Raises:
        InputError: a loss or a gradient became non-finite, the last good state stays; or
            torch.compile does not work here.
        Interrupted: the process was asked to stop.
    """
    for module in modules:
        module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    precision = Precision.of(device)
    groups = parameter_groups(modules, pretrained, recipe)
    optimizer = make_optimizer(groups, recipe, fused=not precision.scale)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.factor)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.scale)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average = moving_average(modules[0], recipe.ema) if recipe.ema else None
    run = _Run(modules, optimizer, schedule, scaler, average)
    if state is not None and (content := state.load(run.name)) is not None:
        run.take(content, device)
    every = max(1, recipe.iterations // 100)
    watch = _Watch(recipe)
    shared: Step = torch.compile(step) if compiled else step
    if distributed.world_size() > 1:
        from dgkd_core.training.shared import sharing

        shared = sharing(shared, modules, device)

    def losses_of(compute: Step, batch: Batch, i: int) -> Losses:
        with torch.autocast(device.type, precision.half, enabled=precision.half is not None):
            try:
                return compute(batch, i)
            except torch._dynamo.exc.TorchDynamoException as error:
                why = next(iter(str(error).splitlines()), type(error).__name__)
                raise InputError(f"compile is true: torch.compile fails here ({why})") from error

    def save() -> None:
        if state is not None:
            watch.check()
            content = run.content(device)
            if distributed.is_main_process():
                state.save(run.name, content)

    left = recipe.iterations - run.step
    source = islice(batches(run.step), left) if left else []
    progress = Progress(source, label, recipe.iterations, done=run.step, stops=False)
    latest: dict[str, dict[str, float]] = {"scores": {}, "losses": {}}

    def show(row: Row) -> None:
        if log is not None:
            log(row)
        values = {name: value for name, value in row.items() if name not in ("step", "lr")}
        latest["losses" if "lr" in row else "scores"] = values
        progress.note({**latest["scores"], **latest["losses"]})

    def add(row: dict[str, float]) -> None:
        run.curve.append(row)
        show(row)

    for row in run.curve:
        show(row)
    to_score = validation.steps(recipe.iterations) if validation is not None else set()
    for i, batch in enumerate(progress, run.step):
        if validation is not None and i in to_score and run.scored < i:
            save()  # whatever ends the scoring, it goes on with these weights
            with _evaluating(modules, device):
                scores = validation.score(modules[0] if average is None else average.module, i)
            run.scored = i
            if scores:
                add({"step": i, **scores})
        batch = {key: _send(value, device) for key, value in batch.items()}
        drawn = random_states(device) if device.type == "cpu" else {}
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, which needs the memory
        losses = losses_of(shared, batch, i)
        watch.see(losses, i)
        total = torch.stack(list(losses.values())).sum()
        scaler.scale(total).backward()
        if not precision.scale:  # where there is a scale, too large gradients are its business
            watch.see_gradient(parameters, i)
        if device.type == "cpu":
            watch.check(
                partial(_blame, partial(losses_of, step), batch, i, parameters, drawn, device)
            )
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update_parameters(modules[0])
        rate = recipe.lr * recipe.factor(i)
        schedule.step()
        for name, value in losses.items():
            run.sums[name] = run.sums.get(name, torch.zeros((), device=device)) + value.detach()
        run.step = i + 1
        if run.step % every == 0 or run.step == recipe.iterations:
            count = ((i % every) + 1) * distributed.world_size()
            sums = {name: float(distributed.all_reduce(value)) for name, value in run.sums.items()}
            means = {name: value / count for name, value in sums.items()}
            watch.check()
            _check_scale(scaler, run.step)
            add({"step": run.step, "lr": rate, **means})
            run.sums = {}
        asked, due = distributed.broadcast((signals.asked(), state is not None and state.due()))
        if asked or due or run.step == recipe.iterations:
            save()
        if asked:
            raise Interrupted(asked)
    for module in modules:
        module.eval()
    if average is not None:
        modules[0].load_state_dict(average.module.state_dict())
    return run.curve


def _blame(
    losses_of: Step,
    batch: Batch,
    step: int,
    parameters: Sequence[nn.Parameter],
    drawn: RandomStates,
    device: torch.device,
) -> list[str]:
    """The loss terms whose own gradient is not finite, from the same step computed again."""
    set_random_states(drawn, device)
    losses = losses_of(batch, step)
    found = []
    for name, value in losses.items():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        finite = all(g.isfinite().all() for g in gradients if g is not None)
        if not distributed.all_reduce_min(torch.tensor(finite, dtype=torch.int64)):
            found.append(name)
    return found


def _check_scale(scaler: torch.amp.GradScaler, step: int) -> None:
    """Overflow in half precision lowers the loss scale; a scale that only falls is no overflow."""
    if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
        raise InputError(
            f"step {step}: the gradient of the losses' sum is not finite at any loss scale down to "
            f"{SMALLEST_SCALE:.1g}; a smaller lr or a longer lr_warmup usually helps"
        )
