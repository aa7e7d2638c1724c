"""DDRM's steps in the spectral space, and one conditioning step of DPS with PiGDM's gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medidiff.conformance.families.tables import levels_at, table_of
from medidiff.conformance.recordings import Case, Unsupported, check_agrees, check_states
from medidiff.diffusion.levels import Denoise, NoiseLevel
from medidiff.diffusion.noise import TapeNoise
from medidiff.diffusion.sampling import Step, walk
from medidiff.inverse import DDRM, DPS, DDRMSampler, DPSSampler, Gaussian, Problem
from medidiff.inverse.pigdm import guidance
from medidiff.physics import DenseOperator, Mask
from medidiff.types import Image, Tensor

PIGDM_NOISE = 0.02
"""The measurement noise of the recorded gradient, in its note only."""


def replay(case: Case) -> None:
    """One family's recordings by their sampler."""
    if case.sampler == "ddrm":
        return _ddrm(case)
    if case.sampler == "dps":
        return _dps(case)
    raise Unsupported(f"no replay for sampler {case.sampler}")


def _ddrm(case: Case) -> None:
    """`efficient_generalized_steps` from its start on, by the recorded draws."""
    meta = case.meta
    if "mask" not in case:
        raise Unsupported("only recordings of inpainting hold what their operator is")
    mask = case["mask"]
    # the recorded coefficients are those that are kept, channel after channel
    y = torch.zeros_like(case["x_init"])
    y[:, mask > 0] = case["y"]
    std = torch.tensor(meta["sigma_0"], dtype=torch.float64)
    etas = DDRM(eta=meta["etaA"], eta_b=meta["etaB"], eta_missing=meta["etaC"])
    sampler = DDRMSampler(Mask(mask), y, std, etas)
    levels = levels_at(
        table_of(meta.get("schedule", "linear")), [int(t) + 1 for t in case["timesteps"]]
    )
    draws, fields = Draws(case), []
    for to in levels[1:]:
        fields.append([_field(mask, float(to.noise_ratio), meta["sigma_0"], draws, y)])
    x = case["x_init"]
    states = [x, *(state for _, state in walk(case.mixture, x, levels, sampler, TapeNoise(fields)))]
    check_states(states, case)


class Draws:
    """The original's draws in their order: recorded, or by numpy's generator of the seed."""

    def __init__(self, case: Case) -> None:
        self.recorded: Iterator[Tensor] | None = None
        if "noise_0" in case:
            count = sum(name.startswith("noise_") for name in case.arrays)
            self.recorded = (case[f"noise_{index}"] for index in range(count))
        else:
            self.generator = np.random.default_rng(case.meta["noise_seed"])

    def next(self, *shape: int) -> Tensor:
        """The next one."""
        if self.recorded is not None:
            return next(self.recorded)
        return torch.from_numpy(self.generator.standard_normal(shape))


def _field(mask: Tensor, ratio: float, noise_std: float, draws: Draws, like: Image) -> Image:
    """A hop's three draws as one field: all coefficients, then those that are less noisy than y,
    then all measured ones, of which the noisier count."""
    batch, kept = len(like), int(mask.sum())
    coefficients = draws.next(batch, mask.numel())
    after, before = ratio < noise_std, ratio > noise_std
    seen = coefficients[:, :kept].clone()
    quiet = draws.next(batch, kept if after else 0)
    noisy = draws.next(batch, kept)
    seen = quiet if after else noisy if before else seen
    field = torch.empty_like(like)
    field[:, mask > 0], field[:, mask == 0] = seen, coefficients[:, kept:]
    return field


@dataclass(frozen=True, eq=False)
class _Given:
    """A sampler whose step is known: what the recording holds is what comes after it."""

    moved: Image

    @property
    def finishes(self) -> bool:
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        return self.moved, memory


def _dps(case: Case) -> None:
    """`PosteriorSampling.conditioning`: one push after a step that is given."""
    meta, schedule = case.meta, table_of(case.meta["alphas_cumprod"])
    x, y = case["x_t"], case["y"]
    now, to = (schedule.after(int(meta["t"]) + offset) for offset in (1, 0))
    operator = DenseOperator(case["A"], tuple(x.shape[1:]))
    options = DPS(step_size=meta["scale"], norms="batch")
    problem = Problem(operator, y, Gaussian(PIGDM_NOISE))
    sampler = DPSSampler(_Given(case["x_prev_uncond"]), problem, options)
    check_agrees("clean estimate", case.mixture(x, now).clean, case["x0_hat"])
    check_agrees("norm", sampler.distances(case["x0_hat"])[0], case["norm"])
    moved, _ = sampler.step(case.mixture, x, now, to, None, Step(0, 1, x, None, None))
    check_agrees("pushed step", moved, case["x_prev_cond"])
    if "pigdm_grad" in case:
        check_agrees("PiGDM's gradient", _pigdm(case, problem, now), case["pigdm_grad"])


def _pigdm(case: Case, problem: Problem, now: NoiseLevel) -> Image:
    return guidance(case.mixture, problem, case["x_t"], now)[1]
