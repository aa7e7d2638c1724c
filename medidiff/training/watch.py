"""The validation gap as training goes on: which step is the best, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from medidiff.training.options import EarlyStop

MEMORISING = "stopped early: the validation loss no longer falls while the training loss does"
MEMORISING_LEVEL = (
    "stopped early: at noise level {} of {} (1 is the least noise) the validation loss is {:.0%} "
    "above its lowest while the training loss has fallen"
)


SMALLEST = 1e-6
"""A loss below this is as good as 0: what a float32 cross-entropy rounds by is 1e-7."""


@dataclass
class Watch:
    """The losses by noise level so far.

    A level has a gap where its validation loss is above its lowest by `EarlyStop.rise` of it while
    the training loss has fallen since. Levels are compared with themselves only: their losses
    differ in size, and memorising shows at some of them first.
    """

    best: float = math.inf
    """The lowest mean over levels, at a step without a gap where gaps count (patience > 0)."""
    best_train: float = math.inf
    best_step: int = 0
    worse: int = 0
    """Validations in a row without a new best."""
    last: float = math.nan
    """The latest mean over levels."""
    last_train: float = math.nan
    lowest: list[float] = field(default_factory=list)
    """Of each level: the lowest validation loss,"""
    train_then: list[float] = field(default_factory=list)
    """the training loss at that step,"""
    gaps: list[int] = field(default_factory=list)
    """validations in a row with a gap,"""
    rise: list[float] = field(default_factory=list)
    """and how far the latest validation loss is above the lowest, relative to it."""
    ended: str = ""
    """Why the training ended, once it has."""

    def note(
        self, validation: Sequence[float], train: Sequence[float], step: int, options: EarlyStop
    ) -> bool:
        """Take in the losses by level of one validation; true if it is a new best."""
        self._note_levels(validation, train, options.rise)
        self.last, self.last_train = fmean(validation), fmean(train)
        barred = options.patience > 0 and any(self.gaps)
        if self.last < self.best * (1 - options.tolerance) and not barred:
            self.best, self.best_train = self.last, self.last_train
            self.best_step, self.worse = step, 0
            return True
        self.worse += 1
        return False

    def memorising(self, patience: int) -> str:
        """Why the training should stop, "" if it should not."""
        if patience == 0:
            return ""
        longest = max(self.gaps, default=0)
        if longest >= patience:
            level = self.gaps.index(longest)
            return MEMORISING_LEVEL.format(level + 1, len(self.gaps), self.rise[level])
        return MEMORISING if self.worse >= patience and self.last_train < self.best_train else ""

    def _note_levels(
        self, validation: Sequence[float], train: Sequence[float], rise: float
    ) -> None:
        if not self.lowest:
            self.lowest, self.train_then = [math.inf] * len(train), [math.inf] * len(train)
            self.gaps = [0] * len(train)
        for level, (now, fitted) in enumerate(zip(validation, train, strict=True)):
            if now < self.lowest[level]:
                self.lowest[level], self.train_then[level] = now, fitted
            low = max(self.lowest[level], SMALLEST)
            gap = now > (1 + rise) * low and fitted < self.train_then[level]
            self.gaps[level] = self.gaps[level] + 1 if gap else 0
        self.rise = [
            now / max(low, SMALLEST) - 1 for now, low in zip(validation, self.lowest, strict=True)
        ]
