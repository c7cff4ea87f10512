"""Training steps of ours against the release's, in float64, tensor by tensor."""

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
from dgkd_core.convert.authors import Role
from dgkd_core.convert.names import DENOISER, authors_name
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.distill.dist import dist_loss
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.head import class_scores, mask_loss, pseudo_masks
from dgkd_core.runtime import distributed
from dgkd_core.training.loop import Batch, TrainingStep
from dgkd_core.training.optimizer import Recipe
from dgkd_core.training.student import StudentTask
from dgkd_core.training.weak import TeacherTask, WeakSupervision, freeze

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


# --- the release's step; PAMR, DIST and the head's losses have tests of their own -----------------

ALPHA = (1 - torch.linspace(1e-4, 2e-2, 1000)).cumprod(0)  # ᾱ, float32 as in diffusers


def _resize(x: Tensor, size: Collection[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def _with_background(labels: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(labels[:, :1]), labels], 1)[:, :, None, None]


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


def _weak_losses(z: Tensor, image: Tensor, labels: Tensor, focal: float) -> dict[str, Tensor]:
    m = PAMR()(_resize(image, z.shape[-2:]), z.detach().softmax(1))
    pseudo = pseudo_masks(_resize(m, SIZE) * _with_background(labels))
    cls = F.binary_cross_entropy_with_logits(class_scores(z, focal), labels)
    return {"cls": cls, "mask": mask_loss(z, pseudo, labels).mean()}


def _distillation(
    s: State, mine: Sequence[Tensor], theirs: Sequence[Tensor], draw: Numbers
) -> dict[str, Tensor]:
    """Losses of the three pairs; a student's tensors are denoised before a teacher's are noised."""
    losses = {}
    for pair, student, teacher in zip(PAIRS, mine, theirs, strict=True):
        losses[f"kd_{pair}"] = dist_loss(_denoised(s, pair, student), teacher)
        losses[f"diff_{pair}"] = _diffusion_loss(s, pair, teacher, draw)
    return losses


def _losses(s: Training, teacher: State | None, batch: Batch, draw: Numbers) -> dict[str, Tensor]:
    """The student's losses, or those of a teacher, which has none."""

    def distilled(s: State, shallow: Tensor, deep: Tensor, z: Tensor) -> list[Tensor]:
        maps = _resize(z.softmax(1), SIZE) * _with_background(LABELS)
        return [maps, projected(s, "feat2", deep), projected(s, "feat", shallow)]

    if teacher is None:
        return _weak_losses(_forward(s, batch["normal"], None)[2], batch["normal"], LABELS, 0.01)
    found = _forward(s, batch["dark"], batch["depth"])
    losses = _weak_losses(found[2], batch["dark"], LABELS, 0.3)
    with torch.no_grad():
        theirs = distilled(teacher, *_forward(teacher, batch["normal"], None))
    return losses | _distillation(s, distilled(s, *found), theirs, draw)


def _rate(role: Role, name: str, step: int) -> float:
    """The student's optimizer has one group, the teacher's is visinf's."""
    if role == "student":
        return 1e-4 + (5e-3 - 1e-4) * (1 - step / 4) ** 0.9
    new, bias = not name.startswith("backbone."), name.endswith(".bias")
    return 1e-3 * (10 if new else 1) * (2 if bias else 1)


def _decay(role: Role, name: str) -> float:
    return 0.0 if role == "teacher" and name.endswith(".bias") else 5e-4


# --- both sides ----------------------------------------------------------------------------------


def _checkpoint(role: Role) -> State:
    """Random values, a class layer whose masks differ between places, a student's denoisers."""
    student = role == "student"
    shapes = layout(C, "paper" if student else "off")
    for pair in PAIRS if student else ():
        shapes |= denoiser_layout(C + 1 if pair == "map" else 256, f"{pair}.")
    state = random(shapes, int(student))
    state["classifier.last_conv.8.weight"] *= 4
    return state


def _batch(step: int) -> Batch:
    """Pictures of three surfaces, whose borders PAMR keeps, and depth."""
    g = torch.Generator().manual_seed(100 + step)

    def scene(channels: int) -> Tensor:
        x = torch.rand(3, channels, 1, 3, generator=g, dtype=torch.float64)
        x = 0.8 * F.interpolate(x, SIZE, mode="nearest")
        return x + 0.2 * torch.rand(x.shape, generator=g, dtype=torch.float64)

    normal, valid = scene(3), torch.ones(3, 1, *SIZE, dtype=torch.float64)
    batch = {"normal": normal, "dark": 0.02 + 0.06 * normal**1.5, "depth": scene(1)}
    return {**batch, "labels": LABELS, "valid": valid}


def _frozen(name: str) -> bool:
    """Whether frozen norms keep this parameter as it is: it is one of theirs, or the stem's."""
    learned = name.startswith("backbone.") and not name.endswith(STATISTICS)
    return learned and ("bn" in name or "conv1a" in name)


def _double(state: State) -> State:
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


class Theirs:
    """The release: raw tensors under its names, and SGD's momentum."""

    def __init__(self, role: Role, state: State, teacher: State | None, frozen: bool) -> None:
        self.role, self.state, self.frozen = role, _double(state), frozen
        self.teacher = None if teacher is None else _double(teacher)
        self.momentum: State = {}
        self.draw = Numbers()

    def step(self, batch: Batch, i: int) -> tuple[dict[str, Tensor], State]:
        """Losses and gradients of a step."""
        learned = {
            name: value.detach().requires_grad_()
            for name, value in self.state.items()
            if not name.endswith(STATISTICS) and not (self.frozen and _frozen(name))
        }
        still = ("backbone.", "classifier.aspp.")[: 1 if self.role == "student" else 2]
        gate = torch.empty(len(LABELS), 256, *(side // 4 for side in SIZE), dtype=torch.float64)
        uniform = self.draw(gate, Tensor.uniform_)
        s = Training(self.state | learned, still if self.frozen else (), uniform)
        losses = _losses(s, self.teacher, batch, self.draw)
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: p.grad for name, p in learned.items() if p.grad is not None}
        for name, gradient in gradients.items():
            change = gradient + _decay(self.role, name) * self.state[name]
            change += 0.9 * self.momentum.get(name, 0)
            self.momentum[name] = change
            self.state[name] -= _rate(self.role, name, i) * change
        return {name: loss.detach() for name, loss in losses.items()}, gradients


class Ours:
    """This project: the same checkpoint, loaded, and its training step."""

    def __init__(self, role: Role, state: State, teacher: State | None, frozen: bool) -> None:
        network = load_authors_checkpoint(state, role)
        if role == "student" and frozen:
            network.encoder.freeze()
        if role == "teacher" and not frozen:
            network.encoder.frozen = network.head.decoder.aspp.frozen = False
            network.encoder.requires_grad_(True)
        self.network, self.dgkd = network.double(), None
        if teacher is not None:
            self.dgkd = DGKD(C, 256)
            for pair in PAIRS:
                self.dgkd.denoisers[pair] = load_authors_denoiser(state, f"{pair}.")
            guide = load_authors_checkpoint(teacher, "teacher").double()
            freeze(guide)
            task: Any = StudentTask(network, guide, self.dgkd.double(), WeakSupervision(PAMR()))
        else:
            for projection in (network.project_deep, network.project_shallow):
                freeze(projection)
            task = TeacherTask(
                network, WeakSupervision(PAMR()), None, list(network.encoder.parameters())
            )
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


def _agree(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], within: float) -> None:
    """The largest difference of each tensor is small, as a share of its largest value.

    A bias before a training-mode norm has the gradient 0, but for rounding; hence 1e-4.
    """
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name].detach() - value).abs().max() / (value.abs().max() + 1e-4)
        assert difference < within, name


@pytest.mark.full
@pytest.mark.parametrize(
    ("role", "frozen", "steps"),  # momentum needs two steps; the release's two are the first
    [("student", False, 2), ("teacher", True, 1), ("student", True, 1), ("teacher", False, 1)],
)
def test_a_step_is_the_releases(
    role: Role, frozen: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and all gradients; then every tensor, under the release's names."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(distributed, "draw", Numbers())
    state, teacher = _checkpoint(role), None
    if role == "student":
        teacher = _checkpoint("teacher")
    else:  # the release's has no projections
        state = {name: v for name, v in state.items() if not name.startswith("classifier.feat")}
    given = state, teacher, frozen
    theirs, ours = Theirs(role, *given), Ours(role, *given)
    within = [1e-8, 1e-6]  # the second step magnifies the first one's rounding
    for i in range(steps):
        losses, gradients = theirs.step(_batch(i), i)
        assert all(loss > 0 for loss in losses.values())
        _agree(ours.step(_batch(i), i), losses, within[i])
        found = ours.named(lambda module: iter(module.named_parameters()))
        without = {name for name, p in found.items() if p.grad is None and name in state}
        assert without == {name for name in state if frozen and _frozen(name)}
        gradient = {name: p.grad for name, p in found.items() if p.grad is not None}
        _agree(gradient, gradients, within[i])
    after = ours.named(lambda module: iter(module.state_dict().items()))
    mine, expected = ({name: side[name] for name in state} for side in (after, theirs.state))
    _agree(mine, expected, within[steps - 1])
