"""Is the U-Net on a CPU no slower than MONAI's with the same weights?

    python benchmarks/unet_cpu.py

Calls and training steps alternate, ours and theirs, so that whatever else the machine does strikes
both; medians, and the median of the paired ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from record import Measured, write_result
from torch import Tensor, nn
from unet_speed import Network

from medidiff.networks.interop import from_monai

NETWORKS = (
    Network("2d", 2, (128, 128), (64, 128, 256), (False, False, True), {}),
    Network("3d", 1, (32, 32, 32), (64, 128, 256), (False, False, True), {}),
)
REPEATS = 9


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


def paired(ours: Callable[[], None], theirs: Callable[[], None]) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median ratio ours / theirs."""
    ours(), theirs()
    times: list[tuple[float, float]] = []
    for turn in range(REPEATS):
        order = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        spent = []
        for run in order:
            begin = time.perf_counter()
            run()
            spent.append(1e3 * (time.perf_counter() - begin))
        times.append((spent[0], spent[1]) if turn % 2 == 0 else (spent[1], spent[0]))
    mine, other = zip(*times, strict=True)
    return (
        statistics.median(mine),
        statistics.median(other),
        statistics.median(a / b for a, b in times),
    )


def main() -> None:
    rows: list[Measured] = []
    for network in NETWORKS:
        theirs, ours = network.monai(), network.ours()
        ours.load_state_dict(from_monai(theirs.state_dict()))
        x = torch.randn(network.batch, 1, *network.space)
        inputs = (x, torch.full((network.batch,), 500.0))
        for what, make in (("call", call), ("training step", step)):
            mine, other, ratio = paired(make(ours, inputs), make(theirs, inputs))
            print(f"{network.name} {what}: {mine:.0f} ms, MONAI {other:.0f} ms, ratio {ratio:.3f}")
            rows.append(
                Measured(f"{network.name} {what}", mine, "ms", "lower", {"MONAI": other}, other)
            )
            rows.append(Measured(f"{network.name} {what}, ratio", ratio, "", "lower", {}, 1.0))
    facts = {"threads": torch.get_num_threads(), "repeats": REPEATS, "precision": "float32"}
    write_result("unet_cpu", rows, facts=facts)


if __name__ == "__main__":
    main()
