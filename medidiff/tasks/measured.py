"""What the heads share whose scan was measured through an operator: y = A clean + noise.

A head says what was measured (`Measurement`, in model units); here posterior samples are drawn
from the prior given that, all images and samples of a batch at once, and what can be told of them
is told: the residual, the cost, whether the spread was ever found to be right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from medidiff import options
from medidiff.errors import TaskError
from medidiff.inverse import DiffusionMBIR, Drawn
from medidiff.model import Model, evaluating
from medidiff.tasks.base import Measurement, Problem, Solution
from medidiff.tasks.calibrated import verdict, without_verdict
from medidiff.tasks.defaults import Posterior, chosen_for
from medidiff.tasks.room import at_once, parts_of
from medidiff.warned import warn

POSTERIOR_MEAN = "the posterior mean, not of samples"


class Sampled(Protocol):
    """The options that such a head has."""

    @property
    def posterior(self) -> Posterior | None: ...

    @property
    def result(self) -> Literal["all", "mean", "sample"]: ...


def check_image_space(model: Model, what: str) -> None:
    """Errors: TaskError for a model whose network does not work on images."""
    if model.spec.codec.kind != "identity":
        raise TaskError(
            f"{what} compares images with what was measured at every step, and {model.spec.name} "
            f"works behind a codec ({model.spec.codec.kind}): use a model of images"
        )


def check_across(how: Posterior, model: Model) -> None:
    """Errors: TaskError for total variation within the slices of a volume, not across them."""
    across, method = model.reach.slices, how.method
    if across and isinstance(method, DiffusionMBIR) and method.axis not in across:
        raise TaskError(
            f"diffusion-mbir ties neighbouring slices, which lie across axis {across[0]} of this "
            f"volume, not {method.axis}: set posterior.method.axis={across[0]}"
        )


@dataclass(frozen=True)
class Cost:
    """Of an image."""

    calls: int = 0
    equivalents: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.calls + other.calls, self.equivalents + other.equivalents)


def solved(
    head: Sampled,
    problem: Problem,
    model: Model,
    n: int,
    seed: int,
    known: tuple[Tensor, Cost] | None = None,
) -> Solution:
    """The estimate of a problem with a measurement, samples for n > 1, and what is told of them.

    The point is the same for every n, as near as 100 calls come: the mean of the draws that
    `defaults.ONE_RESULT` has for one result. Where the head's options state a sampler it is the
    mean of that one's draws (n = 1) or of its n samples; where `result` is "sample", the first
    sample. `known` is an estimate that was made already, in the place of the default's.
    """
    assert problem.measurement is not None
    several = n > 1 or head.result == "sample"  # one sample is drawn as several are
    stated, chunk = sampler_and_chunk(head.posterior)
    how = stated or replace(chosen_for(problem.measurement.kind, 2 if several else 1), chunk=chunk)
    check_across(how, model)
    count = n if n > 1 else (1 if head.result == "sample" else how.draws)
    with torch.no_grad(), evaluating(model.network):
        found, samples, cost = _drawn_all(problem, model, how, count, seed)
        image = how
        if head.result == "sample":
            point, estimate = samples[0], "one sample"
        elif n == 1 or stated is not None:
            point, estimate = samples.mean(0), mean_in_words(how, count)
        elif known is not None:
            point, cost, estimate = known[0], cost + known[1], POSTERIOR_MEAN
        else:
            image = replace(chosen_for(problem.measurement.kind), chunk=chunk)
            found, draws, more = _drawn_all(
                _called(problem, "estimating"), model, image, image.draws, seed
            )
            point, cost = draws.mean(0), cost + more
            estimate = mean_in_words(image, image.draws)
    point = point.to(problem.given)  # samples are kept in the host's memory
    facts = told(settled(found, image, point), model, how, point, n) | {"estimate": estimate}
    if image is not how:
        facts["image_posterior"] = options.tree(image)
    said = misfit(facts)
    if said is not None:  # the test subjects that were judged fitted
        facts |= without_verdict(facts)
        warn(said, stacklevel=2)
    shown = samples if n > 1 else None
    return Solution(point, cost.calls, shown, facts=facts, cost=cost.equivalents, kept=head.result)


def sampler_and_chunk(posterior: Posterior | None) -> tuple[Posterior | None, int | None]:
    """How samples are to be drawn, None where nothing is said but how much memory that may take,
    and that."""
    if posterior is None or posterior.chunk is None:
        return posterior, None
    alone = replace(posterior, chunk=None) == Posterior()
    return (None if alone else posterior), posterior.chunk


def mean_in_words(how: Posterior, count: int) -> str:
    """An estimate in words."""
    if count == 1:
        return "one sample"
    return f"the mean of {count} samples" + (" of opposite noise" if how.antithetic else "")


def _drawn_all(
    problem: Problem, model: Model, how: Posterior, count: int, seed: int
) -> tuple[Problem, Tensor, Cost]:
    """The problem as pilots left it, `count` samples of each case, and the cost of them all."""
    problem, first = piloted(problem, model, how, seed)
    samples, each = drawn(loosened(problem, how), model, how, count, seed)
    return problem, samples, first + Cost(each.calls * count, each.equivalents * count)


def _called(problem: Problem, what: str) -> Problem:
    """The problem with its progress told by another name."""
    told_of = problem.progress
    return replace(problem, progress=lambda _, done, total: told_of(what, done, total))


PILOT_WIDTH = 0.1  # of the half window: how far a quick sample is off
FAR = 2.0  # residuals above it are warned of: samplers leave 0.5 to 1.7 where all is as stated
FIRST_SLACK = 32.0  # times the noise: what is not right yet is not to be followed to the letter


def piloted(problem: Problem, model: Model, how: Posterior, seed: int) -> tuple[Problem, Cost]:
    """The problem with its estimated phase made better by quick samples, and their cost.

    Each pilot allows for less noise than the one before, down to the sampler's own slack. Nothing
    is done where all is known.
    """
    quick = replace(how, method=how.pilot, steps=how.pilot_steps, draws=1)
    total = Cost()
    if problem.measurement is None or problem.measurement.refined is None:
        return problem, total
    for pilot in range(how.pilots):
        part = pilot / how.pilots
        loose = slackened(problem, FIRST_SLACK ** (1 - part) * how.slack**part)
        rough, cost = drawn(loose, model, quick, 1, seed)
        better = rough[0].to(problem.given)
        measurement = problem.measurement
        assert measurement is not None
        assert measurement.refined is not None
        problem = replace(problem, measurement=measurement.refined(better, PILOT_WIDTH))
        total += cost
    return problem, total


def settled(problem: Problem, how: Posterior, point: Tensor) -> Problem:
    """The problem with what is estimated of its measurement as fits the result, where samples had
    fits of their own."""
    measurement = problem.measurement
    assert measurement is not None
    if measurement.refined is None or how.phase == "kept":
        return problem
    return replace(problem, measurement=measurement.refined(point, 0.0))


def loosened(problem: Problem, how: Posterior) -> Problem:
    """The problem with the sampler's slack, where something of the measurement is estimated."""
    measurement = problem.measurement
    known = measurement is None or measurement.refined is None
    return problem if known else slackened(problem, how.slack)


def slackened(problem: Problem, factor: float) -> Problem:
    """The problem with its noise allowed to be larger."""
    measurement = problem.measurement
    assert measurement is not None
    return replace(
        problem, measurement=replace(measurement, noise_std=factor * measurement.noise_std)
    )


def drawn(problem: Problem, model: Model, how: Posterior, n: int, seed: int) -> tuple[Tensor, Cost]:
    """(n, batch, channel, *space) posterior samples in the host's memory, and the cost of each."""
    measurement = problem.measurement
    assert measurement is not None
    given, values = problem.given, measurement.values
    count = at_once(
        model,
        given[0],
        signal=values[0].numel() * values.element_size(),
        fit=measurement.refit_bytes,
        gradient=how.through_the_network,
        chunk=how.chunk,
    )
    members = [(case, sample) for case in range(len(given)) for sample in range(n)]
    made = torch.empty((len(members), *given.shape[1:]), dtype=given.dtype)
    done, cost = 0, Cost()
    for part in parts_of(members, count):
        found = _part(problem, measurement, model, how, part, seed, (done, len(members)))
        made[done : done + len(part)] = found.images.cpu()
        done, cost = done + len(part), Cost(found.calls, found.forward_equivalents)
    return made.unflatten(0, (len(given), n)).transpose(0, 1), cost


def _part(
    problem: Problem,
    measurement: Measurement,
    model: Model,
    how: Posterior,
    members: Sequence[tuple[int, int]],
    seed: int,
    place: tuple[int, int],
) -> Drawn:
    """One sample for each of some members; `place`: how many are drawn already, of how many."""
    before, everyone = place

    def stepped(done: int, steps: int) -> None:
        problem.progress("sampling", before * steps + done * len(members), everyone * steps)

    cases = [case for case, _ in members]
    condition = None if problem.condition is None else problem.condition[cases]
    keys = problem.keys
    prior = model if measurement.brightness == "known" else model.open_above()
    try:
        return how.draw(
            prior.denoiser(condition),
            measurement.operator(cases),
            measurement.values[cases],
            measurement.law(cases),
            torch.zeros_like(problem.given[cases]),
            how.noise(seed, [(keys[case], sample) for case, sample in members]),
            model.spec.schedule,
            stepped,
            None if measurement.refit is None else measurement.refit(cases),
        )
    except ValueError as error:  # a method that does not suit the measurement
        raise TaskError(str(error)) from None


def told(
    problem: Problem, model: Model, how: Posterior, point: Tensor, n: int
) -> dict[str, object]:
    """What the provenance says of a measured problem.

    Units: `sigma` is in window widths, of line integrals in window widths times mm.
    """
    measurement = problem.measurement
    assert measurement is not None
    everyone = range(len(problem.cases))
    found = {
        "measurement": measurement.kind,
        "posterior": options.tree(how),
        **({} if measurement.likelihood else {"residual": _residual(measurement, point, everyone)}),
        "sigma": list(problem.levels),
    }
    if n > 1:
        found["uncertainty"] = verdict(model, measurement.kinds, problem.levels, how)
    return found


def misfit(facts: Mapping[str, object]) -> str | None:
    """One line where a result does not explain its measurement, None where it does."""
    residuals = cast(Sequence[float], facts.get("residual", ()))
    far = [each for each in residuals if each > FAR]
    if not far:
        return None
    return (
        f"{facts['measurement']}: {len(far)} of {len(residuals)} images leave up to {max(far):.1f} "
        "times of the measurement that its noise explains: the model does not know such images, or "
        "the measurement is not as stated. Check the model's modality and voxels, the orientation, "
        "mask, coils, phase or angles, and the stated noise level"
    )


def _residual(measurement: Measurement, point: Tensor, members: Sequence[int]) -> list[float]:
    return [round(float(each), 4) for each in measurement.residual(point, members)]
