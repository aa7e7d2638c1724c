"""DPM-Solver-12 and -23: step sizes chosen by an error estimate. Lu et al. 2022, appendix C."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, chosen, chosen_level
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.exponential import Hop
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.schedules import Schedule
from medidiff.diffusion.spacing_tables import DEAD_SIGNAL
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class AdaptiveSteps:
    """How large a step may be. Lu et al. 2022 (arXiv:2206.00927), algorithm C.1.

    A step is taken if the root mean square of (high - low) / max(absolute, relative |x|) is at
    most 1.
    """

    absolute: float = 0.0078
    """Error that is always allowed, in network units (the paper's, one grey value of 256)."""
    relative: float = 0.05
    """Error that is allowed as a part of the image's own value."""
    first: float = 0.05
    """First step in half-log-SNR."""
    safety: float = 0.9
    """What a new step is of the one that the error allows (theta)."""
    nearness: float = 1e-5
    """How close to the last time is there."""
    error: Literal["each", "batch-max"] = "each"
    """each: every image has its own steps, and a batch equals its members one by one; batch-max:
    the worst image decides for all, as in the authors' code."""

    def __post_init__(self) -> None:
        if not (self.absolute > 0 and self.first > 0 and 0 < self.safety < 1):
            raise ValueError(
                "adaptive steps need absolute > 0, first > 0 and 0 < safety < 1, got "
                f"{self.absolute}, {self.first}, {self.safety}"
            )


def sample_adaptive(
    denoise: Denoise,
    x: Image,
    schedule: Schedule,
    sampler: DPMSolver,
    start: NoiseLevel | None = None,
    steps: AdaptiveSteps | None = None,
) -> Image:
    """Walk noise to an image with steps chosen by their error, then one plain denoise.

    Shapes: x is (batch, channel, *space), of level `start` (or the schedule's noisiest).
    Errors: ValueError if the sampler is of order 1.
    Source: Lu et al. 2022 (arXiv:2206.00927), algorithm C.1; the last hop is the driver's own.
    """
    last = start or schedule(torch.tensor(schedule.t_max, dtype=torch.float64))
    for level, state in walk_adaptive(denoise, x, schedule, sampler, last, steps=steps):
        last, x = level, state
    return denoise(x, last).clean


def walk_adaptive(
    denoise: Denoise,
    x: Image,
    schedule: Schedule,
    sampler: DPMSolver,
    start: NoiseLevel | None = None,
    end: float | None = None,
    steps: AdaptiveSteps | None = None,
) -> Iterator[tuple[NoiseLevel, Image]]:
    """The states after each try, with the level (batch,) of every image, down to time `end`.

    Pure noise is left by one first-order hop to where the signal wakes (`DEAD_SIGNAL`).
    This is the one walk that waits for the device: a step's size depends on the images.
    """
    steps = steps or AdaptiveSteps()
    now = (start or schedule(torch.tensor(schedule.t_max, dtype=torch.float64))).expand(len(x))
    finish = torch.full_like(now.t, schedule.t_min if end is None else end)
    if bool((now.alpha == 0).any()):
        x, now = _woken(denoise, x, now, schedule)
        yield now, x
    goal = schedule(finish).half_log_snr
    before, h = x, torch.full_like(goal, steps.first)
    index = 0
    while bool(((now.t - finish).abs() > steps.nearness).any()):
        left = (goal - now.half_log_snr).clamp_min(0)
        h = torch.minimum(h, left)
        to = _later(schedule, now, h)
        at = Step(index, index + 1, x, None, schedule)
        low, high = sampler.embedded_step(denoise, x, now, to, at)
        error = _error(low, high, before, steps)
        taken = error <= 1
        x, before = chosen(taken, high, x), chosen(taken, low, before)
        now = chosen_level(taken, to, now)
        grown = steps.safety * h * error.pow(-1 / sampler.order)
        h = torch.minimum(grown, goal - now.half_log_snr).clamp_min(0)
        index += 1
        yield now, x


def _woken(
    denoise: Denoise, x: Image, now: NoiseLevel, schedule: Schedule
) -> tuple[Image, NoiseLevel]:
    awake = now.half_log_snr.clamp_min(math.log(DEAD_SIGNAL))
    to = schedule(schedule.time_of(awake))
    return Hop(now, to).first_order(x, denoise(x, now)), to


def _later(schedule: Schedule, now: NoiseLevel, h: Tensor) -> NoiseLevel:
    """The level h further in half-log-SNR; where h is 0 it is `now` itself, to the last bit."""
    to = schedule(schedule.time_of(now.half_log_snr + h))
    return chosen_level(h > 0, to, now)


def _error(low: Image, high: Image, before: Image, steps: AdaptiveSteps) -> Tensor:
    allowed = (steps.relative * torch.maximum(low.abs(), before.abs())).clamp_min(steps.absolute)
    error = ((high - low) / allowed).flatten(1).double().square().mean(1).sqrt().cpu()
    return error.max().expand_as(error) if steps.error == "batch-max" else error
