"""Options refuse what makes no sense, and weights and losses are the papers' numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from medidiff.diffusion import (
    DDIM,
    EDM,
    P2,
    SNR,
    VE,
    AnnealedLangevin,
    AnyBetas,
    AnySampler,
    AnySchedule,
    AnySpacing,
    AnyTarget,
    AnyTimes,
    AnyWeight,
    Clean,
    Cosine,
    DenoisingLoss,
    EDMTarget,
    EDMWeight,
    Eps,
    Heun,
    Karras,
    LogitNormalTimes,
    LogNormalNoiseRatio,
    MinSNR,
    NoiseLevel,
    V,
    VPLinear,
    diffuse,
    path,
    scale,
)

UNIONS = [AnyBetas, AnySampler, AnySchedule, AnySpacing, AnyTarget, AnyTimes, AnyWeight]
REFUSED: list[Callable[[], object]] = [
    lambda: VPLinear(beta_min=0.0),
    lambda: VPLinear(beta_min=2.0, beta_max=1.0),
    lambda: Cosine(offset=0.0),
    lambda: VE(sigma_min=1.0, sigma_max=0.5),
    lambda: EDM(sigma_min=0.0),
    lambda: EDM(rho=0.0),
    lambda: EDMTarget(data_std=0.0),
    lambda: EDMWeight(data_std=-1.0),
    lambda: P2(k=0.0),
    lambda: P2(gamma=-1.0),
    lambda: MinSNR(gamma=0.0),
    lambda: LogitNormalTimes(std=0.0),
    lambda: LogNormalNoiseRatio(std=0.0),
    lambda: Karras(rho=0.0),
    lambda: DDIM(eta=1.1),
    lambda: Heun(churn=-1.0),
    lambda: AnnealedLangevin(settled=0.0),
    lambda: AnnealedLangevin(step_size=2e-4, settled=0.1),
    lambda: Heun(churn_min=2.0, churn_max=1.0),
]


@pytest.mark.parametrize("make", REFUSED)
def test_options_out_of_range_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="needs"):
        make()


@pytest.mark.parametrize("union", UNIONS)
def test_every_choice_comes_back_from_its_own_dictionary(union: type) -> None:
    adapter = TypeAdapter(union)
    for option in (kind() for kind in get_args(union)):
        assert adapter.validate_python(adapter.dump_python(option)) == option
    assert len({kind().kind for kind in get_args(union)}) == len(get_args(union))


def test_min_snr_has_the_paper_s_weights() -> None:
    level = VPLinear()(torch.linspace(0.01, 0.99, 9, dtype=torch.float64))
    snr = (level.alpha / level.sigma) ** 2
    held = snr.clamp_max(5)
    torch.testing.assert_close(MinSNR()(Clean(), level), held)
    torch.testing.assert_close(MinSNR()(Eps(), level), held / snr)
    torch.testing.assert_close(MinSNR()(V(), level), held / (snr + 1))


def test_edm_s_weight_on_edm_s_target_is_1() -> None:
    level = EDM()(torch.linspace(0, 1, 9, dtype=torch.float64))
    weight = EDMWeight()(EDMTarget(), level)
    torch.testing.assert_close(weight, torch.ones_like(weight))
    with pytest.raises(ValueError, match="data_std is 1"):
        EDMWeight()(EDMTarget(data_std=1.0), level)


def test_p2_and_snr_are_weights_of_eps_whatever_the_target() -> None:
    level = VPLinear()(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    snr = (level.alpha / level.sigma) ** 2
    torch.testing.assert_close(SNR()(Eps(), level), torch.ones_like(snr))
    torch.testing.assert_close(SNR()(Clean(), level), snr)
    torch.testing.assert_close(P2(k=2.0, gamma=0.5)(Eps(), level), (2 + snr) ** -0.5)
    torch.testing.assert_close(P2()(Clean(), level), snr / (1 + snr))


def test_the_edm_target_has_the_paper_s_table() -> None:
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    level, std = NoiseLevel(sigma, torch.ones_like(sigma), sigma), 0.5
    skip, out = EDMTarget().multipliers(level)
    torch.testing.assert_close(skip, std**2 / (sigma**2 + std**2))
    torch.testing.assert_close(out, sigma * std / (sigma**2 + std**2).sqrt())
    torch.testing.assert_close(EDMTarget().noise_label(level), sigma.log() / 4)


def test_the_loss_is_the_weighted_mean_square_of_each_example() -> None:
    loss = DenoisingLoss(Eps(), VPLinear(), weight=MinSNR())
    levels = loss.levels(torch.tensor([0.05, 0.7], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    clean, eps = torch.randn(2, 2, 1, 4, 4, generator=generator)
    condition, concat = torch.zeros(2, 1), torch.zeros(2, 1, 4, 4)
    calls: list[tuple] = []

    def network(*arguments: torch.Tensor | None) -> torch.Tensor:
        calls.append(arguments)
        return torch.zeros_like(clean)

    value = loss(network, clean, levels, eps, condition, concat)
    plain = eps.square().mean((1, 2, 3))
    torch.testing.assert_close(value, MinSNR()(Eps(), levels).float() * plain)
    torch.testing.assert_close(loss.loss_at(network, clean, levels, eps, condition, concat), plain)
    x, label, got, extra = calls[0]
    torch.testing.assert_close(x, diffuse(clean, levels, eps))
    torch.testing.assert_close(label, (1000 * levels.t).float())
    assert got is condition
    assert extra is not None
    assert torch.equal(extra, concat)


def test_dpm_solver_s_wake_up_level_replaces_pure_noise_in_the_spacing() -> None:
    levels = path(Karras(), Cosine(), 3)
    assert float(levels[0].alpha) == 0
    assert float(levels[1].noise_ratio) < 1 / 0.006


def test_a_start_cleaner_than_the_last_level_is_refused() -> None:
    start = VPLinear()(torch.tensor(1e-5, dtype=torch.float64))
    with pytest.raises(ValueError, match="cleaner than"):
        path(Karras(), VPLinear(), 3, start)


def test_a_coefficient_is_rounded_only_where_it_meets_the_image() -> None:
    third = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    shaped = scale(third, torch.zeros(2, 1, 4, 4, 4))
    assert shaped.shape == (2, 1, 1, 1, 1)
    assert torch.equal(shaped.flatten(), third.float())
    assert scale(third[0], torch.zeros(2, 1, 4)).dtype == torch.float32
