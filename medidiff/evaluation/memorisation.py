"""Whether a generator gives its training images back, and whether it betrays which they were.

Both questions compare with unseen images of the same population: how near they lie to those of
training, and how large the denoising loss is on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medidiff.evaluation.bootstrap import Interval, bootstrap_groups
from medidiff.evaluation.fidelity import nearest

RARE = 0.01
"""The quantile of unseen images' distances below which an image counts as near to training."""
NEAR_COPY = 0.5
"""Share of the smallest distance of an unseen image below which an image is a near copy."""


@dataclass(frozen=True)
class MemorisationLimits:
    """Beyond which a prior counts as over-trained. Each is held against the end of the 95 %
    interval that speaks for the prior: only what is beyond doubt refuses it."""

    near_copies: int = 0
    """Generated images at less than half the distance of the nearest unseen image, at most."""
    copied_share: float = 0.1
    """Share of generated images nearer to training than 99 % of the unseen ones, at most; .01 for a
    prior that copies nothing."""
    nearest_ratio: float = 0.8
    """Median distance to training over that of unseen images, at least; 1 for new images, less for
    blurred ones as well."""
    membership_auc: float = 0.6
    """How well the loss at one noise level tells training subjects from unseen ones, at most; .5
    for a prior that betrays nothing."""


@dataclass(frozen=True)
class Nearness:
    """How near generated images lie to those of training, beside unseen images of equal kind."""

    space: str
    """What the distance is measured in."""
    nearest_ratio: Interval
    copied_share: Interval
    near_copies: int
    distances: tuple[float, ...]
    """Of each generated image to its nearest training image."""
    partners: tuple[int, ...]
    """The places of these in the training set."""
    smallest_unseen: float

    def pairs(self, count: int) -> list[tuple[int, int, float]]:
        """(generated image, training image, distance) of the nearest pairs."""
        order = np.argsort(self.distances, kind="stable")[:count]
        return [(int(i), self.partners[i], self.distances[i]) for i in order]

    def reasons(self, limits: MemorisationLimits) -> list[str]:
        """What speaks against the generator; nothing for a sound one."""
        found = []
        if self.near_copies > limits.near_copies:
            found.append(
                f"{self.near_copies} of {len(self.distances)} samples are near copies of training "
                f"images ({self.space})"
            )
        if self.copied_share.low > limits.copied_share:
            found.append(
                f"{self.copied_share.mean:.1%} of the samples are nearer to training than 99 % of "
                f"unseen images ({self.space}; lower bound {self.copied_share.low:.1%}, limit "
                f"{limits.copied_share:.1%})"
            )
        if self.nearest_ratio.high < limits.nearest_ratio:
            found.append(
                f"samples lie at {self.nearest_ratio.mean:.2f} of the distance of unseen images "
                f"({self.space}; upper bound {self.nearest_ratio.high:.2f}, limit "
                f"{limits.nearest_ratio:.2f})"
            )
        return found


def nearness(space: str, generated: Tensor, train: Tensor, unseen: Tensor) -> Nearness:
    """The distances of generated images to training beside those of unseen ones.

    Shapes: (n, values) each, in one space.
    Source: the comparison with held-out images follows Meehan et al. 2020 (arXiv:2004.05675); near
    copies follow Carlini et al. 2023 (arXiv:2301.13188), who measure on photographs.
    Differs: the reference is the nearest unseen image, not an absolute distance.
    """
    made, partners = nearest(generated, train)
    real, _ = nearest(unseen, train)
    return Nearness(
        space,
        bootstrap_groups(_ratio, made, real),
        bootstrap_groups(_share, made, real),
        int((made < NEAR_COPY * real.min()).sum()),
        tuple(made.tolist()),
        tuple(partners.tolist()),
        float(real.min()),
    )


def _ratio(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.median(made, 1) / np.median(real, 1)


def _share(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    limit = np.quantile(real, RARE, axis=1, keepdims=True)
    return (made < limit).mean(1)


def membership_auc(
    seen: Sequence[float] | Tensor, unseen: Sequence[float] | Tensor, seed: int = 0
) -> Interval:
    """The chance that a training subject has the smaller loss of two, with its interval over
    subjects: the area under the curve of the test "its loss is small, so it was trained on".

    Shapes: one loss a subject. Range: .5 says nothing, 1 tells everything.
    Source: Mann and Whitney 1947 for the area; the test is Yeom et al. 2018 (arXiv:1709.01604),
    on a diffusion model's loss Carlini et al. 2023 (arXiv:2301.13188).
    """
    first, second = (torch.as_tensor(each, dtype=torch.float64) for each in (seen, unseen))
    smaller = ((first[:, None] < second) + 0.5 * (first[:, None] == second)).double().numpy()

    def area(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        counts = _counts(rows, len(smaller)) @ smaller
        return (counts * _counts(columns, smaller.shape[1])).sum(1) / smaller.size

    return bootstrap_groups(area, range(len(first)), range(len(second)), seed=seed)


def _counts(drawn: np.ndarray, members: int) -> np.ndarray:
    """How often each member was drawn, (draws, members)."""
    places = drawn.astype(np.int64) + members * np.arange(len(drawn))[:, None]
    return np.bincount(places.ravel(), minlength=members * len(drawn)).reshape(-1, members)
