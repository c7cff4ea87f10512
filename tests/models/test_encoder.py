"""Backbones: their features, where depth goes in, what stays frozen, what learns."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as torchvision_models
from support import CONFIG
from torch import Tensor, nn

from dgkd_core.models.encoder import Encoder
from dgkd_core.models.registry import build, build_encoder
from dgkd_core.models.timm_encoder import TimmEncoder, resampled
from dgkd_core.runtime.errors import InputError

full = pytest.mark.full
SIZE = (37, 50)


@pytest.fixture(
    scope="module",
    params=[
        ("timm:test_resnet", 8, (4, 8, 8)),
        ("timm:test_convnext", 8, (4, 8, 8)),  # its stem leaves half a patch out: padded
        ("timm:test_vit", 8, (16, 16, 16)),
        *(
            pytest.param(case, marks=full)
            for case in [
                ("resnet50", 16, (4, 8, 16)),
                ("timm:mnasnet_small", 8, (4, 8, 8)),
                ("timm:swin_tiny_patch4_window7_224", 16, (4, 8, 16)),
                ("timm:pvt_v2_b0", 8, (4, 8, 16)),
                ("timm:vit_tiny_patch16_dinov3_qkvb", 16, (16, 16, 16)),
            ]
        ),
    ],
    ids=str,
)
def built(request: pytest.FixtureRequest) -> tuple[Encoder, int, tuple[int, int, int]]:
    name, stride, places = request.param
    torch.manual_seed(0)
    encoder = build_encoder(name, stride).eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts a block's last one at zero
    return encoder, stride, places


def _at(stride: int) -> tuple[int, ...]:
    return tuple(-(-side // stride) for side in SIZE)


@torch.no_grad()
def test_features_and_fusion(built: tuple[Encoder, int, tuple[int, int, int]]) -> None:
    """The announced channels and strides; three fusions in order, all seen by the deep features,
    none by the shallow ones nor by the next call."""
    encoder, stride, strides = built
    assert encoder.strides[:3] == strides
    image = torch.rand(1, 3, *SIZE)
    seen: list[Tensor] = []

    def fuse(place: int, x: Tensor) -> Tensor:
        assert place == len(seen)
        seen.append(x)
        return x.clone()

    plain, fused = encoder(image), encoder(image, fuse)
    assert plain[0].shape == (1, encoder.shallow_channels, *_at(4))
    assert plain[1].shape == (1, encoder.deep_channels, *_at(stride))
    places = zip(encoder.fusion_channels, strides, strict=True)
    for x, (channels, at) in zip(seen, places, strict=True):
        assert x.shape[:2] == (1, channels)
        pairs = zip(x.shape[2:], _at(at), strict=True)
        assert all(0 <= (n - m) * at < stride for n, m in pairs)  # of a padded picture
    assert strides[0] != 4 or torch.equal(seen[0][..., : _at(4)[0], : _at(4)[1]], plain[0])
    assert all(torch.equal(a, b) for a, b in zip(plain, fused, strict=True))

    for changed in range(3):
        found = encoder(image, lambda k, x, at=changed: 2 * x + 0.5 if k == at else x)
        assert torch.equal(found[0], plain[0])
        assert not torch.allclose(found[1], plain[1])
    with pytest.raises(ZeroDivisionError):
        encoder(image, lambda k, x: 1 / 0)
    assert all(torch.equal(a, b) for a, b in zip(encoder(image), plain, strict=True))


@torch.no_grad()
def test_a_resnet_computes_what_torchvisions_does() -> None:
    """At stride 32 to the bit. With dilation at the places that both have: zero padding is equally
    far away, so every second (fourth) pixel is the strided network's, up to the border."""
    torch.manual_seed(1)
    net = torchvision_models.resnet18(weights=None).eval()
    state = {key: value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    image = torch.rand(1, 3, 64, 32)
    shallow = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(image)))))
    deep = net.layer4(net.layer3(net.layer2(shallow)))
    for stride in (32, 16, 8):
        encoder = build_encoder("resnet18", stride).eval()
        assert isinstance(encoder, TimmEncoder)
        encoder.net.load_state_dict(state)
        found = encoder(image)
        step = 32 // stride
        assert torch.equal(found[0], shallow)
        assert found[1].shape[-2:] == (2 * step, step)
        shared = found[1][..., ::step, ::step]
        if stride == 32:
            assert torch.equal(shared, deep)
        assert (shared - deep).abs().max() < 1e-4 * deep.abs().max()


def test_a_copy_of_a_timm_network_computes_on_its_own() -> None:
    """The moving average of the weights is such a copy."""
    encoder = build_encoder("timm:test_resnet").eval()
    x, twin = torch.rand(1, 3, 32, 32), copy.deepcopy(encoder)
    with torch.no_grad():
        next(encoder.parameters()).zero_()
        shallow, deep = twin(x, lambda place, y: y + 1)
        assert not torch.equal(shallow, encoder(x)[0])
        next(encoder.parameters()).copy_(next(twin.parameters()))
        assert all(map(torch.equal, (shallow, deep), encoder(x, lambda place, y: y + 1)))


@torch.no_grad()
def test_a_transformer_computes_what_timms_does() -> None:
    """Its last tokens, after the norm, as a map; a picture of odd sides is padded by its mean."""
    encoder = build_encoder("timm:test_vit", 16).eval()
    assert isinstance(encoder, TimmEncoder)
    image = torch.rand(2, 3, 48, 80)
    tokens = encoder.net.forward_features(image)[:, encoder.net.num_prefix_tokens :]
    shallow, deep = encoder(image)
    assert torch.equal(deep, tokens.mT.unflatten(2, (3, 5)))
    assert shallow.shape == (2, 64, 12, 20)
    odd = image[..., :37, :66]
    found = encoder(odd)[1]
    assert torch.equal(found, encoder(F.pad(odd, (0, 14, 0, 11)))[1])


@torch.no_grad()
def test_affinity_is_the_last_blocks_attention_between_patches() -> None:
    """From queries and keys; the patches of padding are left out, a copy has its own."""
    torch.manual_seed(0)
    encoder = build_encoder("timm:test_vit", 16).eval()
    image = torch.rand(2, 3, 37, 66)
    before = encoder(image)
    assert encoder.affinity is None
    assert isinstance(encoder, TimmEncoder)
    attentions = list[Tensor]()

    def attention(layer: Any, inputs: tuple[Tensor]) -> None:
        q, k, _ = layer.qkv(inputs[0]).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attentions.append((q @ k.mT * layer.scale).softmax(-1).mean(1))

    hooks = [block.attn.register_forward_pre_hook(attention) for block in encoder.net.blocks]
    encoder(image)
    assert len(attentions) == 6
    for hook in hooks:
        hook.remove()
    mean = (attentions[4] + attentions[5])[:, 1:, 1:] / 2  # without the class token
    cell = mean.reshape(2, 3, 5, 3, 5)  # 48 x 80 with the padding
    encoder.attend()
    twin = copy.deepcopy(encoder)
    for each in (encoder, twin, copy.deepcopy(twin)):
        for one, other in zip(each(image), before, strict=True):
            torch.testing.assert_close(one, other)
        assert each.affinity is not None
        torch.testing.assert_close(each.affinity.sum((3, 4)), torch.ones(2, 3, 5))
        both = cell + cell.permute(0, 3, 4, 1, 2)
        expected = both / both.sum((3, 4), keepdim=True)
        torch.testing.assert_close(each.affinity, expected)


@pytest.mark.parametrize("name", ["timm:test_resnet", "wide_resnet38"])
def test_what_has_no_attention_between_patches_says_so(name: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(InputError, match=r"attention .* needs a plain transformer"),
    ):
        build_encoder(name, 8).attend()


@torch.no_grad()
def test_resampled_features_stay_over_their_pixels() -> None:
    """A ramp over the picture's columns stays that ramp, at the centres of the new cells."""
    for stride, wanted in ((14, 4), (16, 8), (4, 4), (8, 16)):
        columns = torch.arange(0, 112, stride) + stride / 2
        found = resampled(columns.expand(1, 1, 3, -1), stride, wanted, (10, 100))
        assert found.shape == (1, 1, -(-10 // wanted), -(-100 // wanted))
        inner = slice(stride // wanted + 1, 100 // wanted - stride // wanted - 1)
        centres = (torch.arange(found.shape[-1]) + 0.5) * wanted
        torch.testing.assert_close(found[0, 0, 0, inner], centres[inner])


def test_what_cannot_run_is_refused_when_it_is_built() -> None:
    why = r"model.backbone is 'timm:mixer_s32_224': .*cannot be run on \(97, 131\) pixels: Input"
    with pytest.raises(InputError, match=why):
        build_encoder("timm:mixer_s32_224", 16)


def test_a_network_whose_levels_are_no_modules_runs_without_depth() -> None:
    spec = replace(CONFIG, backbone="timm:hrnet_w18_small", output_stride=16)
    with pytest.raises(InputError, match=r"model\.dgf2 is gated: depth cannot be fused into"):
        build(spec)
    out = build(replace(spec, dgf2="off")).eval()(torch.rand(1, 3, 40, 50))
    assert out.logits.shape == (1, 3, 10, 13)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_checkpointing_changes_no_gradient_and_no_statistic(name: str) -> None:
    torch.manual_seed(0)
    plain = build_encoder(name, 8).double().train()
    saving = copy.deepcopy(plain)
    saving.checkpoint()
    assert len(saving.parts()) >= 4
    image = torch.rand(2, 3, 40, 56, dtype=torch.float64)
    for encoder in (plain, saving, copy.deepcopy(saving)):
        torch.manual_seed(1)
        shallow, deep = encoder(image, lambda place, x: x * 1.1)
        (shallow.square().mean() + deep.square().mean()).backward()
        for other, mine in zip(plain.parameters(), encoder.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad)
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(encoder.state_dict()[key], value, msg=key)


def test_distances_from_the_head() -> None:
    """As in BEiT and MAE: norm 0, the last block 1, the embeddings one below the first block."""
    encoder = build_encoder("timm:test_vit", 16)
    assert isinstance(encoder, TimmEncoder)
    net, distance = encoder.net, encoder.distances()
    assert {p for p in encoder.parameters() if p not in distance} == {
        *encoder.stem.parameters(),
        *encoder.lift.parameters(),
    }
    assert [distance[block.mlp.fc1.weight] for block in net.blocks] == [6, 5, 4, 3, 2, 1]
    assert (distance[net.norm.weight], distance[net.pos_embed]) == (0, 7)
    assert distance[net.patch_embed.proj.weight] == 7
