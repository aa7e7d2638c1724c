"""Laws of the samplers of score SDE and NCSN, on a mixture whose marginals are known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import (
    CLEAN,
    DDPM,
    RK45,
    VE,
    AnnealedLangevin,
    AnySchedule,
    Constrained,
    Cosine,
    Eps,
    InterpolatedNoise,
    KeyedNoise,
    Known,
    LangevinInpainting,
    LikelihoodWeight,
    NoiseLevel,
    PredictorCorrector,
    ScoreMatchingLoss,
    SubVP,
    UniformLogSNR,
    UniformTime,
    VPLinear,
    coloured,
    inpainted,
    level_count,
    level_ratio,
    noise_level,
    path,
    sample,
    scale,
    start,
    step_size_for,
    walk,
)

BATCH = 2000
NAMES = {"fixed": {"discretisation": "fixed", "norms": "batch"}, "path": {}}


def mixture() -> Mixture:
    means = torch.tensor([[-0.6, 0.5, 0.2, -0.4], [0.7, -0.3, 0.4, 0.5]], dtype=torch.float64)
    variances = torch.tensor([[0.02, 0.05, 0.01, 0.03], [0.04, 0.02, 0.03, 0.05]])
    weights = torch.tensor([0.35, 0.65], dtype=torch.float64)
    return Mixture(weights, means.reshape(2, 1, 2, 2), variances.double().reshape(2, 1, 2, 2))


def wide_mixture() -> Mixture:
    """The same in 64 dimensions: norms of Langevin steps mean little in 4."""
    small = mixture()
    means, variances = (each.repeat(1, 1, 4, 4) for each in (small.means, small.variances))
    return Mixture(small.weights, means, variances)


class Drawn:
    """Unit fields for a large batch, quickly: a generator for each (step, draw)."""

    def __call__(self, like: Tensor, step: int, draw: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * (step + 1) + draw)
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def noise_for(count: int, seed: int = 0) -> KeyedNoise:
    return KeyedNoise(seed, [("subject", sample) for sample in range(count)])


def statistics(images: Tensor, data: Mixture) -> tuple[float, float]:
    """Within-mode variance over the true one, mean over voxels; weight of the first mode."""
    mode = data.parts(images, noise_level(0, 1, 0.05))[0].argmax(1)
    ratios = [
        (images[mode == k].var(0) / data.variances[k]).mean() for k in range(len(data.weights))
    ]
    return float(torch.stack(ratios).mean()), float((mode == 0).double().mean())


def draw(data: Mixture, schedule: AnySchedule, sampler: Any, levels: list[NoiseLevel]) -> Tensor:
    like = torch.zeros(BATCH, *data.means.shape[1:], dtype=torch.float64)
    x = start(levels[0], Drawn(), like)
    return sample(data, x, levels, sampler, Drawn(), schedule)


@pytest.mark.parametrize("discretisation", NAMES)
@pytest.mark.parametrize(
    ("schedule", "predictor", "corrector", "steps"),
    [
        (VPLinear(), "euler-maruyama", "none", 250),
        (VPLinear(), "ancestral", "none", 400),
        (VPLinear(), "reverse-diffusion", "none", 250),
        (SubVP(), "euler-maruyama", "none", 250),
        (VE(), "reverse-diffusion", "langevin", 150),
        (VE(), "ancestral", "none", 250),
    ],
)
def test_a_reverse_sde_draws_the_mixture(
    schedule: AnySchedule, predictor: Any, corrector: Any, steps: int, discretisation: str
) -> None:
    options: Any = NAMES[discretisation]
    sampler = PredictorCorrector(predictor=predictor, corrector=corrector, **options)
    data = mixture() if corrector == "none" else wide_mixture()
    images = draw(data, schedule, sampler, path(UniformTime(), schedule, steps))
    ratio, share = statistics(images, data)
    assert ratio == pytest.approx(1.0, abs=0.13)
    assert share == pytest.approx(0.35, abs=0.05)


@pytest.mark.parametrize(("convention", "share"), [("code", 0.2), ("paper", 0.1)])
def test_annealed_langevin_leaves_the_spread_that_its_equation_gives(
    convention: Any, share: float
) -> None:
    means, variances = mixture().means[:1] * 0, mixture().variances[:1]
    data = Mixture(torch.ones(1, dtype=torch.float64), means, variances)
    schedule = VE(sigma_min=0.05, sigma_max=2.0)
    levels = path(UniformLogSNR(), schedule, 8)
    size = 0.2 * 0.05**2
    sampler = AnnealedLangevin(step_size=size, sigma_last=0.05, steps=6, convention=convention)
    power = torch.full((1, 2, 2), 4.0, dtype=torch.float64)
    for level in levels[:-1]:
        kept = 1 - share * level.sigma**2 / (data.variances[0] + level.sigma**2)
        for _ in range(6):
            power = kept**2 * power + 2 * share * level.sigma**2
    power = power * (data.variances[0] / (data.variances[0] + 0.05**2)) ** 2
    ratio = draw(data, schedule, sampler, levels).var(0) / power
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.05)


def test_the_paper_s_langevin_step_is_the_code_s_at_twice_the_size() -> None:
    levels, noise = path(UniformLogSNR(), VE(sigma_max=1.0), 6), noise_for(3)
    x = start(levels[0], noise, torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    code = AnnealedLangevin(step_size=1e-5, steps=4)
    paper = AnnealedLangevin(step_size=2e-5, steps=4, convention="paper")
    ours, theirs = (sample(mixture(), x, levels, each, noise) for each in (code, paper))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    same = AnnealedLangevin(step_size=1e-5, steps=4, convention="paper")
    assert not torch.allclose(sample(mixture(), x, levels, same, noise), ours)


def test_langevin_on_preserving_levels_is_the_exploding_one_rescaled() -> None:
    preserving = path(UniformLogSNR(), VPLinear(), 8)
    exploding = [noise_level(0, 1, float(level.noise_ratio)) for level in preserving]
    noise = noise_for(2)
    x = start(preserving[0], noise, torch.zeros(2, 1, 2, 2, dtype=torch.float64))
    rescaled = x / scale(preserving[0].alpha, x)
    sampler = AnnealedLangevin(steps=3)
    ours = walk(mixture(), x, preserving, sampler, noise)
    theirs = walk(mixture(), rescaled, exploding, sampler, noise)
    for (index, vp), (_, ve) in zip(ours, theirs, strict=True):
        expected = scale(preserving[index + 1].alpha, ve) * ve
        torch.testing.assert_close(vp, expected, rtol=1e-10, atol=1e-10)


def test_version_2_s_rules_give_about_the_levels_and_step_of_its_authors() -> None:
    # CIFAR-10, ncsnv2/configs/cifar10.yml: 232 levels from 50 to 0.01, step 6.2e-6 at T = 5
    assert level_count(50, 0.01, 3072) == pytest.approx(232, rel=0.06)
    assert step_size_for(0.01, 5000 ** (1 / 231), 5) == pytest.approx(6.2e-6, rel=0.02)
    gap = level_ratio(3072) - 1
    assert level_ratio(4 * 3072) - 1 == pytest.approx(gap / 2, rel=0.05)


@pytest.mark.parametrize("schedule", [VPLinear(), SubVP(), VE(), Cosine()], ids=lambda s: s.kind)
def test_the_ancestral_predictor_is_ddpm(schedule: AnySchedule) -> None:
    levels, noise = path(UniformTime(), schedule, 12), noise_for(2)
    x = start(levels[0], noise, torch.zeros(2, 1, 2, 2, dtype=torch.float64))
    ours = PredictorCorrector(predictor="ancestral", corrector="none")
    torch.testing.assert_close(
        sample(mixture(), x, levels, ours, noise, schedule),
        sample(mixture(), x, levels, DDPM(), noise),
        rtol=0,
        atol=1e-9 * float(levels[0].sigma) ** 2,
    )


def test_norms_over_the_batch_couple_its_members_and_norms_by_image_do_not() -> None:
    levels, schedule = path(UniformTime(), VE(), 10), VE()
    both = noise_for(2)
    x = start(levels[0], both, torch.zeros(2, 1, 2, 2, dtype=torch.float64))

    def alone_and_together(norms: Any) -> tuple[Tensor, Tensor]:
        sampler = PredictorCorrector(norms=norms)
        alone = sample(mixture(), x[:1], levels, sampler, both.take([0]), schedule)
        return alone[0], sample(mixture(), x, levels, sampler, both, schedule)[0]

    torch.testing.assert_close(*alone_and_together("sample"), rtol=0, atol=1e-12)
    alone, together = alone_and_together("batch")
    assert not torch.allclose(alone, together, atol=1e-6)


def test_a_fixed_step_needs_as_many_hops_as_its_largest_beta() -> None:
    sampler, levels = (
        PredictorCorrector(discretisation="fixed"),
        path(UniformTime(), VPLinear(), 10),
    )
    with pytest.raises(ValueError, match="at least beta_max = 20 hops, got 10"):
        draw(mixture(), VPLinear(), sampler, levels)


def test_the_ancestral_predictor_has_no_flow() -> None:
    with pytest.raises(ValueError, match="draws noise"):
        PredictorCorrector(predictor="ancestral", dynamics="flow")


@pytest.mark.parametrize("schedule", [VPLinear(), SubVP(), Cosine()], ids=lambda s: s.kind)
def test_the_adaptive_flow_ends_where_the_exact_one_does(
    gaussian_denoise: Any, schedule: AnySchedule
) -> None:
    levels = path(UniformTime(), schedule, 4)[:-1]
    x = start(levels[0], noise_for(2), torch.zeros(2, 1, 2, 2, dtype=torch.float64))
    sampler = RK45(relative=1e-8, absolute=1e-8)
    ours = sample(gaussian_denoise, x, levels, sampler, None, schedule)
    exact = gaussian_denoise.flow(x, levels[0], levels[-1])
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-6)


def test_a_model_that_is_not_finite_stops_the_adaptive_flow() -> None:
    def broken(x: Tensor, level: Any) -> Any:
        here = mixture()(x, level)
        return type(here)(here.clean, here.eps * float("nan"))

    levels = path(UniformTime(), VPLinear(), 2)[:-1]
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    with pytest.raises(ArithmeticError, match="not finite"):
        sample(broken, x, levels, RK45(), None, VPLinear())


KNOWN_SAMPLERS = [PredictorCorrector(), DDPM(), RK45(), AnnealedLangevin(steps=2)]


@pytest.mark.parametrize("sampler", KNOWN_SAMPLERS, ids=lambda s: s.kind)
def test_what_is_known_is_kept_exactly_and_nothing_known_changes_nothing(sampler: Any) -> None:
    levels, noise = path(UniformTime(), VPLinear(), 6), noise_for(2)
    x = start(levels[0], noise, torch.zeros(2, 1, 2, 2, dtype=torch.float64))
    clean = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 1, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    run = [mixture(), x, levels]
    kept = sample(*run, inpainted(sampler, clean, mask), noise, VPLinear())
    torch.testing.assert_close(kept * mask, clean * mask, rtol=0, atol=1e-12)
    free = sample(*run, inpainted(sampler, clean, 0 * mask), noise, VPLinear())
    plain = sample(*run, sampler, noise, VPLinear())
    torch.testing.assert_close(free, plain, rtol=0, atol=1e-12)


def test_a_kept_colour_is_the_grey_component_of_the_given_image() -> None:
    basis = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    grey = torch.rand(2, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Mixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 2, 2, 2, dtype=torch.float64),
        0.1 * torch.ones(1, 2, 2, 2, dtype=torch.float64),
    )
    levels, noise = path(UniformTime(), VPLinear(), 6), noise_for(2)
    x = start(levels[0], noise, grey)
    result = sample(data, x, levels, coloured(DDPM(), grey, basis), noise, VPLinear())

    def component(image: Tensor) -> Tensor:
        return 0.6 * image[:, 0] + 0.8 * image[:, 1]

    torch.testing.assert_close(component(result), component(grey), rtol=0, atol=1e-12)


def test_a_basis_that_is_not_orthogonal_is_refused() -> None:
    image = torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match="orthogonal"):
        Constrained(DDPM(), Known(image, image, torch.tensor([[1.0, 1.0], [0.0, 1.0]])))


def test_langevin_inpainting_keeps_what_is_known() -> None:
    levels, noise = path(UniformLogSNR(), VE(sigma_max=1.0), 5), noise_for(2)
    clean = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    for fresh in ("step", "level"):
        sampler = LangevinInpainting(AnnealedLangevin(steps=3), clean, mask, fresh)
        result = sample(mixture(), torch.rand_like(clean), levels, sampler, noise)
        torch.testing.assert_close(result * mask, clean * mask, rtol=0, atol=0)


def test_interpolated_noise_is_unit_and_turns_from_one_end_to_the_other() -> None:
    source = noise_for(1)
    like = torch.zeros(5, 1, 100, 100, dtype=torch.float64)
    field = InterpolatedNoise(source, 5)(like, 0)
    torch.testing.assert_close(field[0], source(like[:1], 0, 0)[0])
    torch.testing.assert_close(field[-1], source(like[:1], 0, 1)[0])
    assert field.flatten(1).std(1).tolist() == pytest.approx([1.0] * 5, abs=0.03)
    near = [float((a * b).mean()) for a, b in pairwise(field)]
    assert near == pytest.approx([0.9239] * 4, abs=0.03)


@pytest.mark.parametrize("schedule", [VPLinear(), SubVP(), VE()], ids=lambda s: s.kind)
def test_likelihood_weighting_is_g_squared_on_the_score(schedule: AnySchedule) -> None:
    loss = ScoreMatchingLoss(Eps(), schedule, LikelihoodWeight(), reduce="half-sum")
    levels = schedule(torch.tensor([0.2, 0.7], dtype=torch.float64))
    clean, eps = torch.randn(
        2, 2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    found = loss(lambda x, label, condition, concat: x.sin(), clean, levels, eps)
    x = levels.alpha.reshape(-1, 1, 1, 1) * clean + levels.sigma.reshape(-1, 1, 1, 1) * eps
    seen = (x / (levels.alpha**2 + levels.sigma**2).sqrt().reshape(-1, 1, 1, 1)).sin()
    score, aim = (-each / levels.sigma.reshape(-1, 1, 1, 1) for each in (seen, eps))
    expected = schedule.diffusion(levels.t) * (score - aim).square().flatten(1).sum(1) / 2
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_the_last_hop_of_the_authors_discretisation_has_no_noise() -> None:
    levels, seen = path(UniformTime(), VPLinear(), 25), []

    def source(like: Tensor, step: int, draw: int = 0) -> Tensor:
        seen.append(step)
        return torch.ones_like(like)

    sampler = PredictorCorrector(corrector="none", discretisation="fixed")
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    sample(mixture(), x, levels, sampler, source, VPLinear())
    assert seen == list(range(24))
    with pytest.raises(ValueError, match="at least 2 hops"):
        sample(mixture(), x, [levels[-2], CLEAN], sampler, source, VPLinear())


@pytest.mark.parametrize("schedule", [VPLinear(), SubVP(), VE(), Cosine()], ids=lambda s: s.kind)
def test_euler_steps_of_the_flow_are_of_first_order(
    gaussian_denoise: Any, schedule: AnySchedule
) -> None:
    # on a table of betas the drift is a step function of time, and the error's size is irregular
    sampler = PredictorCorrector(predictor="euler-maruyama", corrector="none", dynamics="flow")
    first = schedule(schedule.time_of(-torch.tensor(20.0, dtype=torch.float64).log()))
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(1, 1, 2, 2) * first.sigma

    def error(steps: int) -> float:
        levels = path(UniformLogSNR(), schedule, steps, first)[:-1]
        result = sample(gaussian_denoise, x, levels, sampler, None, schedule)
        return float((result - gaussian_denoise.flow(x, levels[0], levels[-1])).abs().max())

    assert math.log2(error(200) / error(400)) == pytest.approx(1, abs=0.15)
