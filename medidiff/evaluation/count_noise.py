"""The noise of counted quanta: how much there is, how to make its spread even, how to undo that.

Counts are Poisson distributed around their rate. A law says what rate a signal has: of emission
(PET, SPECT) the signal itself, of transmission (a radiograph in line integrals) what comes through.
Signals are in widths of the intensity window, 0 where there is none. The level of the noise is told
as its standard deviation `sigma` where the noise of a signal within the window is known best by
its users: of emission at the top of the window, of transmission in the open beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medidiff.inverse.likelihoods import LEAST_COUNT

Array = NDArray[np.floating]

RATE_LIMIT = 100.0  # of the table; above it the asymptote holds to 1e-3 counts
TABLE_POINTS = 501
TAIL = 12.0  # deviations beyond the mean that sums of counts go to


@dataclass(frozen=True)
class Emission:
    """Counts of rate counts * signal; the image is the counts over `counts`."""

    def counts(self, sigma: float) -> float:
        """Expected at the top of the window."""
        return sigma**-2

    def sigma(self, counts: float) -> float:
        """The deviation at the top of the window."""
        return counts**-0.5

    def rate(self, signal: Array, counts: float) -> Array:
        """Of each signal."""
        return counts * signal

    def signal(self, rate: Array, counts: float) -> Array:
        """Of each rate."""
        return rate / counts


@dataclass(frozen=True)
class Transmission:
    """Counts of rate counts * exp(-attenuation * signal); the image is -log(counted / counts) over
    `attenuation`. Counts below LEAST_COUNT are taken for it."""

    attenuation: float
    """Line integral at the top of the window."""

    def counts(self, sigma: float) -> float:
        """Expected in the open beam."""
        return (self.attenuation * sigma) ** -2

    def sigma(self, counts: float) -> float:
        """The deviation in the open beam."""
        return counts**-0.5 / self.attenuation

    def rate(self, signal: Array, counts: float) -> Array:
        """Of each signal."""
        return counts * np.exp(-self.attenuation * signal)

    def signal(self, rate: Array, counts: float) -> Array:
        """Of each rate."""
        return np.log(counts / np.maximum(rate, LEAST_COUNT)) / self.attenuation


CountLaw: TypeAlias = Emission | Transmission


def drawn_counts(rate: Array, unit: Array) -> Array:
    """Poisson counts of each rate: the quantiles that belong to `unit`, standard Gaussian draws."""
    quantile = special.ndtr(np.asarray(unit, dtype=np.float64))
    # the quantile's expansion (Cornish and Fisher 1938) is a count or two off
    count = np.floor(np.maximum(rate + unit * np.sqrt(rate) + (unit**2 - 1) / 6, 0))
    while (low := special.pdtr(count, rate) < quantile).any():
        count = count + low
    while (high := (count > 0) & (special.pdtr(count - 1, rate) >= quantile)).any():
        count = count - high
    return count


def stabilised(counts: Array) -> Array:
    """Counts with a spread of about 1, from rates of some 4 on. Anscombe 1948
    (doi:10.1093/biomet/35.3-4.246)."""
    return 2 * np.sqrt(np.maximum(counts, 0) + 3 / 8)


def rate_of_stabilised(mean: Array) -> Array:
    """The rate whose stabilised counts have this mean (the exact unbiased inverse); 0 below all.

    Source: Makitalo and Foi 2011 (doi:10.1109/TIP.2010.2056693), from a table as in their section
    II; above it, as rate -> infinity, mean^2 / 4 - 1 / 8.
    """
    rates, means = _table()
    far = np.asarray(mean) ** 2 / 4 - 1 / 8
    return np.where(mean > means[-1], far, np.interp(mean, means, rates))


@lru_cache(maxsize=1)
def _table() -> tuple[Array, Array]:
    rates = RATE_LIMIT * np.linspace(0, 1, TABLE_POINTS) ** 2  # finer where the mean is curved
    counts = np.arange(RATE_LIMIT + TAIL * RATE_LIMIT**0.5)
    log_chance = (
        special.xlogy(counts, rates[:, None]) - rates[:, None] - special.gammaln(counts + 1)
    )
    return rates, np.exp(log_chance) @ stabilised(counts)
