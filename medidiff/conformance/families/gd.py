"""openai/guided-diffusion: ancestral sampling, DDIM and its reverse, classifier guidance, bound."""

from __future__ import annotations

import itertools

import torch

from medidiff.conformance.families.respacing import respaced
from medidiff.conformance.families.tables import levels_at, states_of, table_of
from medidiff.conformance.recordings import Case, Unsupported, check_agrees, check_states
from medidiff.diffusion.bound import Decoder, bound
from medidiff.diffusion.denoiser import clipped
from medidiff.diffusion.guidance import classifier_guided
from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, eps_of, noise_level, scale
from medidiff.diffusion.noise import TapeNoise
from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.classifier_guided import ClassifierGuided
from medidiff.diffusion.samplers.ddim import DDIM, encode
from medidiff.diffusion.sampling import Sampler
from medidiff.diffusion.variance import StepVariance
from medidiff.types import Image

VARIANCES: dict[str, StepVariance] = {
    "FIXED_SMALL": "small",
    "FIXED_LARGE": "large",
    "LEARNED": "learned",
    "LEARNED_RANGE": "learned-range",
}
TABLE = 1000


def replay(case: Case) -> None:
    """A trajectory by `sampler`, or the bound."""
    if case.kind == "likelihood":
        _bound(case)
        return
    if case.sampler == "ddim_reverse":
        _encode(case)
        return
    if case.sampler not in ("ddpm", "ddim"):
        raise Unsupported(f"no sampler {case.sampler!r} in guided-diffusion")
    meta = case.meta
    levels = levels_at(table_of(meta["schedule"]), respaced(meta["respacing"], TABLE))
    model = with_head(case.mixture, meta["var"], levels)
    if meta["clip_denoised"]:
        model = clipped(model, -1, 1)
    plain = DDPM(variance=VARIANCES[meta["var"]])
    sampler: Sampler = plain if case.sampler == "ddpm" else DDIM(eta=meta["eta"])
    if meta["guided"]:
        aim = case.mixture.means[1]

        def gradient(x: Image, level: NoiseLevel) -> Image:
            return 0.8 * (aim - 0.5 * x)

        if case.sampler == "ddim":
            model = classifier_guided(model, gradient, 1.0)
        else:
            sampler = ClassifierGuided(gradient, 1.0, plain)
    check_states(states_of(case, model, levels, sampler), case)


def with_head(denoise: Denoise, variance: str, levels: list[NoiseLevel]) -> Denoise:
    """The recordings' second head: tanh(.7 x + .3 cos(.01 n)), n the original index; for a learned
    log variance 3 less."""
    if variance not in ("LEARNED", "LEARNED_RANGE"):
        return denoise

    def two(x: Image, level: NoiseLevel) -> Estimate:
        here = denoise(x, level)
        index = (level.t * TABLE).round() - 1
        spread = (0.7 * x + scale(0.3 * (0.01 * index).cos(), x)).tanh()
        return Estimate(here.clean, here.eps, spread - 3 if variance == "LEARNED" else spread)

    return two


def _encode(case: Case) -> None:
    """`ddim_reverse_sample` takes the image for one at the first level and ends at alpha_bar 0."""
    meta = case.meta
    steps = respaced(meta["respacing"], TABLE)
    levels = list(reversed(levels_at(table_of(meta["schedule"]), steps)[:-1]))
    check_agrees("alpha-bar", torch.stack([x.alpha**2 for x in levels]), case["alphas_cumprod"])
    levels.append(noise_level(1.0, 0.0, 1.0))
    x = case["x_init"]
    states = [x]
    for now, to in itertools.pairwise(levels):
        x = encode(case.mixture, x, [now, to])
        states.append(x)
    check_states(states, case)


def _bound(case: Case) -> None:
    """`calc_bpd_loop`: nats a value over ln 2, terms from the noisiest hop on."""
    meta = case.meta
    spelled = meta.get("respacing", meta["schedule"].split("respaced ")[-1])
    variance = case.sampler if case.sampler in VARIANCES else meta.get("var")
    if variance is None:
        # neither meta nor sampler has it
        variance = "FIXED_LARGE" if case.name.endswith("large") else "FIXED_SMALL"
    check_bound(case, case.mixture, spelled, VARIANCES[variance])


def check_bound(case: Case, model: Denoise, spelled: str, variance: StepVariance) -> None:
    """Compare prior, hops, total and the two squared errors in bits a value."""
    levels = levels_at(table_of(case.meta["schedule"]), respaced(spelled, TABLE))
    clean, fields = case["x0"], case["noise"]
    ours = bound(
        model, clean, levels, TapeNoise([[z] for z in fields]), variance, Decoder(cdf="tanh")
    )
    bits = (ours.terms / ours.dimensions / torch.tensor(2.0).double().log()).T
    check_agrees("prior", bits[:, 0], case["out_prior_bpd"])
    check_agrees("terms", bits[:, 1:], case["out_vb"])
    check_agrees("total", ours.bits_per_dim, case["out_total_bpd"])
    clean_error, eps_error = [], []
    for level, z, here in zip(levels, fields, ours.estimates, strict=False):
        x = scale(level.alpha, clean) * clean + scale(level.sigma, clean) * z
        clean_error.append((here.clean - clean).square().flatten(1).mean(1))
        eps_error.append((eps_of(x, here.clean, level) - z).square().flatten(1).mean(1))
    check_agrees("clean error", torch.stack(clean_error, 1), case["out_xstart_mse"])
    check_agrees("eps error", torch.stack(eps_error, 1), case["out_mse"])
