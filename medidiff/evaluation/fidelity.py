"""How like real images the generated ones are, how varied, and how near to those of training.

All functions take features, (images, features): `features.random_features` scaled by
`features.FeatureScale`, or any others. Small sets scatter, so every number belongs beside the same
number for two real sets of equal size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medidiff.evaluation.bootstrap import Interval, bootstrap_interval
from medidiff.evaluation.distortion import ms_ssim, ssim
from medidiff.evaluation.features import FeatureScale, random_features
from medidiff.types import Image

__all__ = [
    "FeatureScale",
    "Interval",
    "KernelTest",
    "bootstrap_interval",
    "copied_share",
    "coverage",
    "density",
    "kernel_distance",
    "kernel_test",
    "memorisation_ratio",
    "nearest",
    "nearest_distances",
    "pairwise_similarity",
    "precision",
    "random_features",
    "real_against_real",
    "recall",
]


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy with the cubic kernel; about 0 for equal sets.

    Shapes: (n, features) and (m, features), n and m at least 2. It can be slightly negative.
    Source: Binkowski et al. 2018 (arXiv:1801.01401), eq. 2-3 and section 4 (there on Inception
    features); the estimator is Gretton et al. 2012 (JMLR 13), eq. 3.
    """
    _check_pair(real, generated, 2)
    return _discrepancy(_kernel(torch.cat([real, generated])), torch.arange(len(real)))


@dataclass(frozen=True)
class KernelTest:
    """A kernel distance and the share of random relabellings that reach it."""

    distance: float
    p: float
    relabelled: tuple[float, float]
    """The middle 95 % of the distances under relabelling: the scatter of equal sets."""


def kernel_test(real: Tensor, generated: Tensor, draws: int = 500, seed: int = 0) -> KernelTest:
    """Whether two sets differ: the permutation test of the kernel distance.

    Source: Gretton et al. 2012 (JMLR 13); p counts the given labelling, so it is never 0.
    """
    _check_pair(real, generated, 2)
    kernel = _kernel(torch.cat([real, generated]))
    generator = torch.Generator().manual_seed(seed)
    found = _discrepancy(kernel, torch.arange(len(real)))
    others = torch.tensor(
        [
            _discrepancy(kernel, torch.randperm(len(kernel), generator=generator)[: len(real)])
            for _ in range(draws)
        ]
    )
    low, high = torch.quantile(others, torch.tensor([0.025, 0.975])).tolist()
    return KernelTest(found, (1 + int((others >= found).sum())) / (1 + draws), (low, high))


def real_against_real(
    measure: Callable[[Tensor, Tensor], float], real: Tensor, n: int, draws: int = 20, seed: int = 0
) -> Interval:
    """What `measure` gives for two disjoint random sets of `n` real images: the floor at equal n.

    The interval holds the middle 95 % of the draws (not of their mean): one generated set is one
    draw.
    Errors: ValueError for fewer than 2 n real images.
    """
    if len(real) < 2 * n:
        raise ValueError(f"two sets of {n} need {2 * n} real images; found {len(real)}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        order = torch.randperm(len(real), generator=generator)
        values.append(measure(real[order[:n]], real[order[n : 2 * n]]))
    found = torch.tensor(values, dtype=torch.float64)
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(found.mean()), low, high, draws, 0.95)


def precision(real: Tensor, generated: Tensor, k: int = 5) -> float:
    """The share of generated images within reach of a real one (its k-th neighbour's distance).

    Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991), eq. 1-2.
    Errors: ValueError for sets of k images or fewer.
    """
    return float(_within(real, generated, k).any(0).double().mean())


def recall(real: Tensor, generated: Tensor, k: int = 5) -> float:
    """The share of real images within reach of a generated one. Source and Errors: `precision`."""
    return float(_within(generated, real, k).any(0).double().mean())


def density(real: Tensor, generated: Tensor, k: int = 5) -> float:
    """How many real reaches hold a generated image, in units of k; about 1 for equal sets.

    Source: Naeem et al. 2020 (arXiv:2002.09797), eq. 5. Errors: as `precision`.
    """
    return float(_within(real, generated, k).double().sum(0).mean() / k)


def coverage(real: Tensor, generated: Tensor, k: int = 5) -> float:
    """The share of real images whose reach holds a generated one.

    Source: Naeem et al. 2020 (arXiv:2002.09797), eq. 6. Errors: as `precision`.
    """
    return float(_within(real, generated, k).any(1).double().mean())


def nearest(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """(distance, place) of the nearest reference of each query, (queries,) each."""
    _check_pair(queries, references, 1)
    found = _distances(queries, references).min(1)
    return found.values, found.indices


def nearest_distances(queries: Tensor, references: Tensor) -> Tensor:
    """The distance of each query to its nearest reference, (queries,)."""
    return nearest(queries, references)[0]


def memorisation_ratio(generated: Tensor, train: Tensor, test: Tensor) -> float:
    """Median distance to training of the generated images over that of unseen real ones.

    About 1 for new images, towards 0 for copies. Both medians look into the same training set, so
    its size does not matter to the ratio. Blurred images, too, come near to all others: read it
    beside `copied_share` and the pictures.
    """
    unseen = nearest_distances(test, train).median()
    return float(nearest_distances(generated, train).median() / unseen)


def copied_share(generated: Tensor, train: Tensor, test: Tensor, quantile: float = 0.01) -> float:
    """The share of generated images nearer to training than that quantile of unseen real ones.

    About `quantile` for a model that copies nothing.
    """
    limit = torch.quantile(nearest_distances(test, train), quantile)
    return float((nearest_distances(generated, train) < limit).double().mean())


def pairwise_similarity(
    images: Image,
    *,
    data_range: float,
    measure: Literal["ssim", "ms-ssim"] = "ssim",
    pairs: int = 200,
    seed: int = 0,
) -> float:
    """The mean similarity of random pairs of different images: high where all look alike.

    Shapes: (batch, channel, *space), at least two. Compare with the value of real images.
    """
    if len(images) < 2:
        raise ValueError("a pair needs two images")
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(images), (pairs,), generator=generator)
    # an offset of 1 .. n-1 never meets the image itself
    second = (first + torch.randint(1, len(images), (pairs,), generator=generator)) % len(images)
    similarity = {"ssim": ssim, "ms-ssim": ms_ssim}[measure]
    values = [
        similarity(images[one], images[two], data_range=data_range)
        for one, two in zip(first.split(8), second.split(8), strict=True)
    ]
    return float(torch.cat(values).mean())


def _kernel(features: Tensor) -> Tensor:
    features = features.double()
    return (features @ features.T / features.shape[1] + 1) ** 3


def _discrepancy(kernel: Tensor, first: Tensor) -> float:
    """From the kernel matrix of both sets and the places of the first one in it."""
    member = torch.zeros(len(kernel), dtype=kernel.dtype, device=kernel.device)
    member[first] = 1
    other = 1 - member
    n, m = member.sum(), other.sum()
    diagonal = kernel.diagonal()
    within_first = (member @ kernel @ member - diagonal @ member) / (n * (n - 1))
    within_second = (other @ kernel @ other - diagonal @ other) / (m * (m - 1))
    return float(within_first + within_second - 2 * (member @ kernel @ other) / (n * m))


def _within(centres: Tensor, points: Tensor, k: int) -> Tensor:
    """Whether each point lies within the reach of each centre: boolean (centres, points)."""
    _check_pair(centres, points, k + 1)
    own = _distances(centres, centres).fill_diagonal_(torch.inf)
    reach = own.kthvalue(k, dim=1).values
    return _distances(centres, points) <= reach[:, None]


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # not by the matrix product: its rounding makes the distance of equal rows non-zero
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(first.double(), second.double(), compute_mode=mode)


def _check_pair(first: Tensor, second: Tensor, least: int) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"expected (images, features) twice; found {(*first.shape,)} and {(*second.shape,)}"
        )
    if min(len(first), len(second)) < least:
        raise ValueError(f"at least {least} images each; found {len(first)} and {len(second)}")
