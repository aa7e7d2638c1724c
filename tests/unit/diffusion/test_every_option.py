"""Every option of a sampler, a spacing, a schedule does something: changed alone, it changes what
is drawn, which levels are visited, or how noisy they are.

Another value is found by the option's type; `BESIDES` says what has to be set for it to matter.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from medidiff.diffusion import (
    AnySampler,
    AnySchedule,
    AnySpacing,
    Discrete,
    Estimate,
    KeyedNoise,
    NoiseLevel,
    UniformLogSNR,
    VPLinear,
    path,
    sample,
    scale,
)
from medidiff.diffusion.betas import AnyBetas
from medidiff.types import Image

CHURN = {"churn": 2.0}
SHORT = {"steps": 3}
OPTIMAL = {"kind": "optimal", "source": "sn"}
# (kind, option) -> what is set besides, and the value if its type does not give one
BESIDES: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {
    ("ddpm", "variance"): ({}, "large"),
    ("ddim", "variance"): ({}, OPTIMAL),
    ("ddim", "last_noise"): ({"eta": 1.0}, 1e-4),
    ("ddpm", "last_noise"): ({}, 1e-4),
    ("heun", "churn_min"): (CHURN, 1.0),
    ("heun", "churn_max"): (CHURN, 1.0),
    ("heun", "noise_scale"): (CHURN, 1.5),
    ("dpm-2", "churn_min"): (CHURN, 1.0),
    ("dpm-2", "churn_max"): (CHURN, 1.0),
    ("dpm-2", "noise_scale"): (CHURN, 1.5),
    ("dpm-solver++", "curvature"): ({"order": 3}, "half"),
    ("given-steps", "steps"): ({"steps": (100, 300, 600, 900)}, (100, 300, 500, 900)),
    ("given-levels", "values"): ({}, (30.0, 8.0, 1.0, 0.1)),
    ("given-steps", "table"): ({"steps": (1, 3, 6, 9), "table": 10}, 20),
    ("predictor-corrector", "discretisation"): ({"predictor": "euler-maruyama"}, "fixed"),
    ("dpm-solver++", "lower_order_below"): ({"order": 2}, 1),
    ("deis", "lower_order_below"): ({"order": 2}, 9),
    ("respaced-steps", "sections"): ({}, (1, 3)),
    ("annealed-langevin", "step_size"): (SHORT, 1e-5),
    ("annealed-langevin", "sigma_last"): (SHORT, 0.02),
    ("annealed-langevin", "steps"): (SHORT, 4),
    ("annealed-langevin", "convention"): (SHORT, "paper"),
    ("annealed-langevin", "last"): (SHORT, "noisy"),
    ("annealed-langevin", "settled"): ({"steps": 3, "step_size": 5e-5}, 1.0),
}
UNIONS = {"sampler": AnySampler, "spacing": AnySpacing, "schedule": AnySchedule, "betas": AnyBetas}


def options() -> list[tuple[str, str, str]]:
    found = []
    for union, members in UNIONS.items():
        for member in get_args(members):
            for field in dataclasses.fields(member):
                if field.name not in ("kind", "betas"):  # betas: a choice with tests of its own
                    found.append((union, kind_of(member), field.name))
    return found


def kind_of(member: Any) -> str:
    return next(field.default for field in dataclasses.fields(member) if field.name == "kind")


def member_of(union: str, kind: str) -> Any:
    return next(each for each in get_args(UNIONS[union]) if kind_of(each) == kind)


def others(member: Any, name: str) -> list[Any]:
    """Values other than the default, by the option's type."""
    hint = typing.get_type_hints(member)[name]
    default = next(field.default for field in dataclasses.fields(member) if field.name == name)
    choices = [get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    if choices:
        return [value for value in choices[0] if value != default]
    if hint is bool:
        return [not default]
    if hint is int:
        return [default + 1, max(1, default - 1)]
    number = default if isinstance(default, float | int) else 0.05
    return [number * 1.5, number * 0.5, number + 0.05]


class Likely:
    """The exact denoiser of a Gaussian, with E[eps^2 | x] as its spread."""

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        alpha, sigma = scale(level.alpha, x), scale(level.sigma, x)
        power = alpha**2 * 0.3 + sigma**2
        clean = 0.2 + alpha * 0.3 / power * (x - alpha * 0.2)
        eps = sigma / power * (x - alpha * 0.2)
        return Estimate(clean, eps, eps**2 + alpha**2 * 0.3 / power)


def observed(union: str, option: Any) -> torch.Tensor:
    if union == "betas":
        return option(100)
    if union == "schedule":
        times = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        levels = option(times)
        return torch.cat([levels.alpha, levels.sigma])
    if union == "spacing":
        schedule = Discrete() if "steps" in option.kind else VPLinear()
        return torch.stack([level.t for level in path(option, schedule, 4)])
    schedule = VPLinear()
    levels = path(UniformLogSNR(), schedule, 24)
    noisy = [*levels[:-1], schedule(torch.tensor(1e-4, dtype=torch.float64))]
    x = torch.linspace(-2, 2, 2 * 4 * 4, dtype=torch.float64).reshape(2, 1, 4, 4)
    noise = KeyedNoise(0, [("a", 0), ("b", 0)])
    ways = [levels, noisy]
    if option.kind != "predictor-corrector":  # a few hops are too few for the authors' fixed step
        ways.append([*path(UniformLogSNR(), schedule, 5)[:-2], noisy[-1]])
    drawn = [sample(Likely(), x.clone(), way, option, noise, schedule) for way in ways]
    return torch.cat([each.flatten() for each in drawn])


def makes(union: str, kind: str, settings: dict[str, Any]) -> Any:
    return TypeAdapter(member_of(union, kind)).validate_python({"kind": kind, **settings})


@pytest.mark.parametrize(("union", "kind", "name"), options())
def test_an_option_changed_alone_changes_the_result(union: str, kind: str, name: str) -> None:
    besides, stated = BESIDES.get((kind, name), ({}, None))
    values = [stated] if stated is not None else others(member_of(union, kind), name)
    before = observed(union, makes(union, kind, besides))
    tried = 0
    for value in values:
        try:
            changed = makes(union, kind, {**besides, name: value})
        except (ValidationError, ValueError):
            continue
        tried += 1
        after = observed(union, changed)
        if after.shape != before.shape or not torch.equal(after, before):
            return
    pytest.fail(f"{kind}.{name} changed nothing ({tried} of {len(values)} values were allowed)")
