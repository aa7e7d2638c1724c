"""The diffusion entered at the level whose noise matches an image's.

With Gaussian noise of standard deviation s (model units), alpha * given is a sample of the
diffusion at the level with noise_ratio s: one network call gives the posterior mean
E[clean | given], and walking down from there with an ancestral sampler gives posterior samples
(Song et al. 2021, arXiv:2011.13456; Efron 2011, Tweedie's formula).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medidiff.diffusion import KeyedNoise, NoiseLevel, scale
from medidiff.errors import TaskError
from medidiff.model import Model
from medidiff.spec import SamplingOptions
from medidiff.tasks.base import Problem
from medidiff.tasks.restoration import WINDOW
from medidiff.tasks.room import at_once, parts_of


def matched(levels: Sequence[float], model: Model) -> NoiseLevel:
    """The levels of the model's schedule that have this noise, in window widths.

    Errors: as `noise_scale`.
    """
    ratio = WINDOW * torch.tensor(levels, dtype=torch.float64) * noise_scale(model)
    schedule = model.spec.schedule
    return schedule(schedule.time_of(-ratio.log()))


def mean_at(given: Tensor, levels: Sequence[float], model: Model) -> Tensor:
    """E[clean | given] by one network call. Efron 2011, eq. 2.8, as every denoiser estimates it."""
    level, x = matched(levels, model), model.codec.encode(given)
    clean = model.denoiser()(scale(level.alpha, x) * x, level).clean
    return model.codec.decode(clean, given.shape[2:])


def samples_from(
    starts: Callable[[Sequence[tuple[int, int]]], Tensor],
    problem: Problem,
    model: Model,
    sampling: SamplingOptions,
    n: int,
    seed: int,
    chunk: int | None = None,
) -> tuple[Tensor, int]:
    """(n posterior samples of each case in the host's memory, network calls of each).

    `starts` gives the noisy images, in model units, that the samples of some (case, sample) begin
    from; `chunk`: how many are drawn at a time at most, as many as the memory holds unless told.
    """
    levels, keys, given = matched(problem.levels, model), problem.keys, problem.given
    members = [(case, sample) for case in range(len(keys)) for sample in range(n)]
    parts = [*parts_of(members, min(at_once(model, given[0]), chunk or len(members)))]
    made = torch.empty((len(members), *given.shape[1:]), dtype=given.dtype)
    done, nfe = 0, 0
    for index, part in enumerate(parts):
        cases = [case for case, _ in part]
        level = NoiseLevel(levels.t[cases], levels.alpha[cases], levels.sigma[cases])
        x = model.codec.encode(starts(part))
        images, nfe = model.walk_down(
            model.denoiser(),
            scale(level.alpha, x) * x,
            KeyedNoise(seed, [(keys[case], sample) for case, sample in part]),
            sampling=sampling,
            begin=level,
            progress=_steps_told(problem, index, len(parts)),
        )
        made[done : done + len(part)] = model.codec.decode(images, given.shape[2:]).cpu()
        done += len(part)
    return made.unflatten(0, (len(keys), n)).transpose(0, 1), nfe


def _steps_told(problem: Problem, index: int, parts: int) -> Callable[[int, int], None]:
    """Tells of the steps of one part of the samples as some of those of all."""
    return lambda done, steps: problem.progress("sampling", index * steps + done, parts * steps)


def noise_scale(model: Model) -> float:
    """What noise of standard deviation 1 in an image is in the space of the prior.

    Errors: TaskError for a model behind whose codec it is no longer white and Gaussian.
    """
    found = model.codec.noise_scale(model.spec.space.size)
    if found is None:
        raise TaskError(
            f"{model.spec.name} works behind a codec ({model.spec.codec.kind}) that does not leave "
            "white noise white, so it cannot tell a scan's noise from its content. Denoise with a "
            "model of images, or with one whose codec is {kind: wavelet, scale: one} on a grid of "
            "even size."
        )
    return found
