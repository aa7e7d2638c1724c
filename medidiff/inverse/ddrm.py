"""Denoising diffusion restoration models. Kawar, Elad, Ermon & Song 2022 (arXiv:2201.11793)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import START, Step
from medidiff.inverse.likelihoods import Gaussian
from medidiff.inverse.problem import Plan, Problem
from medidiff.physics.operators import SpectralOperator, per_image
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DDRM:
    """A draw of each coefficient of the operator's spectrum, from the estimate and the measurement.

    With s a coefficient's singular value, r the noise ratio to reach and sigma_y the measurement's
    noise, it is drawn around

        the estimate, with a share of its noise, where s = 0;
        the estimate, with a share of the measurement's residual, where s r < sigma_y;
        the measurement / s, mixed with the estimate by eta_b, where s r >= sigma_y.

    Without measurement noise the result satisfies A x = y exactly. One network call a step, none of
    its gradient. It is not the posterior: coefficients see each other only through the estimates,
    and eta > 0 makes the spread too small at any number of steps (the laws' test says by how much).
    Complex spectra are drawn with the same noise in their real and imaginary parts.
    Source: Kawar et al. 2022 (arXiv:2201.11793), section 3 (the variational distributions in the
    spectral space).
    Differs: a coefficient with s r = sigma_y counts as the third kind, as in the paper; their code
    takes it for the first, which without measurement noise loses consistency in the last step.
    """

    kind: Literal["ddrm"] = "ddrm"
    eta: float = 0.85
    """Share of fresh noise in the first two kinds, 0 to 1."""
    eta_b: float = 1.0
    """Share of the measurement in the third, 0 to 1."""
    eta_missing: float | None = None
    """eta of the first kind, where it differs (their code has one for each)."""

    def __post_init__(self) -> None:
        shares = [share for share in (self.eta, self.eta_b, self.eta_missing) if share is not None]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                "ddrm needs its etas within 0 to 1, got "
                f"{self.eta}, {self.eta_b}, {self.eta_missing}"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Its own steps and its own start.

        Errors: ValueError for an operator without a known decomposition, or other noise than
        Gaussian.
        """
        sampler = ddrm_sampler(problem, self)
        return Plan(denoise, sampler, levels, sampler.start)


def ddrm_sampler(problem: Problem, options: DDRM) -> DDRMSampler:
    """The sampler of a problem. Errors: ValueError as in `DDRM.plan`."""
    operator, likelihood = problem.operator, problem.likelihood
    if not isinstance(operator, SpectralOperator) or not isinstance(likelihood, Gaussian):
        raise ValueError(
            "ddrm needs an operator whose singular value decomposition is known and Gaussian "
            f"noise, got {type(operator).__name__} and {type(likelihood).__name__}: "
            "use diffpir, daps or moment-matching"
        )
    return DDRMSampler(operator, problem.measurement, likelihood.std, options)


@dataclass(frozen=True, eq=False)
class DDRMSampler:
    """The steps of `DDRM` in the operator's spectrum."""

    operator: SpectralOperator
    measurement: Tensor
    noise_std: Tensor
    """() or (batch,), float64."""
    options: DDRM = field(default_factory=DDRM)

    @property
    def finishes(self) -> bool:
        """The last step puts the measurement in the place of its coefficients."""
        return True

    def start(self, level: NoiseLevel, noise: NoiseSource, like: Image) -> Image:
        """A draw at the first level: around the measurement where it is the better known.

        Source: Kawar et al. 2022, section 3 (the distribution of x_T).
        """
        z = self.operator.spectrum(noise(like, START, 0))
        s, std = self._values(z), per_image(self.noise_std, z)
        alpha, sigma = per_image(level.alpha, z), per_image(level.sigma, z)
        seen = s * sigma > std * alpha  # not by the noise ratio: alpha may be 0
        weight = torch.where(seen, alpha / s, 0.0)
        left = (sigma**2 - (std * weight) ** 2).clamp_min(0).sqrt()
        return self._image(weight * self.operator.measured(self.measurement) + left * z, like)

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """The three kinds of coefficients, drawn and put together."""
        here = denoise(x, now)
        clean, eps, z = (self.operator.spectrum(v) for v in (here.clean, here.eps, at.noise()))
        s, std = self._values(clean), per_image(self.noise_std, clean)
        y, r = self.operator.measured(self.measurement), per_image(to.noise_ratio, clean)
        eta, eta_missing = self.options.eta, self.options.eta_missing
        drawn = torch.where(
            s > 0,
            torch.where(
                s * r >= std,
                self._by_measurement(clean, y, s, r, z),
                self._by_residual(clean, y, s, r, z),
            ),
            _renewed(clean, eps, r, z, eta if eta_missing is None else eta_missing),
        )
        return scale(to.alpha, x) * self._image(drawn, x), None

    def _image(self, spectrum: Tensor, like: Image) -> Image:
        image = self.operator.image(spectrum)
        if image.is_complex() and not like.is_complex():
            raise ValueError(
                "ddrm draws a spectrum of complex images and the images are real: "
                "wrap the operator in ComplexChannels"
            )
        return image

    def _values(self, spectrum: Tensor) -> Tensor:
        return self.operator.singular_values.to(spectrum.device, spectrum.dtype.to_real())

    def _by_residual(self, clean: Tensor, y: Tensor, s: Tensor, r: Tensor, z: Tensor) -> Tensor:
        """The residual over its deviation stands for the noise."""
        std = per_image(self.noise_std, clean)
        of_residual = torch.where(std > 0, 1 / std, 0.0)  # at 0 there is no such coefficient
        return _renewed(clean, of_residual * (y - s * clean), r, z, self.options.eta)

    def _by_measurement(self, clean: Tensor, y: Tensor, s: Tensor, r: Tensor, z: Tensor) -> Tensor:
        inverse, eta_b = torch.where(s > 0, 1 / s, 0.0), self.options.eta_b
        std = per_image(self.noise_std, clean)
        left = (r**2 - (eta_b * std * inverse) ** 2).clamp_min(0).sqrt()
        return (1 - eta_b) * clean + eta_b * inverse * y + left * z


def _renewed(clean: Tensor, eps: Tensor, r: Tensor, z: Tensor, eta: float) -> Tensor:
    """clean + r (sqrt(1 - eta^2) eps + eta z)."""
    return clean + r * ((1 - eta**2) ** 0.5 * eps + eta * z)
