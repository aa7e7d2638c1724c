import builtins
import math

import numpy as np
import pytest
import torch

from medidiff.errors import TaskError
from medidiff.physics import (
    CartesianMRI,
    ESPIRiT,
    FourierSampling,
    NonCartesianMRI,
    Sampling,
    SenseMRI,
    calibration_box,
    from_kspace,
    to_kspace,
)
from medidiff.physics.coils import image_of_centre
from medidiff.physics.iterative import real_inner


def birdcage(coils: int, size: int) -> torch.Tensor:
    """Smooth sensitivities around a circle, (1, coil, size, size), squares summing to 1."""
    along = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(along, along, indexing="ij")
    angle = torch.arange(coils, dtype=torch.float64)[:, None, None] * (2 * math.pi / coils)
    dx, dy = x - 1.5 * angle.cos(), y - 1.5 * angle.sin()
    maps = torch.polar(1 / (dx**2 + dy**2).sqrt(), torch.atan2(dx, -dy) + angle)
    return (maps / maps.abs().square().sum(0).sqrt())[None]


def head(size: int) -> torch.Tensor:
    along = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(along, along, indexing="ij")
    body = ((x / 0.7) ** 2 + (y / 0.85) ** 2 < 1).double()
    return (body * (0.6 + 0.3 * torch.sin(9 * x) * torch.cos(7 * y)))[None, None]


def smooth_phase(size: int) -> torch.Tensor:
    along = torch.linspace(-1, 1, size, dtype=torch.float64)
    return (1.2 * along[:, None] + 0.8 * along[None, :] ** 2 - 0.5)[None, None]


@pytest.mark.parametrize("shape", [(8, 10), (7, 9), (4, 6, 5)])
def test_the_transform_is_centred_and_unitary(shape):
    x = torch.zeros(1, 1, *shape, dtype=torch.complex128)
    x[(0, 0, *(size // 2 for size in shape))] = 1
    flat = to_kspace(x)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / math.sqrt(math.prod(shape))))
    torch.testing.assert_close(from_kspace(flat), x)


def test_the_constructor_takes_the_closed_form_where_there_is_one():
    mask = torch.ones(4, 4)
    assert isinstance(CartesianMRI(mask), FourierSampling)
    assert isinstance(CartesianMRI(mask, birdcage(2, 4)), SenseMRI)
    real = CartesianMRI(mask, phase=smooth_phase(4))
    assert isinstance(real, SenseMRI)
    assert not real.adjoint(real.forward(head(4))).is_complex()


def test_a_known_phase_makes_half_of_k_space_enough():
    image, phase = head(32), smooth_phase(32)
    mask = (torch.arange(32) >= 15).double()
    mask[0] = 1  # the highest frequency, which is its own mirror image
    operator = CartesianMRI(mask, phase=phase)
    y = operator.forward(image)
    torch.testing.assert_close(operator.pseudo_inverse(y), image, atol=1e-3, rtol=0)
    free = CartesianMRI(mask).pseudo_inverse(y)
    assert float((free.abs() - image).abs().max()) > 0.1


def test_coils_make_up_for_missing_lines():
    image = torch.polar(head(32), smooth_phase(32))
    mask = Sampling("equispaced", 2, 0.1).mask((32, 32))
    operator = CartesianMRI(mask, birdcage(6, 32))
    back = operator.pseudo_inverse(operator.forward(image))
    assert float((back - image).abs().max()) < 1e-3


def test_images_stop_by_themselves():
    images = torch.cat((head(16), torch.zeros(1, 1, 16, 16, dtype=torch.float64)))
    operator = CartesianMRI(torch.ones(16, 16), phase=smooth_phase(16))
    found = operator.prox(images, operator.forward(images), torch.tensor([1e-3, 1e3]))
    torch.testing.assert_close(found, images, atol=1e-6, rtol=1e-6)
    assert bool((real_inner(found, found) >= 0).all())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CartesianMRI(torch.full((4, 4), 0.5)),
        lambda: CartesianMRI(torch.ones(4, 4), birdcage(2, 4)[0]),
        lambda: CartesianMRI(torch.ones(4, 4), birdcage(2, 4).real),
        lambda: CartesianMRI(torch.ones(4, 4), birdcage(2, 4), smooth_phase(5)),
        lambda: NonCartesianMRI(torch.zeros(3, 9), birdcage(2, 4)),
        lambda: ESPIRiT().maps(torch.zeros(1, 2, 5, 5, dtype=torch.complex64)),
        lambda: ESPIRiT().maps(torch.zeros(1, 2, 9, 9, dtype=torch.complex64)),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match=r"mask|coils|phase|samples"):
        wrong()


def test_sensitivities_are_found_from_the_middle_of_k_space():
    maps, image = birdcage(8, 64), torch.polar(head(64), smooth_phase(64))
    kspace = to_kspace(maps * image)
    found = ESPIRiT(calibration=20).maps(kspace)
    inside = head(64)[0, 0] > 0
    relative = maps * (maps[:, :1].conj() / maps[:, :1].abs())
    error = ((found - relative).abs().square().sum(1).sqrt()[0])[inside]
    assert float(error.mean()) < 0.03
    share = found.abs().square().sum(1)[0]
    assert float((share[inside] > 0.999).double().mean()) > 0.98
    assert float((share[:6] > 0).double().mean()) < 0.5


def against_sigpy(kspace: torch.Tensor) -> float:
    """The mean cosine between our maps and sigpy's where both see signal."""
    app = pytest.importorskip("sigpy.mri.app")
    ours = ESPIRiT().maps(kspace)[0]
    theirs = torch.from_numpy(app.EspiritCalib(kspace[0].numpy(), show_pbar=False).run())
    both = (ours.abs().sum(0) > 0) & (theirs.abs().sum(0) > 0)
    either = (ours.abs().sum(0) > 0) | (theirs.abs().sum(0) > 0)
    assert int(both.sum()) > 0.98 * int(either.sum()) > 0
    return float((ours.conj() * theirs).sum(0).real[both].mean())


def test_agrees_with_sigpy_on_simulated_coils():
    image = torch.polar(head(48), smooth_phase(48))
    noise = torch.randn(
        1, 4, 48, 48, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
    )
    kspace = to_kspace(birdcage(4, 48) * image).to(torch.complex64) + 0.005 * noise
    assert against_sigpy(kspace) > 0.9999


@pytest.mark.slow
def test_agrees_with_sigpy_on_a_scan(shared_data):
    raw = np.load(shared_data / "kspace" / "sigpy_brain_8ch_undersampled.npy")
    assert against_sigpy(torch.from_numpy(raw)[None]) > 0.999


def test_the_box_of_calibration_is_found():
    lines = torch.zeros(20, 100)
    lines[:, 46:54] = lines[:, 10:90:7] = 1
    assert calibration_box(lines) == (20, 8)
    points = Sampling("poisson-disc", 4, 0.2, (0, 1)).mask((30, 30), seed=1)
    assert calibration_box(points) == (6, 6)
    assert calibration_box(torch.ones(4, 3, 5)) == (4, 3, 5)


@pytest.mark.parametrize("coils", [None, birdcage(4, 64)])
def test_the_middle_of_k_space_has_the_phase(coils):
    image, phase = head(64), smooth_phase(64)
    mask = Sampling("gaussian", 4, 0.16).mask((64, 64), seed=0)
    given = CartesianMRI(mask, coils, phase).forward(image)
    found = image_of_centre(given, calibration_box(mask), coils).angle()
    inside = image > 0.2
    error = torch.remainder(found - phase + math.pi, 2 * math.pi) - math.pi
    assert float(error[inside].abs().mean()) < 0.1


@pytest.mark.parametrize("shape", [(10, 9), (4, 6, 5)])
def test_agrees_with_sigpy_on_several_coils(shape):
    linop = pytest.importorskip("sigpy.mri.linop")
    generator = torch.Generator().manual_seed(0)
    maps, image = (
        torch.randn(count, *shape, dtype=torch.complex128, generator=generator) for count in (3, 1)
    )
    mask = Sampling("poisson-disc", 3, 0.2, (-2, -1)).mask(shape, seed=1)
    theirs = linop.Sense(maps.numpy(), weights=mask.double().numpy())
    ours = CartesianMRI(mask, maps[None])
    y = ours.forward(image[None])
    torch.testing.assert_close(y[0], torch.from_numpy(theirs * image[0].numpy()))
    back = torch.from_numpy(theirs.H * y[0].numpy())
    torch.testing.assert_close(ours.adjoint(y)[0, 0], back)


@pytest.mark.parametrize("shape", [(20, 18), (8, 10, 9)])
def test_agrees_with_sigpy_and_the_sum_itself_on_other_trajectories(shape):
    linop = pytest.importorskip("sigpy.mri.linop")
    pytest.importorskip("torchkbnufft")
    generator = torch.Generator().manual_seed(0)
    maps, image = (
        torch.randn(count, *shape, dtype=torch.complex128, generator=generator) for count in (2, 1)
    )
    size = torch.tensor(shape, dtype=torch.float64)
    points = (torch.rand(len(shape), 60, dtype=torch.float64, generator=generator) - 0.5) * 6
    ours = NonCartesianMRI(points, maps[None]).forward(image[None])[0]
    coordinates = (points * size[:, None] / (2 * math.pi)).T.numpy()
    theirs = torch.from_numpy(linop.Sense(maps.numpy(), coord=coordinates) * image[0].numpy())
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) - n // 2 for n in shape], indexing="ij"))
    waves = torch.polar(torch.ones(()).double(), -(points.T @ grid.flatten(1).double()))
    exact = (maps * image).flatten(1) @ waves.T / size.prod().sqrt()
    assert float((ours - exact).norm() / exact.norm()) < 2e-3
    assert float((ours - theirs).norm() / exact.norm()) < 0.02


def radial(spokes: int, points: int) -> torch.Tensor:
    angle = torch.arange(spokes, dtype=torch.float64) * (math.pi / spokes)
    radius = torch.linspace(-math.pi, math.pi, points, dtype=torch.float64)
    return torch.stack((angle.cos()[:, None] * radius, angle.sin()[:, None] * radius)).flatten(1)


def test_other_trajectories_have_an_exact_adjoint_and_an_inverse():
    pytest.importorskip("torchkbnufft")
    along = torch.linspace(-2.5, 2.5, 24, dtype=torch.float64).square()
    image = torch.polar((-along[:, None] - along).exp()[None, None], smooth_phase(24))
    operator = NonCartesianMRI(radial(40, 48), birdcage(3, 24))
    y = operator.forward(image)
    z = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    left, right = (y.conj() * z).sum(), (image.conj() * operator.adjoint(z)).sum()
    assert abs(complex(left - right)) < 1e-10 * float(y.norm() * z.norm())
    back = operator.prox(0 * image, y, 1e-4)
    assert float((back - image).norm() / image.norm()) < 0.01


def test_the_trajectory_of_the_grid_is_the_cartesian_transform():
    pytest.importorskip("torchkbnufft")
    image = torch.polar(head(16), smooth_phase(16))
    steps = (torch.arange(16, dtype=torch.float64) - 8) * (2 * math.pi / 16)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)
    ones = torch.ones(1, 1, 16, 16, dtype=torch.complex128)
    ours = NonCartesianMRI(grid, ones).forward(image).reshape(1, 1, 16, 16)
    torch.testing.assert_close(ours, to_kspace(image), atol=2e-3, rtol=0)


def test_the_absence_of_its_package_is_said_clearly(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name == "torchkbnufft":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(TaskError, match=r"medidiff\[nufft\]"):
        NonCartesianMRI(radial(4, 8), birdcage(2, 8)).forward(head(8))
