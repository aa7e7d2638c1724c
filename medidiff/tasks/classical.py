"""The classical methods as rivals of the heads: on the scanner's own signal, without a prior.

MRI images are complex there, and their magnitude is what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medidiff.evaluation.classical_inverse import CT, MRI, Reconstruction
from medidiff.physics.window import centred_on
from medidiff.tasks.base import Problem
from medidiff.tasks.settings import Rival


def on_signal(method: Reconstruction) -> Rival:
    """A classical method on what the scanner gave."""

    def solve(problem: Problem, strength: float) -> Tensor:
        assert problem.measurement is not None
        assert problem.measurement.signal is not None
        signal = problem.measurement.signal
        operator = signal.operator(range(len(problem.cases)))
        return placed(method.solve(operator, signal.values, strength), problem)

    return Rival(method.name, solve, method.grid)


def placed(images: Tensor, problem: Problem) -> Tensor:
    """Images of the signal on the model's grid in model units; of complex ones the magnitude."""
    real = images.abs() if images.is_complex() else images
    onto = centred_on(real, tuple(problem.given.shape[2:]))
    lines: Sequence[Callable[..., Tensor]] = [case.scale.normalise for case in problem.cases]
    return torch.stack([line(image, axis=0) for line, image in zip(lines, onto, strict=True)])


SEVERAL_COILS = tuple(map(on_signal, MRI))
ONE_COIL = tuple(rival for rival in SEVERAL_COILS if rival.name != "CG-SENSE")
SINOGRAM = tuple(map(on_signal, CT))
"""One coil has nothing to unfold: the least squares are the zero-filled image."""
