"""wl-zhao/UniPC: multistep predictor and corrector, on dpm-solver's schedules and grids.

The original's states are the corrected ones; ours come out of a hop uncorrected, for the
correction needs the call that the next hop makes. They are compared after it.
"""

from __future__ import annotations

from typing import Any

from medidiff.conformance.families.dpm import (
    Heard,
    last_time,
    levels_of,
    schedule_of,
    spacing_of,
)
from medidiff.conformance.recordings import Case, Unsupported, check_levels, check_states
from medidiff.diffusion.denoiser import thresholded
from medidiff.diffusion.levels import Denoise, NoiseLevel
from medidiff.diffusion.samplers.unipc import UniPC, Weights
from medidiff.diffusion.sampling import Step, walk
from medidiff.types import Image

WEIGHTS: dict[str, Weights] = {"bh1": "bh1", "bh2": "bh2", "vary_coeff": "varying-code"}


class Watched:
    """UniPC, with the corrected image at the beginning of every hop."""

    finishes = False

    def __init__(self, sampler: UniPC) -> None:
        self.sampler = sampler
        self.corrected: list[Image] = []

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """UniPC's own step."""
        x, memory = self.sampler.step(denoise, x, now, to, memory, at)
        self.corrected.append(memory.x)
        return x, memory


def replay(case: Case) -> None:
    """The recorded states, at levels of our own making."""
    meta = case.meta
    if meta["variant"] not in WEIGHTS:
        raise Unsupported(f"variant {meta['variant']}")
    schedule = schedule_of(meta["schedule"])
    last = last_time(schedule)
    end = last * meta.get("t_end", 1e-3)
    levels = levels_of(schedule, spacing_of(meta["skip_type"], end), meta["steps"])
    sampler = UniPC(
        order=meta["order"],
        basis="clean" if meta["predict_x0"] else "eps",
        weights=WEIGHTS[meta["variant"]],
        lower_order_final=meta["lower_order_final"],
    )
    watched = Watched(sampler)
    denoise = Heard(thresholded(case.mixture) if meta.get("thresholding") else case.mixture)
    x = case["x_init"]
    for _, state in walk(denoise, x, levels, watched, None, schedule):
        x = state
    check_levels(denoise.levels, case)
    check_states([*watched.corrected, x], case)
