"""What does a sampler's own arithmetic cost beside the network, and does it wait for the GPU?

Every sampler that a configuration can name, on 16 images of 256 x 256, for each network call that
it makes:

    gpu      the GPU's work of its own arithmetic and noise: the network replaced by an estimate
    clock    the same by the clock, with the CPU's launches, which nothing hides there
    beside   what a call takes longer in a walk with the network than the network's calls in a row

The rows are `gpu` as a share of a recorded 2d256 call on the same GPU. A step synchronises if
torch's own check refuses it.

    python benchmarks/core_speed.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from record import Measured, write_result
from torch import Tensor
from unet_speed import NETWORKS, call_time

from medidiff.diffusion import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PNDM,
    RK45,
    TCD,
    AnnealedLangevin,
    AnySampler,
    Consistency,
    Counter,
    Denoiser,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Eps,
    Estimate,
    Heun,
    KeyedNoise,
    NoiseLevel,
    OptimalVariance,
    PredictorCorrector,
    RhoRK,
    SASolver,
    UniformTime,
    UniPC,
    VPLinear,
    counted,
    path,
    start,
    walk,
)
from medidiff.networks.graphs import Graphed

GOAL = 3.0  # per cent of a network call
HOPS = 12
WARM = 4  # hops before the measured ones: memories are full, constants are on the GPU

SAMPLERS: dict[str, AnySampler] = {
    "ddpm": DDPM(),
    "ddpm, large": DDPM(variance="large"),
    "ddpm, learned-range": DDPM(variance="learned-range"),
    "ddpm, optimal": DDPM(variance=OptimalVariance(source="npr")),
    "ddim": DDIM(),
    "ddim, eta 1": DDIM(eta=1.0),
    "heun": Heun(),
    "heun, churn": Heun(churn=20.0),
    "dpm-2": DPM2(),
    "dpm-2, ancestral": DPM2(eta=1.0),
    "lms": LMS(),
    "dpm-solver": DPMSolver(),
    "dpm-solver++": DPMSolverPP(),
    "dpm-solver++, 3M": DPMSolverPP(order=3),
    "dpm-solver++, SDE": DPMSolverPP(eta=1.0),
    "dpm-solver++-2s-ancestral": DPMSolverPPAncestral(),
    "dpm-solver++-2s-sde": DPMSolverPPSDE(),
    "unipc": UniPC(),
    "sa-solver": SASolver(),
    "deis": DEIS(),
    "rho-rk": RhoRK(),
    "pndm": PNDM(),
    "predictor-corrector": PredictorCorrector(),
    "rk45": RK45(),
    "annealed-langevin": AnnealedLangevin(steps=2),
    "consistency": Consistency(),
    "tcd": TCD(),
}
ADAPTIVE = ("rk45",)


@dataclass(frozen=True)
class Stored:
    """A denoiser that says the same of every image, at no cost."""

    said: Estimate

    def __call__(self, x: Tensor, level: NoiseLevel) -> Estimate:
        return self.said


@dataclass(frozen=True)
class Cost:
    """Of a network call that the sampler makes."""

    clock_ms: float
    gpu_ms: float
    beside_ms: float
    """What a call takes longer in a walk with the network than the network's calls in a row."""
    calls_a_hop: float
    synchronises: bool
    where: str


def members(batch: int) -> list[tuple[str, int]]:
    return [("", index) for index in range(batch)]


class Walk:
    """A walk of `HOPS` hops, one at a time."""

    def __init__(self, sampler: AnySampler, denoise: Counter, like: Tensor) -> None:
        schedule, noise = VPLinear(), KeyedNoise(0, members(len(like)))
        levels = path(UniformTime(), schedule, HOPS)
        self.denoise = denoise
        x = start(levels[0], noise, like)
        self.states = walk(denoise, x, levels, sampler, noise, schedule)

    def hops(self, count: int) -> int:
        """Take them; the network calls that they made."""
        before = self.denoise.calls
        for _ in range(count):
            next(self.states)
        return self.denoise.calls - before


def waits(make: Callable[[], Walk]) -> tuple[bool, str]:
    """Whether a hop synchronises with the CPU, and where."""
    run = make()
    run.hops(WARM)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.hops(HOPS - 1 - WARM)
    except RuntimeError as why:
        frame, trace = "", why.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            frame = f"{Path(file).name}:{trace.tb_lineno}" if "medidiff" in file else frame
            trace = trace.tb_next
        return True, f"{frame}: {str(why).splitlines()[0]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False, ""


def clock(make: Callable[[], Walk], repeats: int) -> tuple[float, float]:
    """Milliseconds a network call by the clock, the GPU's work included; calls a hop."""
    times, calls = [], 0
    for _ in range(repeats):
        run = make()
        run.hops(WARM)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        calls = run.hops(HOPS - 1 - WARM)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin) / calls)
    return statistics.median(times), calls / (HOPS - 1 - WARM)


def busy(make: Callable[[], Walk]) -> float:
    """Milliseconds of the GPU's work a network call."""
    run = make()
    run.hops(WARM)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        calls = run.hops(HOPS - 1 - WARM)
        torch.cuda.synchronize()
    return sum(row.self_device_time_total for row in seen.key_averages()) / 1e3 / calls


def calls_in_a_row(network: Graphed, inputs: tuple[Tensor, Tensor], count: int = 14) -> float:
    """Milliseconds of a network call by the clock, without a pause between the calls."""
    times = []
    for _ in range(3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(count):
            network(*inputs)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin) / count)
    return statistics.median(times)


def cost(
    sampler: AnySampler, network: Graphed, in_a_row: float, like: Tensor, repeats: int
) -> Cost:
    clean, eps = torch.tanh(torch.randn_like(like)), torch.randn_like(like)
    stored = Stored(Estimate(clean, eps, torch.rand_like(like)))

    def own() -> Walk:
        return Walk(sampler, counted(stored), like)

    def whole() -> Walk:
        denoise = Denoiser(network, Eps())
        return Walk(sampler, counted(lambda x, level: with_spread(denoise(x, level))), like)

    def with_spread(said: Estimate) -> Estimate:
        return Estimate(said.clean, said.eps, stored.said.spread)

    found, where = waits(own)
    ms, calls = clock(own, repeats)
    beside = clock(whole, max(1, repeats // 4))[0] - in_a_row
    return Cost(ms, busy(own), beside, calls, found, where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    described = NETWORKS[0]
    network = described.ours().to("cuda", torch.bfloat16, memory_format=described.last).eval()
    recorded = Graphed(network)
    like, label = described.inputs(torch.float32)
    with torch.no_grad():
        alone = call_time(recorded, (like.bfloat16(), label), 20)
        in_a_row = calls_in_a_row(recorded, (like.bfloat16(), label))
        noise = KeyedNoise(0, members(len(like)))
        facts: dict[str, object] = {
            "network": f"2d256, batch {len(like)}, recorded, bfloat16",
            "network call ms": alone,
            "network call in a row ms": in_a_row,
            "one noise field ms": call_time(lambda: noise(like, 1), (), 20),  # type: ignore[arg-type]
            "samplers": {},
        }
        rows = []
        for name in options.only:
            found = cost(SAMPLERS[name], recorded, in_a_row, like, options.repeats)
            share = 100 * found.gpu_ms / alone
            rows.append(Measured(name, share, "% of a call", "lower", {}, GOAL))
            facts["samplers"][name] = vars(found) | {  # type: ignore[index]
                "adaptive": name in ADAPTIVE,
                "clock %": 100 * found.clock_ms / alone,
                "beside %": 100 * found.beside_ms / alone,
            }
            print(
                f"{name:<26} gpu {found.gpu_ms:6.3f} ms {share:5.2f} %  "
                f"clock {found.clock_ms:6.3f} ms  beside {found.beside_ms:6.3f} ms  "
                f"calls a hop {found.calls_a_hop:.1f}  waits {found.synchronises} {found.where}",
                flush=True,
            )
            write_result("core_speed", rows, facts=facts, folder=options.out)


if __name__ == "__main__":
    main()
