from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from medidiff.evaluation.classical import corrected
from medidiff.evaluation.count_noise import (
    CountLaw,
    Emission,
    Transmission,
    drawn_counts,
    rate_of_stabilised,
    stabilised,
)
from medidiff.evaluation.noise_level import estimate_counts

LAWS: list[CountLaw] = [Emission(), Transmission(3.0)]
RATES = [0.0, 0.3, 1.0, 4.0, 30.0, 99.0, 1000.0]


@pytest.mark.parametrize("rate", RATES)
def test_counts_are_the_quantiles_of_their_law(rate: float) -> None:
    unit = np.random.default_rng(0).standard_normal(2000)
    expected = stats.poisson.ppf(stats.norm.cdf(unit), rate) if rate > 0 else np.zeros(2000)
    assert np.array_equal(drawn_counts(np.full(2000, rate), unit), expected)


@pytest.mark.parametrize("rate", RATES)
def test_the_mean_of_stabilised_counts_leads_back_to_their_rate(rate: float) -> None:
    counts = np.arange(int(rate + 15 * rate**0.5) + 30)
    chance = stats.poisson.pmf(counts, rate) if rate > 0 else counts == 0
    mean = (chance * stabilised(counts)).sum()
    assert rate_of_stabilised(mean) == pytest.approx(rate, abs=1e-3)
    if rate >= 4:
        variance = (chance * (stabilised(counts) - mean) ** 2).sum()
        assert variance == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_law_leads_from_signals_to_rates_and_back(law: CountLaw) -> None:
    signal = np.linspace(0.1, 1, 10)
    assert np.allclose(law.signal(law.rate(signal, 300.0), 300.0), signal)
    assert law.counts(law.sigma(300.0)) == pytest.approx(300.0)
    # sigma is what it says: of emission at the top of the window, of transmission in the open beam
    place = 1.0 if isinstance(law, Emission) else 0.0
    random = np.random.default_rng(0)
    drawn = random.poisson(law.rate(np.full(100_000, place), 300.0))
    assert law.signal(drawn, 300.0).std() == pytest.approx(law.sigma(300.0), rel=0.02)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_an_average_of_stabilised_counts_has_no_bias(law: CountLaw) -> None:
    signal = 0.05 if isinstance(law, Emission) else 0.9
    counts = 40.0  # some 2 and 2.7 are counted
    drawn = np.random.default_rng(0).poisson(law.rate(np.full((300, 300), signal), counts))
    noisy = law.signal(drawn, counts)
    average = corrected(
        lambda image, _sigma, _strength: np.full_like(image, image.mean()),
        noisy, law.sigma(counts), 1.0, law,
    )  # fmt: skip
    # no count at all is taken for half a one in a logarithm: 7 % of 2.7 have none
    assert average.mean() == pytest.approx(signal, rel=0.03)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("counts", [40.0, 400.0])
def test_the_scale_of_counts_is_found(law: CountLaw, counts: float) -> None:
    rows, columns = np.mgrid[:64, :64] / 64
    signal = 0.5 + 0.3 * np.sin(3 * rows) * np.cos(4 * columns)
    drawn = np.random.default_rng(1).poisson(law.rate(signal, counts))
    found = estimate_counts(torch.from_numpy(law.signal(drawn, counts))[None], law)
    assert found == pytest.approx(law.sigma(counts), rel=0.1)


def test_an_image_of_hardly_any_counts_has_no_scale() -> None:
    drawn = np.random.default_rng(0).poisson(0.01, (32, 32)) / 0.2
    with pytest.raises(ValueError, match="noise to estimate"):
        estimate_counts(torch.from_numpy(drawn)[None], Emission())
