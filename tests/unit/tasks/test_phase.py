"""A smooth phase: where it begins, and that it is found beside a magnitude known but roughly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import KeyedNoise
from medidiff.diffusion.sampling import Step
from medidiff.physics import CartesianMRI, ConjugateGradients, FourierSampling, to_kspace
from medidiff.physics.coils import calibration_box, image_of_centre
from medidiff.tasks.cosines import cosines
from medidiff.tasks.phase import SmoothPhase, begun
from medidiff.tasks.rough_phase import refuted
from medidiff.tasks.simulate import SimulatedMRI, ring_of_coils

SIZE = (48, 64)
NOISE = 1e-3


def magnitude() -> Tensor:
    rows, columns = grid()
    head = torch.sigmoid(12 * (0.7 - (rows**2 + 1.2 * columns**2).sqrt()))
    return (head * (1 + 0.4 * (7 * rows).sin() * (9 * columns).cos()))[None, None]


def grid() -> tuple[Tensor, Tensor]:
    rows, columns = (torch.linspace(-1, 1, n) for n in SIZE)
    return torch.meshgrid(rows, columns, indexing="ij")  # type: ignore[return-value]


def true_phase() -> Tensor:
    """A ramp of some turns and what the cosines can say."""
    waves = cosines(SIZE).to(torch.zeros(()))
    theta = torch.zeros(1, len(waves.chosen))
    theta[0, [1, 2, 7, 9]] = torch.tensor([1.0, -0.8, 0.5, 0.3])
    return waves.field(theta) + 9.0 * grid()[1] + 0.5


def fit_of(truth: Tensor, phase: Tensor) -> tuple[SmoothPhase, Tensor]:
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., ::3] = 1
    mask[..., SIZE[1] // 2 - 5 : SIZE[1] // 2 + 5] = 1
    operator = FourierSampling(mask)
    kspace = operator.forward(torch.polar(truth, phase))
    ramp, first = begun(image_of_centre(kspace, calibration_box(mask[0, 0])))
    return SmoothPhase(operator, kspace, ramp, torch.tensor([NOISE]), torch.zeros(1)), first


def apart(one: Tensor, other: Tensor, weight: Tensor) -> float:
    turn = torch.remainder(one - other + math.pi, 2 * math.pi) - math.pi
    return float(((weight * turn) ** 2).sum().sqrt() / weight.square().sum().sqrt())


def test_the_phase_of_a_whole_image_is_smoothed_without_unwrapping() -> None:
    _, first = begun(torch.polar(magnitude(), true_phase()))
    assert apart(first, true_phase(), magnitude()) < 0.02


def test_exact_samples_and_the_magnitude_give_the_phase() -> None:
    fit, first = fit_of(magnitude(), true_phase())
    assert apart(first, true_phase(), magnitude()) > 0.1
    found = fit.fitted(magnitude(), torch.tensor([0.0]), first, rounds=6)
    # the ramp that is found is not quite the true one, and cosines say the rest roughly
    assert apart(found, true_phase(), magnitude()) < 5e-3


def test_a_wrong_magnitude_bends_the_phase_less_where_it_is_free() -> None:
    fit, first = fit_of(magnitude(), true_phase())
    wrong = magnitude() * (1 + 0.3 * grid()[0].sign() * (5 * grid()[1]).sin())
    stiff, free = (
        apart(fit.fitted(wrong, torch.tensor([width]), first, rounds=6), true_phase(), magnitude())
        for width in (0.0, 0.2)
    )
    assert free < stiff / 2


def test_draws_are_as_far_from_the_fit_as_it_may_be_wrong() -> None:
    fit, first = fit_of(magnitude(), true_phase())
    noisy = fit.kspace + NOISE * 30 * torch.view_as_complex(
        torch.randn((*fit.kspace.shape, 2), generator=torch.Generator().manual_seed(0))
    ) * (fit.kspace != 0)
    fit = replace(fit, kspace=noisy, noise_std=torch.tensor([30 * NOISE]))
    found = fit.fitted(magnitude(), torch.tensor([0.1]), first, rounds=6)
    like, width = torch.zeros(1, 1, *SIZE), torch.tensor([0.1])
    draws = torch.cat(
        [
            fit.fitted(
                magnitude(), width, found, at=Step(0, 1, like, KeyedNoise(n, [("a", 0)]), None)
            )
            for n in range(12)
        ]
    )
    error = apart(found, true_phase(), magnitude())
    spread = sum(apart(draw[None], found, magnitude()) for draw in draws) / len(draws)
    assert error < 3 * spread
    assert spread < 3 * error


def test_a_batch_gives_what_its_members_give() -> None:
    one, first = fit_of(magnitude(), true_phase())
    other = to_kspace(torch.polar(magnitude().flip(-1), -true_phase())) * one.operator.mask  # type: ignore[attr-defined]
    both = SmoothPhase(
        one.operator,
        torch.cat([one.kspace, other]),
        one.ramp.expand(2, -1, -1, -1),
        torch.tensor([NOISE, 2 * NOISE]),
        torch.tensor([0.0, 0.2]),
    )
    images, width = magnitude().expand(2, -1, -1, -1), torch.tensor([0.1, 0.2])
    found = both.fitted(images, width, first.expand(2, -1, -1, -1))
    alone = one.fitted(magnitude(), width[:1], first)
    assert apart(found[:1], alone, magnitude()) < 1e-4


def test_a_small_image_and_hardly_any_noise_are_no_trouble() -> None:
    small = torch.polar(torch.ones(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.7))
    ramp, first = begun(small)
    assert float((first - 0.7).abs().max()) < 1e-5
    operator = FourierSampling(torch.ones(1, 1, 8, 8))
    fit = SmoothPhase(operator, operator.forward(small), ramp, torch.tensor([1e-9]), torch.zeros(1))
    found = fit.fitted(small.abs(), torch.tensor([0.5]), first)
    assert float((found - 0.7).abs().max()) < 1e-4
    assert bool(fit.fitted(torch.zeros_like(first), torch.tensor([0.5]), first).isfinite().all())


def rim() -> Tensor:
    """Fat around a head: out of phase with what it surrounds."""
    radius = (grid()[0] ** 2 + 1.2 * grid()[1] ** 2).sqrt()
    return 0.8 * ((radius > 0.55) & (radius < 0.75))[None, None]


@pytest.mark.parametrize(("fine", "right"), [(0.3, True), (0.0, False)])
def test_a_rough_phase_is_found_where_it_is_allowed(fine: float, right: bool) -> None:
    fit, first = fit_of(magnitude(), true_phase() + rim())
    fit = replace(fit, fine=torch.tensor([fine]))
    found = fit.fitted(magnitude(), torch.tensor([0.02]), first, rounds=6)
    assert (apart(found, true_phase() + rim(), magnitude()) < 0.1) == right


def test_samples_that_say_nothing_leave_what_was_expected_of_a_rough_phase() -> None:
    fit, first = fit_of(magnitude(), true_phase())
    fit = replace(fit, noise_std=torch.tensor([100.0]), fine=torch.tensor([0.2]))
    like, width = torch.zeros(1, 1, *SIZE), torch.tensor([0.1])
    white = 0.1 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    assert voxel_to_voxel(fit.fitted(magnitude(), width, first + white)) < 0.03
    at = Step(0, 1, like, KeyedNoise(0, [("a", 0)]), None)
    drawn = voxel_to_voxel(fit.fitted(magnitude(), width, first + white, at=at))
    assert drawn == pytest.approx(0.19, rel=0.05)  # of .2, by the arctangent


def voxel_to_voxel(phase: Tensor) -> float:
    """How far a phase is off its neighbour's, but for what is smooth; of white noise its width."""
    return float((phase - true_phase()).diff(dim=-1).diff(dim=-1).std()) / 6**0.5


@pytest.mark.parametrize("coils", [None, 4])
def test_a_phase_is_smooth_until_no_magnitude_explains_the_samples(coils: int | None) -> None:
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., ::2] = mask[..., SIZE[1] // 2 - 6 : SIZE[1] // 2 + 6] = 1
    maps = None if coils is None else ring_of_coils(coils, SIZE)
    operator = CartesianMRI(mask, maps, None, ConjugateGradients())
    phases = torch.cat([true_phase(), true_phase() + rim()])
    kspace = operator.forward(torch.polar(magnitude().expand_as(phases), phases))
    draw = torch.randn((*kspace.shape, 2), generator=torch.Generator().manual_seed(0))
    kspace = (kspace + 0.01 * torch.view_as_complex(draw)) * mask
    box = calibration_box(mask[0, 0])
    begin = [begun(image_of_centre(each[None], box, maps)) for each in kspace]
    ramp, first = (torch.cat(each) for each in zip(*begin, strict=True))
    level = torch.full((2,), 0.01, dtype=torch.float64)

    def fit_of(cases: Sequence[int]) -> SmoothPhase:
        chosen = [*cases]
        asked.append(chosen)
        fine = torch.zeros(len(chosen))
        return SmoothPhase(operator, kspace[chosen], ramp[chosen], level[chosen], fine)

    asked: list[list[int]] = []
    found, magnitudes = refuted(fit_of, mask, maps, first)
    assert found.tolist() == [False, True]
    assert magnitudes.shape == first.shape
    assert asked[0] == [0, 1]
    assert asked[-1] == [0, 1]  # magnitudes of all
    assert asked[-2] == [1]  # who is done takes no part any more


def test_a_smooth_phase_that_begins_far_off_is_not_refuted() -> None:
    noise = KeyedNoise(5, [("9", 0)])
    scanner = SimulatedMRI(8, 6.5 / SIZE[1], coils=8)
    mask = scanner.mask(SIZE, 86)[None]
    whole = scanner.whole(magnitude(), torch.ones(1), noise)
    kspace, maps, level = whole.kspace * mask, whole.coils, whole.sigma.double()
    ramp, first = begun(image_of_centre(kspace, calibration_box(mask[0, 0]), maps))
    assert apart(first, whole.phase, magnitude()) > 0.3
    operator = CartesianMRI(mask, maps, None, ConjugateGradients(tolerance=1e-6, steps=50))
    fit = SmoothPhase(operator, kspace, ramp, level, torch.zeros(1))
    found, held = refuted(lambda _: fit, mask, maps, first)
    assert found.tolist() == [False]
    assert brightest(held) == pytest.approx(brightest(magnitude()), rel=0.15)


def brightest(image: Tensor) -> float:
    return float(image.abs().flatten().quantile(0.999))


def test_a_phase_that_is_not_smooth_makes_no_magnitude_much_brighter() -> None:
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., ::5] = mask[..., SIZE[1] // 2 - 3 : SIZE[1] // 2 + 3] = 1
    maps = ring_of_coils(8, SIZE)
    operator = CartesianMRI(mask, maps, None, ConjugateGradients())
    rough = true_phase() + 0.4 * (15 * grid()[0]).sin() * (15 * grid()[1]).sin()
    kspace = operator.forward(torch.polar(magnitude(), rough))
    level = torch.full((1,), 0.01, dtype=torch.float64)
    fit = SmoothPhase(operator, kspace, 9.0 * grid()[1][None, None], level, torch.zeros(1))
    found, held = refuted(lambda _: fit, mask, maps, true_phase())
    assert found.tolist() == [True]
    assert brightest(held) < 1.25 * brightest(magnitude())
