"""Whether a phase is smooth: what the samples say of it without a prior.

The best magnitude of any kind together with a smooth phase leaves some of the samples. If that is
more than noise, no magnitude is to blame: fat lies beside water, air or flow turns the phase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medidiff.physics import CartesianMRI, ConjugateGradients
from medidiff.tasks.cosines import SHORTEST
from medidiff.tasks.phase import SmoothPhase

FINE = 0.2  # radians: what of a phase is not smooth, over a head (benchmarks/raw_kspace.py)
REFUTED = 1.1  # times the noise: what a right model leaves is below 1, for it follows some noise
RIDGE = 1e-3  # of a magnitude that may be anything
HELD = 0.1  # the ridge at first: no magnitude is to explain what is wrong of the phase
HALVED = 0.5  # from turn to turn, down to RIDGE
SMALLEST = 4 * SHORTEST  # voxels: with fewer than four half periods no shim's field is held either
TURNS = 30  # of magnitude and phase, at most
STALLED = 0.99  # of what was left before: another turn would not help
STEPS = ConjugateGradients(tolerance=1e-3, steps=30)


def refuted(
    fit_of: Callable[[Sequence[int]], SmoothPhase],
    mask: Tensor,
    coils: Tensor | None,
    phase: Tensor,
) -> tuple[Tensor, Tensor]:
    """Which cases' samples no magnitude with a smooth phase explains, (batch,), and magnitudes that
    come near, (batch, 1, *space). None of a grid that is too small for smooth fields.

    Where few samples meet a wrong phase, the magnitude that comes nearest is several times too
    bright. So the turns begin with one that is held down by a ridge, which is halved from turn to
    turn, and those that are given are held, too: as bright as the truth within about a tenth.

    fit_of: what the samples of some cases say. A case that is done takes no part in later turns: a
    batch gives what its members give, and one that never ends holds nobody up.
    Shapes: mask and coils as in `CartesianMRI`; phase (batch, 1, *space), where the fit begins.
    Source: the discrepancy principle (Morozov 1966), as a test.
    """

    def best(members: list[int], ridge: float) -> tuple[Tensor, Tensor]:
        mine = _of(mask, members), _of(coils, members), phase[members]
        return _best(fit_of(members), *mine, ridge)

    everyone = [*range(len(phase))]
    magnitude, left = best(everyone, RIDGE)
    phase, failed = phase.clone(), torch.zeros(len(phase), dtype=torch.bool)
    large = min(phase.shape[2:]) >= SMALLEST
    active = [case for case in everyone if large and left[case] > REFUTED]
    last = 1.0
    for turn in range(TURNS):
        if not active:
            break
        ridge = max(RIDGE, HELD * HALVED**turn)
        magnitude[active], now = best(active, ridge)
        stuck = (now > STALLED * left[active]) & (last == ridge)
        left[active], last = now, ridge
        failed[active] = stuck & (now > REFUTED)
        active = [case for case in active if left[case] > REFUTED and not failed[case]]
        if active:
            phase[active] = _turned(fit_of(active), magnitude[active], phase[active], ridge)
    failed[active] = True
    return failed, best(everyone, HELD)[0]


def _turned(fit: SmoothPhase, magnitude: Tensor, phase: Tensor, ridge: float) -> Tensor:
    """The smooth phase of one turn, which allows for as much noise as the ridge does."""
    wide = magnitude.flatten(1).square().mean(1).sqrt()
    noise = torch.maximum(fit.noise_std, ridge**0.5 * wide.to(fit.noise_std))
    smooth = replace(fit, noise_std=noise, fine=torch.zeros_like(fit.fine))
    return smooth.fitted(magnitude, wide, phase)


def _of(each: Any, members: list[int]) -> Any:
    """The members' own; what is None or one for all stays."""
    return each if each is None or len(each) == 1 else each[members]


def _best(
    fit: SmoothPhase, mask: Tensor, coils: Tensor | None, phase: Tensor, ridge: float
) -> tuple[Tensor, Tensor]:
    """The magnitude that fits best, and ||A(m exp(i phase)) - y|| over what noise explains."""
    operator = CartesianMRI(mask, coils, phase, STEPS)
    magnitude = operator.pseudo_inverse(fit.kspace, ridge)
    apart = (operator.forward(magnitude) - fit.kspace).flatten(1)
    count = 2 * mask.expand_as(fit.kspace.real).flatten(1).sum(1)
    left = torch.linalg.vector_norm(apart, dim=1) / count.sqrt()
    return magnitude, left.cpu().double() / fit.noise_std
