"""Published backbone weights into encoders, and one line for those that do not fit."""

import copy
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision.models as torchvision_models
from safetensors.torch import save, save_file
from support import one_line
from torch import Tensor, nn

from dgkd_core.models.registry import (
    ModelConfig,
    build,
    build_encoder,
    first_weights,
    load_backbone,
)


def _perturbed(module: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(6)
    return {
        key: value * (1 + torch.rand_like(value) / 9) if value.is_floating_point() else value + 3
        for key, value in module.state_dict().items()
    }


@pytest.mark.full
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvisions_weights_load(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"resnet18{suffix}"
    net = torchvision_models.resnet18(weights=None)
    state = _perturbed(net)
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    net.load_state_dict(state)
    encoder = build_encoder("resnet18", 32).eval()
    assert load_backbone(encoder, path, hashlib.sha256(path.read_bytes()).hexdigest()) == 2
    net.eval()
    image = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(image)))))
        shallow, deep = encoder(image)
        assert torch.equal(shallow, x)
        assert torch.equal(deep, net.layer4(net.layer3(net.layer2(x))))


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0"])
def test_timms_weights_load(tmp_path: Path, name: str) -> None:
    import timm

    net = timm.create_model(name, pretrained=False)
    state = _perturbed(net)
    net.load_state_dict(state)
    save_file(state, tmp_path / "w.safetensors")
    encoder = build_encoder(f"timm:{name}", 32).eval()
    unused = load_backbone(encoder, tmp_path / "w.safetensors")
    theirs = timm.create_model(name, pretrained=False, features_only=True)
    assert unused == len(state) - len(theirs.state_dict())
    assert unused > 0
    mine = sorted(float(v.double().sum()) for v in encoder.state_dict().values())
    given = [float(v.double().sum()) for v in state.values()]
    assert all(any(abs(a - b) < 1e-9 for b in given) for a in mine)


def test_weights_without_batch_counters_load(tmp_path: Path) -> None:
    """Some published files have no num_batches_tracked; the number of unused tensors stays."""
    path = tmp_path / "w.safetensors"
    state = _perturbed(torchvision_models.resnet18(weights=None))
    bare = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(bare) < len(state)
    save_file(bare, path)
    encoder = build_encoder("resnet18", 8)
    assert load_backbone(encoder, path) == 2  # fc.weight and fc.bias
    assert torch.equal(encoder.state_dict()["layer3.1.conv2.weight"], bare["layer3.1.conv2.weight"])


def test_pinned_weights_must_be_the_pinned_ones(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(_perturbed(torchvision_models.resnet18(weights=None)), path)
    encoder = build_encoder("resnet18", 8)
    before = copy.deepcopy(encoder.state_dict())
    one_line(lambda: load_backbone(encoder, path, "0" * 64), path, "weights_sha256", "0" * 12)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


@pytest.mark.full
@pytest.mark.parametrize(
    ("have", "want"),
    [
        ("resnet50", "resnet18"),
        ("resnet18", "resnet50"),
        ("resnet18", "resnet34"),
        ("resnet18", "timm:test_resnet"),
        ("resnet18", "timm:tf_efficientnet_lite0"),
        ("resnet34", "resnet18"),
        ("resnet101", "resnet50"),
    ],
)
def test_weights_of_another_backbone_are_refused(tmp_path: Path, have: str, want: str) -> None:
    path = tmp_path / "w.safetensors"
    with torch.device("meta"):
        net = getattr(torchvision_models, have)(weights=None)
    empty = {
        key: torch.zeros((), dtype=v.dtype).expand(v.shape) for key, v in net.state_dict().items()
    }
    torch.save(empty, path.with_suffix(".pth"))  # expanded zeros: a small file
    encoder = build_encoder(want, 8)
    before = copy.deepcopy(encoder.state_dict())
    one_line(lambda: load_backbone(encoder, path.with_suffix(".pth")), path.with_suffix(".pth"))
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_first_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    net = build_encoder("timm:test_resnet", 8)
    state = _perturbed(net.net)  # type: ignore[arg-type]
    path.write_bytes(save(state))
    section = SimpleNamespace(weights=None, weights_sha256=None)
    config = ModelConfig(
        "network", ("a",), "timm:test_resnet", 8, 16, (1, 2, 3), "gated", "gain", False
    )
    model = build(config)
    before = copy.deepcopy(model.state_dict())
    assert first_weights(model, config, section) == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    section.weights = str(path)
    known = first_weights(model, config, section)
    assert [id(p) for p in known] == [id(p) for p in model.encoder.parameters()]
    for key, value in model.state_dict().items():
        inner = key.removeprefix("encoder.net.")
        assert torch.equal(value, state[inner] if key.startswith("encoder.") else before[key])
    section.weights_sha256 = "f" * 64
    one_line(lambda: first_weights(model, config, section), path)
