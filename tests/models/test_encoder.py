"""Backbones: where the taps are, where depth goes in, what stays frozen."""

import pytest
import torch
import torchvision.models as torchvision_models
from torch import Tensor, nn

from dgkd_core.models.encoder import Encoder, ResNet, TimmEncoder
from dgkd_core.models.registry import build_encoder

NAMES = ["resnet18", "resnet50", "timm:test_resnet", "timm:tf_efficientnet_lite0"]
SIZES = [(64, 64), (69, 83), (33, 50)]


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


EACH = [
    pytest.param((name, stride), marks=[] if name == "timm:test_resnet" else pytest.mark.full)
    for name in NAMES
    for stride in (8, 16)
]


@pytest.fixture(scope="module", params=EACH, ids=str)
def built(request: pytest.FixtureRequest) -> tuple[Encoder, int]:
    name, stride = request.param
    torch.manual_seed(0)
    return build_encoder(name, stride).eval(), stride


@pytest.mark.parametrize("size", SIZES)
def test_taps_have_the_announced_channels_and_strides(
    built: tuple[Encoder, int], size: tuple[int, int]
) -> None:
    encoder, stride = built
    with torch.no_grad():
        shallow, deep = encoder(torch.rand(1, 3, *size))
    assert shallow.shape[1] == encoder.shallow_channels
    assert deep.shape[1] == encoder.deep_channels
    assert shallow.shape[-2:] == tuple(-(-side // 4) for side in size)
    assert deep.shape[-2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize("size", SIZES)
def test_fusion_is_called_at_three_places_in_order(
    built: tuple[Encoder, int], size: tuple[int, int]
) -> None:
    encoder, stride = built
    calls: list[tuple[int, int, tuple[int, ...]]] = []

    def fuse(place: int, x: Tensor) -> Tensor:
        calls.append((place, x.shape[1], tuple(x.shape[-2:])))
        return x

    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        fused = encoder(image, fuse)
        plain = encoder(image)
    strides = (4, 8, min(16, stride))
    assert calls == [
        (k, encoder.fusion_channels[k], tuple(-(-side // strides[k]) for side in size))
        for k in range(3)
    ]
    assert all(torch.equal(a, b) for a, b in zip(fused, plain, strict=True))


def test_the_shallow_tap_is_taken_before_the_fusion(built: tuple[Encoder, int]) -> None:
    encoder, _ = built
    image = torch.rand(1, 3, 40, 40)
    seen: list[Tensor] = []

    def fuse(place: int, x: Tensor) -> Tensor:
        if place == 0:
            seen.append(x.clone())
        return 3 * x + 1

    with torch.no_grad():
        shallow, deep = encoder(image)
        fused_shallow, fused_deep = encoder(image, fuse)
    assert torch.equal(fused_shallow, shallow)
    assert torch.equal(seen[0], shallow)
    assert not torch.allclose(fused_deep, deep)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_deep_tap_sees_every_fusion(built: tuple[Encoder, int], place: int) -> None:
    encoder, _ = built
    image = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        deep = encoder(image)[1]
        changed = encoder(image, lambda k, x: 2 * x + 0.5 if k == place else x)[1]
        again = encoder(image)[1]
    assert not torch.allclose(changed, deep)
    assert torch.equal(again, deep), "the fusion of one call must not stay for the next"


def test_a_fusion_that_raises_leaves_nothing_behind(built: tuple[Encoder, int]) -> None:
    encoder, _ = built
    image = torch.rand(1, 3, 40, 40)

    def fuse(place: int, x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with torch.no_grad():
        before = encoder(image)
        with pytest.raises(ZeroDivisionError):
            encoder(image, fuse)
        after = encoder(image)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnet_taps_are_torchvisions(name: str) -> None:
    """At stride 32 nothing is changed: the taps are torchvision's layer1 and layer4."""
    torch.manual_seed(1)
    net = getattr(torchvision_models, name)(weights=None).eval()
    encoder = ResNet(name, 32).eval()
    theirs = {
        key.replace("conv1", "stem.0", 1) if key.startswith("conv1") else
        key.replace("bn1", "stem.1", 1) if key.startswith("bn1") else key: value
        for key, value in net.state_dict().items()
        if not key.startswith("fc.")
    }  # fmt: skip
    encoder.load_state_dict(theirs)
    image = torch.rand(1, 3, 45, 64)
    with torch.no_grad():
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(image)))))
        expected = x, net.layer4(net.layer3(net.layer2(x)))
        assert all(torch.equal(a, b) for a, b in zip(encoder(image), expected, strict=True))


@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_leaves_the_parameters_alone(stride: int) -> None:
    plain, dilated = ResNet("resnet18", 32), ResNet("resnet18", stride)
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (plain, dilated)]
    assert shapes[0] == shapes[1]
    dilated.load_state_dict(plain.state_dict())


def test_resnet50_is_dilated_as_torchvision_does_it() -> None:
    torch.manual_seed(2)
    reference = torchvision_models.resnet50(
        weights=None, replace_stride_with_dilation=[False, True, True]
    )
    encoder = ResNet("resnet50", 8)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        mine, theirs = (
            [
                (k, m.stride, m.dilation, m.padding)
                for k, m in getattr(net, name).named_modules()
                if isinstance(m, nn.Conv2d)
            ]
            for net in (encoder, reference)
        )
        assert mine == theirs, name


@pytest.mark.full
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_resnet_agrees_with_the_strided_one(name: str, stride: int) -> None:
    """Without its strides a stage computes the same values, at more places.

    Zero padding is the same distance away in both, so that this holds up to the border: every
    second (fourth) pixel of the dilated features is the undilated network's.
    """
    torch.manual_seed(3)
    plain, dilated = ResNet(name, 32).eval(), ResNet(name, stride).eval()
    dilated.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 96, 64)
    step = 32 // stride
    with torch.no_grad():
        coarse, fine = plain(image)[1], dilated(image)[1]
    assert fine.shape[-2:] == (step * coarse.shape[-2], step * coarse.shape[-1])
    error = (fine[..., ::step, ::step] - coarse).abs().max()
    assert error < 1e-4 * coarse.abs().max()


@pytest.mark.parametrize("stride", [4, 12, 64])
def test_resnet_refuses_other_strides(stride: int) -> None:
    with pytest.raises(ValueError, match=f"got {stride}"):
        ResNet("resnet18", stride)


def test_a_timm_network_without_three_levels_after_stride_four_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a stride-4 level"):
        TimmEncoder("test_vit", 32)


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_freeze_holds_stem_and_norms_through_train(name: str) -> None:
    torch.manual_seed(4)
    encoder = build_encoder(name, 8)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts a block's last one at zero
    assert all(p.requires_grad for p in encoder.parameters())
    encoder.freeze()
    wrapper = nn.Sequential(encoder).eval().train()
    assert encoder.training
    norms = [m for m in encoder.modules() if _is_norm(m)]
    convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(norms) >= 10
    assert not any(m.training for m in norms)
    frozen = {id(p) for m in [*norms, convs[0]] for p in m.parameters(recurse=False)}
    for parameter in encoder.parameters():
        assert parameter.requires_grad == (id(parameter) not in frozen)
    assert convs[0].in_channels == 3
    assert encoder.stem_parameters()[0] is convs[0].weight

    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    shallow, deep = wrapper(torch.rand(2, 3, 40, 40))
    (shallow.sum() + deep.sum()).backward()
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    torch.optim.SGD(trainable, 0.1).step()
    after = encoder.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    names = {id(p): key for key, p in encoder.named_parameters()}
    assert changed == {names[id(p)] for p in trainable}


def test_without_freeze_the_norms_learn() -> None:
    encoder = build_encoder("timm:test_resnet", 8).train()
    norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    encoder(torch.rand(2, 3, 32, 32))
    assert not torch.equal(norm.running_mean, before)


def test_an_encoder_without_a_stem_says_so() -> None:
    encoder = Encoder(4, 8, (4, 4, 4))
    with pytest.raises(TypeError, match="stem"):
        encoder.freeze()
    with pytest.raises(TypeError, match="forward"):
        encoder(torch.zeros(1, 3, 8, 8))
