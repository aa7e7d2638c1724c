"""Laws of volumes drawn by priors of slices, and of complex images by a prior of magnitudes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medidiff.conformance.posteriors import squared_exponential
from medidiff.diffusion import CLEAN, EDM, Estimate, Karras, KeyedNoise, NoiseLevel, path
from medidiff.inverse import (
    DiffPIR,
    DiffusionMBIR,
    Gaussian,
    Problem,
    of_parts,
    of_slices,
    sample_posterior,
    two_planes,
)
from medidiff.inverse.diffusion_mbir import (
    DiffusionMBIRSampler,
    Split,
    differences,
    differences_adjoint,
)
from medidiff.physics import Mask
from medidiff.physics.iterative import ConjugateGradients

DEPTH, SIDE = 3, 4
PRIOR = squared_exponential(SIDE * SIDE, 2.0)
LEVELS = path(Karras(), EDM(), 12)


def field(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_a_volume_is_an_image(axis: int) -> None:
    shape = [SIDE, SIDE, SIDE]
    shape[axis] = DEPTH
    x = field(2, 1, *shape)
    level = NoiseLevel(*(torch.tensor([a, b]).double() for a, b in ((0.5, 0.1), (1, 1), (0.5, 2))))
    here = of_slices(PRIOR, axis)(x, level)
    for member in range(2):
        own = NoiseLevel(level.t[member], level.alpha[member], level.sigma[member])
        for index in range(DEPTH):
            plane = x[member : member + 1].select(2 + axis, index)
            alone = PRIOR(plane, own)
            found = here.clean[member : member + 1].select(2 + axis, index)
            assert torch.allclose(found, alone.clean, atol=1e-12)


def test_each_part_of_a_complex_image_is_an_image_of_the_prior() -> None:
    x = field(2, 2, SIDE, SIDE)
    here = of_parts(PRIOR)(x, LEVELS[3])
    for part in range(2):
        alone = PRIOR(x[:, part : part + 1], LEVELS[3])
        assert torch.allclose(here.clean[:, part : part + 1], alone.clean, atol=1e-12)


@pytest.mark.parametrize(("ratio", "seconds"), [(1.0, 50), (2.7, 27), (4.0, 20), (0.5, 66)])
def test_two_planes_take_turns_in_their_ratio(ratio: float, seconds: int) -> None:
    asked: list[str] = []

    def named(name: str):  # type: ignore[no-untyped-def]
        def ask(x: Tensor, level: NoiseLevel) -> Estimate:
            asked.append(name)
            return Estimate(x, x)

        return ask

    levels = path(Karras(), EDM(), 100)
    both = two_planes(named("first"), named("second"), levels, ratio)
    for level in levels[:-1]:
        both(field(1, 1, 2, 2), level)
    assert asked.count("second") == seconds
    again = list(asked)
    both(field(1, 1, 2, 2), levels[7])
    assert asked[-1] == again[7]  # by the level alone


def test_two_planes_draw_a_volume_by_any_method() -> None:
    planes = two_planes(of_slices(PRIOR, 0), of_slices(PRIOR, 1), LEVELS, 2.7)
    mask = Mask((field(1, SIDE, SIDE, SIDE) > 0).double())
    y = mask.forward(field(1, 1, SIDE, SIDE, SIDE))
    like, noise = torch.zeros_like(y), KeyedNoise(0, [("subject", 0)])
    found = sample_posterior(planes, mask, y, Gaussian(0.1), DiffPIR(), like, noise, levels=LEVELS)
    assert bool(found.images.isfinite().all())
    assert found.calls == 12


def test_differences_have_their_adjoint() -> None:
    x, d = field(2, 1, DEPTH, SIDE), field(2, 1, DEPTH - 1, SIDE)
    left = (differences(x, 2) * d).sum()
    assert float(left) == pytest.approx(float((x * differences_adjoint(d, 2)).sum()))


def test_admm_repeated_solves_the_total_variation_problem() -> None:
    """Its end does not move under a subgradient step: the objective is least there."""
    y = field(1, 1, 8, 2)
    options = DiffusionMBIR(weight=0.3, rho=1.0, solver=ConjugateGradients(1e-12, 50))
    problem = Problem(Mask(torch.ones((1, 8, 2), dtype=torch.float64)), y, Gaussian(0.1))
    sampler, x, memory = DiffusionMBIRSampler(problem, options), y, None
    for _ in range(400):
        x, memory = sampler.joined(x, CLEAN, memory)

    def objective(v: Tensor) -> float:
        return float((v - y).square().sum() / 2 + 0.3 * differences(v, 2).abs().sum())

    least = objective(x)
    assert least < objective(y)
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        near = x + 0.05 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        assert objective(near) > least


def test_the_dual_is_not_the_primal() -> None:
    """A known fault of the method's first code: u was another name of x's memory."""
    whole = Mask(torch.ones((1, 4, 2), dtype=torch.float64))
    problem = Problem(whole, field(1, 1, 4, 2), Gaussian(1.0))
    sampler = DiffusionMBIRSampler(problem, DiffusionMBIR())
    _, memory = sampler.joined(field(1, 1, 4, 2), CLEAN, None)
    assert isinstance(memory, Split)
    before = memory.z.clone(), memory.u.clone()
    sampler.joined(field(1, 1, 4, 2), CLEAN, memory)
    assert torch.equal(memory.z, before[0])
    assert torch.equal(memory.u, before[1])
    assert memory.z.data_ptr() != memory.u.data_ptr()
    assert not torch.allclose(memory.z, memory.u)


def test_slices_are_drawn_together() -> None:
    """With the variation's weight neighbours differ less than without."""

    def apart(weight: float) -> float:
        mask = torch.ones((1, DEPTH, SIDE, SIDE), dtype=torch.float64)
        mask[:, :, 1::2] = 0
        clean = field(1, 1, 1, SIDE, SIDE).expand(1, 1, DEPTH, SIDE, SIDE)
        method = DiffusionMBIR(weight=weight, solver=ConjugateGradients(1e-8, 30))
        noise = KeyedNoise(0, [("subject", 0)])
        found = sample_posterior(
            of_slices(PRIOR, 0),
            Mask(mask),
            mask * clean,
            Gaussian(0.05),
            method,
            torch.zeros_like(clean),
            noise,
            levels=LEVELS,
            schedule=EDM(),
        )
        return float(differences(found.images, 2).abs().mean())

    assert apart(2.0) < 0.5 * apart(0.0)
