"""Networks: what they return, which parameters learn, where depth changes them."""

import pytest
import torch
import torch.nn.functional as F
from support import cancelled_biases
from torch import Tensor, nn

from dgkd_core.config.choices import MEAN, STD
from dgkd_core.models.encoder import Encoder
from dgkd_core.models.head import class_scores, mask_loss
from dgkd_core.models.network import Network, Output, Segmenter, normalise
from dgkd_core.models.registry import build_encoder

RATES = (1, 2, 3)
IMAGE = torch.rand(2, 3, 37, 46, generator=torch.Generator().manual_seed(0))
DEPTH = torch.rand(2, 1, 37, 46, generator=torch.Generator().manual_seed(1))


def _encoder(frozen: bool = False) -> Encoder:
    encoder = build_encoder("timm:test_resnet", 8)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts a block's last one at zero
    if frozen:
        encoder.freeze()
    return encoder


def _network(dgf2: str, *, frozen: bool = False, width: int = 16, seed: int = 2) -> Network:
    torch.manual_seed(seed)
    return Network(_encoder(frozen), 3, width, dgf2, RATES)


def _check_gradients(module: nn.Module, without: set[str]) -> None:
    """Finite everywhere, nonzero but for ``without``, none where frozen."""
    without = without | cancelled_biases(module)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen"
            continue
        assert parameter.grad is not None, f"{name} got no gradient"
        assert bool(parameter.grad.isfinite().all()), f"{name}: not finite"
        if name not in without:
            assert parameter.grad.abs().max() > 0, f"{name}: zero"


def test_normalise_is_a_copy_with_imagenets_statistics() -> None:
    image = IMAGE.clone()
    out = normalise(image)
    assert torch.equal(image, IMAGE)
    for c, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        torch.testing.assert_close(out[:, c], (IMAGE[:, c] - mean) / std)
    assert (MEAN[0], STD[2]) == (0.485, 0.225)


@pytest.mark.parametrize("dgf2", ["off", "paper", "gated"])
def test_output_of_a_network(dgf2: str) -> None:
    network = _network(dgf2).eval()
    image = IMAGE.clone()
    with torch.no_grad():
        out = network(image, None if dgf2 == "off" else DEPTH)
    assert torch.equal(image, IMAGE), "the picture must not be changed in place"
    assert network.uses_depth == (dgf2 != "off")
    assert out.logits.shape == (2, 4, 10, 12)
    assert bool((out.logits[:, 0] == 1).all())
    torch.testing.assert_close(out.masks, out.logits.softmax(1))
    torch.testing.assert_close(out.scores, class_scores(out.logits))
    assert out.deep is not None
    assert out.shallow is not None
    assert out.deep.shape == (2, 16, 5, 6)
    assert out.shallow.shape == (2, 16, 10, 12)
    with torch.no_grad():
        bare = network(IMAGE, None if dgf2 == "off" else DEPTH, features=False)
    assert bare.deep is None
    assert bare.shallow is None
    assert torch.equal(bare.logits, out.logits)


def test_gated_starts_as_the_plain_network_and_the_published_form_does_not() -> None:
    plain, gated, paper = (_network(dgf2).eval() for dgf2 in ("off", "gated", "paper"))
    for network in (gated, paper):
        missing = network.load_state_dict(plain.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert {key.split(".")[0] for key in missing.missing_keys} == {"prior", "fusion"}
    with torch.no_grad():
        expected = plain(IMAGE)
        same, other = gated(IMAGE, DEPTH), paper(IMAGE, DEPTH)
    for name in ("logits", "masks", "scores", "deep", "shallow"):
        assert torch.equal(getattr(same, name), getattr(expected, name)), name
    assert (other.logits - expected.logits).abs().max() > 1e-4


def test_depth_matters_once_the_gate_is_open() -> None:
    network = _network("gated").eval()
    for fusion in network.fusion:
        nn.init.ones_(fusion.gate)
    with torch.no_grad():
        one, other = network(IMAGE, DEPTH), network(IMAGE, 1 - DEPTH)
    assert (one.logits - other.logits).abs().max() > 1e-5


@pytest.mark.parametrize("kind", [Network, Segmenter])
def test_a_network_that_fuses_depth_asks_for_it(kind: type[Network] | type[Segmenter]) -> None:
    network = kind(_encoder(), 3, 16, "paper", RATES)
    with pytest.raises(ValueError, match="call it with"):
        network(IMAGE)
    with pytest.raises(ValueError, match="got 'on'"):
        kind(_encoder(), 3, 16, "on", RATES)


def test_a_shallow_tap_of_the_heads_width_is_used_as_it_is() -> None:
    encoder = _encoder()
    assert isinstance(Network(encoder, 3, encoder.shallow_channels).align, nn.Identity)
    align = Network(encoder, 3, 16).align
    assert isinstance(align, nn.Conv2d)
    assert align.weight.shape == (16, encoder.shallow_channels, 1, 1)


def _loss(out: Output) -> Tensor:
    """The weak losses with fixed pseudo masks, and something for the projected features."""
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    pseudo = torch.zeros(2, 4, 37, 46)
    pseudo[:, 0, :10] = 1
    pseudo[0, 1, 10:20] = pseudo[0, 3, 20:25] = pseudo[1, 2, 12:30] = 1
    loss = F.multilabel_soft_margin_loss(out.scores, labels)
    loss = loss + mask_loss(out.logits, pseudo, labels).sum()
    for feature in (out.deep, out.shallow):
        if feature is not None:
            loss = loss + (feature * torch.randn_like(feature)).mean()
    return loss


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dgf2", ["off", "paper", "gated"])
def test_every_parameter_of_a_network_learns(dgf2: str, frozen: bool) -> None:
    network = _network(dgf2, frozen=frozen).train()
    _loss(network(IMAGE, DEPTH)).backward()
    closed: set[str] = set()
    if dgf2 == "gated":  # nothing but the gate at first
        closed = {
            name
            for name, _ in network.named_parameters()
            if name.startswith(("prior.", "fusion.")) and not name.endswith(".gate")
        }
        for name, parameter in network.named_parameters():
            assert name not in closed or parameter.grad is None or parameter.grad.abs().max() == 0
    _check_gradients(network, closed)


def test_an_opened_gate_lets_the_depth_branch_learn() -> None:
    network = _network("gated").train()
    for fusion in network.fusion:
        nn.init.constant_(fusion.gate, 0.1)
    _loss(network(IMAGE, DEPTH)).backward()
    _check_gradients(network, set())


def test_without_features_the_projections_get_no_gradient() -> None:
    network = _network("off").train()
    _loss(network(IMAGE, features=False)).backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None}
    assert idle == {n for n, _ in network.named_parameters() if n.startswith("project_")}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dgf2", ["off", "paper"])
def test_every_parameter_of_a_segmenter_learns(dgf2: str, frozen: bool) -> None:
    torch.manual_seed(3)
    segmenter = Segmenter(_encoder(frozen), 3, 16, dgf2, RATES).train()
    out = segmenter(IMAGE, DEPTH)
    F.cross_entropy(out.logits, torch.randint(0, 4, (2, 10, 12))).backward()
    _check_gradients(segmenter, set())


def test_a_segmenters_score_is_its_best_log_odds() -> None:
    torch.manual_seed(4)
    segmenter = Segmenter(_encoder(), 3, 16, "off", RATES).eval()
    with torch.no_grad():
        nn.init.normal_(segmenter.classify[1].weight, std=2.0)
        out = segmenter(IMAGE)
    assert out.logits.shape == (2, 4, 10, 12)
    assert out.deep is None
    assert out.shallow is None
    torch.testing.assert_close(out.masks, out.logits.softmax(1))
    for i in range(2):
        for c in range(3):
            best = max(out.masks[i, c + 1].flatten().tolist())
            best = min(max(best, 1e-6), 1 - 1e-6)
            odds = torch.tensor(best / (1 - best)).log()
            torch.testing.assert_close(out.scores[i, c], odds, rtol=1e-3, atol=1e-3)


def test_scores_stay_finite_for_a_certain_segmenter() -> None:
    torch.manual_seed(5)
    segmenter = Segmenter(_encoder(), 3, 16, "off", RATES).eval()
    nn.init.constant_(segmenter.classify[1].bias[:1], 1e4)
    with torch.no_grad():
        assert bool(segmenter(IMAGE).scores.isfinite().all())


def test_float64_runs_through() -> None:
    """Everything but the logits' cast to float32 follows the network's type."""
    network = _network("paper").double().eval()
    with torch.no_grad():
        out = network(IMAGE.double(), DEPTH.double())
    assert out.logits.dtype == torch.float32
    assert out.deep is not None
    assert out.deep.dtype == torch.float64


@pytest.mark.parametrize("kind", [Network, Segmenter])
def test_a_curve_in_front_learns_with_the_network(kind: type[Network] | type[Segmenter]) -> None:
    torch.manual_seed(6)
    plain = kind(_encoder(), 3, 16, "off", RATES).eval()
    curved = kind(_encoder(), 3, 16, "off", RATES, curve=True).eval()
    assert curved.curve is not None
    missing, extra = curved.load_state_dict(plain.state_dict(), strict=False)
    assert not extra
    assert all(name.startswith("curve.") for name in missing)
    with torch.no_grad():
        torch.testing.assert_close(
            curved(IMAGE).logits, plain(IMAGE).logits, atol=1e-4, rtol=1e-4
        )  # the identity at first
    nn.init.normal_(curved.curve.predict[2].weight)
    F.cross_entropy(curved.train()(IMAGE).logits, torch.randint(0, 4, (2, 10, 12))).backward()
    for parameter in curved.curve.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
        assert parameter.grad.abs().max() > 0


def test_detached_features_train_the_projections_alone() -> None:
    network = _network("off").train()
    out = network(IMAGE, detach_features=True)
    assert out.deep is not None
    assert out.shallow is not None
    (out.deep.square().mean() + out.shallow.square().mean()).backward()
    learns = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learns == {n for n, _ in network.named_parameters() if n.startswith("project_")}


@pytest.mark.parametrize(
    ("features", "there"),
    [(True, {"deep", "shallow"}), (False, set()), (("map", "deep"), {"deep"}), ((), set())],
)
def test_only_what_is_asked_for_is_computed(
    features: bool | tuple[str, ...], there: set[str]
) -> None:
    network = _network("off").eval()
    seen = []
    for name in ("deep", "shallow"):
        getattr(network, f"project_{name}").register_forward_hook(lambda *_, n=name: seen.append(n))
    with torch.no_grad():
        out = network(IMAGE, features=features, scores=False)
        full = network(IMAGE)
    assert out.scores is None
    assert {name for name in ("deep", "shallow") if getattr(out, name) is not None} == there
    assert seen == [*sorted(there), "deep", "shallow"]
    assert torch.equal(out.masks, full.masks)
    for name in there:
        assert torch.equal(getattr(out, name), getattr(full, name))
