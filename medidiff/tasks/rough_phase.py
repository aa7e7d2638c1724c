"""Whether a phase is smooth: what the samples say of it without a prior.

The best magnitude of any kind together with a smooth phase leaves some of the samples. If that is
more than noise, no magnitude is to blame: fat lies beside water, air or flow turns the phase.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medidiff.physics import CartesianMRI, ConjugateGradients
from medidiff.physics.operators import per_image
from medidiff.tasks.cosines import SHORTEST
from medidiff.tasks.phase import SmoothPhase

FINE = 0.2  # radians: what of a phase is not smooth, over a head (benchmarks/raw_kspace.py)
REFUTED = 1.1  # times the noise: what a right model leaves is below 1, for it follows some noise
RIDGE = 1e-3  # of a magnitude that may be anything
SMALLEST = 4 * SHORTEST  # voxels: with fewer than four half periods no shim's field is held either
TURNS = 30  # of magnitude and phase, at most
STALLED = 0.99  # of what was left before: another turn would not help
STEPS = ConjugateGradients(tolerance=1e-3, steps=30)


def refuted(
    fit: SmoothPhase, mask: Tensor, coils: Tensor | None, phase: Tensor
) -> tuple[Tensor, Tensor]:
    """Which cases' samples no magnitude with a smooth phase explains, (batch,), and the magnitudes
    that come nearest, (batch, 1, *space). None of a grid that is too small for smooth fields.

    Shapes: mask and coils as in `CartesianMRI`; phase (batch, 1, *space), where the fit begins.
    Source: the discrepancy principle (Morozov 1966), as a test.
    """
    fit = replace(fit, fine=torch.zeros_like(fit.fine))
    magnitude, before = _best(fit, mask, coils, phase)
    active = (before > REFUTED) & (min(phase.shape[2:]) >= SMALLEST)
    failed = torch.zeros_like(active)
    for _ in range(TURNS):
        if not bool(active.any()):
            break
        wide = magnitude.flatten(1).square().mean(1).sqrt()
        phase = fit.fitted(magnitude, wide, phase)
        found, left = _best(fit, mask, coils, phase)
        # who is done stays as it was, so that a batch gives what its members give
        magnitude = torch.where(per_image(active, found) > 0, found, magnitude)
        stuck = active & (left > STALLED * before)
        failed, active, before = failed | stuck, active & ~stuck & (left > REFUTED), left
    return failed | active, magnitude


def _best(
    fit: SmoothPhase, mask: Tensor, coils: Tensor | None, phase: Tensor
) -> tuple[Tensor, Tensor]:
    """The magnitude that fits best, and ||A(m exp(i phase)) - y|| over what noise explains."""
    operator = CartesianMRI(mask, coils, phase, STEPS)
    magnitude = operator.pseudo_inverse(fit.kspace, RIDGE)
    apart = (operator.forward(magnitude) - fit.kspace).flatten(1)
    count = 2 * mask.expand_as(fit.kspace.real).flatten(1).sum(1)
    left = torch.linalg.vector_norm(apart, dim=1) / count.sqrt()
    return magnitude, left.cpu().double() / fit.noise_std
