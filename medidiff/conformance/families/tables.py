"""What the families of discrete tables share: their betas, their models, the walk and its check."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medidiff.conformance.recordings import Case, Unsupported, check_agrees, check_levels
from medidiff.diffusion.betas import AnyBetas, CosineBetas, LinearBetas, RescaledLinearBetas
from medidiff.diffusion.levels import CLEAN, Denoise, Estimate, NoiseLevel, eps_of
from medidiff.diffusion.sampling import Sampler, walk
from medidiff.diffusion.schedules import Discrete
from medidiff.diffusion.variance import GammaTable
from medidiff.types import Image, Tensor


def table_of(name: str, steps: int = 1000) -> Discrete:
    """The process of `steps` steps by the recordings' name of its betas."""
    first = name.split()[0].split("_")[0]
    betas: dict[str, AnyBetas] = {
        "linear": LinearBetas(),
        "cosine": CosineBetas(),
        "short100": RescaledLinearBetas(),
    }
    if first not in betas:
        raise Unsupported(f"no betas are named {name!r} in these recordings' sources")
    return Discrete(betas=betas[first], steps=steps)


def levels_at(schedule: Discrete, steps: Sequence[int]) -> list[NoiseLevel]:
    """The levels after these steps (rising), noisiest first, then the clean one."""
    return [*(schedule.after(step) for step in reversed(steps)), CLEAN]


def gamma_of(values: Tensor) -> GammaTable:
    """A table of Gamma_n, n = 0 .. N, whose entry 0 is unused."""
    steps = len(values) - 1
    return GammaTable(torch.arange(1, steps + 1, dtype=torch.float64) / steps, values[1:])


def with_error(denoise: Denoise, size: float) -> Denoise:
    """A model that is wrong by size * sin(3 x) in its noise."""

    def wrong(x: Image, level: NoiseLevel) -> Estimate:
        eps = denoise(x, level).eps + size * (3 * x).sin()
        return Estimate(clean_of(x, eps, level), eps)

    return wrong


def clean_of(x: Image, eps: Image, level: NoiseLevel) -> Image:
    """The clean image that a noise stands for: x and eps change places in x = alpha c + sigma e."""
    return eps_of(x, eps, NoiseLevel(level.t, level.sigma, level.alpha))


def check_betas(case: Case, schedule: Discrete) -> None:
    """Compare our betas with the recorded ones, with or without an entry for step 0."""
    if "betas" in case:
        theirs = case["betas"]
        ours = schedule.betas(schedule.steps)
        if len(theirs) == schedule.steps + 1:
            theirs = theirs[1:]
        check_agrees("betas", ours, theirs, 1e-10)


def states_of(
    case: Case, denoise: Denoise, levels: list[NoiseLevel], sampler: Sampler
) -> list[Image]:
    """The states of our walk from the recorded start with the recorded noise; levels compared."""
    check_levels(levels[:-1], case)
    x = case["x_init"]
    tape = case.tape(len(levels) - 1)
    return [x, *(state for _, state in walk(denoise, x, levels, sampler, tape))]
