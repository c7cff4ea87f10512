"""The denoiser against DDIM written out from the β schedule."""

import math

import pytest
import torch
from support import lively
from torch import Tensor, nn

from dgkd_core.distill.denoiser import FeatureDenoiser, NoisePredictor

STEPS = {1: [0], 2: [250, 0], 5: [400, 300, 200, 100, 0], 10: [*range(450, -1, -50)]}


def _alpha_bar() -> list[float]:
    out, product = [], 1.0
    for t in range(1000):
        beta = 1e-4 + (2e-2 - 1e-4) * t / 999
        product *= 1 - beta
        out.append(product)
    return out


def _denoiser(channels: int = 4, steps: int = 5) -> FeatureDenoiser:
    """In float64 and evaluation mode, with statistics that are not those of the start."""
    torch.manual_seed(0)
    return lively(FeatureDenoiser(channels, steps))


@pytest.mark.parametrize("steps", STEPS)
def test_timesteps_are_the_second_half_of_a_schedule_of_twice_as_many(steps: int) -> None:
    assert FeatureDenoiser(2, steps).timesteps == STEPS[steps]


@pytest.mark.parametrize("steps", [0, 11, -1])
def test_other_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"got {steps}"):
        FeatureDenoiser(2, steps)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_denoise_is_ddim_without_noise_or_clipping(steps: int) -> None:
    denoiser = _denoiser(steps=steps)
    x = 8 * torch.randn(2, 4, 3, 5, dtype=torch.float64)  # far outside [-1, 1]
    bars = _alpha_bar()
    with torch.no_grad():
        value = x.clone()
        for t in STEPS[steps]:
            noise = denoiser.predict(value, torch.tensor([t, t]))
            bar, before = bars[t], bars[t - 500 // steps] if t else 1.0
            clean = (value - math.sqrt(1 - bar) * noise) / math.sqrt(bar)
            value = math.sqrt(before) * clean + math.sqrt(1 - before) * noise
        expected = denoiser.project(value)
        first, second = denoiser.denoise(x), denoiser.denoise(x)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(first, second), "eta 0: nothing is drawn"


def test_denoise_gives_a_gradient_to_the_student_and_the_denoiser() -> None:
    torch.manual_seed(1)
    denoiser = FeatureDenoiser(4, 3).train()
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    (denoiser.denoise(x) * torch.randn(2, 4, 3, 3)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert denoiser.predict.layers[2].weight.grad.abs().max() > 0
    assert denoiser.project[0].weight.grad.abs().max() > 0


def _linear(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution as a sum of shifted 1x1 ones."""
    assert conv.bias is not None
    size = conv.kernel_size[0]
    r = size // 2
    _, _, height, width = x.shape
    out = torch.zeros(len(x), conv.out_channels, height, width, dtype=x.dtype)
    for dy in range(-r, r + 1):
        for dx in range(-r, r + 1):
            weight = conv.weight[:, :, dy + r, dx + r]
            for y in range(max(0, -dy), min(height, height - dy)):
                for i in range(max(0, -dx), min(width, width - dx)):
                    out[..., y, i] += x[..., y + dy, i + dx] @ weight.T
    return out + conv.bias[:, None, None]


def _norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    x = (x - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[:, None, None]
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def test_noise_predictor_follows_the_method() -> None:
    """Embedding, two bottlenecks (ReLU after the first two norms), 1x1 convolution, norm."""
    predict = _denoiser(3).predict
    x, t = torch.randn(2, 3, 4, 3, dtype=torch.float64), torch.tensor([7, 900])
    convs = [m for m in predict.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in predict.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [c.kernel_size[0] for c in convs] == [1, 3, 1, 1, 3, 1, 1]
    assert all(c.in_channels == c.out_channels == 3 for c in convs)
    with torch.no_grad():
        value = x.clone()
        for i in range(2):
            value[i] += predict.time.weight[t[i]][:, None, None]
        for k in (0, 3):
            y = _norm(_linear(value, convs[k]), norms[k]).clamp(min=0)
            y = _norm(_linear(y, convs[k + 1]), norms[k + 1]).clamp(min=0)
            value = value + _norm(_linear(y, convs[k + 2]), norms[k + 2])
        expected = _norm(_linear(value, convs[6]), norms[6])
        torch.testing.assert_close(predict(x, t), expected)


def test_noise_predictor_leaves_its_input_alone() -> None:
    x = torch.randn(2, 3, 4, 4)
    before = x.clone()
    NoisePredictor(3)(x, torch.tensor([0, 1]))
    assert torch.equal(x, before)
    assert NoisePredictor(3).time.weight.shape == (1280, 3)


def test_diffusion_loss_gives_no_gradient_to_its_input() -> None:
    torch.manual_seed(2)
    denoiser = FeatureDenoiser(4).train()
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    before = x.detach().clone()
    loss = denoiser.diffusion_loss(2 * x)
    loss.backward()
    assert x.grad is None
    assert torch.equal(x.detach(), before)
    for name, parameter in denoiser.predict.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        if not (name.startswith("layers.0.layers") or name.startswith("layers.1.layers")):
            continue
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name
    assert denoiser.predict.time.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in denoiser.project.parameters())


class _Recorder(nn.Module):
    """Stands in for the predictor: remembers what it is asked and answers zero."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append((x, t))
        return torch.zeros_like(x)


def test_diffusion_loss_is_the_error_of_the_noise_that_was_mixed_in() -> None:
    """The noise is (x_t − √ᾱ·x) / √(1 − ᾱ); a predictor that says 0 loses its mean square."""
    torch.manual_seed(3)
    denoiser, recorder, bars = FeatureDenoiser(3), _Recorder(), _alpha_bar()
    denoiser.predict = recorder  # type: ignore[assignment]
    x = torch.randn(6, 3, 8, 8)
    for _ in range(3):
        loss = denoiser.diffusion_loss(x)
        noisy, t = recorder.calls[-1]
        noise = torch.stack(
            [
                (noisy[i].double() - math.sqrt(bars[t[i]]) * x[i]) / math.sqrt(1 - bars[t[i]])
                for i in range(6)
                if t[i] > 5  # where there is next to no noise it cannot be recovered
            ]
        )
        assert len(noise) >= 4
        assert abs(noise.mean().item()) < 5 / math.sqrt(noise.numel())
        assert abs(noise.var().item() - 1) < 5 * math.sqrt(2 / noise.numel())
        if len(noise) == 6:
            assert loss.item() == pytest.approx(noise.square().mean().item(), rel=1e-3)
    assert len({tuple(t.tolist()) for _, t in recorder.calls}) == 3


def test_steps_are_drawn_uniformly_one_a_picture() -> None:
    torch.manual_seed(4)
    denoiser, recorder = FeatureDenoiser(1), _Recorder()
    denoiser.predict = recorder  # type: ignore[assignment]
    n = 20_000
    denoiser.diffusion_loss(torch.zeros(n, 1, 1, 1))
    _, t = recorder.calls[0]
    assert t.shape == (n,)
    assert t.min() == 0
    assert t.max() == 999
    tenths = torch.bincount(t // 100, minlength=10)
    assert (tenths - n / 10).abs().max() < 5 * math.sqrt(n * 0.1 * 0.9)


def test_the_noise_adapter_keeps_a_share_and_fills_up_with_noise() -> None:
    torch.manual_seed(2)
    denoiser = lively(FeatureDenoiser(4, 2, noise_adapter=True))
    adapter = denoiser.adapt
    assert adapter is not None
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        gamma = adapter.gamma(x)
        assert gamma.shape == (3, 1, 1, 1)
        for i in range(3):
            pooled = adapter.features(x[i : i + 1])[0].mean((-2, -1))
            odds = (adapter.share.weight[0] * pooled).sum() + adapter.share.bias[0]
            assert gamma[i].item() == pytest.approx(1 / (1 + math.exp(-odds.item())), rel=1e-9)
        torch.manual_seed(9)
        found = denoiser.denoise(x)
        torch.manual_seed(9)
        noisy = gamma * x + (1 - gamma) * torch.randn_like(x)
        denoiser.adapt = None
        torch.testing.assert_close(found, denoiser.denoise(noisy))


def test_without_an_adapter_nothing_is_added() -> None:
    names = {name for name, _ in FeatureDenoiser(4).named_parameters()}
    more = {name for name, _ in FeatureDenoiser(4, noise_adapter=True).named_parameters()}
    assert {name.split(".")[0] for name in more - names} == {"adapt"}


@pytest.mark.full
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_gradients_through_ddim(steps: int) -> None:
    """Of the refined features by the student's and by every parameter of the denoiser."""
    denoiser = _denoiser(2, steps)
    names = [name for name, _ in denoiser.named_parameters() if name != "predict.time.weight"]
    values = [denoiser.get_parameter(name).detach().clone().requires_grad_() for name in names]
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)

    class Refine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = denoiser

        def forward(self, x: Tensor) -> Tensor:
            return self.denoiser.denoise(x)

    refine = Refine()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        given = {f"denoiser.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(refine, given, (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


def test_gradients_of_the_diffusion_loss() -> None:
    denoiser = _denoiser(2)
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64)
    names = [name for name, _ in denoiser.predict.named_parameters() if name != "time.weight"]
    values = [
        denoiser.predict.get_parameter(name).detach().clone().requires_grad_() for name in names
    ]

    def run(*values: Tensor) -> Tensor:
        torch.manual_seed(4)  # the same steps and noise at every call
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (2,))
        bars = torch.tensor(_alpha_bar(), dtype=torch.float64)[t].view(-1, 1, 1, 1)
        noisy = bars.sqrt() * x + (1 - bars).sqrt() * noise
        given = dict(zip(names, values, strict=True))
        out = torch.func.functional_call(denoiser.predict, given, (noisy, t))
        return (out - noise).square().mean()

    torch.manual_seed(4)
    torch.testing.assert_close(denoiser.diffusion_loss(x), run(*values))
    assert torch.autograd.gradcheck(run, tuple(values))


@pytest.mark.parametrize("adapter", [False, True])
def test_samples_begin_with_the_input_and_end_before_the_projection(adapter: bool) -> None:
    denoiser = FeatureDenoiser(4, noise_adapter=adapter).eval()
    x = torch.randn(2, 4, 3, 5)
    torch.manual_seed(1)
    samples = denoiser.samples(x)
    assert len(samples) == 6
    assert torch.equal(samples[0], x) is not adapter
    torch.manual_seed(1)
    assert torch.equal(denoiser.project(samples[-1]), denoiser.denoise(x))
