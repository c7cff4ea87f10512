"""Training steps of ours against the release's formulas, in float64, tensor by tensor."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from authors_network import (
    State,
    Training,
    backbone,
    classifier,
    conv,
    denoiser_layout,
    layout,
    noise,
    norm,
    projected,
    random,
)
from torch import Tensor, nn

from dgkd_core.convert import load_authors_checkpoint, load_authors_denoiser
from dgkd_core.convert.authors import Role, export_authors_checkpoint
from dgkd_core.convert.names import DENOISER, authors_name
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.distill.dist import dist_loss
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import class_scores
from dgkd_core.models.network import Output
from dgkd_core.runtime import distributed
from dgkd_core.training import weak
from dgkd_core.training.loop import Batch, Recipe, TrainingStep
from dgkd_core.training.student import StudentTask
from dgkd_core.training.weak import TeacherTask, freeze

C, SIZE = 3, (32, 48)
LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 1, 0]], dtype=torch.float64)
PAIRS = ("map", "deep", "shallow")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
RECIPES = {  # four steps, so that the second has another rate
    "student": Recipe(4, "sgd", 5e-3, 1e-4, 0.9, 0, 1.0, 5e-4, bias_lr=1.0, no_decay=()),
    "teacher": Recipe(4, "sgd", 1e-3, 1e-3, 0.0, 0, 10.0, 5e-4, no_decay=("biases",)),
}


class Numbers:
    """In `distributed.draw`'s place: whoever makes one draws the same numbers."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, like: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
        self.calls += 1
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.calls)
            return fill(torch.empty(like.shape, dtype=like.dtype))


# --- the release's step, from METHOD.md's formulas; PAMR and DIST have tests of their own --------

ALPHA = (1 - torch.linspace(1e-4, 2e-2, 1000)).cumprod(0)  # ᾱ, float32 as in diffusers


def _resize(x: Tensor, size: Collection[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def _with_background(labels: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(labels[:, :1]), labels], 1)[:, :, None, None]


def _class_loss(z: Tensor, labels: Tensor, focal: float) -> Tensor:
    m = z.softmax(1)
    mean = m.mean((2, 3))
    pooled = (z * m).sum((2, 3)) / (1 + m.sum((2, 3)))
    score = (pooled + (1 - mean) ** 3 * (focal + mean).log())[:, 1:]
    return -(labels * F.logsigmoid(score) + (1 - labels) * F.logsigmoid(-score)).mean()


def _pseudo(z: Tensor, picture: Tensor, labels: Tensor) -> Tensor:
    m = PAMR()(_resize(picture, z.shape[-2:]), z.detach().softmax(1))
    m = _resize(m, picture.shape[-2:]) * _with_background(labels)
    k = m.new_tensor([0.7] + C * [0.6])[:, None, None]
    claimed = m > (k * m.amax((2, 3), True)).clamp(min=0.2)
    return claimed & (claimed.sum(1, True) == 1)


def _mask_loss(z: Tensor, pseudo: Tensor, labels: Tensor) -> Tensor:
    n = pseudo.to(z.dtype).sum((2, 3))
    claimed = n.sum(1, True)
    weight = (pseudo * ((claimed - n) / (1 + claimed))[:, :, None, None]).sum(1)
    target = torch.where(pseudo.any(1), pseudo.int().argmax(1), 255)
    z = _resize(z, pseudo.shape[-2:])
    loss = weight * F.cross_entropy(z, target, ignore_index=255, reduction="none")
    complete = ((n > 0) | (_with_background(labels)[:, :, 0, 0] == 0)).all(1)
    return (loss.mean((1, 2)) * complete).mean()


def _denoised(s: State, pair: str, x: Tensor) -> Tensor:
    for t in (400, 300, 200, 100, 0):
        a, before = ALPHA[t], ALPHA[t - 100] if t else torch.ones(())
        e = noise(s, f"{pair}.", x, t)
        x = before**0.5 * (x - (1 - a) ** 0.5 * e) / a**0.5 + (1 - before) ** 0.5 * e
    return norm(s, f"{pair}.proj.1", conv(s, f"{pair}.proj.0", x))


def _diffusion_loss(s: State, pair: str, x: Tensor, draw: Numbers) -> Tensor:
    e = draw(x, Tensor.normal_)
    t = draw(torch.empty(len(x), dtype=torch.int64), lambda x: x.random_(0, 1000))
    a = ALPHA[t].double()[:, None, None, None]
    return ((e - noise(s, f"{pair}.", a.sqrt() * x + (1 - a).sqrt() * e, t)) ** 2).mean()


def _forward(s: State, image: Tensor, depth: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Shallow, deep, and z with the constant background."""
    mean = image.new_tensor([0.485, 0.456, 0.406])[:, None, None]
    std = image.new_tensor([0.229, 0.224, 0.225])[:, None, None]
    prior = None if depth is None else (depth.expand(-1, 3, -1, -1) - mean) / std
    shallow, deep = backbone(s, (image - mean) / std, prior)
    z = classifier(s, shallow, deep)
    return shallow, deep, torch.cat([torch.ones_like(z[:, :1]), z], 1)


def _weak_losses(
    z: Tensor, image: Tensor, labels: Tensor, focal: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses from image-level labels, and the pseudo masks."""
    pseudo = _pseudo(z, image, labels)
    cls, mask = _class_loss(z, labels, focal), _mask_loss(z, pseudo, labels)
    return {"cls": cls, "mask": mask}, pseudo


def _class_maps(z: Tensor, labels: Tensor) -> Tensor:
    return _resize(z.softmax(1), SIZE) * _with_background(labels)


def _distillation(
    s: State, mine: Sequence[Tensor], theirs: Sequence[Tensor], draw: Numbers
) -> dict[str, Tensor]:
    """Losses of the three pairs; a student's tensors are denoised before a teacher's are noised."""
    losses = {}
    for pair, student, teacher in zip(PAIRS, mine, theirs, strict=True):
        losses[f"kd_{pair}"] = dist_loss(_denoised(s, pair, student), teacher)
        losses[f"diff_{pair}"] = _diffusion_loss(s, pair, teacher, draw)
    return losses


def _losses(
    s: Training, teacher: State | None, batch: Batch, draw: Numbers
) -> tuple[dict[str, Tensor], Tensor]:
    """The student's losses, or those of a teacher, which has none; and the pseudo masks."""

    def distilled(s: State, shallow: Tensor, deep: Tensor, z: Tensor) -> list[Tensor]:
        both = projected(s, "feat2", deep), projected(s, "feat", shallow)
        return [_class_maps(z, batch["labels"]), *both]

    if teacher is None:
        z = _forward(s, batch["normal"], None)[2]
        return _weak_losses(z, batch["normal"], batch["labels"], 0.01)
    found = _forward(s, batch["dark"], batch["depth"])
    losses, pseudo = _weak_losses(found[2], batch["dark"], batch["labels"], 0.3)
    with torch.no_grad():
        theirs = distilled(teacher, *_forward(teacher, batch["normal"], None))
    return losses | _distillation(s, distilled(s, *found), theirs, draw), pseudo


def _rate(role: Role, name: str, step: int) -> float:
    """The student's optimizer has one group, the teacher's is visinf's."""
    if role == "student":
        return 1e-4 + (5e-3 - 1e-4) * (1 - step / 4) ** 0.9
    new, bias = not name.startswith("backbone."), name.endswith(".bias")
    return 1e-3 * (10 if new else 1) * (2 if bias else 1)


def _decay(role: Role, name: str) -> float:
    return 0.0 if role == "teacher" and name.endswith(".bias") else 5e-4


# --- both sides ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints() -> dict[Role, State]:
    """Random values; a class layer whose masks differ from place to place."""
    found: dict[Role, State] = {
        "student": random(layout(C, "paper"), 0),
        "teacher": random(layout(C, "off"), 1),
    }
    for state in found.values():
        state["classifier.last_conv.8.weight"] *= 4
    found["student"] |= _denoisers(256)
    return found


def _denoisers(width: int) -> State:
    each = [denoiser_layout(C + 1 if pair == "map" else width, f"{pair}.") for pair in PAIRS]
    return random({name: shape for shapes in each for name, shape in shapes.items()}, 5)


def _batch(step: int) -> Batch:
    """Pictures of three surfaces, whose borders PAMR keeps, and depth."""
    g = torch.Generator().manual_seed(100 + step)

    def scene(channels: int) -> Tensor:
        x = torch.rand(3, channels, 1, 3, generator=g, dtype=torch.float64)
        x = 0.8 * F.interpolate(x, SIZE, mode="nearest")
        return x + 0.2 * torch.rand(x.shape, generator=g, dtype=torch.float64)

    normal = scene(3)
    valid = torch.ones(3, 1, *SIZE, dtype=torch.float64)
    return {
        "normal": normal,
        "dark": 0.02 + 0.06 * normal**1.5,
        "depth": scene(1),
        "labels": LABELS,
        "valid": valid,
    }


def _frozen(role: Role, name: str) -> bool:
    """Whether the parameter is one of the norms and the stem, which a teacher keeps as they are."""
    learned = name.startswith("backbone.") and not name.endswith(STATISTICS)
    return role == "teacher" and learned and ("bn" in name or "conv1a" in name)


def _double(state: State) -> State:
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


class Theirs:
    """The release: raw tensors under its names, and SGD's momentum."""

    def __init__(self, role: Role, state: State, teacher: State | None) -> None:
        self.role, self.state = role, _double(state)
        self.teacher = None if teacher is None else _double(teacher)
        self.momentum: State = {}
        self.draw = Numbers()

    def step(self, batch: Batch, i: int) -> tuple[dict[str, Tensor], Tensor, State]:
        """Losses, pseudo masks and gradients of a step."""
        learned = {
            name: value.detach().requires_grad_()
            for name, value in self.state.items()
            if not name.endswith(STATISTICS) and not _frozen(self.role, name)
        }
        still = () if self.role == "student" else ("backbone.", "classifier.aspp.")
        gate = torch.empty(len(LABELS), 256, *(side // 4 for side in SIZE), dtype=torch.float64)
        uniform = self.draw(gate, Tensor.uniform_)
        s = Training(self.state | learned, still, uniform)
        losses, pseudo = _losses(s, self.teacher, batch, self.draw)
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: p.grad for name, p in learned.items() if p.grad is not None}
        self.state |= s.statistics
        for name, gradient in gradients.items():
            change = gradient + _decay(self.role, name) * self.state[name]
            change += 0.9 * self.momentum.get(name, 0)
            self.momentum[name] = change
            self.state[name] -= _rate(self.role, name, i) * change
        return {name: loss.detach() for name, loss in losses.items()}, pseudo, gradients


def _dgkd(state: State, width: int) -> DGKD:
    dgkd = DGKD(C, width)
    for pair in PAIRS:
        dgkd.denoisers[pair] = load_authors_denoiser(state, f"{pair}.")
    return dgkd.double()


class Ours:
    """This project: the same checkpoint, loaded, and its training step."""

    def __init__(self, role: Role, state: State, teacher: State | None) -> None:
        network = load_authors_checkpoint(state, role)
        self.network, self.dgkd = network.double(), None
        if teacher is not None:
            self.dgkd = _dgkd(state, 256)
            guide = load_authors_checkpoint(teacher, "teacher").double()
            freeze(guide)
            task: Any = StudentTask(network, guide, self.dgkd, PAMR(), 0)
        else:
            for projection in (network.project_deep, network.project_shallow):
                freeze(projection)
            task = TeacherTask(network, PAMR(), 0, None, list(network.encoder.parameters()))
        for layer in network.modules():
            if isinstance(layer, nn.Dropout | nn.Dropout2d):
                layer.p = 0.0
        self.step = TrainingStep(task, RECIPES[role], torch.device("cpu"))

    def named(self, of: Callable[[nn.Module], Iterator[tuple[str, Tensor]]]) -> State:
        """Tensors of the modules that are trained, under the release's names."""
        found = {authors_name(key): value for key, value in of(self.network)}
        for pair, denoiser in self.dgkd.denoisers.items() if self.dgkd is not None else ():
            found |= {f"{pair}.{authors_name(k, DENOISER)}": v for k, v in of(denoiser)}
        return found


# --- the comparison ------------------------------------------------------------------------------


def _agree(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], within: float = 1e-8
) -> None:
    """The largest difference of each tensor is small, as a share of its largest value.

    A bias before a training-mode norm has the gradient 0, but for rounding; hence 1e-4.
    """
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name].detach() - value).abs().max() / (value.abs().max() + 1e-4)
        assert difference < within, name


@pytest.fixture
def pseudo_masks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Ours, as they are made; and float64 and `Numbers` in all of our code."""
    made: list[Tensor] = []
    make = weak.refine_to_pseudo

    def record(*arguments: Any) -> Tensor:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(weak, "refine_to_pseudo", record)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(distributed, "draw", Numbers())
    return made


@pytest.mark.full
@pytest.mark.parametrize(("role", "steps"), [("student", 2), ("teacher", 1)])  # momentum needs two
def test_a_step_is_the_releases(
    role: Role, steps: int, checkpoints: dict[Role, State], pseudo_masks: list[Tensor]
) -> None:
    """Losses, pseudo masks, all gradients; then every tensor, under the release's names."""
    state, teacher = checkpoints[role], None
    if role == "student":
        teacher = checkpoints["teacher"]
    else:  # the release's has no projections
        state = {name: v for name, v in state.items() if not name.startswith("classifier.feat")}
    theirs, ours = Theirs(role, state, teacher), Ours(role, state, teacher)
    within = [1e-8, 1e-6]  # the second step magnifies the first one's rounding
    for i in range(steps):
        batch = _batch(i)
        losses, pseudo, gradients = theirs.step(batch, i)
        _agree(ours.step(batch, i), losses, within[i])
        assert all(loss > 0 for loss in losses.values())
        assert torch.equal(pseudo_masks[i], pseudo.double())
        found = ours.named(lambda module: iter(module.named_parameters()))
        without = {name for name, p in found.items() if p.grad is None and name in state}
        assert without == {name for name in state if _frozen(role, name)}
        gradient = {name: p.grad for name, p in found.items() if p.grad is not None}
        _agree(gradient, gradients, within[i])
    after = ours.named(lambda module: iter(module.state_dict().items()))
    exported = export_authors_checkpoint(ours.network)
    assert all(torch.equal(value, after[name]) for name, value in exported.items())
    mine, expected = ({name: side[name] for name in state} for side in (after, theirs.state))
    _agree(mine, expected, within[steps - 1])


def test_losses_from_features_are_the_releases(pseudo_masks: list[Tensor]) -> None:
    """A student's, without the network: from logits and projected features."""
    g = torch.Generator().manual_seed(2)

    def features() -> list[Tensor]:
        drawn = [torch.randn(3, n, 8, 12, generator=g, dtype=torch.float64) for n in (C, 8, 8)]
        z = F.interpolate(4 * drawn[0][:, :, :1, :3], (8, 12), mode="nearest") + 0.1 * drawn[0]
        return [torch.cat([torch.ones_like(z[:, :1]), z], 1), *drawn[1:]]

    def output(z: Tensor, deep: Tensor, shallow: Tensor) -> Output:
        return Output(z, z.softmax(1), class_scores(z), deep, shallow)

    batch, state = _batch(0), _denoisers(8)
    mine, teacher = [x.requires_grad_() for x in features()], features()
    dgkd = _dgkd(state, 8).train()
    found = weak.weak_losses(output(*mine), batch["dark"], batch, PAMR())
    found |= dgkd(output(*mine), output(*teacher), LABELS, SIZE)

    s = Training(_double(state), (), torch.empty(0))
    expected, pseudo = _weak_losses(mine[0], batch["dark"], LABELS, 0.3)
    maps = [_class_maps(z, LABELS) for z in (mine[0], teacher[0])]
    expected |= _distillation(s, [maps[0], *mine[1:]], [maps[1], *teacher[1:]], Numbers())

    _agree(found, expected)
    assert all(loss > 0 for loss in expected.values())
    assert torch.equal(pseudo_masks[0], pseudo.double())
    sums = [torch.stack(list(losses.values())).sum() for losses in (found, expected)]
    a, b = (dict(zip(PAIRS, torch.autograd.grad(x, mine), strict=True)) for x in sums)
    _agree(a, b)
