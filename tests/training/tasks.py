"""Small networks, batches and training runs that several tests of the training share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from support import Toy, from_step
from torch import Tensor, nn

from dgkd_core.config.choices import PAIRS
from dgkd_core.distill.dgkd import DGKD
from dgkd_core.imaging.pamr import PAMR
from dgkd_core.models.network import Network, Segmenter
from dgkd_core.models.registry import build_encoder
from dgkd_core.training.loop import Batch, Losses, train
from dgkd_core.training.optimizer import Recipe
from dgkd_core.training.student import StudentTask, freeze_unused_projections
from dgkd_core.training.weak import WeakSupervision, freeze

CPU = torch.device("cpu")
RECIPE = Recipe(12, "sgd", 0.05, 0.001, 0.9, 2, 10, 0.01)
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])


def make_batch(seed: int = 0, pictures: int = 2) -> Batch:
    """Pictures of 24 x 28 pixels with two classes; some of the pseudo labels are undecided."""
    generator = torch.Generator().manual_seed(seed)
    pseudo = torch.randint(0, 3, (pictures, 24, 28), generator=generator)
    pseudo[0, :15] = 255
    return {
        "normal": torch.rand(pictures, 3, 24, 28, generator=generator),
        "dark": 0.05 * torch.rand(pictures, 3, 24, 28, generator=generator),
        "depth": torch.rand(pictures, 1, 24, 28, generator=generator),
        "labels": LABELS[:pictures],
        "valid": torch.ones(pictures, 1, 24, 28),
        "pseudo": pseudo,
    }


def make_network(dgf2: str = "off", seed: int = 1) -> Network:
    torch.manual_seed(seed)
    return Network(build_encoder("timm:test_resnet", 8), 2, 16, dgf2, (1, 2, 3)).train()


def make_segmenter(dgf2: str = "off", seed: int = 1) -> Segmenter:
    torch.manual_seed(seed)
    return Segmenter(build_encoder("timm:test_resnet", 8), 2, 16, dgf2, (1, 2, 3))


def make_student_task(
    dgf2: str = "off", pairs: tuple[str, ...] = PAIRS, mask_warmup: int = 0, **options: Any
) -> StudentTask:
    """A student with a teacher of its kind; without pairs alone. ``options`` are DGKD's."""
    student, dgkd, teacher = make_network(dgf2), None, None
    if pairs:
        torch.manual_seed(2)
        weights = dict.fromkeys(pairs, 1.0)
        dgkd = DGKD(2, 16, weights=weights, **{"steps": 2, "map_stride": 4, **options})
        teacher = make_network(seed=3)
        freeze(teacher)
    freeze_unused_projections(student, dgkd)
    return StudentTask(student, teacher, dgkd, WeakSupervision(PAMR(1, (1,)), mask_warmup))


def backward(losses: Losses) -> None:
    torch.stack(list(losses.values())).sum().backward()


class Broken(Exception):
    """Stands for whatever ends a process."""


class Moody(nn.Module):
    """Draws from every generator that a step may draw from, has a batch norm's memory, and a part
    that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.still, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.still(self.norm(self.layer(x))))

    def losses(self, batch: Batch) -> Losses:
        self.still.eval()
        noise = torch.from_numpy(np.random.standard_normal((5, 3))).float()  # noqa: NPY002
        y = self(batch["x"] + noise)
        return {"a": y.square().mean(), "b": (y - torch.rand(())).abs().mean()}


Found = tuple[list[dict[str, float]], dict[str, Tensor]]


def run_moody(
    recipe: Recipe = RECIPE, before: Callable[[int], object] = lambda i: None, **options: Any
) -> Found:
    """Train a `Moody`; its curve and weights. ``before`` is called with each step's number."""
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    model, generator = Moody(), torch.Generator().manual_seed(1)
    data = [{"x": torch.randn(5, 3, generator=generator)} for _ in range(recipe.iterations)]

    def losses(batch: Batch, i: int) -> Losses:
        before(i)
        return model.losses(batch)

    curve = train("toy", Toy(losses, [model]), from_step(data), recipe, CPU, **options)
    return curve, model.state_dict()


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_at(step: int | None) -> Callable[[int], None]:
    """For `run_moody`: the run breaks at that step."""

    def before(i: int) -> None:
        if i == step:
            raise Broken

    return before
