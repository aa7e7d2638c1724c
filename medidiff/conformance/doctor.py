"""Is the installed mathematics right? Samplers on Gaussian data, and the packaged recordings.

For clean voxels from N(MEAN, STD^2) the exact denoiser and the exact solution of the flow are
known, so that what a sampler draws, and the order at which a solver converges, are measured against
the truth; recordings of the authors' own code say the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from medidiff.conformance.oracles import Mixture
from medidiff.conformance.recordings import read_cases
from medidiff.conformance.replay import Outcome, replay_case
from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PNDM,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Heun,
    PredictorCorrector,
    UniPC,
)
from medidiff.diffusion.sampling import Sampler, sample, start
from medidiff.diffusion.schedules import (
    EDM,
    VE,
    AnySchedule,
    Cosine,
    Discrete,
    Flow,
    SubVP,
    VPLinear,
)
from medidiff.diffusion.times import UniformLogSNR, path
from medidiff.types import Tensor

RECORDED = Path(__file__).with_name("recorded")
MEAN, STD = 0.5, 0.2
IMAGES = 256
STEPS = 100
MEAN_ERROR, STD_ERROR = 0.02, 0.08
"""Largest error of the drawn mean, and of the drawn deviation relative to the target's."""
ORDER_STEPS = (60, 120)
ORDER_ERROR = 0.2
SCHEDULES: tuple[AnySchedule, ...] = (
    VPLinear(),
    SubVP(),
    Cosine(),
    VE(),
    EDM(),
    Flow(),
    Discrete(),
)

Progress: TypeAlias = Callable[[str, int, int], None]
"""(what, done, total)."""


@dataclass(frozen=True)
class Checked:
    """A sampler under its usual name, and the order of its solver (None: it draws noise)."""

    name: str
    sampler: Sampler
    order: int | None = None


SAMPLERS = (
    Checked("DDPM", DDPM()),
    Checked("DDIM", DDIM(), 1),
    Checked("DDIM eta 1", DDIM(eta=1.0)),
    Checked("Heun (EDM)", Heun(), 2),
    Checked("Heun, churn", Heun(churn=20.0, churn_min=0.05, churn_max=50.0)),
    Checked("DPM-2", DPM2(), 2),
    Checked("LMS-2", LMS(order=2), 2),
    Checked("DPM-Solver-2", DPMSolver(order=2, last="full"), 2),
    Checked("DPM-Solver++ 2M", DPMSolverPP(), 2),
    Checked("DPM-Solver++ 2M SDE", DPMSolverPP(eta=1.0)),
    Checked("DPM++ 2S ancestral", DPMSolverPPAncestral()),
    Checked("DPM++ SDE", DPMSolverPPSDE()),
    Checked("UniPC-1", UniPC(order=1), 2),
    Checked("DEIS-1", DEIS(order=1), 2),
    Checked("PNDM", PNDM(order=4)),
    Checked("reverse diffusion", PredictorCorrector(corrector="none")),
)


@dataclass(frozen=True)
class Row:
    """A sampler on a schedule: what it drew, the order measured (None: not asked), its fault."""

    sampler: str
    schedule: str
    mean: float
    std: float
    order: float | None = None
    expected_order: int | None = None
    fault: str = ""


@dataclass(frozen=True)
class Findings:
    """The rows of all samplers and the outcomes of all recordings."""

    rows: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def faults(self) -> list[str]:
        """What is wrong, a line each; empty if all is well."""
        wrong = [f"{row.sampler} on {row.schedule}: {row.fault}" for row in self.rows if row.fault]
        return wrong + [
            f"recording {outcome.case}: {outcome.reason}"
            for outcome in self.outcomes
            if outcome.verdict == "failed"
        ]


def examine(
    samplers: Sequence[Checked] = SAMPLERS,
    schedules: Sequence[AnySchedule] = SCHEDULES,
    recorded: Path = RECORDED,
    progress: Progress = lambda what, done, total: None,
) -> Findings:
    """Every sampler on every schedule, then every recording of a folder."""
    with _one_thread():
        return _examined(samplers, schedules, recorded, progress)


def _examined(
    samplers: Sequence[Checked],
    schedules: Sequence[AnySchedule],
    recorded: Path,
    progress: Progress,
) -> Findings:
    pairs = [(checked, schedule) for checked in samplers for schedule in schedules]
    rows = [
        examine_sampler(checked, schedule)
        for checked, schedule in _told(pairs, "samplers", progress)
    ]
    cases = list(read_cases(recorded))
    outcomes = [replay_case(case) for case in _told(cases, "recordings", progress)]
    return Findings(tuple(rows), tuple(outcomes))


def examine_sampler(checked: Checked, schedule: AnySchedule) -> Row:
    """Draw images, and measure the order where there is one. A fault in our code is told."""
    try:
        mean, std = moments(checked.sampler, schedule)
        order = None if checked.order is None else measured_order(checked.sampler, schedule)
    except Exception as why:  # any fault is this row's, the others go on
        reason = f"{type(why).__name__}: {why}"
        return Row(checked.name, schedule.kind, math.nan, math.nan, None, checked.order, reason)
    fault = _fault(mean, std, order, checked.order)
    return Row(checked.name, schedule.kind, mean, std, order, checked.order, fault)


def moments(sampler: Sampler, schedule: AnySchedule) -> tuple[float, float]:
    """Mean and standard deviation over all voxels of images drawn by the exact denoiser."""
    noise = _Drawn()
    levels = path(UniformLogSNR(), schedule, STEPS)
    x = start(levels[0], noise, torch.zeros(IMAGES, 1, 4, 4))
    images = sample(gaussian(torch.float32), x, levels, sampler, noise, schedule)
    return float(images.mean()), float(images.std())


def measured_order(sampler: Sampler, schedule: AnySchedule) -> float:
    """log2 of the ratio of the errors of two runs, one with half the steps of the other."""
    coarse, fine = (_endpoint_error(sampler, schedule, steps) for steps in ORDER_STEPS)
    return math.log2(coarse / fine)


def gaussian(dtype: torch.dtype = torch.float64) -> Mixture:
    """The exact denoiser of voxels from N(MEAN, STD^2)."""
    shape = (1, 1, 1, 1)
    means = torch.full(shape, MEAN, dtype=dtype)
    return Mixture(torch.ones(1, dtype=dtype), means, torch.full(shape, STD**2, dtype=dtype))


def flowed(x: Tensor, now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """Where the probability flow takes x: its distance from the mean, in deviations, stays.

    Source: Song et al. 2021 (arXiv:2011.13456), eq. 13, solved for Gaussian data.
    """
    before, after = (((each.alpha * STD) ** 2 + each.sigma**2).sqrt() for each in (now, to))
    return to.alpha * MEAN + after / before * (x - now.alpha * MEAN)


def _endpoint_error(sampler: Sampler, schedule: AnySchedule, steps: int) -> float:
    """The error at the last noisy level, from noise ratio 20."""
    first = schedule(schedule.time_of(-torch.tensor(20.0, dtype=torch.float64).log()))
    levels = path(UniformLogSNR(), schedule, steps, first)[:-1]
    x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    x = x * first.sigma + first.alpha * MEAN
    found = sample(gaussian(), x, levels, sampler, None, schedule)
    return float((found - flowed(x, levels[0], levels[-1])).abs().max())


def _fault(mean: float, std: float, order: float | None, expected: int | None) -> str:
    faults = []
    if not abs(mean - MEAN) <= MEAN_ERROR:
        faults.append(f"mean {mean:.3f}, not {MEAN} +- {MEAN_ERROR}")
    if not abs(std / STD - 1) <= STD_ERROR:
        faults.append(f"std {std:.3f}, not {STD} +- {STD_ERROR:.0%}")
    if order is not None and expected is not None and not abs(order - expected) <= ORDER_ERROR:
        faults.append(f"order {order:.2f}, not {expected} +- {ORDER_ERROR}")
    return "; ".join(faults)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread within the block: for tensors this small more of them only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Drawn:
    """Unit fields for a large batch, quickly: a generator for each (step, draw)."""

    def __call__(self, like: Tensor, step: int, draw: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * (step + 1) + draw)
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def _told(items: Sequence, what: str, progress: Progress) -> Iterator:
    for done, item in enumerate(items):
        progress(what, done, len(items))
        yield item
    progress(what, len(items), len(items))
