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

from medidiff.diffusion.betas import (
    AnyBetas,
    ConstantBetas,
    CosineBetas,
    JSDBetas,
    LinearBetas,
    RescaledLinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
    WarmupBetas,
    ZeroTerminalBetas,
)
from medidiff.diffusion.bound import Bound, Decoder, bound
from medidiff.diffusion.denoiser import Counter, Denoiser, Network, clipped, counted, heads
from medidiff.diffusion.guidance import (
    classifier_free,
    classifier_gradient,
    classifier_guided,
    interval,
)
from medidiff.diffusion.importance import LossHistory
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
from medidiff.diffusion.objectives import DenoisingLoss, HybridLoss, SpreadLoss, VariationalLoss
from medidiff.diffusion.samplers import DDIM, DDPM, AnySampler, DPMSolverPP, Heun
from medidiff.diffusion.samplers.classifier_guided import ClassifierGuided
from medidiff.diffusion.samplers.ddim import encode, interpolate
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
from medidiff.diffusion.steps import (
    AnyStepSpacing,
    GivenSteps,
    LeadingSteps,
    LinspaceSteps,
    PowerSteps,
    QuadraticSteps,
    RespacedSteps,
    TrailingSteps,
    optimal_steps,
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
    UniformLogSNR,
    UniformSteps,
    UniformTime,
    UniformTimes,
    path,
)
from medidiff.diffusion.variance import GammaTable, OptimalVariance, gamma_table, with_gamma
from medidiff.diffusion.weights import AnyWeight, EDMWeight, MinSNR, UniformWeight

__all__ = [
    "CLEAN",
    "DDIM",
    "DDPM",
    "EDM",
    "VE",
    "AnyBetas",
    "AnySampler",
    "AnySchedule",
    "AnySpacing",
    "AnyStepSpacing",
    "AnyTarget",
    "AnyTimes",
    "AnyWeight",
    "Bound",
    "ClassifierGuided",
    "Clean",
    "ConstantBetas",
    "Cosine",
    "CosineBetas",
    "Counter",
    "DPMSolverPP",
    "Decoder",
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
    "GammaTable",
    "GivenSteps",
    "Heun",
    "HybridLoss",
    "JSDBetas",
    "Karras",
    "KeyedNoise",
    "LeadingSteps",
    "LinearBetas",
    "LinspaceSteps",
    "LogNormalNoiseRatio",
    "LogitNormalTimes",
    "LossHistory",
    "MinSNR",
    "Network",
    "NoiseLevel",
    "NoiseSource",
    "OptimalVariance",
    "PowerSteps",
    "QuadraticSteps",
    "Renoise",
    "RescaledLinearBetas",
    "RespacedSteps",
    "Sampler",
    "ScaledLinearBetas",
    "Schedule",
    "Score",
    "SigmoidBetas",
    "SpreadLoss",
    "Step",
    "TapeNoise",
    "Target",
    "TrailingSteps",
    "UniformLogSNR",
    "UniformSteps",
    "UniformTime",
    "UniformTimes",
    "UniformWeight",
    "V",
    "VPLinear",
    "VariationalLoss",
    "WarmupBetas",
    "ZeroTerminalBetas",
    "bound",
    "classifier_free",
    "classifier_gradient",
    "classifier_guided",
    "clipped",
    "counted",
    "diffuse",
    "encode",
    "eps_of",
    "estimate",
    "gamma_table",
    "heads",
    "interpolate",
    "interval",
    "noise_level",
    "optimal_steps",
    "path",
    "prediction_of",
    "renoise",
    "sample",
    "scale",
    "start",
    "training_noise",
    "training_uniforms",
    "uniforms",
    "walk",
    "with_gamma",
]
