"""The classical methods as rivals of the heads: on the scanner's own signal, without a prior.

MRI images are complex there, and their magnitude is what is compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medidiff.physics import LinearOperator, Tomography, filtered_back_projection
from medidiff.physics.window import Weighted, centred_on
from medidiff.tasks.base import Problem, Signal
from medidiff.tasks.settings import Rival


def _signal(problem: Problem) -> tuple[Signal, LinearOperator]:
    assert problem.measurement is not None
    assert problem.measurement.signal is not None
    signal = problem.measurement.signal
    return signal, signal.operator(range(len(problem.cases)))


def _placed(images: Tensor, problem: Problem) -> Tensor:
    """Images of the signal on the model's grid in model units; of complex ones the magnitude."""
    size = tuple(problem.given.shape[2:])
    real = images.abs() if images.is_complex() else images
    onto = centred_on(real, size)
    return torch.stack(
        [
            case.scale.normalise(image, axis=0)
            for case, image in zip(problem.cases, onto, strict=True)
        ]
    )


def zero_filled(problem: Problem, parameter: float) -> Tensor:
    """What was not sampled counts as 0."""
    signal, operator = _signal(problem)
    return _placed(operator.adjoint(signal.values), problem)


def cg_sense(problem: Problem, parameter: float) -> Tensor:
    """The least squares with a ridge, relative to the unit of the unitary transform.

    Source: Pruessmann et al. 2001 (doi:10.1002/mrm.1241).
    """
    signal, operator = _signal(problem)
    zero = torch.zeros_like(operator.adjoint(signal.values))
    return _placed(operator.prox(zero, signal.values, parameter), problem)


def fbp(problem: Problem, parameter: float) -> Tensor:
    """Filtered back-projection with a Hann window, blurred no further."""
    signal, operator = _signal(problem)
    assert isinstance(operator, Weighted)
    assert isinstance(operator.operator, Tomography)
    sinogram = signal.values / operator.weight
    return _placed(filtered_back_projection(operator.operator, sinogram, "hann"), problem)


RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
ONE_COIL = (Rival("zero-filled", zero_filled),)
SEVERAL_COILS = (Rival("zero-filled", zero_filled), Rival("CG-SENSE", cg_sense, RIDGES))
SINOGRAM = (Rival("FBP", fbp),)
