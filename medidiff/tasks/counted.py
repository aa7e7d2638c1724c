"""Images of counts for the head `denoise`: emission (PET, SPECT) and transmission (radiographs).

The noise differs from voxel to voxel, and the prior knows one level at a time. A first estimate is
made at the level of the noisiest voxels, the others' noise added up to it. Then at a typical level
s voxels whose noise v is below it have noise added, and those above it are drawn around what is
estimated of them,

    z = clean + w (y - clean) + sqrt(s^2 - w^2 v^2) n,    w = min(1, (s / v)^2),

which has the noise s in any case where `clean` is right; `clean` is the mean of the prior's
estimates from such draws. y and v are those of the law's quadratic at `clean` (Fisher's scoring),
which is linear in the counts: the mean has no bias of a logarithm or a root. Draws go in pairs of
opposite n, so that what is added leaves next to nothing in their mean (antithetic draws, Hammersley
and Morton 1956): on validation scans two draws were as near as six.
Source: the draw of z is that of the split Gibbs sampler, Vono et al. 2019
(doi:10.1109/TSP.2019.2894825), with a mean in the place of draws of the clean image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.diffusion import KeyedNoise
from medidiff.errors import TaskError
from medidiff.evaluation.classical import BiasCorrection
from medidiff.evaluation.count_noise import CountLaw, Emission, drawn_counts
from medidiff.evaluation.noise_level import estimate_counts
from medidiff.inverse import AnyLikelihood, PoissonEmission, PoissonTransmission
from medidiff.inverse.likelihoods import LEAST_COUNT
from medidiff.physics.operators import per_image
from medidiff.tasks.base import Measurement, Problem
from medidiff.tasks.noises import STRUCTURE, Denoise, every_voxel
from medidiff.tasks.restoration import WINDOW, signal_zero

NOISIEST = 0.995  # quantile of the voxels' noise that the first level covers


@dataclass(frozen=True)
class CountNoise:
    """Noise of counts by one law, whose level is told at one signal."""

    law: CountLaw
    draws: int
    """Of images at the typical level, for a mean."""
    stated_by: Literal["counts"] = "counts"

    @property
    def name(self) -> str:
        return "poisson" if isinstance(self.law, Emission) else "transmission"

    @property
    def structure(self) -> float:
        """Of transmission its sigma is that of line integrals over the attenuation."""
        return STRUCTURE / (1 if isinstance(self.law, Emission) else self.law.attenuation)

    @property
    def drawing(self) -> dict[str, object]:
        return {}

    @property
    def corrections(self) -> tuple[BiasCorrection, ...]:
        return (self.law,)

    def sigma(self, stated: float) -> float:
        return self.law.sigma(stated)

    def stated(self, sigma: float) -> float:
        return float(f"{self.law.counts(sigma):.6g}")

    def added(
        self, clean: Tensor, cases: Sequence[Case], stated: float, noise: KeyedNoise
    ) -> Tensor:
        """Images of counts drawn from clean ones."""
        zero = signal_zero(cases, clean)
        signal = ((clean - zero) / WINDOW).clamp_min(0).cpu().double().numpy()
        unit = noise(clean, 0).cpu().double().numpy()
        drawn = self.law.signal(drawn_counts(self.law.rate(signal, stated), unit), stated)
        return torch.from_numpy(drawn).to(clean) * WINDOW + zero

    def level(self, image: Tensor, case: Case) -> float:
        """As the law tells it.

        Errors: TaskError where it cannot be told.
        """
        signal = (image - signal_zero([case], image[None])[0]) / WINDOW
        try:
            return estimate_counts(signal, self.law)
        except ValueError as error:
            raise TaskError(
                f"the number of counts cannot be told from this image ({error}); state it with "
                "counts"
            ) from None

    def measurement(self, problem: Problem) -> Measurement:
        """The counts that the images stand for, with their law in model units."""
        zero = signal_zero(problem.cases, problem.given)
        counts = torch.tensor([self.law.counts(s) for s in problem.levels], dtype=torch.float64)
        signal = (problem.given - zero) / WINDOW
        scale = per_image(counts, signal)

        def law(members: Sequence[int]) -> AnyLikelihood:
            chosen = [*members]
            if isinstance(self.law, Emission):
                background = -(scale * zero / WINDOW)[chosen]
                return PoissonEmission(counts[chosen] / WINDOW, background)
            steep = self.law.attenuation / WINDOW
            return PoissonTransmission(counts[chosen], 0.0, steep, -(steep * zero)[chosen])

        if isinstance(self.law, Emission):
            values = (scale * signal).clamp_min(0)
        else:
            values = scale * (-self.law.attenuation * signal).exp()
            # the image has no logarithm of no count
            values = torch.where(values <= LEAST_COUNT * (1 + 1e-3), 0.0, values)
        return every_voxel(problem, values, self.name, law)

    def mean(self, denoise: Denoise, problem: Problem, seed: int) -> tuple[Tensor, int]:
        """As `count_mean`."""

        def at(images: Tensor, noise: Tensor) -> Tensor:
            return denoise(images, (noise / WINDOW).tolist())

        measured = replace(problem, measurement=self.measurement(problem))
        return count_mean(at, measured, self.draws, seed), 1 + self.draws


def count_mean(
    denoise: Callable[[Tensor, Tensor], Tensor], problem: Problem, draws: int, seed: int
) -> Tensor:
    """The mean of the prior's estimates from draws at the typical level, after a first estimate.

    `denoise(images, noise)` gives the estimates of images whose noise has a deviation each,
    (batch,), in model units; it is called once and `draws` times.
    """
    measurement = problem.measurement
    assert measurement is not None
    law = measurement.law(range(len(problem.cases)))
    noise = KeyedNoise(seed, [(f"counts {key}", 0) for key in problem.keys])

    def estimate(clean: Tensor, levels: Callable[[Tensor], Tensor], draw: int) -> Tensor:
        unit = (-1) ** draw * noise(clean, (draw + 1) // 2)
        y, v = law.surrogate(clean, measurement.values)
        level = levels(v)
        s = per_image(level, clean)
        w = (s / v).square().clamp_max(1)
        added = (s**2 - (w * v) ** 2).clamp_min(0).sqrt()
        return denoise(clean + w * (y - clean) + added * unit, level)

    clean = estimate(problem.given, _noisiest, 0)
    total = torch.zeros_like(clean)
    for draw in range(draws):
        total += estimate(clean, _typical, 1 + draw)
        clean = total / (draw + 1)
    return clean


def _noisiest(deviation: Tensor) -> Tensor:
    """Of each image, (batch,), but for a few voxels."""
    flat = deviation.flatten(1)
    return flat.kthvalue(math.ceil(NOISIEST * flat.shape[1]), dim=1).values


def _typical(deviation: Tensor) -> Tensor:
    """Of each image, (batch,): the mean weighed by the deviation itself, which an empty background
    does not lower."""
    flat = deviation.flatten(1)
    return flat.square().sum(1) / flat.sum(1)
