"""How likely a prior finds the scans of a split: the probability flow's log-density, the bound.

Numbers are negative log-likelihoods, so that less is better, in nats a value of the image on the
model's grid. What they are densities of is said in `Likelihoods.protocol` and in the report.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.intensity import Scale
from medidiff.diffusion import (
    DEAD_SIGNAL,
    Denoise,
    Denoiser,
    ErrorControl,
    FlowLikelihood,
    GaussianDecoder,
    GreyDecoder,
    KeyedNoise,
    OptimalVariance,
    bound,
    clipped,
    dequantised,
    log_likelihood,
    path,
    uniforms,
    with_gamma,
)
from medidiff.diffusion.variance import AnyVariance
from medidiff.errors import DataError, TaskError
from medidiff.jobs.reporting import Reporter
from medidiff.model import Model
from medidiff.networks import accelerated
from medidiff.report.tables import (
    Row,
    Summary,
    markdown,
    plain_text,
    summarise,
    write_csv,
    write_json,
)

Method = Literal["flow", "bound"]
PART = 4  # images at a time: the exact divergence holds 64 rows of the Jacobian of each
TOLERANCE = 1e-4  # of an adaptive step, relative and absolute
WHOLE = 1e-3  # how far from a whole number float32 intensities may lie


@dataclass(frozen=True)
class LikelihoodOptions:
    """Which likelihoods, and of what."""

    methods: tuple[Method, ...] = ("flow",)
    """flow: the probability flow's log-density; bound: the variational bound."""
    probes: int = 8
    """Sign fields of the Hutchinson estimate, above 4096 values an image."""
    steps: int = 1000
    """Steps of the process that the bound is of."""
    bit_depth: int | None = None
    """The scans hold whole intensities 0 .. 2^depth - 1; None: they are continuous."""

    def __post_init__(self) -> None:
        if self.probes < 1 or self.steps < 2:
            raise TaskError(
                "a likelihood needs at least 1 probe and 2 steps: found "
                f"{self.probes} and {self.steps}"
            )
        if self.bit_depth is not None and not 1 <= self.bit_depth <= 16:
            raise TaskError(f"the bit depth is a number from 1 to 16, not {self.bit_depth}")


@dataclass(frozen=True)
class Likelihoods:
    """Negative log-likelihoods of a split's scans."""

    rows: Sequence[Row]
    """A row a scan and method; subjects are pseudonyms."""
    summaries: Sequence[Summary]
    """Mean and 95 % interval over subjects."""
    protocol: Mapping[str, object]
    """What the numbers are densities of, and how they were computed."""
    text: str


def check_has_density(model: Model) -> None:
    """Errors: TaskError for a prior of something else than images."""
    if model.spec.codec.kind != "identity":
        raise TaskError(
            f"{model.spec.name} is a prior behind a codec ({model.spec.codec.kind}): the density "
            "of its latents is not one of images. Ask a model of the images themselves."
        )


def likelihoods_of(
    model: Model,
    cases: Sequence[Case],
    options: LikelihoodOptions,
    *,
    split: str,
    seed: int,
    report: Reporter,
) -> Likelihoods:
    """The likelihoods of the cases, conditions unknown; each case's is its own, whatever the batch.

    Errors: TaskError for a model with a codec; DataError naming rows whose intensities are not the
    whole numbers of the bit depth.
    """
    check_has_density(model)
    denoise = _exactly(model)
    whole = None if options.bit_depth is None else _whole(cases, options.bit_depth)
    rows: list[Row] = []
    for method in options.methods:
        measure = _flow if method == "flow" else _bound
        images = [case.images.double() for case in cases]
        if whole is not None:
            images = _dequantised(cases, whole, options, method, seed)
        for first in range(0, len(cases), PART):
            part = cases[first : first + PART]
            clean = torch.stack(images[first : first + PART]).to(model.device)
            noise = KeyedNoise(seed, [case.member for case in part])
            found = measure(model, denoise, part, clean, noise, options)
            for index, case in enumerate(part):
                rows.append(
                    {"subject": case.subject, "setting": split, "method": method, **case.listed}
                    | {name: float(values[index]) for name, values in found.items()}
                )
            report.progress(f"likelihood ({method})", first + len(part), len(cases))
    names = [name for name in METRICS if all(name in row for row in rows)]
    summaries = [item for name in names for item in summarise(rows, name)]
    protocol = _protocol(model, cases, options, seed)
    told = "\n".join(f"- {line}" for line in protocol.values() if isinstance(line, str))
    return Likelihoods(rows, summaries, protocol, f"{plain_text(summaries)}\n{told}")


METRICS = {
    "nats_per_dim": "negative log-density in model units, nats a value; lower",
    "nats_per_dim_intensity": "the same in the scans' intensity units, nats a value; lower",
    "bits_per_dim": "negative log-probability of the whole intensities, bits a value; lower",
}


def save_likelihoods(found: Likelihoods, out: Path) -> None:
    """Write likelihood.md, likelihood.json and likelihood.csv (a row a scan and method)."""
    write_csv(out / "likelihood.csv", found.rows)
    facts = {"metrics": METRICS, **found.protocol}
    write_json(out / "likelihood.json", found.rows, found.summaries, facts=facts)
    lines = [f"- {key}: {value}" for key, value in found.protocol.items()]
    lines += [f"- `{name}`: {meaning}" for name, meaning in METRICS.items()]
    text = "\n".join(["# Likelihood", "", markdown(found.summaries), *lines, ""])
    (out / "likelihood.md").write_text(text, encoding="utf-8")


Measured = Mapping[str, Tensor]
Measure = Callable[
    [Model, Denoise, Sequence[Case], Tensor, KeyedNoise, LikelihoodOptions], Measured
]


def _flow(
    model: Model,
    denoise: Denoise,
    cases: Sequence[Case],
    clean: Tensor,
    noise: KeyedNoise,
    options: LikelihoodOptions,
) -> Measured:
    control = ErrorControl(TOLERANCE, TOLERANCE)
    flow = FlowLikelihood(probes=options.probes, control=control, t_max=_last_signal(model))
    found = log_likelihood(denoise, clean, model.spec.schedule, noise, flow)
    measured = _measured(found.nats_per_dim, cases, options)
    if found.standard_error is None or options.probes == 1:
        return measured
    return {**measured, "standard_error": found.standard_error / found.dimensions}


def _bound(
    model: Model,
    denoise: Denoise,
    cases: Sequence[Case],
    clean: Tensor,
    noise: KeyedNoise,
    options: LikelihoodOptions,
) -> Measured:
    spec = model.spec
    levels = path(spec.sampling.spacing, spec.schedule, options.steps)
    denoise = clipped(denoise, *spec.intensity.range)
    depth = options.bit_depth
    decoder = GaussianDecoder() if depth is None else _grey(cases, clean, 2**depth)
    with torch.no_grad():
        # as wide as the noise left (Kingma et al. 2021, arXiv:2107.00630, eq. 14): the hop before
        # says nothing of the clean image where its steps are many and small
        wide = levels[-2].noise_ratio ** 2
        variance: AnyVariance = "small" if spec.spread == "none" else spec.spread
        if spec.gamma is not None:
            low, high = spec.intensity.range
            denoise = with_gamma(denoise, spec.gamma.table)
            variance = OptimalVariance(half_range=(high - low) / 2)
        found = bound(denoise, clean, levels, noise, variance, decoder, wide)
    per_dim = (found.nats / found.dimensions).cpu()
    if depth is None:
        return _measured(per_dim, cases, options)
    return {"bits_per_dim": per_dim / math.log(2)}


def _measured(per_dim: Tensor, cases: Sequence[Case], options: LikelihoodOptions) -> Measured:
    """A density's numbers: in model units, in intensities, and of unit bins where they are whole.

    u = (I - low) 2 / (high - low) - 1 has log p(I) = log p(u) + log(2 / (high - low)) a value.
    """
    per_dim = per_dim.double().cpu()
    stretch = torch.tensor([_log_stretch(case.scale) for case in cases], dtype=torch.float64)
    found = {"nats_per_dim": per_dim, "nats_per_dim_intensity": per_dim + stretch}
    if options.bit_depth is not None:
        found["bits_per_dim"] = found["nats_per_dim_intensity"] / math.log(2)
    return found


def _log_stretch(line: Scale) -> float:
    """Mean over channels of log((high - low) / 2), the intensities that a model unit spans."""
    spans = [math.log((high - low) / 2) for low, high in zip(line.low, line.high, strict=True)]
    return sum(spans) / len(spans)


def _whole(cases: Sequence[Case], depth: int) -> list[Tensor]:
    """The whole intensities of each case. Errors: DataError naming the rows that have others."""
    images, odd = [], []
    for case in cases:
        exact = case.scale.inverse(case.images.double(), axis=0)
        whole = exact.round()
        inside = (whole >= 0) & (whole < 2**depth) & ((exact - whole).abs() < WHOLE)
        images.append(whole)
        odd += [] if bool(inside.all()) else [case.row]
    if odd:
        raise DataError(
            f"bit depth {depth}: on the model's grid the intensities of manifest rows {odd[:10]} "
            f"are not whole numbers from 0 to {2**depth - 1}. Scans that are resampled or "
            "rescaled have a density (nats) and no bits: leave the bit depth out."
        )
    return images


def _dequantised(
    cases: Sequence[Case],
    whole: Sequence[Tensor],
    options: LikelihoodOptions,
    method: Method,
    seed: int,
) -> list[Tensor]:
    """In model units; for the flow with uniform noise added, the bound is of whole numbers."""
    depth, images = options.bit_depth or 0, []
    for case, numbers in zip(cases, whole, strict=True):
        if method == "flow":
            draw = uniforms(seed, [("dequantise", *case.member)], numbers.numel())
            numbers = dequantised(numbers, draw.reshape(numbers.shape), depth, 0.0, 2.0**depth)
        images.append(case.scale.normalise(numbers, axis=0))
    return images


def _grey(cases: Sequence[Case], clean: Tensor, levels: int) -> GreyDecoder:
    def along(end: Literal["low", "high"]) -> Tensor:
        values = torch.tensor([getattr(case.scale, end) for case in cases]).to(clean)
        return values.reshape(*values.shape, *(1,) * (clean.ndim - 2))

    low, high = along("low"), along("high")
    step = 2 / (high - low)
    return GreyDecoder(-low * step - 1, step, levels)


def _exactly(model: Model) -> Denoise:
    """The model without clipping, in float64 and plain torch.

    In float32 the rounding of a network, times the flow's speed near pure noise, keeps the adaptive
    steps small; and the rows of a Jacobian are what no recorded graph gives.
    """
    network = copy.deepcopy(model.plain).double().eval().requires_grad_(False)
    two_heads = model.spec.spread != "none"
    return Denoiser(accelerated(network, "none"), model.spec.target, spread=two_heads)


def _last_signal(model: Model) -> float | None:
    """Where the flow's way up ends: the first time, or where the signal dies before it."""
    schedule = model.spec.schedule
    top = schedule(torch.tensor(schedule.t_max, dtype=torch.float64))
    if float(top.alpha) >= DEAD_SIGNAL:
        return None
    dead = torch.tensor(math.log(DEAD_SIGNAL), dtype=torch.float64)
    return float(schedule.time_of(dead))


def _protocol(
    model: Model, cases: Sequence[Case], options: LikelihoodOptions, seed: int
) -> dict[str, object]:
    spec = model.spec
    schedule = spec.schedule
    size = cases[0].images.numel()
    low = schedule(torch.tensor(schedule.t_min, dtype=torch.float64))
    facts: dict[str, object] = {
        "of": f"{len(cases)} scans on the model's grid, {size} values each, conditions unknown",
        "sign": "negative log-likelihood a value: lower is better",
        "change of variables": _said_of_lines(model, cases),
    }
    if "flow" in options.methods:
        exact = size <= 4096
        top = _last_signal(model) or schedule.t_max
        facts["flow"] = (
            f"log-density at t = {low.t:g}, where noise of standard deviation {low.sigma:.4g} "
            f"(model units) is in the image, with the prior at t = {top:.6g}; divergence "
            + ("exact" if exact else f"estimated with {options.probes} random sign fields")
            + f"; float64, adaptive steps of tolerance {TOLERANCE:g}"
        )
    if "bound" in options.methods:
        facts["bound"] = (
            f"variational bound of {options.steps} steps, one draw of the noise a step, clean "
            "estimates clipped to the training range, "
            + ("Gaussian decoder" if options.bit_depth is None else "discretised Gaussian decoder")
        )
    if options.bit_depth is not None:
        facts["bits"] = (
            f"whole intensities of {options.bit_depth} bits as the caller states; for the flow "
            "dequantised by uniform noise, which bounds their probability"
        )
    return {**facts, "seed": seed, "model": spec.name, "model_digest": model.digest}


def _said_of_lines(model: Model, cases: Sequence[Case]) -> str:
    line = "u = (I - low) 2 / (high - low) - 1, so log p(I) = log p(u) + log(2 / (high - low))"
    if model.spec.intensity.scope == "image" and model.spec.intensity.percentiles is not None:
        return f"{line} with each scan's own percentiles, taken as if they did not depend on it"
    low, high = cases[0].scale.low, cases[0].scale.high
    return f"{line} with low {[round(x, 6) for x in low]}, high {[round(x, 6) for x in high]}"
