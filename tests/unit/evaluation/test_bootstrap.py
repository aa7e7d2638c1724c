import math

import numpy as np
import pytest

from medidiff.evaluation.bootstrap import bootstrap_interval


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        found = bootstrap_interval(list(random.normal(3, 1, 40)), draws=300, seed=trial)
        inside += found.low <= 3 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    values = [index**1.5 for index in range(30)]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_one_subject_has_no_width_and_an_infinite_value_stays_infinite():
    found = bootstrap_interval([4.0])
    assert (found.mean, found.low, found.high, found.n) == (4.0, 4.0, 4.0, 1)
    found = bootstrap_interval([1.0, math.inf])
    assert found.mean == math.inf
    assert (found.low, found.high) == (1.0, math.inf)


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_missing_values_are_refused(values):
    with pytest.raises(ValueError, match=r"at least one|not numbers"):
        bootstrap_interval(values)
