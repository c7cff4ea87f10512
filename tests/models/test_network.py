"""Networks: what they return, which parameters learn, where depth changes them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import cancelled_biases
from torch import Tensor, nn

from dgkd_core.models.encoder import Encoder
from dgkd_core.models.head import class_scores, mask_loss
from dgkd_core.models.network import Network, Output, Segmenter, normalise
from dgkd_core.models.registry import build_encoder

SIDES = 21, 30
IMAGE = torch.rand(2, 3, *SIDES, generator=torch.Generator().manual_seed(0))
DEPTH = torch.rand(2, 1, *SIDES, generator=torch.Generator().manual_seed(1))
Kind = type[Network] | type[Segmenter]


def _encoder(frozen: bool = False) -> Encoder:
    encoder = build_encoder("timm:test_resnet", 8)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts a block's last one at zero
    if frozen:
        encoder.freeze()
    return encoder


def _made(kind: Kind, dgf2: str = "off", frozen: bool = False, **more: Any) -> Any:
    torch.manual_seed(2)
    return kind(_encoder(frozen), 3, 8, dgf2, (1, 2, 3), **more)


def test_normalise_is_by_imagenets_statistics() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (IMAGE - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(normalise(IMAGE), expected)


@torch.no_grad()
@pytest.mark.parametrize("dgf2", ["off", "paper", "gated"])
def test_output_of_a_network(dgf2: str) -> None:
    network, image = _made(Network, dgf2).eval(), IMAGE.clone()
    depth = None if dgf2 == "off" else DEPTH
    out = network(image, depth)
    assert torch.equal(image, IMAGE), "the picture must not be changed in place"
    assert network.uses_depth == (dgf2 != "off")
    assert out.logits.shape == (2, 4, 6, 8)
    assert bool((out.logits[:, 0] == 1).all())
    torch.testing.assert_close(out.masks, out.logits.softmax(1))
    torch.testing.assert_close(out.scores, class_scores(out.logits))
    assert out.deep.shape == (2, 8, 3, 4)
    assert out.shallow.shape == (2, 8, 6, 8)
    for asked in (False, (), ("map", "deep"), ("shallow",)):
        found = network(image, depth, features=asked, scores=False)
        assert found.scores is None
        assert torch.equal(found.logits, out.logits)
        for name in ("deep", "shallow"):
            if asked and name in asked:
                assert torch.equal(getattr(found, name), getattr(out, name))
            else:
                assert getattr(found, name) is None
    found = network(image, depth, raw=True, scores=False)
    tap, deep = network.features(image, depth)
    assert torch.equal(found.shallow, tap)
    assert torch.equal(found.deep, deep)
    double = network.double()(image.double(), None if depth is None else depth.double())
    assert double.logits.dtype == torch.float32  # whatever the network computes in
    assert double.deep.dtype == torch.float64


@torch.no_grad()
def test_gated_starts_as_the_plain_network_and_the_published_form_does_not() -> None:
    plain, gated, paper = (_made(Network, dgf2).eval() for dgf2 in ("off", "gated", "paper"))
    for network in (gated, paper):
        missing = network.load_state_dict(plain.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert {key.split(".")[0] for key in missing.missing_keys} == {"prior", "fusion"}
    expected, same, other = plain(IMAGE), gated(IMAGE, DEPTH), paper(IMAGE, DEPTH)
    for name in ("logits", "masks", "scores", "deep", "shallow"):
        assert torch.equal(getattr(same, name), getattr(expected, name)), name
    assert (other.logits - expected.logits).abs().max() > 1e-4
    for fusion in gated.fusion:
        nn.init.ones_(fusion.gate)
    assert (gated(IMAGE, DEPTH).logits - gated(IMAGE, 1 - DEPTH).logits).abs().max() > 1e-5


def test_a_network_that_fuses_depth_asks_for_it() -> None:
    with pytest.raises(ValueError, match="call it with"):
        _made(Network, "paper")(IMAGE)
    with pytest.raises(ValueError, match="got 'on'"):
        _made(Network, "on")


def _loss(out: Output) -> Tensor:
    """The weak losses with fixed pseudo masks, and something for the projected features."""
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    pseudo = torch.zeros(2, 4, *SIDES)
    pseudo[:, 0, :6] = 1
    pseudo[0, 1, 6:12] = pseudo[0, 3, 12:15] = pseudo[1, 2, 8:18] = 1
    assert out.scores is not None
    loss = F.multilabel_soft_margin_loss(out.scores, labels)
    loss = loss + mask_loss(out.logits, pseudo, labels).sum()
    for feature in (out.deep, out.shallow):
        if feature is not None:
            loss = loss + (feature * torch.randn_like(feature)).mean()
    return loss


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("kind", "dgf2"),
    [*((Network, d) for d in ("off", "paper", "gated", "opened")), (Segmenter, "paper")],
)
def test_every_parameter_learns(kind: Kind, dgf2: str, frozen: bool) -> None:
    """A finite gradient everywhere, but none where frozen: the backbone's first convolution and
    its norms, whose statistics stay, too. A closed gate lets nothing through."""
    network = _made(kind, "gated" if dgf2 == "opened" else dgf2, frozen).eval().train()
    modules = list(network.encoder.modules())
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    stem = next(m for m in modules if isinstance(m, nn.Conv2d))
    still = {id(p) for m in (stem, *norms) for p in m.parameters() if frozen}
    means = [norm.running_mean.clone() for norm in norms]
    if dgf2 == "opened":
        for fusion in network.fusion:
            nn.init.constant_(fusion.gate, 0.1)
    _loss(network(IMAGE, DEPTH)).backward()
    assert all(torch.equal(m.running_mean, b) == frozen for m, b in zip(norms, means, strict=True))
    idle = cancelled_biases(network)
    for name, parameter in network.named_parameters():
        closed = name.startswith(("prior.", "fusion.")) and not name.endswith(".gate")
        assert parameter.requires_grad == (id(parameter) not in still), name
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen"
        elif dgf2 == "gated" and closed:
            assert parameter.grad is None or parameter.grad.abs().max() == 0, name
        else:
            assert parameter.grad is not None, f"{name} got no gradient"
            assert bool(parameter.grad.isfinite().all()), f"{name}: not finite"
            assert name in idle or parameter.grad.abs().max() > 0, f"{name}: zero"


def test_features_train_the_projections_alone_where_they_are_detached() -> None:
    network = _made(Network).train()
    projections = {n for n, _ in network.named_parameters() if n.startswith("project_")}
    out = network(IMAGE, detach_features=True)
    (out.deep.square().mean() + out.shallow.square().mean()).backward()
    assert {n for n, p in network.named_parameters() if p.grad is not None} == projections
    network.zero_grad()
    _loss(network(IMAGE, features=False)).backward()
    assert {n for n, p in network.named_parameters() if p.grad is None} == projections


@torch.no_grad()
def test_a_segmenters_score_is_its_best_log_odds_and_stays_finite() -> None:
    segmenter = _made(Segmenter).eval()
    nn.init.normal_(segmenter.classify[1].weight, std=2.0)
    out = segmenter(IMAGE)
    assert out.logits.shape == (2, 4, 6, 8)
    assert out.deep is None
    assert out.shallow is None
    torch.testing.assert_close(out.masks, out.logits.softmax(1))
    best = out.masks[:, 1:].flatten(2).max(2).values.clamp(1e-6, 1 - 1e-6)
    torch.testing.assert_close(out.scores, (best / (1 - best)).log(), rtol=1e-3, atol=1e-3)
    nn.init.constant_(segmenter.classify[1].bias[:1], 1e4)
    assert bool(segmenter(IMAGE).scores.isfinite().all())


def test_a_curve_in_front_learns_with_the_network() -> None:
    plain, curved = _made(Network).eval(), _made(Network, curve=True).eval()
    missing, extra = curved.load_state_dict(plain.state_dict(), strict=False)
    assert not extra
    assert all(name.startswith("curve.") for name in missing)
    with torch.no_grad():  # the identity at first
        torch.testing.assert_close(curved(IMAGE).logits, plain(IMAGE).logits, atol=1e-4, rtol=1e-4)
    nn.init.normal_(curved.curve.predict[2].weight)
    F.cross_entropy(curved.train()(IMAGE).logits, torch.randint(0, 4, (2, 6, 8))).backward()
    for parameter in curved.curve.parameters():
        assert bool(parameter.grad.isfinite().all())
        assert parameter.grad.abs().max() > 0
