"""luping-liu/PNDM: DDIM, S-PNDM, F-PNDM and the classical method FON on a table of betas.

The original looks alpha-bar up one place too far (its table has no entry for the clean image), so
its label n is our step n + 2 and it ends at our step 1. A label halfway is rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from medidiff.conformance.families.dpm import Heard
from medidiff.conformance.recordings import Case, Unsupported, check_levels, check_states
from medidiff.diffusion.betas import CosineBetas
from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.samplers.multistep import ADAMS, PNDM, combined, transfer
from medidiff.diffusion.sampling import Sampler, Step, walk
from medidiff.diffusion.schedules import Discrete
from medidiff.types import Image, Tensor, Times

SAMPLERS: dict[str, Sampler] = {
    "DDIM": DDIM(),
    "S-PNDM": PNDM(order=2, start="heun"),
    "F-PNDM": PNDM(order=4, start="runge-kutta"),
}


@dataclass(frozen=True)
class WholeSteps:
    """A discrete schedule whose times are rounded down to whole steps, as the original's labels."""

    schedule: Discrete

    @property
    def t_min(self) -> float:
        """The first step."""
        return self.schedule.t_min

    @property
    def t_max(self) -> float:
        """The last step."""
        return self.schedule.t_max

    def __call__(self, t: Times) -> NoiseLevel:
        steps = self.schedule.steps
        return self.schedule((torch.as_tensor(t).double() * steps + 1e-6).floor() / steps)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The schedule's own."""
        return self.schedule.time_of(half_log_snr)

    def drift(self, t: Times) -> Tensor:
        """The schedule's own."""
        return self.schedule.drift(t)

    def diffusion(self, t: Times) -> Tensor:
        """The schedule's own."""
        return self.schedule.diffusion(t)


@dataclass(frozen=True)
class ClassicalFON:
    """The paper's baseline FON, which nobody wants: Runge-Kutta, then Adams-Bashforth, in time.

    The slope is that of one DDIM step of the table, taken from the hop's beginning at every stage.
    """

    steps: int

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, tuple[Image, ...]]:
        """x plus the slope times the steps that are passed."""
        below, length = at.level(t=now.t - 1 / self.steps), (now.t - to.t) * self.steps
        middle = at.level(t=(now.t + to.t) / 2)

        def slope(where: Image, level: NoiseLevel) -> Image:
            here = denoise(where, level)
            return transfer(x, here, here.eps, now, below) - x

        first = slope(x, now)
        known = (first, *(memory or ()))[:4]
        if len(known) == 4:
            return x + scale(length, x) * combined(ADAMS[3], known), known
        second = slope(x + scale(length / 2, x) * first, middle)
        third = slope(x + scale(length / 2, x) * second, middle)
        fourth = slope(x + scale(length, x) * third, to)
        mean = (first + 2 * second + 2 * third + fourth) / 6
        return x + scale(length, x) * mean, known


def replay(case: Case) -> None:
    """The states before every hop and the result, at levels of our own making."""
    schedule = WholeSteps(discrete(case.meta["schedule"]))
    steps = schedule.schedule.steps
    count = case.meta.get("steps", len(case["timesteps"]))
    labels = [*reversed(range(0, steps, steps // count)), -1]
    times = torch.tensor(labels, dtype=torch.float64).add(2) / steps
    levels = [schedule(t) for t in times]
    sampler = ClassicalFON(steps) if case.sampler == "FON" else SAMPLERS.get(case.sampler)
    if sampler is None:
        raise Unsupported(f"method {case.sampler}")
    denoise = Heard(case.mixture)
    states = [case["x_init"]]
    states += [x for _, x in walk(denoise, states[0], levels, sampler, None, schedule)]
    check_levels(denoise.levels, case)
    check_states(states, case)


def discrete(name: str) -> Discrete:
    """The table of betas that the original calls by this name."""
    tables: dict[str, Discrete] = {"linear": Discrete(), "cosine": Discrete(betas=CosineBetas())}
    if name not in tables:
        raise Unsupported(f"schedule {name}")
    return tables[name]
