"""What the residual of a right result is: 1 of a posterior sample, less of the posterior mean by
what the measurement told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medidiff.conformance.inverse_cases import Case, field_cases
from medidiff.physics import DenseOperator
from medidiff.tasks.base import Measurement

SIGNALS = 400
CASES = field_cases(SIGNALS)
everywhere = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def squared(case: Case, images: Tensor, told: float = 1.0) -> float:
    """The mean over signals of the residual's square, the noise told as `told` times what it is."""
    measurement = Measurement(
        lambda members: DenseOperator(case.matrix, (1, case.truth.shape[1])),
        case.measurement,
        torch.full((SIGNALS,), told * case.noise_std, dtype=torch.float64),
        torch.full((SIGNALS,), float(len(case.matrix)), dtype=torch.float64),
        ("a field",) * SIGNALS,
    )
    found = measurement.residual(images[:, None], range(SIGNALS))
    return float(found.square().mean())


@everywhere
def test_a_sample_leaves_the_noise_and_a_mean_less_by_what_was_told(case: Case) -> None:
    """r^2 of the mean is the mean of s^2 / (l + s^2) over the eigenvalues l of A P A^T, P the
    prior's covariance: 1 where the prior knows better than the measurement, 0 where it is told all;
    of the mean of n samples (1 - r^2) / n more."""
    unit = torch.randn((8, *case.truth.shape), generator=torch.Generator().manual_seed(2)).double()
    samples = case.exact(unit)
    assert squared(case, case.truth) == pytest.approx(1, abs=0.05)
    assert squared(case, samples[0]) == pytest.approx(1, abs=0.05)
    prior: Tensor = case.prior.covariance  # type: ignore[attr-defined]
    signal = torch.linalg.eigvalsh(case.matrix @ prior @ case.matrix.T).clamp_min(0)
    expected = float((case.noise_std**2 / (signal + case.noise_std**2)).mean())
    assert squared(case, case.mean) == pytest.approx(expected, abs=0.03)
    assert squared(case, case.mean) < 0.8
    for n in (2, 8):
        more = expected + (1 - expected) / n
        assert squared(case, samples[:n].mean(0)) == pytest.approx(more, abs=0.05)


@everywhere
def test_noise_told_too_high_lowers_it_by_that_factor(case: Case) -> None:
    assert squared(case, case.truth, told=2.0) == pytest.approx(0.25, abs=0.02)
