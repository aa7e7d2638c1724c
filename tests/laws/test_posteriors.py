"""Laws of every posterior method: its members, its cost, its refusals; and its likelihoods."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from medidiff.conformance.posteriors import GaussianField, squared_exponential
from medidiff.diffusion import (
    EDM,
    AntitheticNoise,
    Flow,
    Heun,
    Karras,
    KeyedNoise,
    NoiseSource,
    PredictorCorrector,
    UniformTime,
    VPLinear,
    noise_level,
    path,
)
from medidiff.diffusion.sampling import Step
from medidiff.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    Alternating,
    AnyPosterior,
    CSGMLangevin,
    DiffPIR,
    DiffusionMBIR,
    Gaussian,
    MomentMatching,
    PiGDM,
    PoissonEmission,
    PoissonTransmission,
    Problem,
    Projection,
    REDDiff,
    Refitted,
    RePaint,
    Rician,
    complex_channels,
    sample_posterior,
)
from medidiff.inverse.alternating import PARAMETERS
from medidiff.inverse.daps import DAPSSampler
from medidiff.inverse.ddnm import DDNMSampler
from medidiff.inverse.moment_matching import moment_matched
from medidiff.inverse.problem import Plan
from medidiff.physics import (
    CartesianMRI,
    ConjugateGradients,
    DenseOperator,
    FourierSampling,
    Mask,
    Weights,
)

SIDE = 4
SHAPE = (1, SIDE, SIDE)
PRIOR = squared_exponential(SIDE * SIDE, 2.0)
SEEN = torch.zeros(SIDE * SIDE, dtype=torch.float64)
SEEN[[0, 3, 4, 9, 14]] = 1
MASK = Mask(SEEN.reshape(SHAPE))
LINES = torch.zeros((1, SIDE, SIDE), dtype=torch.float64)
LINES[:, :, [1, 2]] = 1
PHASE = 0.4 * torch.arange(SIDE * SIDE, dtype=torch.float64).sin().reshape(1, *SHAPE)
METHODS: list[Any] = [
    DPS(step_size=0.1),
    DPS(step_size=0.001, distance="likelihood"),
    DPS(step_size=0.1, gradient="none"),
    PiGDM(),
    PiGDM(gradient="none"),
    MomentMatching(),
    MomentMatching(below=math.inf),
    MomentMatching(covariance="diagonal"),
    DAPS(),
    DAPS(estimate_hops=3, width="noise-ratio"),
    DDNM(),
    DDNM(form="noise-free", jump_length=2, repeats=2),
    DDRM(),
    DiffPIR(),
    REDDiff(),
    Projection(),
    Projection(measurement="hard", strength=0.7),
    Projection(measurement="weighed"),
    CSGMLangevin(),
    CSGMLangevin(pull="balanced"),
    RePaint(jump_length=2, repeats=2),
    DiffusionMBIR(),
]
NAMES = [
    f"{method.kind}-{index}" if METHODS[index - 1].kind == method.kind else method.kind
    for index, method in enumerate(METHODS)
]
methods = pytest.mark.parametrize("method", METHODS, ids=NAMES)
ANY_OPERATOR = [m for m in METHODS if m.kind not in ("ddrm", "repaint") and m != DDNM()]


def noise_for(count: int) -> KeyedNoise:
    return KeyedNoise(0, [("subject", sample) for sample in range(count)])


def like(count: int, channels: int = 1) -> Tensor:
    return torch.zeros((count, channels, SIDE, SIDE), dtype=torch.float64)


def images(count: int, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    unit = torch.randn((count * channels, SIDE**2), generator=generator, dtype=torch.float64)
    return PRIOR.draw(unit).reshape(count, channels, SIDE, SIDE)


def drawn(
    method: Any,
    operator: Any,
    y: Tensor,
    likelihood: Any,
    noise: NoiseSource | None = None,
    **options: Any,
) -> Any:
    count, schedule = len(y), options.pop("schedule", EDM())
    chosen = {"levels": path(Karras(), schedule, 8), "schedule": schedule, **options}
    prior = options.pop("prior", PRIOR)
    chosen.pop("prior", None)
    shape = like(count, chosen.pop("channels", 1))
    source = noise or noise_for(count)
    return sample_posterior(prior, operator, y, likelihood, method, shape, source, **chosen)


STD = torch.tensor([0.05, 0.1, 0.3], dtype=torch.float64)


@methods
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_batch_is_its_members_each_with_its_own_noise_level(
    method: Any, chunk: int | None
) -> None:
    y = MASK.forward(images(3) * torch.tensor([1.0, 3.0, 0.2]).reshape(-1, 1, 1, 1))
    together = drawn(method, MASK, y, Gaussian(STD), chunk=chunk).images
    assert bool(together.isfinite().all())
    for index in range(3):
        one = slice(index, index + 1)
        noise = noise_for(3).take([index])
        alone = drawn(method, MASK, y[one], Gaussian(STD[one]), noise, chunk=chunk).images
        assert torch.allclose(together[one], alone, atol=1e-10)


@methods
def test_a_batch_of_operators_is_its_members_each_with_its_own_norm(method: Any) -> None:
    """Ridges and step lengths that follow the operator's size follow that of the image's own."""
    weight = MASK.mask * torch.tensor([0.4, 1.0, 5.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    y = Weights(weight).forward(images(3))
    together = drawn(method, Weights(weight), y, Gaussian(STD)).images
    for index in (0, 2):
        one = slice(index, index + 1)
        noise = noise_for(3).take([index])
        alone = drawn(method, Weights(weight[one]), y[one], Gaussian(STD[one]), noise).images
        assert torch.allclose(together[one], alone, atol=1e-8, rtol=1e-8)


def test_langevin_steps_anneal_each_count_s_own_noise() -> None:
    """Far estimates of few counts would else be so sure that no step is long enough."""
    everything, clean = Mask(torch.ones(1, SIDE, SIDE)), images(2).abs()
    counts = torch.poisson(50 * clean + 8, generator=torch.Generator().manual_seed(3))
    levels = path(Karras(), EDM(), 60)
    law = PoissonEmission(50.0, 8.0)
    found = drawn(CSGMLangevin(), everything, counts, law, levels=levels).images
    assert float((found - clean).abs().mean()) < 0.3


@pytest.mark.parametrize("method", [DiffPIR(fresh=1.0), DAPS(), DDNM()], ids=lambda m: m.kind)
def test_an_antithetic_pair_s_mean_is_what_no_noise_gives_of_a_gaussian_prior(method: Any) -> None:
    """There a sample is affine in its noise; with independent noise the mean of two is off."""
    y = MASK.forward(images(1))
    still = drawn(method, MASK, y, Gaussian(0.1), lambda like, step, draw=0: 0 * like).images
    members = [("subject", 0), ("subject", 1)]
    pair = drawn(method, MASK, y.repeat(2, 1, 1, 1), Gaussian(0.1), AntitheticNoise(0, members))
    other = drawn(method, MASK, y.repeat(2, 1, 1, 1), Gaussian(0.1), KeyedNoise(0, members))
    assert torch.allclose(pair.images.mean(0, keepdim=True), still, atol=1e-10)
    assert float((pair.images[0] - pair.images[1]).std()) > 0.1
    assert float((other.images.mean(0, keepdim=True) - still).abs().max()) > 0.1


@methods
def test_chunks_change_nothing_but_the_cost_of_gradients(method: Any) -> None:
    y = MASK.forward(images(3))
    whole, cut = (drawn(method, MASK, y, Gaussian(0.1), chunk=chunk) for chunk in (None, 2))
    assert torch.allclose(whole.images, cut.images, atol=1e-12)
    assert (whole.calls, whole.backwards) == (cut.calls, cut.backwards)
    assert whole.forward_equivalents == whole.calls + 2 * whole.backwards
    assert cut.forward_equivalents == whole.calls + 3 * whole.backwards


@methods
def test_an_operator_that_is_fitted_to_itself_changes_nothing(method: Any) -> None:
    y = MASK.forward(images(2))

    def same(clean: Tensor, width: Tensor, memory: Any, at: Step | None) -> Refitted:
        return Refitted(MASK, y, memory)

    plain = drawn(method, MASK, y, Gaussian(0.1))
    found = drawn(Alternating(method, same), MASK, y, Gaussian(0.1))
    assert torch.allclose(found.images, plain.images, atol=1e-10)
    if method.kind in ("diffpir", "daps", "ddnm", "ddrm", "repaint", "projection"):
        assert found.calls == plain.calls


class AsksElsewhere:
    """A method that asks for the step's x at the next level."""

    kind = "asks-elsewhere"
    finishes = True

    def plan(self, problem: Problem, denoise: Any, levels: Any) -> Plan:
        return Plan(denoise, self, levels)

    def step(self, denoise: Any, x: Tensor, now: Any, to: Any, memory: Any, at: Step) -> Any:
        return denoise(x, to).clean, memory


def test_an_estimate_at_another_level_is_not_taken_for_the_one_that_was_fitted() -> None:
    y = MASK.forward(images(2))

    def same(clean: Tensor, width: Tensor, memory: Any, at: Step | None) -> Refitted:
        return Refitted(MASK, y, memory)

    plain = drawn(AsksElsewhere(), MASK, y, Gaussian(0.1))
    found = drawn(Alternating(AsksElsewhere(), same), MASK, y, Gaussian(0.1))
    assert torch.equal(found.images, plain.images)


@pytest.mark.parametrize("method", [DiffPIR(), DAPS(), DDNM()], ids=lambda m: m.kind)
@pytest.mark.parametrize("spread", [False, True])
def test_a_gain_that_is_not_known_is_found_on_the_way(method: Any, spread: bool) -> None:
    """Each voxel seen twice, the second time with a gain."""
    truth, gains = images(3), torch.tensor([0.7, 1.0, 1.4], dtype=torch.float64)
    twice = torch.eye(SIDE**2, dtype=torch.float64).repeat(2, 1)
    once, again = truth.flatten(1), gains[:, None] * truth.flatten(1)
    fits = []

    def refit(clean: Tensor, width: Tensor, memory: Any, at: Step | None) -> Refitted:
        seen = clean.flatten(1)
        gain = (seen * again).sum(1) / seen.square().sum(1).clamp_min(1e-3)
        if at is not None:
            gain = gain + 0.01 * at.noise(PARAMETERS).flatten(1)[:, 0]
        fits.append(gain)
        # the gain goes to the measurement's side, so that one operator serves the batch
        y = torch.cat([once, again / gain[:, None].clamp_min(0.1)], 1)
        return Refitted(DenseOperator(twice, SHAPE), y, gain)

    options = {"levels": path(Karras(), EDM(), 40), "schedule": EDM()}
    made = Alternating(method, refit, drawn=spread)
    start = torch.cat([once, again], 1)
    found = drawn(made, DenseOperator(twice, SHAPE), start, Gaussian(0.05), **options)
    assert len(fits) == found.calls == 40
    assert torch.allclose(fits[-1], gains, rtol=0.07)
    other = drawn(made, DenseOperator(twice, SHAPE), start, Gaussian(0.05), **options)
    assert torch.equal(found.images, other.images)


@pytest.mark.parametrize(
    ("method", "calls", "backwards"),
    [
        (DPS(), 8, 8),
        (DPS(gradient="none"), 8, 0),
        (PiGDM(), 8, 8),
        (MomentMatching(covariance="diagonal", below=100.0), 8, 16),
        (DAPS(), 8, 0),
        (DAPS(estimate_hops=3), 24, 0),
        (DDRM(), 8, 0),
        (DDNM(), 8, 0),
        (DiffPIR(), 8, 0),
        (REDDiff(), 8, 0),
        (CSGMLangevin(steps=2), 17, 0),
        (RePaint(jump_length=4, repeats=3), 24, 0),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_the_cost_is_what_the_network_saw(method: Any, calls: int, backwards: int) -> None:
    found = drawn(method, MASK, MASK.forward(images(1)), Gaussian(0.1))
    assert (found.calls, found.backwards) == (calls, backwards)


@pytest.mark.parametrize("method", ANY_OPERATOR, ids=lambda m: m.kind)
def test_real_images_of_a_known_phase_are_drawn_from_complex_k_space(method: Any) -> None:
    """And as the same problem in real numbers, where the method draws none for the measurement."""
    operator = CartesianMRI(LINES, phase=PHASE)
    clean = images(2)
    y = operator.forward(clean)
    found = drawn(method, operator, y, Gaussian(0.05)).images
    assert found.dtype == torch.float64
    assert bool(found.isfinite().all())
    if method.kind == "daps":
        return
    units = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, *SHAPE)
    rows = torch.view_as_real(operator.forward(units)).flatten(1).T.contiguous()
    dense = DenseOperator(rows, SHAPE)
    same = drawn(method, dense, torch.view_as_real(y).flatten(1), Gaussian(0.05)).images
    apart = float((found - same).abs().max())
    if "moment" not in method.kind:  # conjugate gradients end where they end
        assert apart < 1e-3


@pytest.mark.parametrize(
    "method", [DPS(), *(m for m in METHODS if m.kind != "dps")], ids=lambda m: m.kind
)
def test_complex_images_as_channels_fit_their_k_space(method: Any) -> None:
    operator = complex_channels(FourierSampling(LINES))
    y = operator.forward(images(2, channels=2))
    prior = GaussianField(torch.block_diag(PRIOR.covariance, PRIOR.covariance))
    levels = path(Karras(), EDM(), 30)
    found = drawn(method, operator, y, Gaussian(0.05), prior=prior, channels=2, levels=levels)
    left, whole = (v.abs().square().mean().sqrt() for v in (y - operator.forward(found.images), y))
    weak = method.kind in ("red-diff", "diffusion-mbir")  # a mode; a weight meant for CT
    assert float(left / whole) < (0.96 if weak else 0.7)


def test_complex_operators_on_real_images_are_refused() -> None:
    y = FourierSampling(LINES).forward(images(1))
    with pytest.raises(ValueError, match="phase"):
        drawn(DiffPIR(), FourierSampling(LINES), y, Gaussian(0.1))


@pytest.mark.parametrize("method", [DDRM(), RePaint(), DDNM()], ids=lambda m: m.kind)
def test_methods_of_the_spectrum_refuse_operators_without_one(method: Any) -> None:
    operator = CartesianMRI(LINES, phase=PHASE)
    with pytest.raises(ValueError, match="decomposition"):
        drawn(method, operator, operator.forward(images(1)), Gaussian(0.1))


def test_a_measurement_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="measures"):
        drawn(DiffPIR(), MASK, torch.zeros((1, 5), dtype=torch.float64), Gaussian(0.1))


@methods
@pytest.mark.parametrize("schedule", [VPLinear(), Flow()], ids=lambda s: s.kind)
def test_from_pure_noise_and_in_few_steps_all_stays_finite(method: Any, schedule: Any) -> None:
    y = MASK.forward(images(2))
    levels = path(UniformTime(), schedule, 3)
    found = drawn(method, MASK, y, Gaussian(0.1), schedule=schedule, levels=levels)
    assert bool(found.images.isfinite().all())


def test_every_method_comes_back_from_its_own_dictionary() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyPosterior)
    for option in (kind() for kind in get_args(AnyPosterior)):
        assert adapter.validate_python(adapter.dump_python(option)) == option
    assert {type(method) for method in METHODS} == set(get_args(AnyPosterior))


OTHER: dict[str, Any] = {
    "sampler": Heun(),
    "steps": PredictorCorrector(snr=0.3),
    "solver": ConjugateGradients(1e-9, 1),
    "distance": "squared-norm",
    "norms": "batch",
    "gradient": "none",
    "covariance": "diagonal",
    "width": "noise-ratio",
    "form": "noise-free",
    "measurement": "hard",
    "pull": "balanced",
    "betas": (0.5, 0.9),
    "eta_missing": 0.1,
    "axis": 1,
    "below": 0.5,
    "ridge": 0.3,
}
"""Another value of an option than its default; numbers that are not here are halved or doubled."""
NEEDS: dict[tuple[str, str], Any] = {
    ("daps", "langevin_steps"): Rician(0.3, offset=3.0),
    ("daps", "langevin_step"): Rician(0.3, offset=3.0),
    ("diffpir", "inner"): Rician(0.3, offset=3.0),
}


def other_values() -> list[Any]:
    found = []
    for kind in get_args(AnyPosterior):
        method = kind()
        for field in fields(kind):
            value = getattr(method, field.name)
            if field.name == "kind":
                continue
            if (method.kind, field.name) == ("csgm-langevin", "balance"):
                method = replace(method, pull="balanced")
            if field.name == "jump_length":
                method = replace(method, repeats=2)
            if field.name in ("inner", "steps") and isinstance(value, int):
                changed: Any = 1
            elif isinstance(value, int) and field.name != "axis":
                changed = value + 1
            elif field.name in OTHER:
                changed = OTHER[field.name]
            else:
                changed = value / 2
            found.append(
                pytest.param(method, field.name, changed, id=f"{kind.__name__}.{field.name}")
            )
    return found


@pytest.mark.parametrize(("method", "option", "changed"), other_values())
def test_every_option_of_every_method_changes_what_is_drawn(
    method: Any, option: str, changed: Any
) -> None:
    likelihood = NEEDS.get((method.kind, option), Gaussian(0.1))
    y = MASK.forward(images(2).abs()) + 3 * MASK.mask * isinstance(likelihood, Rician)
    levels = path(Karras(), EDM(), 12)
    one, two = (
        drawn(each, MASK, y, likelihood, levels=levels).images
        for each in (method, replace(method, **{option: changed}))
    )
    assert float((one - two).abs().max()) > 1e-6


def test_where_a_covariance_is_none_moment_matching_stays_finite() -> None:
    """A trained network's Jacobian has negative directions: conjugate gradients stop there."""

    def wrong(x: Tensor, level: Any) -> Any:
        here = PRIOR(x, level)
        return replace(here, clean=here.clean - 2 * x.roll(1, -1))

    method = MomentMatching(solver=ConjugateGradients(1e-4, 30), below=math.inf)
    y = MASK.forward(images(2))
    found = drawn(method, MASK, y, Gaussian(0.05), prior=wrong)
    assert bool(found.images.isfinite().all())
    assert found.backwards < 8 * 30


def test_moment_matching_moves_nothing_where_nothing_is_left_to_explain() -> None:
    """A residual of exactly zero, at a level that is an image's own."""
    x, level = images(2), noise_level(0.5, 1.0, 0.5).expand(2)

    def halved(x: Tensor, level: Any) -> Any:
        return replace(PRIOR(x, level), clean=x / 2)

    problem = Problem(MASK, MASK.forward(x / 2), Gaussian(0.05))
    found = moment_matched(halved, problem, MomentMatching())(x, level)
    assert torch.equal(found.clean, x / 2)


def test_daps_draws_the_posterior_of_a_gaussian_around_its_estimate() -> None:
    count, width, std = 3000, 0.5, 0.3
    estimate = images(1).expand(count, *SHAPE)
    problem = Problem(MASK, MASK.forward(images(1) + 0.4).expand(count, *SHAPE), Gaussian(std))
    at = Step(0, 1, estimate, noise_for(count), None)
    draws = DAPSSampler(problem, DAPS())._exact(estimate, torch.tensor(width).double(), at)
    seen = MASK.mask > 0
    power = 1 / (1 / std**2 + 1 / width**2)
    moved = (draws - estimate).mean(0)
    assert torch.allclose(moved[seen], torch.full((5,), 0.4 * power / std**2).double(), atol=0.02)
    assert torch.allclose(draws.std(0)[seen], torch.full((5,), power**0.5).double(), atol=0.02)
    assert torch.allclose(draws.std(0)[~seen], torch.full((11,), width).double(), atol=0.03)


def test_daps_warns_where_its_steps_leave_noise() -> None:
    problem, schedule = Problem(MASK, MASK.forward(images(1)), Gaussian(0.1)), EDM()
    for steps, few in ((10, True), (40, False)):
        levels = path(Karras(), schedule, steps)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            DAPS().plan(problem, PRIOR, levels)
        assert [("10.2-fold" in str(each.message)) for each in told] == ([True] if few else [])


def test_ddnm_takes_over_no_more_noise_that_a_hop_covers() -> None:
    """With all noise fresh and covered, a hop's result has just the noise of its level."""
    y, to = MASK.forward(images(1)), noise_level(0.5, 0.8, 0.2)
    problem = Problem(MASK, y, Gaussian(0.3))
    sampler = DDNMSampler(problem, DDNM(eta=1.0, ridge=0.0))
    clean, unit = images(1) + 1, torch.ones_like(y)
    taken, drawn_noise = sampler._shared(problem.linearised(clean), clean, unit, to)
    share = (taken - clean)[MASK.mask[None] > 0] / (y - clean)[MASK.mask[None] > 0]
    assert torch.allclose(share, torch.full_like(share, 0.2 / (0.8 * 0.3)), atol=1e-12)
    seen_noise, other = (drawn_noise[MASK.mask[None] == side] for side in (1, 0))
    assert float(seen_noise.abs().max()) < 1e-6
    assert torch.allclose(other, torch.full_like(other, 0.2), atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: DAPS(estimate_hops=0),
        lambda: DAPS(langevin_step=2.0),
        lambda: DDNM(eta=1.5),
        lambda: DDNM(repeats=0),
        lambda: DiffPIR(weight=0.0),
        lambda: REDDiff(rate=0.0),
        lambda: Projection(strength=0.0),
        lambda: CSGMLangevin(step=2.5),
        lambda: RePaint(jump_length=0),
        lambda: DiffusionMBIR(rho=0.0),
        lambda: MomentMatching(below=-1.0),
        lambda: ConjugateGradients(steps=-1),
        lambda: DDRM(eta=math.nan),
        lambda: DDNM(ridge=math.nan),
        lambda: Projection(ridge=math.nan),
        lambda: DiffusionMBIR(weight=math.nan),
        lambda: Rician(0.0),
        lambda: Gaussian(torch.tensor([0.1, -0.1])),
        lambda: PoissonTransmission(photons=0.0),
        lambda: PoissonEmission(scale=0.0),
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"needs?"):
        wrong()


def test_an_axis_that_images_do_not_have_is_refused() -> None:
    y = MASK.forward(images(1))
    with pytest.raises(ValueError, match="axis is 2, and the images have the axes 0 to 1"):
        drawn(DiffusionMBIR(axis=2), MASK, y, Gaussian(0.1))


# likelihoods

LIKELIHOODS = [
    Gaussian(0.3),
    Rician(0.3, offset=1.0),
    PoissonTransmission(photons=200.0, scatter=3.0, scale=0.5, offset=0.6),
    PoissonEmission(scale=20.0, background=30.0),
]
likelihoods = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda v: type(v).__name__)


def seen(likelihood: Any, predicted: Tensor) -> Tensor:
    """A measurement of what is predicted, with its noise."""
    torch_random = torch.Generator().manual_seed(2)
    z = torch.randn((2, *predicted.shape), generator=torch_random, dtype=torch.float64)
    if isinstance(likelihood, Gaussian):
        return predicted + 0.3 * z[0]
    if isinstance(likelihood, Rician):
        return ((predicted + 1 + 0.3 * z[0]) ** 2 + (0.3 * z[1]) ** 2).sqrt()
    if isinstance(likelihood, PoissonTransmission):
        rate = 200 * (-(0.5 * predicted + 0.6)).exp() + 3
    else:
        rate = (20 * predicted + 30).clamp_min(0)
    return torch.poisson(rate, generator=torch_random)


@likelihoods
def test_the_gradient_is_the_log_density_s(likelihood: Any) -> None:
    predicted = images(3).requires_grad_()
    y = seen(likelihood, predicted.detach())
    (found,) = torch.autograd.grad(likelihood.log_density(predicted, y).sum(), predicted)
    assert torch.allclose(likelihood.gradient(predicted.detach(), y), found, atol=1e-8)


def test_a_complex_gaussian_s_gradient_is_of_both_parts() -> None:
    parts = images(2, channels=2).requires_grad_()
    y = torch.complex(images(2), images(2).flip(-1))
    predicted = torch.complex(parts[:, :1], parts[:, 1:])
    (found,) = torch.autograd.grad(Gaussian(STD[:2]).log_density(predicted, y).sum(), parts)
    gradient = Gaussian(STD[:2]).gradient(predicted.detach(), y)
    assert torch.allclose(torch.cat((gradient.real, gradient.imag), 1), found, atol=1e-8)


@likelihoods
def test_the_surrogate_has_the_likelihood_s_gradient(likelihood: Any) -> None:
    predicted = images(3).abs()
    y = seen(likelihood, predicted)
    target, std = likelihood.surrogate(predicted, y)
    assert torch.allclose((target - predicted) / std**2, likelihood.gradient(predicted, y))


@pytest.mark.parametrize("likelihood", [PoissonTransmission, PoissonEmission])
def test_counts_of_a_scale_each_are_those_of_the_images_alone(likelihood: Any) -> None:
    scales, predicted = torch.tensor([20.0, 50.0], dtype=torch.float64), images(2).abs() + 0.1
    y = torch.poisson(20 * predicted, generator=torch.Generator().manual_seed(0))
    together = likelihood(scales)
    for member in range(2):
        alone, cut = likelihood(float(scales[member])), slice(member, member + 1)
        for found, expected in zip(
            (together.log_density(predicted, y), together.gradient(predicted, y),
             *together.surrogate(predicted, y)),
            (alone.log_density(predicted[cut], y[cut]), alone.gradient(predicted[cut], y[cut]),
             *alone.surrogate(predicted[cut], y[cut])),
            strict=True,
        ):  # fmt: skip
            assert torch.allclose(found[cut], expected)
    with pytest.raises(ValueError, match="needs"):
        likelihood(torch.tensor([20.0, 0.0]))


def test_the_transmission_s_surrogate_is_bounded_far_from_the_counts() -> None:
    likelihood, y = PoissonTransmission(photons=100.0), torch.tensor([[0.0, 90.0]])
    for far in (-5.0, 20.0):
        target, _ = likelihood.surrogate(torch.full((1, 2), far), y)
        assert bool((target.abs() < 10).all())


def test_the_rician_s_surrogate_lies_below_its_density() -> None:
    """So that each step by it gains."""
    likelihood, y = LIKELIHOODS[1], torch.full((1, 1), 0.7, dtype=torch.float64)
    assert isinstance(likelihood, Rician)
    places = torch.linspace(-1.5, 2, 50, dtype=torch.float64)[:, None]
    here = torch.full((1, 1), 0.2, dtype=torch.float64)
    target, std = likelihood.surrogate(here, y)
    gain = likelihood.log_density(places, y) - likelihood.log_density(here, y)
    bound = ((here - target) ** 2 - (places - target) ** 2)[:, 0] / (2 * std**2)
    assert bool((gain >= bound - 1e-12).all())


def test_the_transmission_s_surrogate_is_near_the_likelihood_at_many_counts() -> None:
    likelihood = PoissonTransmission(photons=1e6)
    predicted = images(2).abs()
    y = seen_counts = torch.poisson(1e6 * (-predicted).exp(), generator=torch.Generator())
    target, std = likelihood.surrogate(predicted, seen_counts)
    found = (target - predicted) / std**2
    assert torch.allclose(found, likelihood.gradient(predicted, y), rtol=0.02, atol=20)


def test_a_magnitude_of_noise_alone_pulls_the_signal_to_zero() -> None:
    """What averages magnitudes keeps a floor of noise_std sqrt(pi / 2); the likelihood does not."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn((2, 1, 4000), generator=generator, dtype=torch.float64)
    y = 0.2 * (z**2).sum(0).sqrt()
    places = torch.linspace(0, 0.4, 41, dtype=torch.float64)
    value = torch.stack([Rician(0.2).log_density(p.expand_as(y), y) for p in places])
    assert float(places[int(value.argmax())]) < 0.06
    assert float(y.mean()) > 0.24


@pytest.mark.parametrize("likelihood", LIKELIHOODS[1:], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize(
    "method",
    [
        DiffPIR(weight=1.0),
        DAPS(),
        PiGDM(),
        MomentMatching(),
        DPS(step_size=0.003, distance="likelihood"),
    ],
    ids=lambda m: m.kind,
)
def test_other_noise_than_gaussian_is_explained_too(method: Any, likelihood: Any) -> None:
    """The images' log density comes near the truth's, from far below."""
    operator = DenseOperator(torch.eye(SIDE**2, dtype=torch.float64), SHAPE)
    clean = images(2).abs()
    y = seen(likelihood, clean.flatten(1))
    found = drawn(method, operator, y, likelihood, levels=path(Karras(), EDM(), 40)).images
    far, near, truth = (
        float(likelihood.log_density(operator.forward(x), y).sum())
        for x in (images(2).flip(0) - 1.0, found, clean)
    )
    assert near > truth - 0.5 * (truth - far)
