"""The phase of a magnetic resonance image, while its magnitude is found.

A phase is a ramp and a smooth field of cosines; where samples say that this is not enough (fat
beside water, air, flow), each voxel may be off it by some tenths of a radian.

    phase = ramp + sum_k theta_k B_k + psi,   B_k products of cosines, k their half periods

The middle of k-space gives where to begin. Then, with an estimate of the magnitude from the prior
that may be wrong by `width`, all samples are fitted, also those outside of the middle:

    min over theta and m of |y - A(m exp(i phase))|^2 / (2 s^2) + |m - estimate|^2 / (2 width^2)
                            + sum_k theta_k^2 / (2 tau_k^2) + |psi|^2 / (2 fine^2)

That the magnitude is free, too, is what makes it right: what another magnitude explains must not
bend the phase, and only what none explains says how. tau falls with the half periods, so that only
what the samples show becomes fine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from medidiff.diffusion.sampling import Step
from medidiff.inverse.alternating import PARAMETERS
from medidiff.inverse.draws import measurement_noise
from medidiff.physics import ConjugateGradients, LinearOperator
from medidiff.physics.operators import per_image
from medidiff.sending import sent
from medidiff.tasks.cosines import cosines_like

SOLVER = ConjugateGradients(tolerance=1e-3, steps=30)
SMALLEST = 1e-3  # of the noise: a width that is none
ROUNDING = 1e-5  # of a Gram matrix's diagonal, in single precision
SPREAD = 1.0  # radians, of a cosine with long half periods
KNEE = 4.0  # half periods from which on a cosine is expected to be small
FALL = 4.0  # power of its fall
LEAN = 1e-4  # on the expected size, beside the slopes of the middle's phase
HELD = 24, 17  # magnitudes, and k-spaces of all coils, that a fit holds of each image, counted
HELD_ROUGH = 80, 23  # the same where a phase may be rough, in double precision


def begun(image: Tensor) -> tuple[Tensor, Tensor]:
    """(ramp, ramp and smooth field): the phase that an image of low resolution has.

    The field has the slopes of the image's phase, weighed by the image's power, so that nothing
    needs to be unwrapped.
    Shapes: image (1, 1, *space), complex; both (1, 1, *space).
    Units: radians.
    Source: Ghiglia & Romero 1994 (doi:10.1364/JOSAA.11.000107) for weighted least squares of
    wrapped differences, here among cosines; Ahn & Cho 1987 (IEEE Trans. Med. Imaging 6:32) for
    the ramp, by the autocorrelation of neighbours.
    """
    ramp = _ramp(image)
    level = image * torch.polar(torch.ones_like(ramp), -ramp)
    waves = cosines_like(ramp.double())
    pull = _expected(ramp) ** -2
    normal, right = torch.zeros_like(pull).diag_embed(), torch.zeros_like(pull)
    for axis in range(2, image.ndim):
        pairs, slopes = _pairs(level, axis), waves.slopes(axis - 2)
        normal = normal + slopes.gram(pairs.abs())[0]
        right = right + slopes.transposed(pairs.abs() * pairs.angle())[0]
    most = normal.diagonal().max().clamp_min(1e-30)
    theta = torch.linalg.solve(normal + (LEAN * most * pull).diag(), right)
    field = waves.field(theta[None]).to(ramp)
    rest = (level * torch.polar(torch.ones_like(field), -field)).sum().angle()
    return ramp, ramp + field + rest


def _ramp(image: Tensor) -> Tensor:
    """The mean slope of the phase along each axis, 0 in the middle of the image."""
    ramp = torch.zeros_like(image.real)
    for axis in range(2, image.ndim):
        n = image.shape[axis]
        along = torch.arange(n, device=image.device) - (n - 1) / 2
        shape = [-1 if a == axis else 1 for a in range(image.ndim)]
        ramp = ramp + _pairs(image, axis).sum().angle() * along.reshape(shape).to(ramp)
    return ramp


def _pairs(image: Tensor, axis: int) -> Tensor:
    """Each voxel times the conjugate of the one before it, whose phase is the slope."""
    size = image.shape[axis] - 1
    found = image.narrow(axis, 1, size) * image.narrow(axis, 0, size).conj()
    return found.to(torch.complex128)


@dataclass(frozen=True, eq=False)
class SmoothPhase:
    """What the samples of some cases say of their phases.

    Shapes: `operator` is on complex images (batch, 1, *space), kspace (batch, coil, *space), ramp
    (batch, 1, *space); noise_std (batch,), of a real number of the k-space; fine (batch,), the
    standard deviation of psi, 0 for a phase that is smooth.
    Units: radians; noise_std and magnitudes those of the signal.
    Source: Zhao et al. 2012 (IEEE Trans. Med. Imaging 31:1713) for the model: undersampled k-space,
    a magnitude and a smooth phase each with a regularisation of its own.
    Differs: the phase in cosines, and Gauss-Newton steps for both at once, by conjugate gradients.
    """

    operator: LinearOperator
    kspace: Tensor
    ramp: Tensor
    noise_std: Tensor
    fine: Tensor

    @property
    def bytes_held(self) -> int:
        """Of each image while it is fitted, at most."""
        fields, samples = HELD_ROUGH if self.rough else HELD
        field = self.ramp[0].numel() * self.ramp.element_size()
        return fields * field + samples * self.kspace[0].numel() * self.kspace.element_size()

    @cached_property
    def rough(self) -> bool:
        """Whether any of the phases may be off a smooth one."""
        return bool((self.fine > 0).any())

    def fitted(
        self,
        magnitude: Tensor,
        width: Tensor,
        phase: Tensor,
        rounds: int = 1,
        at: Step | None = None,
    ) -> Tensor:
        """The phases near `phase` that fit best, all of (batch, 1, *space); width (batch,).

        With `at` a draw by its noise: of the Gaussian of both unknowns that a step stands for, by
        perturbing all that is known (Papandreou & Yuille 2010).
        """
        if not self.rough:
            return self._fitted(magnitude, width, phase, rounds, at)
        # where each voxel has a phase, rounding grows a thousandfold along the iteration
        exact = replace(self, kspace=self.kspace.to(torch.complex128), ramp=self.ramp.double())
        found = exact._fitted(magnitude.double(), width, phase.double(), rounds, at)
        return found.to(phase)

    def _fitted(
        self, magnitude: Tensor, width: Tensor, phase: Tensor, rounds: int, at: Step | None
    ) -> Tensor:
        for _ in range(rounds):
            phase = self._step(magnitude, width, phase, at)
        return phase

    def _step(self, magnitude: Tensor, width: Tensor, phase: Tensor, at: Step | None) -> Tensor:
        here = _Linear(self, magnitude, width, phase)
        y, estimate, theta, unit = self._known(here, at)
        apart = y - self.operator.forward(here.turn * magnitude)
        right = here.adjoint(apart) + here.packed(
            here.rho * estimate, here.pull * (theta - here.theta), here.expected_fine(unit)
        )
        change = SOLVER.solve(here.normal, right, torch.zeros_like(right))
        _, theta, fine = here.unpacked(change)
        # the angle of estimate + i estimate psi: a voxel that is dark in the estimate turns no more
        return phase + here.field(theta) + (here.gain * fine).atan()

    def _known(self, here: _Linear, at: Step | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The samples, what the magnitude is off the estimate, theta, and psi in its deviations, as
        expected or drawn."""
        off, theta = torch.zeros_like(here.magnitude), torch.zeros_like(here.theta)
        if at is None:
            return self.kspace, off, theta, off
        std = per_image(self.noise_std, self.ramp)
        y = self.kspace + std * (self.kspace != 0) * measurement_noise(at, self.kspace, PARAMETERS)
        unit = measurement_noise(at, off, PARAMETERS + 1)
        theta = here.tau * measurement_noise(at, theta, PARAMETERS + 2)
        psi = measurement_noise(at, off, PARAMETERS + 3) if here.rough else off
        return y, here.width * unit, theta, psi


class _Linear:
    """The problem of one step: A(exp(i phase) (m + i estimate (B theta + psi))), its unknowns
    packed as (batch, voxels, waves, and voxels again where a phase may be rough), each block scaled
    to curvatures near 1."""

    def __init__(self, fit: SmoothPhase, magnitude: Tensor, width: Tensor, phase: Tensor) -> None:
        self.operator, self.magnitude = fit.operator, magnitude
        self.turn = torch.polar(torch.ones_like(phase), phase)
        self.back, self.dark = self.turn.conj().resolve_conj(), torch.zeros_like(magnitude)
        self.waves = cosines_like(phase)
        noise = sent(fit.noise_std.to(phase.dtype), phase.device)
        self.width = per_image(width, phase).clamp_min(SMALLEST * per_image(noise, phase))
        self.rho = per_image(noise, phase) ** 2 / self.width**2
        self.tau = _expected(phase).to(phase)
        self.pull = noise[:, None] ** 2 / self.tau**2
        self.theta = self.waves.coefficients(phase - fit.ramp)
        self.scale = (1 + self.rho).rsqrt()
        self.factor = self._factor(magnitude**2).to(phase)
        self.rough = fit.rough
        self._allow(per_image(fit.fine, phase), per_image(noise, phase), phase - fit.ramp)

    def _allow(self, fine: Tensor, noise: Tensor, field: Tensor) -> None:
        """psi = gain * its scaled unknowns, whose curvature is that of the samples and `stiff`."""
        whole = ((fine * self.magnitude) ** 2 + noise**2).sqrt()
        self.gain, self.stiff, self.lean = fine / whole, (noise / whole) ** 2, noise**2 / whole
        apart = field - self.field(self.theta) if self.rough else torch.zeros_like(field)
        self.psi = torch.where(fine > 0, apart / fine, 0.0)

    def expected_fine(self, psi: Tensor) -> Tensor | None:
        """What pulls at psi's scaled unknowns, given psi in its deviations."""
        return self.lean * (psi - self.psi) if self.rough else None

    def _factor(self, power: Tensor) -> Tensor:
        """Of theta's curvature if all of k-space were seen: a choice of scale, so that a little on
        its diagonal changes no result."""
        gram = self.waves.gram(power).double()
        little = ROUNDING * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
        return torch.linalg.cholesky(gram + (self.pull + little).diag_embed())

    def packed(self, magnitude: Tensor, theta: Tensor, fine: Tensor | None) -> Tensor:
        """The scaled unknowns' gradient; psi's, None unless a phase may be rough, is scaled."""
        down = torch.linalg.solve_triangular(self.factor, theta[..., None], upper=False)[..., 0]
        parts = [(self.scale * magnitude).flatten(1), down]
        return torch.cat(parts if fine is None else [*parts, fine.flatten(1)], 1)

    def unpacked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Magnitude and theta of the scaled unknowns, and those of psi as they are."""
        voxels, waves = self.magnitude[0].numel(), self.theta.shape[1]
        magnitude, theta, fine = x.split([voxels, waves, x.shape[1] - voxels - waves], 1)
        up = torch.linalg.solve_triangular(self.factor.mT, theta[..., None], upper=True)[..., 0]
        psi = fine.view_as(self.magnitude) if self.rough else self.dark
        return self.scale * magnitude.view_as(self.magnitude), up, psi

    def turned(self, theta: Tensor, fine: Tensor) -> Tensor:
        """B theta + psi."""
        return self.field(theta) + self.gain * fine if self.rough else self.field(theta)

    def adjoint(self, y: Tensor) -> Tensor:
        """Of the map from the packed unknowns to k-space."""
        image = self.back * self.operator.adjoint(y)
        return self._gradient(image)

    def normal(self, x: Tensor) -> Tensor:
        """Its normal map, and what the unknowns' own terms add."""
        magnitude, theta, fine = self.unpacked(x)
        image = torch.complex(magnitude, self.magnitude * self.turned(theta, fine))
        image = self.back * self.operator.normal(self.turn * image)
        stiff = self.stiff * fine if self.rough else None
        own = self.packed(self.rho * magnitude, self.pull * theta, stiff)
        return self._gradient(image) + own

    def field(self, theta: Tensor) -> Tensor:
        """B theta, (batch, 1, *space)."""
        return self.waves.field(theta)

    def _gradient(self, image: Tensor) -> Tensor:
        across = self.magnitude * image.imag
        fine = self.gain * across if self.rough else None
        return self.packed(image.real, self.waves.transposed(across), fine)


def _expected(like: Tensor) -> Tensor:
    """tau: the standard deviation of each coefficient in radians, in float64."""
    half_periods = cosines_like(like).half_periods
    return SPREAD / (1 + (half_periods / KNEE) ** FALL)
