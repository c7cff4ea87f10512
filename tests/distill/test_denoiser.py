"""The denoiser against DDIM written out from the β schedule.

What predicts the noise is written out in tests/convert, which compares a step with the release's.
"""

import math

import pytest
import torch
from support import lively
from torch import Tensor, nn

from dgkd_core.distill.denoiser import FeatureDenoiser

STEPS = {1: [0], 2: [250, 0], 5: [400, 300, 200, 100, 0], 10: [*range(450, -1, -50)]}
BARS = (1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)).cumprod(0)  # ᾱ


def _denoiser(channels: int = 4, steps: int = 5, noise_adapter: bool = False) -> FeatureDenoiser:
    """In float64 and evaluation mode, with statistics that are not those of the start."""
    torch.manual_seed(0)
    return lively(FeatureDenoiser(channels, steps, noise_adapter))


@pytest.mark.parametrize("steps", STEPS)
def test_denoise_is_ddim_without_noise_or_clipping(steps: int) -> None:
    """Over the second half of a schedule of twice as many steps."""
    denoiser = _denoiser(steps=steps)
    assert denoiser.timesteps == STEPS[steps]
    x = 8 * torch.randn(2, 4, 3, 5, dtype=torch.float64)  # far outside [-1, 1]
    with torch.no_grad():
        samples = [x]
        for t in STEPS[steps]:
            noise = denoiser.predict(samples[-1], torch.tensor([t, t]))
            bar, before = float(BARS[t]), float(BARS[t - 500 // steps]) if t else 1.0
            clean = (samples[-1] - math.sqrt(1 - bar) * noise) / math.sqrt(bar)
            samples.append(math.sqrt(before) * clean + math.sqrt(1 - before) * noise)
        expected = denoiser.project(samples[-1])
        first, second = denoiser.denoise(x), denoiser.denoise(x)
        for found, sample in zip(denoiser.samples(x), samples, strict=True):
            torch.testing.assert_close(found, sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(first, second), "eta 0: nothing is drawn"


@pytest.mark.parametrize("steps", [0, 11, -1])
def test_other_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be 1 to 10, got {steps}"):
        FeatureDenoiser(2, steps)


def test_the_noise_adapter_keeps_a_share_and_fills_up_with_noise() -> None:
    denoiser = _denoiser(4, 2, noise_adapter=True)
    adapter = denoiser.adapt
    assert adapter is not None
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        odds = adapter.features(x).mean((2, 3)) @ adapter.share.weight[0] + adapter.share.bias
        gamma = (1 / (1 + (-odds).exp())).view(3, 1, 1, 1)
        torch.manual_seed(9)
        found = denoiser.denoise(x)
        torch.manual_seed(9)
        noisy = gamma * x + (1 - gamma) * torch.randn_like(x)
        denoiser.adapt = None
        torch.testing.assert_close(found, denoiser.denoise(noisy))


def test_steps_are_drawn_uniformly_and_noise_is_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    """x_t = √ᾱ·x + √(1 − ᾱ)·ε with x = 0; a predictor that says 0 loses ε's mean square."""
    torch.manual_seed(4)
    denoiser, calls = FeatureDenoiser(1), list[tuple[Tensor, Tensor]]()

    def predict(x: Tensor, t: Tensor) -> Tensor:
        calls.append((x, t))
        return torch.zeros_like(x)

    monkeypatch.setattr(denoiser.predict, "forward", predict)
    n = 20_000
    loss = denoiser.diffusion_loss(torch.zeros(n, 1, 1, 1))
    ((noisy, t),) = calls
    assert (t.min(), t.max()) == (0, 999)
    tenths = torch.bincount(t // 100, minlength=10)
    assert (tenths - n / 10).abs().max() < 5 * math.sqrt(n * 0.1 * 0.9)
    noise = noisy.flatten() / (1 - BARS[t]).sqrt()
    assert abs(noise.mean().item()) < 5 / math.sqrt(n)
    assert abs(noise.var().item() - 1) < 5 * math.sqrt(2 / n)
    assert loss.item() == pytest.approx(noise.square().mean().item(), rel=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("steps", [1, 5])
def test_gradients_through_ddim(steps: int) -> None:
    """Of the refined features by the student's and by every parameter of the denoiser."""
    denoiser = _denoiser(2, steps)
    names = [name for name, _ in denoiser.named_parameters() if name != "predict.time.weight"]
    values = [denoiser.get_parameter(name).detach().clone().requires_grad_() for name in names]
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    refine = nn.Module()
    refine.denoiser, refine.forward = denoiser, denoiser.denoise

    def run(x: Tensor, *values: Tensor) -> Tensor:
        given = {f"denoiser.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(refine, given, (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


def test_the_diffusion_loss_and_its_gradients_by_hand() -> None:
    denoiser = _denoiser(2)
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64)
    names = [name for name, _ in denoiser.predict.named_parameters() if name != "time.weight"]
    parameters = [denoiser.predict.get_parameter(name) for name in names]
    values = [parameter.detach().clone().requires_grad_() for parameter in parameters]

    def run(*values: Tensor) -> Tensor:
        torch.manual_seed(4)  # the same steps and noise at every call
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (2,))
        bars = BARS[t].view(-1, 1, 1, 1)
        noisy = bars.sqrt() * x + (1 - bars).sqrt() * noise
        given = dict(zip(names, values, strict=True))
        out = torch.func.functional_call(denoiser.predict, given, (noisy, t))
        return (out - noise).square().mean()

    torch.manual_seed(4)
    features = x.clone().requires_grad_()
    loss = denoiser.diffusion_loss(2 * features / 2)
    torch.testing.assert_close(loss, run(*values))
    assert torch.autograd.gradcheck(run, tuple(values))
    loss.backward()
    assert features.grad is None, "it trains the denoiser only"
    expected = list(torch.autograd.grad(run(*values), values))
    found = [parameter.grad for parameter in parameters]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert denoiser.predict.time.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in denoiser.project.parameters())
