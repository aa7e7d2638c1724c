"""Two conventions that look right when mixed up: DDIM's eta, and the noise after clipping."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import DDIM, Estimate, NoiseLevel, clipped, noise_level
from medidiff.diffusion.variance import small_variance

NOW, TO = noise_level(0.5, 0.6, 0.8), noise_level(0.4, 0.8, 0.6)
X = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(1, 1, 4, 4)


def denoise(x: Tensor, level: NoiseLevel) -> Estimate:
    """An estimate that is out of range and consistent with x."""
    clean = 2 * x
    return Estimate(clean, (x - level.alpha * clean) / level.sigma)


@pytest.mark.parametrize("eta", [0.3, 0.6, 1.0])
def test_eta_is_the_share_of_the_deviation_not_of_the_variance(eta: float) -> None:
    hop = DDIM(eta=eta).transition(X, denoise(X, NOW), NOW, TO)
    expected = eta**2 * small_variance(NOW, TO)
    torch.testing.assert_close(hop.variance.flatten()[0], expected)


def test_after_clipping_the_noise_is_derived_again_or_kept_by_name() -> None:
    derived = clipped(denoise, -1, 1)(X, NOW)
    torch.testing.assert_close(NOW.alpha * derived.clean + NOW.sigma * derived.eps, X)
    kept = clipped(denoise, -1, 1, eps="keep")(X, NOW)
    assert torch.equal(kept.eps, denoise(X, NOW).eps)
    assert not torch.allclose(kept.eps, derived.eps)
