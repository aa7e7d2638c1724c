"""The classical methods that every result stands beside: three denoisers, tuned, and a PCA sampler.

A denoiser takes (picture or volume, sigma, strength) and is made for Gaussian noise. For magnitude
images its bias can be corrected in two ways, and `tune` chooses the way as well as the strength, on
validation scans, so that the bar is as high as it fairly can be. The noise of counts is made even
before the filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.evaluation.block_matching import match_blocks
from medidiff.evaluation.count_noise import CountLaw, rate_of_stabilised, stabilised
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.rician import invert_mean, stabiliser
from medidiff.evaluation.tuning import followed
from medidiff.types import Image

Array = NDArray[np.floating]
Filter = Callable[[Array, float, float], Array]
BiasCorrection = Literal["none", "rician", "rician-stabilised"] | CountLaw

GAUSSIAN: tuple[BiasCorrection, ...] = ("none",)
RICIAN: tuple[BiasCorrection, ...] = ("none", "rician", "rician-stabilised")


def non_local_means(noisy: Array, sigma: float, strength: float) -> Array:
    """The mean of voxels with a like neighbourhood. Buades et al. 2005 (doi:10.1109/CVPR.2005.38).

    Shapes: (*space), 2-D or 3-D. `strength` times sigma is the width h of the similarity.
    """
    from skimage.restoration import denoise_nl_means

    reach = {2: (5, 6), 3: (3, 3)}[noisy.ndim]
    return denoise_nl_means(
        noisy,
        patch_size=reach[0],
        patch_distance=reach[1],
        h=strength * sigma,
        sigma=sigma,
        fast_mode=True,
    )


def total_variation(noisy: Array, sigma: float, strength: float) -> Array:
    """The least total variation near the image.

    Shapes: (*space), 2-D or 3-D. `strength` times sigma is the weight of the variation.
    Source: Chambolle 2004 (doi:10.1023/B:JMIV.0000011325.36760.1e).
    """
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(noisy, weight=strength * sigma, eps=1e-5, max_num_iter=500)


def block_matching(noisy: Array, sigma: float, strength: float) -> Array:
    """Collaborative filtering of like blocks (see `block_matching.py`), of volumes plane by plane.

    Shapes: (*space), 2-D or 3-D. `strength` scales the sigma that it is told.
    """
    if noisy.ndim == 2:
        return match_blocks(noisy, strength * sigma)
    return np.stack([match_blocks(plane, strength * sigma) for plane in noisy])


def corrected(
    denoise: Filter, noisy: Array, sigma: float, strength: float, correction: BiasCorrection
) -> Array:
    """A filter's result with the bias of magnitude noise taken out as `correction` says.

    "none" leaves the result as it is; "rician" takes it for the mean magnitude and gives the signal
    that has it (Koay and Basser 2006); "rician-stabilised" makes the noise even before the filter
    and gives the signal whose even noise has the filtered mean (Foi 2011). The law of counts makes
    their noise even and gives the signal of the rate whose even noise has the filtered mean
    (Makitalo and Foi 2011).
    Units: those of `noisy`, which but for "none" is 0 where there is no signal, and for a law of
    counts in widths of the window.
    """
    match correction:
        case "none":
            return denoise(noisy, sigma, strength)
        case "rician":
            return invert_mean(denoise(noisy, sigma, strength), sigma)
        case "rician-stabilised":
            table = stabiliser()
            return table.inverse(denoise(table.forward(noisy, sigma), 1.0, strength), sigma)
        case law:
            counts = law.counts(sigma)
            even = denoise(stabilised(law.rate(noisy, counts)), 1.0, strength)
            return law.signal(rate_of_stabilised(even), counts)


@dataclass(frozen=True)
class Baseline:
    """A classical denoiser at one setting; call it with an image and the noise level.

    Shapes: (channel, *space) in and out; channels are filtered one by one.
    """

    name: str
    denoise: Filter
    strength: float = 1.0
    correction: BiasCorrection = "none"
    grid: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
    """The strengths that `tune` begins with, rising."""

    def __call__(self, noisy: Tensor, sigma: float) -> Tensor:
        channels = noisy.detach().to("cpu", torch.float64).numpy()
        filtered = [
            corrected(self.denoise, channel, sigma, self.strength, self.correction)
            for channel in channels
        ]
        return torch.from_numpy(np.stack(filtered)).to(noisy)

    def described(self) -> str:
        """The setting in words."""
        law = self.correction
        bias = {"none": "", "rician": ", bias out", "rician-stabilised": ", noise made even"}
        how = bias[law] if isinstance(law, str) else bias["rician-stabilised"]
        return f"strength {self.strength:.3g}{how}"


DENOISERS = (
    Baseline("non-local means", non_local_means),
    Baseline("total variation", total_variation),
    Baseline("block matching", block_matching, grid=(0.8, 1.0, 1.2)),
)


def restored_by(
    baseline: Baseline, given: Image, sigma: float, pool: Executor | None = None
) -> Image:
    """The baseline's estimate of each image, made in the processes of `pool` if there is one."""
    sigmas = [sigma] * len(given)
    results = (map if pool is None else pool.map)(baseline, given.unbind(), sigmas)
    return torch.stack(list(results))


def tune(
    baselines: Sequence[Baseline],
    given: Image,
    clean: Image,
    *,
    sigma: float,
    corrections: Sequence[BiasCorrection] = GAUSSIAN,
    region: Tensor | None = None,
    pool: Executor | None = None,
    tried: Callable[[], None] = lambda: None,
) -> tuple[Baseline, ...]:
    """Each baseline at the strength and correction of the highest mean PSNR on validation images.

    A best strength at the end of the grid is followed outwards, by a quarter a time, as long as
    that helps: a bar is not lowered by the grid. Tune in the region where results are judged.
    `tried` is called after each setting, as many times as there are in the grids and some more.
    Shapes: `given` and `clean` (batch, channel, *space); `region` as in `psnr`.
    Errors: ValueError without images or corrections.
    """
    if len(given) == 0 or not corrections:
        raise ValueError("tuning needs images and corrections; one of them is empty")

    def score(setting: Baseline) -> float:
        estimate = restored_by(setting, given, sigma, pool)
        tried()
        return float(psnr(estimate, clean, data_range=1.0, region=region).mean())

    tuned = []
    for baseline in baselines:
        settings = [
            replace(baseline, strength=strength, correction=correction)
            for correction in corrections
            for strength in baseline.grid
        ]
        scores = [score(setting) for setting in settings]
        best = max(range(len(settings)), key=scores.__getitem__)
        tuned.append(_followed(settings[best], scores[best], score))
    return tuple(tuned)


def _followed(best: Baseline, highest: float, score: Callable[[Baseline], float]) -> Baseline:
    """The setting after steps beyond the grid, where its strength is the grid's first or last."""
    factor = {best.grid[0]: 0.8, best.grid[-1]: 1.25}.get(best.strength)
    if factor is None:
        return best
    strength, _ = followed(
        best.strength, highest, factor, lambda other: score(replace(best, strength=other))
    )
    return replace(best, strength=strength)


@dataclass(frozen=True)
class PCAGaussian:
    """A Gaussian on the principal components of the training images: the sampler to beat.

    Shapes: mean (channel, *space); directions (components, voxels), each scaled by its deviation.
    """

    mean: Tensor
    directions: Tensor
    residual: float
    """Deviation of what the components leave out, added as white noise."""

    @staticmethod
    def fit(images: Image, components: int | None = None) -> PCAGaussian:
        """The maximum-likelihood model; all components that n images allow unless told.

        Errors: ValueError for fewer than two images or no component.
        Source: Tipping and Bishop 1999 (doi:10.1111/1467-9868.00196), eq. 7-8, with the residual
        variance spread over all left-out directions.
        """
        n = len(images)
        if n < 2:
            raise ValueError(f"principal components need at least two images; found {n}")
        count = n - 1 if components is None else min(components, n - 1)
        if count < 1:
            raise ValueError(f"components must be at least 1; found {components}")
        flat = images.detach().to("cpu", torch.float64).flatten(1)
        mean = flat.mean(0)
        _, spread, basis = torch.linalg.svd(flat - mean, full_matrices=False)
        variances = spread**2 / (n - 1)
        left_out = max(flat.shape[1] - count, 1)
        residual = float((variances[count : n - 1].sum() / left_out).sqrt())
        kept = (variances[:count] - residual**2).clamp_min(0).sqrt()[:, None] * basis[:count]
        return PCAGaussian(mean.view(images.shape[1:]).float(), kept.float(), residual)

    def sample(self, n: int, seed: int = 0) -> Image:
        """`n` images; the same seed gives the same ones."""
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(n, len(self.directions), generator=generator)
        images = (weights @ self.directions).view(n, *self.mean.shape) + self.mean
        return images + self.residual * torch.randn(images.shape, generator=generator)
