"""Training steps drawn by how much they matter: the second-moment resampler.

    p_n ~ sqrt(E[L_n^2]) over the last losses of step n;   weight = 1 / (N p_n)

Nichol & Dhariwal 2021 (arXiv:2102.09672).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medidiff.types import Tensor


@dataclass(frozen=True, eq=False)
class LossHistory:
    """The last losses of every step, oldest first, and how many there are: a checkpointed state.

    Shapes: losses (N, kept), float64; counts (N,), int64. Value in, value out: `updated` returns a
    new history. On several processes give `updated` the steps and losses of all of them.
    """

    losses: Tensor
    counts: Tensor
    uniform_share: float = 0.001
    """Share of the draws that is uniform, so that no step is forgotten."""

    @staticmethod
    def empty(steps: int, kept: int = 10, uniform_share: float = 0.001) -> LossHistory:
        """No losses yet: every step is as likely."""
        if steps < 1 or kept < 1 or not 0 <= uniform_share <= 1:
            raise ValueError(
                "a loss history needs steps >= 1, kept >= 1 and 0 <= uniform_share <= 1, got "
                f"{steps}, {kept}, {uniform_share}"
            )
        losses = torch.zeros(steps, kept, dtype=torch.float64)
        return LossHistory(losses, torch.zeros(steps, dtype=torch.int64), uniform_share)

    @property
    def is_warm(self) -> bool:
        """Whether every step has as many losses as are kept."""
        return bool((self.counts >= self.losses.shape[1]).all())

    @property
    def probabilities(self) -> Tensor:
        """How likely each step is, (N,): uniform until warm."""
        steps = len(self.counts)
        if not self.is_warm:
            return torch.full((steps,), 1 / steps, dtype=torch.float64)
        size = self.losses.square().mean(1).sqrt()
        return (1 - self.uniform_share) * size / size.sum() + self.uniform_share / steps

    def drawn(self, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Steps 1 .. N for uniform numbers in (0, 1), and the weights that undo the choice.

        Shapes: draw (batch,); both results (batch,), int64 and float64.
        """
        chances = self.probabilities
        place = torch.searchsorted(chances.cumsum(0), draw.double().contiguous())
        place = place.clamp_max(len(chances) - 1)
        return place + 1, 1 / (len(chances) * chances[place])

    def updated(self, steps: Tensor, losses: Tensor) -> LossHistory:
        """The history after these unweighted losses of steps 1 .. N, in order; the oldest go.

        Shapes: both (batch,).
        """
        rows, counts = self.losses.clone(), self.counts.clone()
        for step, loss in zip((steps - 1).tolist(), losses.double().tolist(), strict=True):
            if counts[step] < rows.shape[1]:
                rows[step, counts[step]] = loss
                counts[step] += 1
            else:
                rows[step] = torch.cat([rows[step, 1:], rows.new_tensor([loss])])
        return LossHistory(rows, counts, self.uniform_share)
