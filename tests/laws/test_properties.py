"""Properties of schedule x target x sampler x spacing x steps, searched by hypothesis.

The tables of the other laws name their cases; here any combination may come, with any count of
steps from 1 on and any first level. Examples come from the tests' names: a run is repeatable.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    EDM,
    VE,
    AnnealedLangevin,
    AnySampler,
    AnySchedule,
    AnySpacing,
    AnyTarget,
    Consistency,
    Cosine,
    Denoiser,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPSDE,
    Eps,
    Estimate,
    Heun,
    KeyedNoise,
    NoiseLevel,
    PredictorCorrector,
    SASolver,
    Score,
    SingleStepLogSNR,
    UniPC,
    VPLinear,
    noise_level,
    path,
    sample,
    scale,
    start,
)
from medidiff.diffusion.spacing_tables import GivenLevels
from medidiff.diffusion.steps import GivenSteps, RespacedSteps
from medidiff.diffusion.targets import prediction_of

SCHEDULES = [kind() for kind in get_args(AnySchedule)]
schedules = st.one_of(
    st.sampled_from(SCHEDULES),
    st.builds(VPLinear, beta_min=st.floats(0.01, 1), beta_max=st.floats(5, 30)),
    st.builds(VE, sigma_min=st.floats(0.005, 0.05), sigma_max=st.floats(5, 300)),
    st.builds(EDM, sigma_min=st.floats(0.002, 0.05), sigma_max=st.floats(20, 300)),
    st.just(Cosine()),
)
targets = st.sampled_from([kind() for kind in get_args(AnyTarget)])
samplers = st.one_of(
    st.sampled_from([kind() for kind in get_args(AnySampler) if kind is not AnnealedLangevin]),
    st.builds(AnnealedLangevin, steps=st.integers(1, 3)),
    st.builds(DDPM, variance=st.sampled_from(["small", "large"])),
    st.builds(DDIM, eta=st.floats(0, 1)),
    st.builds(Heun, churn=st.floats(0, 40), order=st.sampled_from([1, 2])),
    st.builds(DPM2, eta=st.floats(0, 1)),
    st.builds(DPMSolverPP, order=st.integers(1, 3), eta=st.floats(0, 1)),
    st.builds(DPMSolver, order=st.integers(1, 3), basis=st.sampled_from(["eps", "clean"])),
    st.builds(DPMSolverPPSDE, eta=st.floats(0, 1)),
    st.builds(UniPC, order=st.integers(1, 4), corrector=st.booleans()),
    st.builds(DEIS, order=st.integers(1, 3), variable=st.sampled_from(["time", "rho", "log-rho"])),
    st.builds(
        SASolver,
        predictor_order=st.integers(1, 4),
        corrector_order=st.integers(0, 4),
        tau=st.floats(0, 1.5),
    ),
    st.builds(
        PredictorCorrector,
        predictor=st.sampled_from(["reverse-diffusion", "ancestral", "none"]),
        corrector=st.sampled_from(["langevin", "annealed", "none"]),
    ),
)
# a list of the user's own belongs to a process, and "ddimN" and single steps to some counts only
ANY_COUNT = [
    kind()
    for kind in get_args(AnySpacing)
    if kind not in (GivenSteps, GivenLevels, RespacedSteps, SingleStepLogSNR)
]
spacings = st.sampled_from(ANY_COUNT)
steps = st.one_of(st.sampled_from([1, 2, 3]), st.integers(1, 20))
often = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def mixture() -> Mixture:
    """Two modes of different widths in two voxels."""
    means = torch.tensor([[-0.6, 0.5], [0.7, -0.3]], dtype=torch.float64).reshape(2, 1, 1, 2)
    variances = torch.tensor([[0.02, 0.05], [0.04, 0.02]], dtype=torch.float64).reshape(2, 1, 1, 2)
    return Mixture(torch.tensor([0.35, 0.65], dtype=torch.float64), means, variances)


DATA = mixture()


def noise_for(count: int, seed: int = 0) -> KeyedNoise:
    return KeyedNoise(seed, [("subject", sample) for sample in range(count)])


def levels_of(schedule: Any, spacing: Any, count: int, begin: float) -> list[NoiseLevel]:
    """A path from `begin` of the schedule's time on: image-to-image starts in between."""
    return path(spacing, schedule, count, schedule(torch.tensor(begin, dtype=torch.float64)))


def run(model: Any, schedule: Any, sampler: Any, levels: Any, noise: Any, dtype: Any) -> Tensor:
    x = start(levels[0], noise, torch.zeros(len(noise.members), 1, 1, 2, dtype=dtype))
    return sample(model, x, levels, sampler, noise, schedule)


@often
@given(schedules, targets, samplers, spacings, steps, st.floats(0.05, 1), st.booleans())
def test_any_combination_is_finite_at_every_count_of_steps_and_any_start(
    schedule: Any, target: Any, sampler: Any, spacing: Any, count: int, begin: float, single: bool
) -> None:
    if isinstance(target, Eps | Score):  # at pure noise these say nothing of the clean image
        begin = min(begin, 0.98)
    dtype = torch.float32 if single else torch.float64
    model = Denoiser(lambda x, label, condition, concat: x.sin(), target)
    levels = levels_of(schedule, spacing, count, begin)
    images = run(model, schedule, sampler, levels, noise_for(2), dtype)
    assert images.dtype == dtype
    assert bool(images.isfinite().all())


@often
@given(schedules, targets, samplers, spacings, steps)
def test_what_the_network_predicts_does_not_change_the_image(
    schedule: Any, target: Any, sampler: Any, spacing: Any, count: int
) -> None:
    """The exact denoiser, said in any target's words and read back."""
    levels = levels_of(schedule, spacing, count, 0.9)
    if isinstance(sampler, AnnealedLangevin | PredictorCorrector):
        return  # their steps grow with rounding by the size of the score: another bound

    def said(x: Tensor, level: NoiseLevel) -> Estimate:
        exact = DATA(x, level)
        prediction = prediction_of(target, exact.clean, exact.eps, level)
        return Denoiser(lambda *inputs: prediction, target)(x, level)

    ours = run(said, schedule, sampler, levels, noise_for(2), torch.float64)
    plain = run(DATA, schedule, sampler, levels, noise_for(2), torch.float64)
    bound = 1e-6 * (1 + float(plain.abs().max()))
    assert float((ours - plain).abs().max()) < bound


@often
@given(schedules, samplers, spacings, steps, st.integers(0, 2))
def test_a_batch_equals_its_members_one_by_one(
    schedule: Any, sampler: Any, spacing: Any, count: int, member: int
) -> None:
    levels, noise = levels_of(schedule, spacing, count, 1.0), noise_for(3)
    together = run(DATA, schedule, sampler, levels, noise, torch.float64)
    alone = run(DATA, schedule, sampler, levels, noise.take([member]), torch.float64)
    bound = 1e-9 * (1 + float(together.abs().max()))
    assert float((together[member] - alone[0]).abs().max()) < bound


@often
@given(schedules, samplers, spacings, steps, st.floats(0.1, 1))
def test_one_possible_image_is_drawn_exactly(
    schedule: Any, sampler: Any, spacing: Any, count: int, begin: float
) -> None:
    """A point mass: whatever the steps, the last estimate is the image."""
    clean = torch.tensor([0.3, -0.8], dtype=torch.float64).reshape(1, 1, 1, 2)

    def know(x: Tensor, level: NoiseLevel) -> Estimate:
        eps = (x - scale(level.alpha, x) * clean) / scale(level.sigma, x)
        return Estimate(clean.expand_as(x), eps)

    levels = levels_of(schedule, spacing, count, begin)
    images = run(know, schedule, sampler, levels, noise_for(2), torch.float64)
    # a consistency model and a last Euler step read the estimate; LMS and RK45 integrate to it
    assert float((images - clean).abs().max()) < 1e-6


@often
@given(samplers, spacings, steps, st.integers(0, 100))
def test_the_same_key_gives_the_same_image_whatever_the_global_generator(
    sampler: Any, spacing: Any, count: int, seed: int
) -> None:
    levels = levels_of(VPLinear(), spacing, count, 1.0)
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    once = run(DATA, VPLinear(), sampler, levels, noise_for(2, seed), torch.float64)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(seed + 1)
    again = run(DATA, VPLinear(), sampler, levels, noise_for(2, seed), torch.float64)
    assert torch.equal(once, again)


RESCALABLE = st.one_of(
    st.builds(DDIM, eta=st.floats(0, 1)),
    st.builds(DDPM),  # the large variance is the forward step's, another one for x / alpha
    st.builds(Heun),
    st.builds(DPM2, eta=st.floats(0, 1)),
    st.builds(DPMSolverPP, order=st.integers(1, 3), eta=st.floats(0, 1)),
    st.builds(UniPC, order=st.integers(1, 3), weights=st.sampled_from(["bh1", "bh2", "varying"])),
    st.builds(Consistency),
    st.builds(DEIS, order=st.integers(1, 3), variable=st.sampled_from(["rho", "log-rho"])),
)


@often
@given(st.sampled_from([VPLinear(), Cosine()]), RESCALABLE, spacings, steps, st.floats(0.2, 0.95))
def test_variance_exploding_equals_variance_preserving_through_x_over_alpha(
    schedule: Any, sampler: Any, spacing: Any, count: int, begin: float
) -> None:
    preserving = levels_of(schedule, spacing, count, begin)
    exploding = [noise_level(0, 1, float(level.noise_ratio)) for level in preserving]
    noise = noise_for(2)
    x = start(preserving[0], noise, torch.zeros(2, 1, 1, 2, dtype=torch.float64))
    ours = sample(DATA, x, preserving, sampler, noise, schedule)
    theirs = sample(DATA, x / scale(preserving[0].alpha, x), exploding, sampler, noise, VE())
    bound = 1e-8 * (1 + float(theirs.abs().max()))
    assert float((ours - theirs).abs().max()) < bound
