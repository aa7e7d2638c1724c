"""Denoising diffusion restoration models. Kawar, Elad, Ermon & Song 2022 (arXiv:2201.11793)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import START, Step
from medidiff.physics.operators import SpectralOperator
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
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
    Source: Kawar et al. 2022 (arXiv:2201.11793), section 3 (the variational distributions in the
    spectral space).
    Differs: a coefficient with s r = sigma_y counts as the third kind, as in the paper; their code
    takes it for the first, which without measurement noise loses consistency in the last step.
    """

    operator: SpectralOperator
    measurement: Tensor
    noise_std: float
    """sigma_y, in the units of the measurement."""
    eta: float = 0.85
    """Share of fresh noise in the first two kinds, 0 to 1."""
    eta_b: float = 1.0
    """Share of the measurement in the third, 0 to 1."""
    eta_missing: float | None = None
    """eta of the first kind, where it differs (their code has one for each)."""

    def __post_init__(self) -> None:
        shares = [share for share in (self.eta, self.eta_b, self.eta_missing) if share is not None]
        if self.noise_std < 0 or min(shares) < 0 or max(shares) > 1:
            raise ValueError(
                "DDRM needs noise_std >= 0 and its etas within 0 to 1, got "
                f"{self.noise_std}, {self.eta}, {self.eta_b}, {self.eta_missing}"
            )

    @property
    def finishes(self) -> bool:
        """The last step puts the measurement in the place of its coefficients."""
        return True

    def start(self, level: NoiseLevel, noise: NoiseSource, like: Image) -> Image:
        """A draw at the first level: around the measurement where it is the better known.

        Source: Kawar et al. 2022, section 3 (the distribution of x_T).
        """
        z = self.operator.spectrum(noise(like, START, 0))
        s, alpha, sigma = self._values(z), scale(level.alpha, z), scale(level.sigma, z)
        seen = s * sigma > self.noise_std * alpha  # not by the noise ratio: alpha may be 0
        weight = torch.where(seen, alpha / s, 0.0)
        left = (sigma**2 - (self.noise_std * weight) ** 2).clamp_min(0).sqrt()
        return self.operator.image(weight * self.operator.measured(self.measurement) + left * z)

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """The three kinds of coefficients, drawn and put together."""
        here, ratio = denoise(x, now), to.noise_ratio
        clean, eps, z = (self.operator.spectrum(v) for v in (here.clean, here.eps, at.noise()))
        y, s, r = self.operator.measured(self.measurement), self._values(clean), scale(ratio, clean)
        drawn = torch.where(
            s > 0,
            torch.where(
                s * r >= self.noise_std,
                self._by_measurement(clean, y, s, r, z),
                self._by_residual(clean, y, s, r, z),
            ),
            _renewed(clean, eps, r, z, self.eta if self.eta_missing is None else self.eta_missing),
        )
        return scale(to.alpha, x) * self.operator.image(drawn), None

    def _values(self, spectrum: Tensor) -> Tensor:
        return self.operator.singular_values.to(spectrum)

    def _by_residual(self, clean: Tensor, y: Tensor, s: Tensor, r: Tensor, z: Tensor) -> Tensor:
        """The residual over its deviation stands for the noise."""
        if self.noise_std == 0:
            return clean  # there is no such coefficient
        return _renewed(clean, (y - s * clean) / self.noise_std, r, z, self.eta)

    def _by_measurement(self, clean: Tensor, y: Tensor, s: Tensor, r: Tensor, z: Tensor) -> Tensor:
        inverse = torch.where(s > 0, 1 / s, 0.0)
        left = (r**2 - (self.eta_b * self.noise_std * inverse) ** 2).clamp_min(0).sqrt()
        return torch.lerp(clean, y * inverse, self.eta_b) + left * z


def _renewed(clean: Tensor, eps: Tensor, r: Tensor, z: Tensor, eta: float) -> Tensor:
    """clean + r (sqrt(1 - eta^2) eps + eta z)."""
    return clean + r * ((1 - eta**2) ** 0.5 * eps + eta * z)
