"""The mathematics of diffusion: torch and the standard library only.

    clean --diffuse--> x = alpha * clean + sigma * eps      Schedule: t -> NoiseLevel
                         |
             network --> Target --> Estimate(clean, eps)    Denoise: (x, level) -> Estimate
                         |
       guidance, clipping: Denoise -> Denoise
                         |
    noise --> path of levels --> Sampler.step x N --> one plain denoise --> image      sample, walk

Notation: `clean` is x_0, `eps` the unit noise, `alpha` and `sigma` the scales of signal and noise,
`noise_ratio` sigma / alpha, `half_log_snr` log(alpha / sigma), t in [0, 1] with 1 = noise; `now`
and `to` are the two levels of a hop. docs/equations.md has every symbol and formula with its paper.

Numbers: coefficients are float64 and are rounded to the image's dtype only where they meet it
(`scale`). Randomness is an argument (`KeyedNoise`); nothing touches torch's global generator.
"""

from __future__ import annotations

from medidiff.diffusion.betas import AnyBetas, CosineBetas, LinearBetas, ScaledLinearBetas
from medidiff.diffusion.denoiser import Counter, Denoiser, Network, clipped, counted, thresholded
from medidiff.diffusion.guidance import classifier_free, interval
from medidiff.diffusion.levels import (
    CLEAN,
    Denoise,
    Estimate,
    NoiseLevel,
    diffuse,
    eps_of,
    noise_level,
    scale,
)
from medidiff.diffusion.noise import (
    KeyedNoise,
    NoiseSource,
    TapeNoise,
    training_noise,
    training_uniforms,
    uniforms,
)
from medidiff.diffusion.objectives import DenoisingLoss
from medidiff.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    PNDM,
    AnySampler,
    DPMSolver,
    DPMSolverPP,
    Heun,
    RhoRK,
    UniPC,
)
from medidiff.diffusion.samplers.dpm_adaptive import AdaptiveSteps, sample_adaptive, walk_adaptive
from medidiff.diffusion.sampling import Renoise, Sampler, Step, renoise, sample, start, walk
from medidiff.diffusion.schedules import (
    EDM,
    VE,
    AnySchedule,
    Cosine,
    Discrete,
    Flow,
    Schedule,
    VPLinear,
)
from medidiff.diffusion.targets import (
    AnyTarget,
    Clean,
    EDMTarget,
    Eps,
    FlowVelocity,
    Score,
    Target,
    V,
    estimate,
    prediction_of,
)
from medidiff.diffusion.times import (
    AnySpacing,
    AnyTimes,
    Karras,
    LogitNormalTimes,
    LogNormalNoiseRatio,
    PolynomialTime,
    SingleStepLogSNR,
    UniformLogSNR,
    UniformTime,
    UniformTimes,
    path,
)
from medidiff.diffusion.weights import AnyWeight, EDMWeight, MinSNR, UniformWeight

__all__ = [
    "CLEAN",
    "DDIM",
    "DDPM",
    "DEIS",
    "EDM",
    "PNDM",
    "VE",
    "AdaptiveSteps",
    "AnyBetas",
    "AnySampler",
    "AnySchedule",
    "AnySpacing",
    "AnyTarget",
    "AnyTimes",
    "AnyWeight",
    "Clean",
    "Cosine",
    "CosineBetas",
    "Counter",
    "DPMSolver",
    "DPMSolverPP",
    "Denoise",
    "Denoiser",
    "DenoisingLoss",
    "Discrete",
    "EDMTarget",
    "EDMWeight",
    "Eps",
    "Estimate",
    "Flow",
    "FlowVelocity",
    "Heun",
    "Karras",
    "KeyedNoise",
    "LinearBetas",
    "LogNormalNoiseRatio",
    "LogitNormalTimes",
    "MinSNR",
    "Network",
    "NoiseLevel",
    "NoiseSource",
    "PolynomialTime",
    "Renoise",
    "RhoRK",
    "Sampler",
    "ScaledLinearBetas",
    "Schedule",
    "Score",
    "SingleStepLogSNR",
    "Step",
    "TapeNoise",
    "Target",
    "UniPC",
    "UniformLogSNR",
    "UniformTime",
    "UniformTimes",
    "UniformWeight",
    "V",
    "VPLinear",
    "classifier_free",
    "clipped",
    "counted",
    "diffuse",
    "eps_of",
    "estimate",
    "interval",
    "noise_level",
    "path",
    "prediction_of",
    "renoise",
    "sample",
    "sample_adaptive",
    "scale",
    "start",
    "thresholded",
    "training_noise",
    "training_uniforms",
    "uniforms",
    "walk",
    "walk_adaptive",
]
