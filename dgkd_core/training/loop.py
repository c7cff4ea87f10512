"""The one training loop: what differs between teacher, student and segmenter is the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

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
Compute = Callable[[Batch, int], Losses]
Row = Mapping[str, float]  # of a curve: step, and values by name
Log = Callable[[Row], None]


class Task(Protocol):
    """What is trained, and to what end.

    Attributes:
        modules: what is trained; the first is kept, the others serve it.
        pretrained: the parameters that keep the base learning rate; all others are new.
    """

    @property
    def modules(self) -> Sequence[nn.Module]: ...

    @property
    def pretrained(self) -> Sequence[nn.Parameter]: ...

    def __call__(self, batch: Batch, step: int) -> Losses:
        """Named losses, scalars, of a batch on the device at a step, from 0."""
        ...


@runtime_checkable
class Diagnosed(Protocol):
    """A task that tells more of itself than its losses, now and then."""

    def diagnose(self, batch: Batch, step: int) -> Mapping[str, float]:
        """Named numbers, such as ``check/grad_cls``; all processes call it and get the same."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How to optimise.

    Attributes:
        new_layers: learning rate factor of layers without weights.
        ema: decay of the moving average of the weights, 0 to below 1; 0: none.
        bias_lr: learning rate factor of biases.
        no_decay: what has no weight decay: biases, norms (their scales, and other vectors).
        sync_norms: of several processes: norms take their statistics from the whole batch.
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
    """Groups by rate and decay: new layers and biases have factors of their own on the rate."""
    old = {id(parameter) for parameter in pretrained}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = recipe.lr * (1.0 if id(parameter) in old else recipe.new_layers)
            bias = name.endswith("bias")
            kind = "biases" if bias else "norms" if parameter.ndim < 2 else "weights"
            decay = 0.0 if kind in recipe.no_decay else recipe.weight_decay
            groups[rate * (recipe.bias_lr if bias else 1), decay].append(parameter)
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

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts
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
        keep: a score; the network is kept as it was when this was highest. One more score at the
            end, then. None: the network is kept as it is at the end.
    """

    times: int
    score: Callable[[nn.Module, int], Mapping[str, float]]
    keep: str | None = None

    def steps(self, iterations: int) -> set[int]:
        """After which steps."""
        evenly = {round(iterations * k / (self.times + 1)) for k in range(1, self.times + 1)}
        evenly -= {0, iterations}
        return evenly if self.keep is None else evenly | {iterations}


class Best:
    """The weights of the step with the highest score."""

    def __init__(self) -> None:
        self.step, self.score = 0, float("-inf")
        self.weights: dict[str, Tensor] = {}

    def offer(self, network: nn.Module, step: int, score: float) -> None:
        """Take the network's weights if the score is higher than any before."""
        if score > self.score:
            self.step, self.score = step, score
            self.weights = {k: v.cpu().clone() for k, v in network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return vars(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


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


@contextmanager
def _untouched(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """After the block the modules' buffers and the random states are what they were."""
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    drawn = random_states(device)
    try:
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        set_random_states(drawn, device)


class TrainingStep:
    """One step of training: send, forward, backward, update; the loop's own, call by call.

    Puts what the task trains on the device, in training mode.

    Args:
        task: what is trained.
        compiled: put the task through torch.compile.
        part: a context manager by name, around each part of a step, to time it: sending,
            forward, backward and optimizer.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        device: torch.device,
        compiled: bool = False,
        part: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        for module in task.modules:
            module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.task, self.recipe, self.device, self.part = task, recipe, device, part
        self.precision = Precision.of(device)
        groups = parameter_groups(task.modules, task.pretrained, recipe)
        self.optimizer = make_optimizer(groups, recipe, fused=not self.precision.scale)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, recipe.factor)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scale)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = moving_average(task.modules[0], recipe.ema) if recipe.ema else None
        self.watch = _Watch(recipe)
        self.compute: Compute = torch.compile(task.__call__) if compiled else task
        if distributed.world_size() > 1:
            from dgkd_core.training.shared import sharing

            self.compute = sharing(self.compute, task.modules, device, recipe.sync_norms)

    @property
    def network(self) -> nn.Module:
        """What is scored: the first module that is trained, or its moving average."""
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
        with self.part("sending"):
            batch = {key: _send(value, self.device) for key, value in batch.items()}
        drawn = random_states(self.device) if on_cpu else {}
        with self.part("optimizer"):  # before the forward pass, which needs the memory
            self.optimizer.zero_grad(set_to_none=True)
        with self.part("forward"):
            losses = self._losses(self.compute, batch, i)
        self.watch.see(losses, i)
        with self.part("backward"):
            self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        if not self.precision.scale:  # where there is a scale, it deals with too large gradients
            self.watch.see_gradient(self.parameters, i)
        if on_cpu:
            self.watch.check(partial(self._blame, batch, i, drawn))
        with self.part("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.task.modules[0])
        return losses

    def share_statistics(self) -> None:
        """Give all processes the first one's statistics of the norms, where each has its own."""
        if distributed.world_size() > 1 and not self.recipe.sync_norms:
            for buffer in self.network.buffers():
                buffer.copy_(distributed.broadcast(buffer))

    def diagnose(self, batch: Batch, i: int) -> Mapping[str, float]:
        """What the task tells of itself before step ``i``; it changes nothing that is trained."""
        if not isinstance(self.task, Diagnosed):
            return {}
        batch = {key: _send(value, self.device) for key, value in batch.items()}
        half = self.precision.half
        with (
            _untouched(self.task.modules, self.device),
            torch.autocast(self.device.type, half, enabled=half is not None),
        ):
            return self.task.diagnose(batch, i)

    def finish(self) -> None:
        """Put the network into evaluation mode, its moving average in its place."""
        self.share_statistics()
        for module in self.task.modules:
            module.eval()
        if self.average is not None:
            self.task.modules[0].load_state_dict(self.average.module.state_dict())

    def _losses(self, compute: Compute, batch: Batch, i: int) -> Losses:
        half = self.precision.half
        with torch.autocast(self.device.type, half, enabled=half is not None):
            try:
                return compute(batch, i)
            except torch._dynamo.exc.TorchDynamoException as error:
                why = next(iter(str(error).splitlines()), type(error).__name__)
                raise InputError(f"compile is true: torch.compile fails here ({why})") from error

    def _blame(self, batch: Batch, i: int, drawn: RandomStates) -> list[str]:
        """The loss terms whose own gradient is not finite, from the same step computed again."""
        set_random_states(drawn, self.device)
        found = []
        for name, value in self._losses(self.task, batch, i).items():
            gradients = torch.autograd.grad(
                value, self.parameters, retain_graph=True, allow_unused=True
            )
            finite = all(g.isfinite().all() for g in gradients if g is not None)
            if not distributed.all_reduce_min(torch.tensor(finite, dtype=torch.int64)):
                found.append(name)
        return found


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
        task: makes a batch on the device to named losses, which are summed. The first of its
            modules becomes its moving average at the end, where the recipe has one.
        batches: the batches from a given step on, at least to ``recipe.iterations``; of several
            processes each gets its part of them, and all end with the same weights.
        state: where the run is saved now and then, when it is asked to stop and at its end; a run
            that finds itself there goes on, and ends with the same bytes.
        compiled: put the task through torch.compile: the first step takes minutes, and other random
            numbers are drawn.
        log: gets every row of the curve at once, first those of a run that goes on.
        validation: scores on the way; they change nothing of what is trained.

    Returns:
        the curve: about a hundred rows of step, learning rate and mean losses since the last row,
        in some of them what a `Diagnosed` task tells, and between them rows of step and scores.

    Raises:
        InputError: a loss or a gradient became non-finite, the last good state stays; or
            torch.compile does not work here.
        Interrupted: the process was asked to stop.
    """
    step, best = TrainingStep(task, recipe, device, compiled), Best()
    keep = validation.keep if validation is not None else None
    run = _Run(step.parts() | ({"best": best} if keep else {}))
    if state is not None and (content := state.load(run.name)) is not None:
        run.take(content, device)
    every = max(1, recipe.iterations // 100)
    seldom = every * max(4, -(-20 // every))  # 25 times in a long run

    def save() -> None:
        if state is not None:
            step.watch.check()
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
        plain = {name: value for name, value in row.items() if "/" not in name}
        values = {name: value for name, value in plain.items() if name not in ("step", "lr")}
        latest["losses" if "lr" in row else "scores"] = values
        progress.note({**latest["scores"], **latest["losses"]})

    def add(row: dict[str, float]) -> None:
        run.curve.append(row)
        show(row)

    for row in run.curve:
        show(row)
    to_score = validation.steps(recipe.iterations) if validation is not None else set()

    def validate() -> None:
        if validation is None or run.step not in to_score or run.scored >= run.step:
            return
        save()  # whatever ends the scoring, it goes on with these weights
        step.share_statistics()
        with _evaluating(task.modules, device):
            scores = validation.score(step.network, run.step)
        run.scored = run.step
        if scores:
            add({"step": run.step, **scores})
        if keep is not None and keep in scores:
            best.offer(step.network, run.step, scores[keep])

    for i, batch in enumerate(progress, run.step):
        validate()
        told = step.diagnose(batch, i) if (i + 1) % seldom == every % seldom else {}
        losses = step(batch, i)
        for name, value in losses.items():
            run.sums[name] = run.sums.get(name, torch.zeros((), device=device)) + value.detach()
        run.step = i + 1
        if run.step % every == 0 or run.step == recipe.iterations:
            count = ((i % every) + 1) * distributed.world_size()
            sums = {name: float(distributed.all_reduce(value)) for name, value in run.sums.items()}
            means = {name: value / count for name, value in sums.items()}
            step.watch.check()
            _check_scale(step.scaler, run.step)
            add({"step": run.step, "lr": recipe.lr * recipe.factor(i), **means, **told})
            run.sums = {}
        asked, due = distributed.broadcast((signals.asked(), state is not None and state.due()))
        if asked or due or run.step == recipe.iterations:
            save()
        if asked:
            raise Interrupted(asked)
    validate()
    step.finish()
    if best.weights:
        task.modules[0].load_state_dict(best.weights)
    return run.curve


def _check_scale(scaler: torch.amp.GradScaler, step: int) -> None:
    """Overflow in half precision lowers the loss scale; a scale that only falls is no overflow."""
    if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
        raise InputError(
            f"step {step}: the gradient of the losses' sum is not finite at any loss scale down to "
            f"{SMALLEST_SCALE:.1g}; a smaller lr or a longer lr_warmup usually helps"
        )
