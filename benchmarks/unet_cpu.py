"""Is the U-Net on a CPU no slower than MONAI's with the same weights?

    python benchmarks/unet_cpu.py

Calls and training steps alternate, ours and theirs, so that whatever else the machine does strikes
both; medians, and the median of the paired ratios with the interval that holds it in 95 of 100
cases. Counted is the process's own CPU time, beside the time on the clock: on a busy machine the
clock measures the others, too.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from record import Measured, write_result
from torch import Tensor, nn
from unet_speed import Network

from medidiff.networks.interop import from_monai

NETWORKS = (
    Network("2d", 1, (96, 96), (64, 128, 256), (False, False, True), {}),
    Network("3d", 1, (24, 24, 24), (64, 128, 256), (False, False, True), {}),
)
REPEATS = 11


@dataclass(frozen=True)
class Paired:
    """Median milliseconds of both, and the paired ratios ours / theirs."""

    ours: float
    theirs: float
    ratios: Sequence[float]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """Two of the ordered ratios between which their median lies in 95 of 100 cases.

        A count of heads decides how many ratios lie below their true median.
        """
        count = len(self.ratios)
        below = [math.comb(count, heads) / 2**count for heads in range(count + 1)]
        cut = 0
        while sum(below[: cut + 1]) <= 0.025:
            cut += 1
        ordered = sorted(self.ratios)
        return ordered[max(cut - 1, 0)], ordered[min(count - cut, count - 1)]


def call(network: nn.Module, inputs: tuple[Tensor, Tensor]) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            network(*inputs)

    return run


def step(network: nn.Module, inputs: tuple[Tensor, Tensor]) -> Callable[[], None]:
    def run() -> None:
        network.zero_grad()
        F.mse_loss(network(*inputs), inputs[0]).backward()

    return run


def paired(ours: Callable[[], None], theirs: Callable[[], None]) -> dict[str, Paired]:
    """CPU time and time on the clock of both."""
    ours(), theirs()
    spent: dict[str, list[tuple[float, float]]] = {"CPU": [], "clock": []}
    for turn in range(REPEATS):
        order = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        found = [timed(run) for run in order]
        mine, other = found if turn % 2 == 0 else reversed(found)
        for name, pair in zip(spent, zip(mine, other, strict=True), strict=True):
            spent[name].append(pair)
    return {
        name: Paired(
            statistics.median(mine for mine, _ in pairs),
            statistics.median(other for _, other in pairs),
            [mine / other for mine, other in pairs],
        )
        for name, pairs in spent.items()
    }


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds of the process's own CPU time and on the clock."""
    begin = time.process_time(), time.perf_counter()
    run()
    return 1e3 * (time.process_time() - begin[0]), 1e3 * (time.perf_counter() - begin[1])


def main() -> None:
    rows: list[Measured] = []
    intervals: dict[str, tuple[float, float]] = {}
    load = os.getloadavg()[0]
    for network in NETWORKS:
        theirs, ours = network.monai(), network.ours()
        ours.load_state_dict(from_monai(theirs.state_dict()))
        x = torch.randn(network.batch, 1, *network.space)
        inputs = (x, torch.full((network.batch,), 500.0))
        for what, make in (("call", call), ("training step", step)):
            for time_of, found in paired(make(ours, inputs), make(theirs, inputs)).items():
                name, (low, high) = f"{network.name} {what}, {time_of} time", found.interval
                print(
                    f"{name}: {found.ours:.0f} ms, MONAI {found.theirs:.0f} ms, "
                    f"ratio {found.ratio:.3f} ({low:.3f} to {high:.3f})",
                    flush=True,
                )
                peers = {"MONAI": found.theirs}
                rows.append(Measured(name, found.ours, "ms", "lower", peers, found.theirs))
                rows.append(Measured(f"{name}, ratio", found.ratio, "", "lower", {}, 1.0))
                intervals[name] = found.interval
    facts = {
        "threads": torch.get_num_threads(),
        "repeats": REPEATS,
        "precision": "float32",
        "95 % intervals of the ratios": intervals,
        "load average before and after (1 minute)": [load, os.getloadavg()[0]],
    }
    write_result("unet_cpu", rows, facts=facts)


if __name__ == "__main__":
    main()
