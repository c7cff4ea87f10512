"""The authors' network: listed names, random values, and, without our code, its forward pass."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgkd_core.convert.authors import export_authors_checkpoint
from dgkd_core.convert.names import DENOISER, authors_name
from dgkd_core.distill.denoiser import FeatureDenoiser
from dgkd_core.models.network import Network
from dgkd_core.models.wide_resnet import WideResNet38

ROOT = Path(__file__).parents[2]
Shape = tuple[int, ...]
State = dict[str, Tensor]


def listed(name: str) -> dict[str, Shape]:
    """Names and shapes listed in shared/reference, beside or in the repository."""
    for folder in (ROOT / "shared" / "reference", ROOT.parent / "shared" / "reference"):
        if (folder / name).is_file():
            rows = [row.split("\t") for row in (folder / name).read_text().splitlines() if row]
            return {
                row[0]: () if row[1] == "scalar" else tuple(int(n) for n in row[1].split("x"))
                for row in rows
            }
    pytest.skip(f"shared/reference/{name} is not here: the released names are not compared")


def light(shapes: dict[str, Shape]) -> State:
    """Tensors of ones that take no memory, for what is told by names and shapes alone."""
    return {
        name: torch.tensor(1 if name.endswith("num_batches_tracked") else 1.0).expand(shape)
        for name, shape in shapes.items()
    }


def random(shapes: dict[str, Shape], seed: int) -> State:
    """A different value everywhere, of sizes that keep the activations in bounds."""
    g = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.randint(1, 10**6, shape, generator=g)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            state[name] = torch.rand(shape, generator=g) + 0.5
        elif len(shape) == 4:
            fan_in = shape[1] * shape[2] * shape[3]
            state[name] = torch.randn(shape, generator=g).mul_(fan_in**-0.5)
        else:
            state[name] = 0.3 * torch.randn(shape, generator=g)
    return state


def layout(classes: int, dgf2: str) -> dict[str, Shape]:
    """Names and shapes of our network, exported; test_authors.py compares them with the lists."""
    with torch.device("meta"):
        network = Network(WideResNet38(), classes, 256, dgf2)
    return {name: tuple(v.shape) for name, v in export_authors_checkpoint(network).items()}


def denoiser_layout(channels: int, prefix: str) -> dict[str, Shape]:
    """The same of a denoiser, under ``prefix``."""
    state = FeatureDenoiser(channels).state_dict()
    return {prefix + authors_name(key, DENOISER): tuple(v.shape) for key, v in state.items()}


# --- the forward pass, from the formulas and the raw tensors -------------------------------------


class Training(dict[str, Tensor]):
    """A state in training mode, dropouts at p = 0; its running statistics change in place.

    Attributes:
        still: where norms take their statistics as they are; elsewhere the batch's.
        uniform: the stochastic gate's random numbers.
    """

    def __init__(self, state: State, still: tuple[str, ...], uniform: Tensor) -> None:
        super().__init__(state)
        self.still, self.uniform = still, uniform


def norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, variance = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    training = isinstance(s, Training) and not name.startswith(s.still)
    if training:
        s[f"{name}.num_batches_tracked"] += 1
    scale, shift = s.get(f"{name}.weight"), s.get(f"{name}.bias")
    return F.batch_norm(x, mean, variance, scale, shift, training, momentum=0.1, eps=1e-5)


def conv(s: State, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    weight = s[f"{name}.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride, padding, dilation)


def _block(s: State, name: str, x: Tensor, stride: int, first: int, second: int) -> Tensor:
    name = f"backbone.{name}"
    active = F.relu(norm(s, f"{name}.bn_branch2a", x))
    changes = f"{name}.conv_branch1.weight" in s
    y = conv(s, f"{name}.conv_branch2a", active, stride, first)
    y = F.relu(norm(s, f"{name}.bn_branch2b1", y))
    y = conv(s, f"{name}.conv_branch2b1", y, 1, second)
    if f"{name}.bn_branch2b2.weight" in s:
        y = conv(s, f"{name}.conv_branch2b2", F.relu(norm(s, f"{name}.bn_branch2b2", y)))
    return y + (conv(s, f"{name}.conv_branch1", active, stride) if changes else x)


def _prior(s: State, depth: Tensor) -> Tensor:
    x = F.conv2d(depth, s["backbone.CondNet.0.weight"], s["backbone.CondNet.0.bias"])
    x = F.leaky_relu(x, 0.1)
    x = F.conv2d(x, s["backbone.CondNet.2.weight"], s["backbone.CondNet.2.bias"], 4)
    for k in (4, 6, 8, 10):
        x = conv(s, f"backbone.CondNet.{k}", F.leaky_relu(x, 0.1))
    return x


def _fuse(s: State, place: int, f: Tensor, prior: Tensor | None) -> Tensor:
    if prior is None:
        return f
    p = F.interpolate(prior, f.shape[-2:], mode="bilinear", align_corners=False)
    name = f"backbone.sft{place}.SFT"
    gamma, beta = (
        conv(s, f"{name}_{part}_conv1", F.leaky_relu(conv(s, f"{name}_{part}_conv0", p), 0.1))
        for part in ("scale", "shift")
    )
    tilde = f * (gamma + 1) + beta
    same = f.sigmoid() * tilde.sigmoid() + 0.5 * (1 - f.sigmoid()) * (1 - tilde.sigmoid())
    return tilde + same * (f + tilde)


def backbone(s: State, image: Tensor, depth: Tensor | None) -> tuple[Tensor, Tensor]:
    prior = None if depth is None else _prior(s, depth)
    x = conv(s, "backbone.conv1a", image)
    for name, stride in (("b2", 2), ("b2_1", 1), ("b2_2", 1)):
        x = _block(s, name, x, stride, 1, 1)
    x = _fuse(s, 1, x, prior)
    for name, stride in (("b3", 2), ("b3_1", 1), ("b3_2", 1)):
        x = _block(s, name, x, stride, 1, 1)
    shallow = x
    x = _fuse(s, 2, x, prior)
    for k in range(6):
        x = _block(s, f"b4_{k}" if k else "b4", x, 1 if k else 2, 1, 1)
    x = _fuse(s, 3, x, prior)
    for name, first, second in (("b5", 1, 2), ("b5_1", 2, 2), ("b5_2", 2, 2)):
        x = _block(s, name, x, 1, first, second)
    for name in ("b6", "b7"):
        x = _block(s, name, x, 1, 1, 4)
    return shallow, F.relu(norm(s, "backbone.bn7", x))


def _gate(s: State, x: Tensor, g: Tensor) -> Tensor:
    if not isinstance(s, Training):
        return 0.7 * x + 0.3 * g
    m = (s.uniform >= 0.3).to(x.dtype)
    return m * (x - 0.3 * g) / 0.7 + (1 - m) * g


def classifier(s: State, shallow: Tensor, deep: Tensor) -> Tensor:
    def step(first: str, second: str, x: Tensor, dilation: int = 1) -> Tensor:
        x = conv(s, f"classifier.{first}", x, dilation=dilation)
        return F.relu(norm(s, f"classifier.{second}", x))

    branches = [
        step(f"aspp.aspp{k}.atrous_conv", f"aspp.aspp{k}.bn", deep, rate)
        for k, rate in ((1, 1), (2, 12), (3, 24), (4, 36))
    ]
    pooled = step("aspp.global_avg_pool.1", "aspp.global_avg_pool.2", deep.mean((2, 3), True))
    x = torch.cat([*branches, pooled.expand_as(branches[0])], 1)
    x = step("aspp.conv1", "aspp.bn1", x)
    x = F.interpolate(x, shallow.shape[-2:], mode="bilinear", align_corners=True)
    x = step("fc8_x.0", "fc8_x.1", torch.cat([x, step("fc8_skip.0", "fc8_skip.1", shallow)], 1))
    cue = step("shallow_mask.fc_deep.0", "shallow_mask.fc_deep.1", x).amax((2, 3), True)
    skip = "classifier.shallow_mask.fc_skip"
    g = norm(s, f"{skip}.1", conv(s, f"{skip}.0", shallow))
    g = F.relu(g * (cue[:, :256] + 1) + cue[:, 256:])
    g = step("shallow_mask.fc_cls.0", "shallow_mask.fc_cls.1", g)
    x = _gate(s, x, g)
    x = step("last_conv.4", "last_conv.5", step("last_conv.0", "last_conv.1", x))
    return conv(s, "classifier.last_conv.8", x)


def projected(s: State, name: str, x: Tensor) -> Tensor:
    """What is distilled of deep (``feat2``) or shallow features (``feat``)."""
    return F.relu(norm(s, f"classifier.{name}.1", conv(s, f"classifier.{name}.0", x)))


def noise(s: State, prefix: str, x: Tensor, t: int | Tensor) -> Tensor:
    """A denoiser's prediction ε(x, t)."""
    x = x + s[f"{prefix}model.time_embedding.weight"][t][..., None, None]
    for k in range(2):
        block = f"{prefix}model.pred.{k}.block"
        y = F.relu(norm(s, f"{block}.1", conv(s, f"{block}.0", x)))
        y = F.relu(norm(s, f"{block}.4", conv(s, f"{block}.3", y)))
        x = x + norm(s, f"{block}.7", conv(s, f"{block}.6", y))
    return norm(s, f"{prefix}model.pred.3", conv(s, f"{prefix}model.pred.2", x))
