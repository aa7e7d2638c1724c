"""The schedulers of diffusers and MONAI as functions of the same noise and the same oracle.

A scheduler is asked for as many steps as its list of timesteps allows within the calls, and the
oracle answers at the timestep that the scheduler names, as a network would: a fractional one stands
between two steps of the table in the logarithm of the noise ratio, which is how these schedulers
find it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch

from medidiff.diffusion import Denoise, NoiseLevel, Schedule
from medidiff.types import Image

TABLE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Peer:
    """One scheduler with its options."""

    package: str
    scheduler: str
    variant: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.package} {self.scheduler.removesuffix('Scheduler')} {self.variant}".strip()

    def make(self) -> Any:
        if self.package == "monai":
            made = getattr(importlib.import_module("monai.networks.schedulers"), self.scheduler)
            return made(schedule="linear_beta", **TABLE, **self.options)
        made = getattr(importlib.import_module("diffusers"), self.scheduler)
        return made(beta_schedule="linear", **TABLE, **self.options)

    def run(self, oracle: Denoise, schedule: Schedule, noise: Image, steps: int) -> Image:
        """The images that `steps` of the scheduler make from a unit noise."""
        scheduler = self.make()
        scheduler.set_timesteps(steps)
        x = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
        draws = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            draws["generator"] = torch.Generator().manual_seed(0)
        for timestep in scheduler.timesteps:
            level = level_at(schedule, float(timestep))
            scaled = x
            if hasattr(scheduler, "scale_model_input"):
                scaled = scheduler.scale_model_input(x, timestep)
            eps = oracle(scaled, level).eps
            if self.package == "monai":
                x = scheduler.step(eps, int(timestep), x, **draws)[0]
            else:
                x = scheduler.step(eps, timestep, x, return_dict=False, **draws)[0]
        return x

    def steps_within(self, calls: int) -> int | None:
        """The most steps that need no more calls; None where there are none."""
        for steps in range(calls, 0, -1):
            scheduler = self.make()
            try:
                scheduler.set_timesteps(steps)
            except ValueError:
                return None
            if len(scheduler.timesteps) <= calls:
                return steps
        return None


def level_at(schedule: Schedule, timestep: float) -> NoiseLevel:
    """The level of DDPM's index, fractional ones by the logarithm of the noise ratio."""
    below = int(timestep)
    first = schedule(torch.tensor((below + 1) / 1000, dtype=torch.float64))
    if timestep == below:
        return first
    second = schedule(torch.tensor((below + 2) / 1000, dtype=torch.float64))
    between = torch.lerp(first.half_log_snr, second.half_log_snr, timestep - below)
    return schedule(schedule.time_of(between))


def peers() -> tuple[list[Peer], list[str]]:
    """All schedulers of the packages at hand, and what is not at hand."""
    found, missing = [], []
    for package, make in (("diffusers", _diffusers), ("monai", _monai)):
        try:
            importlib.import_module(package)
            metadata.version(package)
        except ImportError:
            missing.append(f"{package} is not installed: its schedulers are left out")
        else:
            found += make()
    return found, missing


def _diffusers() -> list[Peer]:
    """Left out: EDM's schedulers (another preconditioning), IPNDM (a schedule of its own), the
    Brownian DPM-SDE (it needs torchsde), and those of one model each."""
    importlib.import_module("diffusers.utils.logging").set_verbosity_error()
    final = {"final_sigmas_type": "zero", "timestep_spacing": "trailing"}
    made = [
        *_spaced("DDPMScheduler", clip_sample=False),
        *_spaced("DDIMScheduler", clip_sample=False, set_alpha_to_one=True),
        *_spaced("EulerDiscreteScheduler"),
        *_spaced("EulerAncestralDiscreteScheduler"),
        *_spaced("HeunDiscreteScheduler"),
        *_spaced("LMSDiscreteScheduler"),
        *_spaced("KDPM2DiscreteScheduler"),
        *_spaced("KDPM2AncestralDiscreteScheduler"),
        *_spaced("PNDMScheduler", set_alpha_to_one=True),
        *_spaced("PNDMScheduler", "plms", set_alpha_to_one=True, skip_prk_steps=True),
        *_spaced("SASolverScheduler"),
    ]
    for scheduler in ("Euler", "Heun", "LMS"):
        name = f"{scheduler}DiscreteScheduler"
        made.append(Peer("diffusers", name, "karras", {"use_karras_sigmas": True}))
    multistep: dict[str, dict[str, Callable | dict]] = {
        "DPMSolverMultistepScheduler": {
            "": {},
            "order 3": {"solver_order": 3},
            "heun": {"solver_type": "heun"},
            "sde": {"algorithm_type": "sde-dpmsolver++"},
            "euler last": {"euler_at_final": True},
        },
        "DPMSolverSinglestepScheduler": {"": {}, "order 3": {"solver_order": 3}},
        "UniPCMultistepScheduler": {
            "": {},
            "order 3": {"solver_order": 3},
            "bh1": {"solver_type": "bh1"},
        },
        "DEISMultistepScheduler": {"": {}, "order 3": {"solver_order": 3}},
    }
    for name, variants in multistep.items():
        for variant, options in variants.items():
            made += [
                Peer("diffusers", name, f"{variant} trailing".strip(), {**final, **options}),
                Peer(
                    "diffusers",
                    name,
                    f"{variant} karras".strip(),
                    {**final, **options, "use_karras_sigmas": True},
                ),
            ]
            if name == "DPMSolverMultistepScheduler":
                lu = {**final, **options, "use_lu_lambdas": True}
                made.append(Peer("diffusers", name, f"{variant} log-snr".strip(), lu))
                made.append(Peer("diffusers", name, f"{variant} linspace".strip(), {**options}))
    return [_known(peer) for peer in made]


def _monai() -> list[Peer]:
    return [
        Peer("monai", "DDPMScheduler", options={"clip_sample": False}),
        Peer("monai", "DDIMScheduler", options={"clip_sample": False}),
        Peer("monai", "PNDMScheduler", options={"set_alpha_to_one": True}),
        Peer(
            "monai",
            "PNDMScheduler",
            "plms",
            {"set_alpha_to_one": True, "skip_prk_steps": True},
        ),
    ]


def _spaced(scheduler: str, variant: str = "", **options: object) -> list[Peer]:
    return [
        Peer(
            "diffusers",
            scheduler,
            f"{variant} {spacing}".strip(),
            {"timestep_spacing": spacing, **options},
        )
        for spacing in SPACINGS
    ]


def _known(peer: Peer) -> Peer:
    """The peer without options that its scheduler does not have."""
    scheduler = getattr(importlib.import_module("diffusers"), peer.scheduler)
    names = inspect.signature(scheduler.__init__).parameters
    options = {key: value for key, value in peer.options.items() if key in names}
    return Peer(peer.package, peer.scheduler, peer.variant, options)
