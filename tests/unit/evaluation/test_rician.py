import numpy as np
import pytest

from medidiff.evaluation.rician import invert_mean, rician_mean, rician_variance, stabiliser

SIGNALS = [0.0, 0.5, 1.0, 2.0, 5.0, 20.0]


def magnitudes(signal: float) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.hypot(signal + random.standard_normal(200_000), random.standard_normal(200_000))


@pytest.mark.parametrize("signal", SIGNALS)
def test_mean_and_variance_are_those_of_drawn_magnitudes(signal):
    drawn = magnitudes(signal)
    assert rician_mean(np.array(signal)) == pytest.approx(drawn.mean(), abs=0.01)
    assert rician_variance(np.array(signal)) == pytest.approx(drawn.var(), rel=0.02)


@pytest.mark.parametrize("sigma", [0.1, 30.0])
def test_the_mean_leads_back_to_the_signal(sigma):
    signal = sigma * np.array([*SIGNALS, 39.0, 200.0])
    mean = sigma * rician_mean(signal / sigma)
    np.testing.assert_allclose(invert_mean(mean, sigma), signal, atol=0.02 * sigma)


def test_a_mean_below_the_floor_is_no_signal():
    assert invert_mean(np.array([0.0, 1.2]), 1.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("signal", SIGNALS)
def test_stabilised_noise_is_even_and_its_mean_leads_back(signal):
    values = stabiliser().forward(magnitudes(signal) * 0.1, 0.1)
    assert values.std() == pytest.approx(1, abs=0.12)
    # at no signal the mean is flat: the scatter of the mean alone gives a signal of up to .1
    assert stabiliser().inverse(values.mean(), 0.1) == pytest.approx(signal * 0.1, abs=0.012)
