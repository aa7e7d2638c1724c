"""The benchmark that heads share whose truth is a clean scan: degrade, restore, compare by
subject."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.diffusion import KeyedNoise
from medidiff.evaluation.classical import Baseline, BiasCorrection, restored_by, tune
from medidiff.evaluation.distortion import psnr, ssim
from medidiff.evaluation.regions import head_region
from medidiff.tasks.accounts import Spent, account_of, solved_at_cost
from medidiff.tasks.base import OURS, Bench, Benchmarked, Row, Solves, noise_key
from medidiff.tasks.calibrated import Judged, spread

WINDOW = 2.0  # width of the intensity window in model units, [-1, 1]
TRUTH = "truth"
SPREAD_SHOWN = 8.0  # a deviation of a quarter of the half window is shown white
SPREAD = "deviation (white: 1/8 window)"
EXAMPLES = 2  # pictures a setting
TUNING_CASES = 6  # the first validation scans: tuning costs minutes a level

RESTORATION_METRICS = {
    "psnr_head": "dB, in-head, data range = the intensity window; higher",
    "ssim_head": "Gaussian window 1.5, in-head, data range = the intensity window; higher",
    "psnr": "dB, whole image, data range = the intensity window; higher",
    "ssim": "Gaussian window 1.5, whole image, data range = the intensity window; higher",
    "background_bias": "size of the mean error outside the head, in window widths; lower",
}


class Restoration(Solves, Protocol):
    """A head that restores simulated degradations."""

    def corrupt(self, clean: Tensor, cases: Sequence[Case], noise: KeyedNoise) -> Tensor: ...


def restored(
    head: Restoration,
    sigma: float,
    setting: str,
    bench: Bench,
    baselines: Sequence[Baseline],
    corrections: Sequence[BiasCorrection],
) -> Benchmarked:
    """One row a test subject and method, and the first cases as examples; where samples are asked
    for, what their spread is worth.

    The noise level `sigma` (window widths) is known to all methods.

    Baselines are tuned on the validation scans, degraded alike, in the region where they are
    judged. With the bench's `baselines` "none" there are none, and no other process is started.
    """
    if bench.baselines == "none":
        return _restored(head, sigma, setting, bench, (), corrections, None)
    with single_threaded_processes() as pool:
        return _restored(head, sigma, setting, bench, baselines, corrections, pool)


def _restored(
    head: Restoration,
    sigma: float,
    setting: str,
    bench: Bench,
    baselines: Sequence[Baseline],
    corrections: Sequence[BiasCorrection],
    pool: Executor | None,
) -> Benchmarked:
    rows: list[Row] = []
    examples: list[Mapping[str, Tensor]] = []
    judged: list[Judged] = []
    spent: list[Spent] = []
    tuned = []
    if pool is not None:
        tuned = _tuned(head, sigma, setting, bench, baselines, corrections, pool)
    for first in range(0, len(bench.test), bench.batch):
        cases = bench.test[first : first + bench.batch]
        clean = torch.stack([case.images for case in cases])
        given = _degraded(head, clean, cases, bench.seed)
        degraded = [replace(case, images=image) for case, image in zip(cases, given, strict=True)]
        problem, solution, took = solved_at_cost(head, degraded, bench)
        spent.append(took)
        zero = signal_zero(cases, clean)
        estimates = {"noisy": given}
        for baseline in tuned:
            filtered = restored_by(baseline, (given - zero) / WINDOW, sigma, pool)
            estimates[baseline.name] = filtered * WINDOW + zero
        for peer in bench.peers:
            if peer.takes_part(setting):
                estimates[peer.name] = peer.solve(problem).cpu()
        estimates[OURS] = solution.point.cpu()
        shown = {**estimates, TRUTH: clean}
        if solution.samples is not None:
            drawn = solution.samples.cpu()
            shown[SPREAD] = shown_spread(drawn)
            region = head_region(clean)
            kinds = [str(solution.facts["measurement"])] * len(cases)
            how = cast(Mapping[str, object], solution.facts["posterior"])
            judged.append(Judged(drawn, clean, region, problem.levels, kinds, how))
        for index in range(min(EXAMPLES - len(examples), len(cases))):
            examples.append({name: images[index] for name, images in shown.items()})
        for method, estimate in estimates.items():
            rows += measured(estimate, clean, cases, setting, method)
        bench.progress(setting, min(first + bench.batch, len(bench.test)), len(bench.test))
    calibrated = [spread(setting, judged)] if judged else []
    labels = [setting] * len(examples)
    chosen = {each.name: each.described() for each in tuned}
    tuned_on = min(TUNING_CASES, len(bench.validation))
    accounts = [account_of(setting, spent, bench, chosen, tuned_on)]
    return Benchmarked(
        rows,
        examples,
        TRUTH,
        accounts=accounts,
        calibrated=calibrated,
        labels=labels,
        maps=(SPREAD,),
    )


def shown_spread(samples: Tensor) -> Tensor:
    """The deviation of samples (n, ...) as a picture in model units."""
    return SPREAD_SHOWN * samples.std(0) - 1


def shown_deviation(std: NDArray[np.float32], low: float) -> NDArray[np.float32]:
    """The same of a map in intensity units, in a window that begins at `low`."""
    return SPREAD_SHOWN * std + low


def _tuned(
    head: Restoration,
    sigma: float,
    setting: str,
    bench: Bench,
    baselines: Sequence[Baseline],
    corrections: Sequence[BiasCorrection],
    pool: Executor,
) -> list[Baseline]:
    """The baselines at their best on the first validation scans."""
    cases = bench.validation[:TUNING_CASES]
    clean = torch.stack([case.images for case in cases])
    given = _degraded(head, clean, cases, bench.seed)
    zero = signal_zero(cases, clean)
    noisy, truth = (given - zero) / WINDOW, (clean - zero) / WINDOW
    count = sum(len(each.grid) for each in baselines) * len(corrections)
    with tuning_told(bench, setting, count) as tried:
        return [
            *tune(
                baselines,
                noisy,
                truth,
                sigma=sigma,
                corrections=corrections,
                region=head_region(clean),
                pool=pool,
                tried=tried,
            )
        ]


@contextmanager
def tuning_told(bench: Bench, setting: str, count: int) -> Iterator[Callable[[], None]]:
    """Tells of trials, about `count` of them: where the best lies past a grid there are more, and
    only the end is told as the end."""
    what, done = f"tuning baselines, {setting}", itertools.count(1)
    bench.progress(what, 0, count)
    yield lambda: bench.progress(what, min(next(done), count - 1), count)
    bench.progress(what, count, count)


def single_threaded_processes() -> ProcessPoolExecutor:
    """A process a core for the baselines. Spawned: a forked child of a threaded parent may hang."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )


def _degraded(head: Restoration, clean: Tensor, cases: Sequence[Case], seed: int) -> Tensor:
    """The given images, (batch, channel, *space) in model units; noise keyed by manifest row."""
    noise = KeyedNoise(seed, [(f"degradation {noise_key(case)}", 0) for case in cases])
    return head.corrupt(clean, cases, noise)


def signal_zero(cases: Sequence[Case], like: Tensor) -> Tensor:
    """Intensity 0, where a magnitude image has no signal, in model units: (batch, channel, 1,
    ...)."""
    one = torch.zeros(like.shape[1], *[1] * (like.ndim - 2))
    return torch.stack([case.scale.normalise(one, axis=0) for case in cases]).to(like)


def measured(
    estimate: Tensor, clean: Tensor, cases: Sequence[Case], setting: str, method: str
) -> list[Row]:
    """The restoration metrics of each image. Shapes: (batch, channel, *space) in model units."""
    estimate, clean = (estimate + 1) / WINDOW, (clean + 1) / WINDOW  # data range 1
    head = head_region(clean)
    error = (estimate - clean).masked_fill(head, 0).flatten(1).sum(1)
    outside = (~head).expand_as(clean).flatten(1).sum(1).clamp_min(1)
    columns: dict[str, Tensor] = {
        "psnr_head": psnr(estimate, clean, data_range=1.0, region=head),
        "ssim_head": ssim(estimate, clean, data_range=1.0, region=head),
        "psnr": psnr(estimate, clean, data_range=1.0),
        "ssim": ssim(estimate, clean, data_range=1.0),
        "background_bias": (error / outside).abs(),
    }
    return [
        {"subject": case.subject, **case.listed, "setting": setting, "method": method}
        | {name: float(values[index]) for name, values in columns.items()}
        for index, case in enumerate(cases)
    ]
