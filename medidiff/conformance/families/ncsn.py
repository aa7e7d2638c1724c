"""ermongroup/ncsn and ncsnv2: Langevin, annealed or not, inpainting, interpolation, losses."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from medidiff.conformance.recordings import (
    LEVEL_TOLERANCE,
    Case,
    Unsupported,
    check_agrees,
)
from medidiff.diffusion.levels import CLEAN, Estimate, NoiseLevel
from medidiff.diffusion.noise import NoiseSource, TapeNoise
from medidiff.diffusion.objectives_score import ScoreMatchingLoss, SigmaPower
from medidiff.diffusion.samplers.langevin import (
    AnnealedLangevin,
    InterpolatedNoise,
    LangevinInpainting,
)
from medidiff.diffusion.sampling import Sampler, walk
from medidiff.diffusion.schedules import VE
from medidiff.diffusion.targets import Score
from medidiff.diffusion.times import Karras, UniformLogSNR, path
from medidiff.types import Image, Tensor


def replay(case: Case) -> None:
    """Compare one recording of either version with ours."""
    if case.kind == "loss":
        return _loss(case)
    runs = {
        "ald": _annealed,
        "langevin": _one_level,
        "ald-inpaint": _inpainting,
        "ald-interpolation": _interpolation,
    }
    if case.sampler not in runs:
        raise Unsupported(f"no replay for sampler {case.sampler}")
    return runs[case.sampler](case)


def levels_of(case: Case) -> list[NoiseLevel]:
    """Our levels between the recorded ends: geometric, or equally spaced.

    `meta` does not always say which of the two; they are told apart by the recorded second level.
    """
    sigmas = case["sigmas"]
    schedule = VE(sigma_min=float(sigmas[-1]), sigma_max=float(sigmas[0]))
    kinds = [path(each, schedule, len(sigmas))[:-1] for each in (UniformLogSNR(), Karras(rho=1.0))]
    levels = min(kinds, key=lambda kind: float((kind[1].sigma - sigmas[1]).abs()))
    ours = torch.stack([level.sigma for level in levels])
    check_agrees("sigmas", ours, sigmas, LEVEL_TOLERANCE)
    return levels


def _sampler_of(case: Case, sigma_last: float, steps: int) -> AnnealedLangevin:
    denoises = bool(case.meta.get("denoise", False))
    return AnnealedLangevin(
        step_size=float(case.meta["step_lr"]),
        sigma_last=sigma_last,
        steps=steps,
        last="denoise" if denoises else "noisy",
    )


def _run(
    case: Case, x: Image, levels: list[NoiseLevel], sampler: Sampler, noise: NoiseSource
) -> tuple[list[Image], list[Image]]:
    """What the model is shown and the result; and the start and the states after each level."""
    shown: list[Image] = []

    def listen(x: Image, level: NoiseLevel) -> Estimate:
        shown.append(x)
        return case.mixture(x, level)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "annealed-langevin")  # a recording's chains are short
        states = [state for _, state in walk(listen, x, [*levels, CLEAN], sampler, noise)]
    return [*shown, states[-1]], [x, *states]


def _annealed(case: Case) -> None:
    levels, steps = levels_of(case), int(case.meta["n_steps_each"])
    sampler = _sampler_of(case, float(levels[-1].sigma), steps)
    noise = TapeNoise(case.draws(len(levels) * steps).unflatten(0, (len(levels), steps)))  # pyright: ignore[reportArgumentType]
    every, by_level = _run(case, case["x_init"], levels, sampler, noise)
    if sampler.last == "denoise":
        # the state after the last Langevin step is the one shown to the last denoise
        by_level = [*by_level[:-1], every[-2], every[-1]]
    thinned = "xs_index" in case
    states = by_level if thinned else every
    index = case["xs_index"].long().tolist() if thinned else range(len(case["xs"]))
    check_agrees("result", every[-1], case["x_final"])
    for place, reference in zip(index, case["xs"], strict=True):
        check_agrees(f"state {place}", states[place], reference)


def _one_level(case: Case) -> None:
    level, steps = levels_of(case)[int(case.meta["label"])], int(case.meta["n_steps"])
    sampler = _sampler_of(case, float(level.sigma), steps)
    states, _ = _run(case, case["x_init"], [level], sampler, TapeNoise([list(case.draws(steps))]))
    check_agrees("states", torch.stack(states), case["xs"])
    check_agrees("result", states[-1], case["x_final"])


def _inpainting(case: Case) -> None:
    """The known part is the left half; version 1 notes its noise once a level."""
    levels, steps = levels_of(case), int(case.meta["n_steps_each"])
    start, reference = case["x_init"].flatten(0, 1), case["refer_image"]
    reference = reference.repeat_interleave(len(start) // len(reference), 0)
    half, full = case["noise_half"], case["noise_full"].unflatten(0, (len(levels), steps))
    known = torch.zeros(len(half), *start.shape, dtype=start.dtype)
    known[..., : half.shape[-1]] = half
    mask = torch.zeros(start.shape[1:], dtype=start.dtype)
    mask[..., : half.shape[-1]] = 1
    fresh = "level" if len(half) == len(levels) and steps > 1 else "step"
    known = known.unflatten(0, (len(levels), -1))
    noise = TapeNoise([[*full[hop], *known[hop]] for hop in range(len(levels))])
    langevin = _sampler_of(case, float(levels[-1].sigma), steps)
    sampler = LangevinInpainting(langevin, reference, mask, fresh)
    shown, _ = _run(case, start, levels, sampler, noise)
    shown, result = shown[:-1], shown[-1]
    calls = case["call_x"]
    check_agrees("states", torch.stack(shown[:: len(shown) // len(calls)]), calls)
    check_agrees("result", result, case["x_final"])


def _interpolation(case: Case) -> None:
    levels, steps = levels_of(case), int(case.meta["n_steps_each"])
    count = int(case.meta["n_interpolations"])
    ends = torch.stack([case["noise_p"], case["noise_q"]], 1).flatten(0, 1)
    ends = TapeNoise(list(ends.unflatten(0, (len(levels), -1))))  # pyright: ignore[reportArgumentType]
    noise = InterpolatedNoise(ends, count)
    sampler = _sampler_of(case, float(levels[-1].sigma), steps)
    start = case["x_init"].repeat_interleave(count, 0)
    states, _ = _run(case, start, levels, sampler, noise)
    check_agrees("states", torch.stack(states[1:]), case["xs_states"])
    check_agrees("result", states[-1], case["x_final"])


def _loss(case: Case) -> None:
    """Denoising score matching of the recorded network, by image and as the batch's mean."""
    sigma = torch.stack([level.sigma for level in levels_of(case)])[case["labels"].long()]
    level = NoiseLevel(torch.zeros_like(sigma), torch.ones_like(sigma), sigma)
    loss = ScoreMatchingLoss(Score(), VE(), SigmaPower(power=float(case.meta["anneal_power"])))
    ours = loss(_network(case.meta, case, level), case["x0"], level, case["noise"][0])
    check_agrees("loss", ours.mean(), case["loss"])
    if "per_sample" in case:
        check_agrees("loss by image", ours, case["per_sample"])


def _network(meta: dict[str, Any], case: Case, level: NoiseLevel) -> Any:
    """The recorded network: the exact score and a known fault."""
    if meta["net"] != "score + 0.3*sin(3x)/sigma at the PERTURBED x":
        raise Unsupported(f"an unknown network: {meta['net']}")
    sigma = level.sigma.reshape(-1, 1, 1, 1)

    def network(scaled: Image, label: Tensor, condition: None, concat: None) -> Image:
        # undo the input scale of the target: the recorded network saw x itself
        x = scaled * (1 + sigma**2).sqrt()
        return -case.mixture(x, level).eps / sigma + 0.3 * (3 * x).sin() / sigma

    return network
