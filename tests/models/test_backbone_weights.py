"""Published backbone weights into encoders, and one line for those that do not fit."""

import copy
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision.models as torchvision_models
from safetensors.torch import save_file
from support import CONFIG, one_line
from torch import Tensor, nn

from dgkd_core.models.registry import build, build_encoder, first_weights, load_backbone


def _perturbed(module: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(6)
    return {
        key: value * (1 + torch.rand_like(value) / 9) if value.is_floating_point() else value + 3
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize(  # some published files have no counters
    ("suffix", "counters"), [(".pth", True), (".safetensors", False)]
)
def test_torchvisions_weights_load(tmp_path: Path, suffix: str, counters: bool) -> None:
    path = tmp_path / f"resnet18{suffix}"
    state = _perturbed(torchvision_models.resnet18(weights=None))
    if not counters:
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    encoder: Any = build_encoder("resnet18", 32)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_backbone(encoder, path, digest) == ["fc.bias", "fc.weight"]
    loaded = encoder.net.state_dict()
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(state[key], value) for key, value in loaded.items() if key in state)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_timms_weights_load(tmp_path: Path, name: str) -> None:
    """test_convnext's stages.0 is stages_0 where features alone are asked for."""
    state = _perturbed(timm.create_model(name, pretrained=False))
    save_file(state, tmp_path / "w.safetensors")
    encoder: Any = build_encoder(f"timm:{name}", 32)
    unused = load_backbone(encoder, tmp_path / "w.safetensors")
    loaded = encoder.net.state_dict()
    assert len(unused) == len(state) - len(loaded) > 0
    for key, value in loaded.items():
        assert torch.equal(value, state[key if key in state else key.replace("_", ".", 1)])


@pytest.mark.parametrize(
    ("have", "want"),
    [("resnet50", "resnet18"), ("resnet18", "resnet34"), ("resnet34", "resnet18")],
)
def test_weights_of_another_backbone_are_refused(tmp_path: Path, have: str, want: str) -> None:
    path = tmp_path / "w.pth"
    with torch.device("meta"):
        net = getattr(torchvision_models, have)(weights=None)
        encoder = build_encoder(want, 8)
    empty = {k: torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in net.state_dict().items()}
    torch.save(empty, path)  # expanded zeros: a small file
    one_line(lambda: load_backbone(encoder, path), path, "this backbone")


def test_first_weights(tmp_path: Path) -> None:
    """Nothing, a file, a pinned file: what is refused leaves the network as it was."""
    path = tmp_path / "w.safetensors"
    model: Any = build(CONFIG)
    state = _perturbed(model.encoder.net)
    save_file(state, path)
    before = copy.deepcopy(model.state_dict())
    section = SimpleNamespace(weights=None, weights_sha256=None)
    assert first_weights(model, CONFIG, section) == []
    section = SimpleNamespace(weights=str(path), weights_sha256="f" * 64)
    one_line(lambda: first_weights(model, CONFIG, section), path, "weights_sha256", "f" * 12)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    section.weights_sha256 = None
    known = first_weights(model, CONFIG, section)
    assert [id(p) for p in known] == [id(p) for p in model.encoder.parameters()]
    for key, value in model.state_dict().items():
        inner = key.removeprefix("encoder.net.")
        assert torch.equal(value, state[inner] if key.startswith("encoder.") else before[key])


def test_imagenet_weights_that_cannot_be_fetched_are_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to the library")

    model = build(CONFIG)
    monkeypatch.setattr("timm.create_model", refuse)
    one_line(
        lambda: first_weights(model, CONFIG, SimpleNamespace(weights="imagenet")),
        "model.weights is imagenet: those of timm:test_resnet cannot be fetched",
        "(no route to the library), expected a network connection, or a local file",
    )
