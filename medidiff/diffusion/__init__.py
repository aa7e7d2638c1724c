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
from medidiff.diffusion.constrained import Constrained, Known, coloured, inpainted
from medidiff.diffusion.denoiser import Counter, Denoiser, Network, clipped, counted
from medidiff.diffusion.dormand_prince import ErrorControl
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
from medidiff.diffusion.likelihood import (
    FlowLikelihood,
    LogLikelihood,
    dequantised,
    log_likelihood,
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
from medidiff.diffusion.objectives_score import (
    AnyScoreWeight,
    LikelihoodWeight,
    ScoreMatchingLoss,
    SigmaPower,
)
from medidiff.diffusion.purify import Checkpointed, LangevinPurification, purify
from medidiff.diffusion.samplers import (
    DDIM,
    DDPM,
    RK45,
    AnnealedLangevin,
    AnySampler,
    DPMSolverPP,
    Heun,
    PredictorCorrector,
)
from medidiff.diffusion.samplers.langevin import (
    InterpolatedNoise,
    LangevinInpainting,
    largest_distance,
    level_count,
    level_ratio,
    step_size_for,
)
from medidiff.diffusion.sampling import Renoise, Sampler, Step, renoise, sample, start, walk
from medidiff.diffusion.schedules import (
    EDM,
    VE,
    AnySchedule,
    Cosine,
    Discrete,
    Flow,
    Schedule,
    SubVP,
    VPLinear,
)
from medidiff.diffusion.semantic import (
    Aim,
    Guided,
    NoisyEncoder,
    content,
    structure,
    style,
    text,
    weighted,
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
    UniformTime,
    UniformTimes,
    path,
)
from medidiff.diffusion.weights import AnyWeight, EDMWeight, MinSNR, UniformWeight

__all__ = [
    "CLEAN",
    "DDIM",
    "DDPM",
    "EDM",
    "RK45",
    "VE",
    "Aim",
    "AnnealedLangevin",
    "AnyBetas",
    "AnySampler",
    "AnySchedule",
    "AnyScoreWeight",
    "AnySpacing",
    "AnyTarget",
    "AnyTimes",
    "AnyWeight",
    "Checkpointed",
    "Clean",
    "Constrained",
    "Cosine",
    "CosineBetas",
    "Counter",
    "DPMSolverPP",
    "Denoise",
    "Denoiser",
    "DenoisingLoss",
    "Discrete",
    "EDMTarget",
    "EDMWeight",
    "Eps",
    "ErrorControl",
    "Estimate",
    "Flow",
    "FlowLikelihood",
    "FlowVelocity",
    "Guided",
    "Heun",
    "InterpolatedNoise",
    "Karras",
    "KeyedNoise",
    "Known",
    "LangevinInpainting",
    "LangevinPurification",
    "LikelihoodWeight",
    "LinearBetas",
    "LogLikelihood",
    "LogNormalNoiseRatio",
    "LogitNormalTimes",
    "MinSNR",
    "Network",
    "NoiseLevel",
    "NoiseSource",
    "NoisyEncoder",
    "PredictorCorrector",
    "Renoise",
    "Sampler",
    "ScaledLinearBetas",
    "Schedule",
    "Score",
    "ScoreMatchingLoss",
    "SigmaPower",
    "Step",
    "SubVP",
    "TapeNoise",
    "Target",
    "UniformLogSNR",
    "UniformTime",
    "UniformTimes",
    "UniformWeight",
    "V",
    "VPLinear",
    "classifier_free",
    "clipped",
    "coloured",
    "content",
    "counted",
    "dequantised",
    "diffuse",
    "eps_of",
    "estimate",
    "inpainted",
    "interval",
    "largest_distance",
    "level_count",
    "level_ratio",
    "log_likelihood",
    "noise_level",
    "path",
    "prediction_of",
    "purify",
    "renoise",
    "sample",
    "scale",
    "start",
    "step_size_for",
    "structure",
    "style",
    "text",
    "training_noise",
    "training_uniforms",
    "uniforms",
    "walk",
    "weighted",
]
