"""One training step of every backbone: what is trained gets a gradient, what is frozen none."""

import pytest
import torch
import torch.nn.functional as F
from support import cancelled_biases
from torch import nn

from dgkd_core.models.network import Network, Segmenter
from dgkd_core.models.registry import build_encoder

SIZE = (49, 65)  # odd: stride 8 gives 7 x 9, stride 4 gives 13 x 17
BACKBONES = [
    "timm:test_resnet",
    "timm:tf_efficientnet_lite0",
    pytest.param("resnet18", marks=pytest.mark.full),
    pytest.param("resnet34", marks=pytest.mark.full),
    pytest.param("resnet50", marks=pytest.mark.full),
    pytest.param("resnet101", marks=pytest.mark.full),
    pytest.param("wide_resnet38", marks=pytest.mark.full),
]


@pytest.mark.parametrize("kind", [Network, Segmenter])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_step(backbone: str, kind: type[Network] | type[Segmenter]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(backbone, 8)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts some at zero, which would close a branch
    encoder.freeze()
    network = kind(encoder, 3, 256 if kind is Network else 16, "paper", (1, 2, 3)).train()
    image, depth = torch.rand(2, 3, *SIZE), torch.rand(2, 1, *SIZE)
    out = network(image, depth)
    assert out.logits.shape == out.masks.shape == (2, 4, 13, 17)
    assert out.scores is not None
    assert out.scores.shape == (2, 3)
    loss = F.cross_entropy(out.logits, torch.randint(0, 4, (2, 13, 17))) + out.scores.mean()
    if kind is Network:
        assert out.deep is not None
        assert out.shallow is not None
        assert out.deep.shape == (2, 256, 7, 9)
        assert out.shallow.shape == (2, 256, 13, 17)
        loss = loss + (out.deep * torch.randn_like(out.deep)).mean()
        loss = loss + (out.shallow * torch.randn_like(out.shallow)).mean()
    statistics = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k}
    loss.backward()
    idle = cancelled_biases(network)
    trained = 0
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        if name not in idle:
            trained += 1
            assert parameter.grad.abs().max() > 0, name
    assert trained > 30
    frozen = {id(p) for p in encoder.stem_parameters()}
    frozen |= {
        id(p) for m in encoder.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    }
    assert frozen == {id(p) for p in network.parameters() if not p.requires_grad}
    after = encoder.state_dict()
    assert statistics
    assert all(torch.equal(value, after[key]) for key, value in statistics.items())
