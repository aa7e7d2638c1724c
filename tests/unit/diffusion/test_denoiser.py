"""The network's call, clipping, counting and guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medidiff.diffusion import (
    Denoiser,
    EDMTarget,
    Estimate,
    NoiseLevel,
    V,
    VPLinear,
    classifier_free,
    clipped,
    counted,
    eps_of,
    interval,
    noise_level,
)

LEVEL = VPLinear()(torch.tensor(0.4, dtype=torch.float64))
X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Spy(nn.Module):
    """A network that keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(
        self, x: Tensor, label: Tensor, condition: Tensor | None, concat: Tensor | None
    ) -> Tensor:
        self.seen = (x, label, condition, concat)
        return self.gain * x


def constant(value: float) -> object:
    def denoise(x: Tensor, level: NoiseLevel) -> Estimate:
        clean = torch.full_like(x, value)
        return Estimate(clean, eps_of(x, clean, level))

    return denoise


def test_the_network_gets_scaled_input_label_condition_and_concat() -> None:
    spy, condition, concat = Spy(), torch.zeros(2, 3), torch.ones(2, 1, 4, 4)
    target = EDMTarget(data_std=0.5)
    Denoiser(spy, target, condition, concat)(X, noise_level(0, 1, 2.0))
    x, label, got, extra = spy.seen
    torch.testing.assert_close(x, X / (4 + 0.25) ** 0.5)
    assert label.dtype == torch.float32
    torch.testing.assert_close(label, torch.full((2,), 2.0).log() / 4)
    assert got is condition
    assert extra is not None
    assert torch.equal(extra, concat)


def test_the_label_is_a_thousand_times_the_time() -> None:
    spy = Spy()
    Denoiser(spy, V())(X, VPLinear()(torch.tensor([0.25, 0.5], dtype=torch.float64)))
    assert spy.seen[1].tolist() == [250.0, 500.0]


def test_the_network_computes_in_its_own_dtype_and_the_estimate_in_that_of_x() -> None:
    spy = Spy().bfloat16()
    here = Denoiser(spy, V(), concat=torch.ones(2, 1, 4, 4))(X.double(), LEVEL)
    assert spy.seen[0].dtype == torch.bfloat16
    assert spy.seen[3].dtype == torch.bfloat16
    assert spy.seen[1].dtype == torch.float32
    assert here.clean.dtype == here.eps.dtype == torch.float64


def test_gradients_reach_the_image_and_the_weights() -> None:
    spy, x = Spy(), X.clone().requires_grad_()
    Denoiser(spy, V())(x, LEVEL).clean.square().sum().backward()
    assert x.grad is not None
    assert spy.gain.grad is not None


def test_clipping_rederives_or_keeps_the_noise_by_name() -> None:
    raw = constant(3.0)(X, LEVEL)
    rederived = clipped(constant(3.0), -1, 1)(X, LEVEL)
    kept = clipped(constant(3.0), -1, 1, "keep")(X, LEVEL)
    assert (rederived.clean == 1).all()
    assert (kept.clean == 1).all()
    assert torch.equal(kept.eps, raw.eps)
    back = LEVEL.alpha.float() * rederived.clean + LEVEL.sigma.float() * rederived.eps
    torch.testing.assert_close(back, X)


def test_an_empty_clipping_range_is_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        clipped(constant(0.0), 1, -1)


def test_guidance_at_1_is_the_conditional_model_and_calls_nothing_else() -> None:
    conditional, unconditional = counted(constant(1.0)), counted(constant(0.2))
    guided = classifier_free(conditional, unconditional, 1.0)
    assert torch.equal(guided(X, LEVEL).clean, conditional(X, LEVEL).clean)
    assert unconditional.calls == 0
    assert conditional.calls == 2


def test_guidance_extrapolates_the_clean_image_and_keeps_x_consistent() -> None:
    guided = classifier_free(constant(1.0), constant(0.2), 3.0)(X, LEVEL)
    torch.testing.assert_close(guided.clean, torch.full_like(X, 0.2 + 3 * 0.8))
    back = LEVEL.alpha.float() * guided.clean + LEVEL.sigma.float() * guided.eps
    torch.testing.assert_close(back, X)
    unguided = classifier_free(constant(1.0), constant(0.2), 0.0)(X, LEVEL)
    torch.testing.assert_close(unguided.clean, torch.full_like(X, 0.2))


def test_the_guidance_interval_is_open_below_and_closed_above() -> None:
    limited = interval(constant(1.0), constant(0.0), 0.5, 2.0)
    for ratio, value in ((0.5, 0.0), (0.6, 1.0), (2.0, 1.0), (2.1, 0.0)):
        assert (limited(X, noise_level(0, 1, ratio)).clean == value).all()
    ratios = torch.tensor([0.4, 1.0], dtype=torch.float64)
    mixed = limited(X, NoiseLevel(ratios, torch.ones_like(ratios), ratios)).clean
    assert (mixed[0] == 0).all()
    assert (mixed[1] == 1).all()


def test_the_counter_counts_calls() -> None:
    counter = counted(constant(0.0))
    for _ in range(3):
        counter(X, LEVEL)
    assert counter.calls == 3
