"""A noised encoder: the embedding of a noisy image beside that of its clean one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medidiff.diffusion import AnySchedule, AnyTarget, AnyTimes, NoiseLevel, diffuse
from medidiff.diffusion.denoiser import predict
from medidiff.training.batches import Batch
from medidiff.training.objective import noising, unfrozen, validation_levels, validation_noise
from medidiff.types import Image


@dataclass(frozen=True)
class Alignment:
    """Each noisy image is to be told from the others of its batch by its clean one's embedding.

    No labels are needed. With `--from MODEL`, an encoder, that one embeds the clean images and
    stays as it is; without, the network embeds both, so that noise is what it learns to see
    through.
    Source: Liu et al. 2023 (arXiv:2112.05744) and its code; the loss of Radford et al.
    2021 (arXiv:2103.00020), figure 3.
    Differs: without a frozen encoder the clean side is learned too (as in Chen et al. 2020,
    arXiv:2002.05709, with noise for their crops).
    """

    kind: Literal["alignment"] = "alignment"
    width: int = 128
    """Length of the embedding."""
    logit_scale: float = 100.0
    """What the cosines are multiplied by before the softmax."""

    def __post_init__(self) -> None:
        if self.width < 1 or not self.logit_scale > 0:
            raise ValueError(
                f"alignment needs width >= 1 and logit_scale > 0, got {self.width}, "
                f"{self.logit_scale}"
            )

    @property
    def spread(self) -> Literal["none"]:
        """No denoiser."""
        return "none"


@dataclass(frozen=True)
class AlignmentObjective:
    """Cross-entropy both ways between the noisy and the clean embeddings of a batch."""

    target: AnyTarget
    schedule: AnySchedule
    times: AnyTimes
    logit_scale: float
    frozen: Callable[[Image], Tensor] | None = None
    """Clean images to embeddings, without a gradient; none takes the network that is trained."""
    memory: None = None

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return unfrozen(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        draw, eps = noising(batch, seed, step)
        return self._error(self._logits(module, batch, self._levels(draw), eps))

    @torch.no_grad()
    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        eps = validation_noise(batch, seed)
        means = [
            self._error(self._logits(module, batch, level, eps)).mean()
            for level in validation_levels(self._levels, batch, levels)
        ]
        return torch.stack(means)

    @torch.no_grad()
    def scores(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> dict[str, Tensor]:
        """The share of noisy images whose nearest clean one is their own."""
        eps, own = validation_noise(batch, seed), torch.arange(len(batch.clean))
        found = []
        for level in validation_levels(self._levels, batch, levels):
            nearest = self._logits(module, batch, level, eps).argmax(1).cpu()
            found.append((nearest == own).double().mean())
        return {"retrieval": torch.stack(found)}

    def _levels(self, draw: Tensor) -> NoiseLevel:
        return self.times.levels(self.schedule, draw)

    def _logits(self, module: nn.Module, batch: Batch, level: NoiseLevel, eps: Tensor) -> Tensor:
        """Scaled cosines (batch, batch): noisy images in rows, clean ones in columns."""
        x = diffuse(batch.clean, level, eps)
        noisy = predict(module, self.target, x, level, None, None)
        if self.frozen is not None:
            clean = self.frozen(batch.clean)
        else:
            clean = clean_embedding(module, self.target, self.schedule, batch.clean)
        pair = (F.normalize(each.float(), dim=1) for each in (noisy, clean))
        ours, theirs = pair
        return self.logit_scale * ours @ theirs.T

    def _error(self, logits: Tensor) -> Tensor:
        own = torch.arange(len(logits), device=logits.device)
        both = (F.cross_entropy(each, own, reduction="none") for each in (logits, logits.T))
        return sum(both, torch.zeros_like(logits[0])) / 2


def clean_embedding(
    network: nn.Module, target: AnyTarget, schedule: AnySchedule, clean: Image
) -> Tensor:
    """What an encoder of noisy images says of clean ones: at its cleanest level, without noise."""
    level = schedule(torch.tensor(schedule.t_min, dtype=torch.float64)).expand(len(clean))
    x = diffuse(clean, level, torch.zeros_like(clean))
    return predict(network, target, x, level, None, None)
