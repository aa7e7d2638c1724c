"""MONAI's schedulers as our schedule and target, and back.

Their step n of 0 .. T - 1 stands at our t = (n + 1) / T, so a network of theirs is told n where
ours is told 1000 t = n + 1: the weights of the first layer take the difference in
(`networks.interop_options.relabelled`). Their rectified flow predicts clean - eps, and ours the
opposite.
Source: MONAI 1.6 (github.com/Project-MONAI/MONAI), networks/schedulers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medidiff.diffusion import (
    AnySchedule,
    AnyTarget,
    Clean,
    Cosine,
    CosineBetas,
    Discrete,
    Eps,
    Flow,
    FlowVelocity,
    LinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
    V,
)
from medidiff.errors import ModelError
from medidiff.jobs.bundles.configs import Bundle, Definition
from medidiff.spec import ModelSpec

STEPS = 1000
"""Steps of a process whose labels a network of ours can take: it is told 1000 t."""
_TARGETS: dict[str, AnyTarget] = {"epsilon": Eps(), "sample": Clean(), "v_prediction": V()}
_MODULE = "monai.networks.schedulers"


@dataclass(frozen=True)
class Meaning:
    """What a network's prediction means, as a scheduler definition says."""

    schedule: AnySchedule
    target: AnyTarget
    label: int
    """How much larger the label is that ours is told at the same noise."""
    negated: bool
    """Whether theirs predicts the opposite."""
    clipped: bool
    """Whether they clip the clean estimate."""


def meaning(bundle: Bundle, scheduler: Definition) -> Meaning:
    """Schedule and target of a scheduler definition.

    Errors: ModelError for one that has no counterpart here.
    """

    def argument(name: str, otherwise: Any) -> Any:
        return bundle.argument(scheduler, name, otherwise)

    steps = argument("num_train_timesteps", 1000)
    if steps != STEPS:
        raise ModelError(
            f"{scheduler.id}.num_train_timesteps is {steps}: networks here are told 1000 t, so "
            f"only a process of {STEPS} steps can be imported"
        )
    if scheduler.kind == "RFlowScheduler":
        return Meaning(Flow(), FlowVelocity(input="as-it-is"), 0, negated=True, clipped=False)
    predicted = argument("prediction_type", "epsilon")
    if predicted not in _TARGETS:
        raise ModelError(f"{scheduler.id}.prediction_type {predicted!r} is not known here")
    clips = scheduler.kind in ("DDPMScheduler", "DDIMScheduler") and argument("clip_sample", True)
    schedule = Discrete(betas=_betas(bundle, scheduler), steps=STEPS)
    return Meaning(schedule, _TARGETS[predicted], 1, negated=False, clipped=bool(clips))


def _betas(bundle: Bundle, scheduler: Definition) -> Any:
    """The table of betas; `beta_schedule` and names without "_beta" are GenerativeModels'."""
    old = bundle.argument(scheduler, "beta_schedule", "linear_beta")
    name = str(bundle.argument(scheduler, "schedule", old)).removesuffix("_beta")
    ends = [
        float(bundle.argument(scheduler, end, otherwise))
        for end, otherwise in (("beta_start", 1e-4), ("beta_end", 2e-2))
    ]
    if name == "linear":
        return LinearBetas(beta_start=ends[0], beta_end=ends[1])
    if name == "scaled_linear":
        return ScaledLinearBetas(beta_start=ends[0], beta_end=ends[1])
    if name == "sigmoid":
        width = float(bundle.argument(scheduler, "sig_range", 6))
        return SigmoidBetas(beta_start=ends[0], beta_end=ends[1], width=width)
    if name == "cosine":
        return CosineBetas(offset=float(bundle.argument(scheduler, "s", 8e-3)))
    raise ModelError(
        f"{scheduler.id}.schedule {name!r} is not known here; known are linear_beta, "
        "scaled_linear_beta, sigmoid_beta and cosine"
    )


def scheduler_of(spec: ModelSpec) -> dict[str, Any]:
    """The arguments of the MONAI scheduler of a model, `_target_` included, the number of sampling
    steps left open.

    Deterministic DDIM on the steps 999, 979, ... (for 50): of MONAI's samplers this one is right,
    if the steps divide 1000 and `steps_offset` is 1000 / steps - 1, for only then are the times it
    visits those that its step assumes.
    Errors: ModelError if MONAI has no scheduler for the model's schedule or target.
    """
    if isinstance(spec.schedule, Flow) and isinstance(spec.target, FlowVelocity):
        if spec.target.input != "as-it-is":
            raise ModelError(
                "MONAI gives a rectified-flow network its image as it is: a model can be exported "
                "that was trained with diffusion.target.input: as-it-is"
            )
        return {"_target_": f"{_MODULE}.RFlowScheduler", "use_discrete_timesteps": False}
    predicted = next((name for name in _TARGETS if _TARGETS[name].kind == spec.target.kind), None)
    if predicted is None:
        raise ModelError(
            f"MONAI's schedulers have no prediction like the target {spec.target.kind!r}; those of "
            "kind eps, clean and v (or flow-velocity on flow) can be exported"
        )
    low, high = spec.intensity.range
    clip = {"clip_sample": False}
    if spec.sampling.clip != "none" and spec.codec.kind == "identity":  # latents have no range
        clip = {"clip_sample": True, "clip_sample_min": low, "clip_sample_max": high}
    return {
        "_target_": f"{_MODULE}.DDIMScheduler",
        "num_train_timesteps": STEPS,
        **_schedule_arguments(spec.schedule),
        "prediction_type": predicted,
        "set_alpha_to_one": True,
        **clip,
    }


def _schedule_arguments(schedule: AnySchedule) -> dict[str, Any]:
    if isinstance(schedule, Cosine):  # theirs is its table, with the last betas cut at 0.999
        return {"schedule": "cosine", "s": schedule.offset}
    betas = schedule.betas if isinstance(schedule, Discrete) and schedule.steps == STEPS else None
    if isinstance(betas, LinearBetas | ScaledLinearBetas | SigmoidBetas):
        name = betas.kind.replace("-", "_") + "_beta"
        width = {"sig_range": betas.width} if isinstance(betas, SigmoidBetas) else {}
        ends = {"beta_start": betas.beta_start, "beta_end": betas.beta_end}
        return {"schedule": name, **ends, **width}
    if isinstance(betas, CosineBetas) and betas.max_beta == 0.999:
        return {"schedule": "cosine", "s": betas.offset}
    raise ModelError(
        f"MONAI's schedulers have no schedule like {schedule.kind!r}; discrete ones of {STEPS} "
        "steps with linear, scaled-linear, sigmoid or cosine betas, cosine and flow can be exported"
    )
