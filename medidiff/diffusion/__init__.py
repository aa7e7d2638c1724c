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
from medidiff.diffusion.brownian import BrownianNoise
from medidiff.diffusion.constrained import Constrained, Known, coloured, inpainted
from medidiff.diffusion.denoiser import Counter, Denoiser, Network, clipped, counted, thresholded
from medidiff.diffusion.dormand_prince import ErrorControl
from medidiff.diffusion.guidance import autoguided, classifier_free, interval
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
from medidiff.diffusion.objectives_consistency import ConsistencyLoss, flow_step, level_curriculum
from medidiff.diffusion.objectives_score import (
    AnyScoreWeight,
    LikelihoodWeight,
    ScoreMatchingLoss,
    SigmaPower,
)
from medidiff.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PNDM,
    RK45,
    TCD,
    AnnealedLangevin,
    AnySampler,
    Consistency,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Heun,
    PredictorCorrector,
    RhoRK,
    UniPC,
)
from medidiff.diffusion.samplers.dpm_adaptive import AdaptiveSteps, sample_adaptive, walk_adaptive
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
from medidiff.diffusion.targets import (
    AnyConsistencyTarget,
    AnyTarget,
    Clean,
    ConsistencyTarget,
    EDMTarget,
    Eps,
    FlowVelocity,
    LatentConsistencyTarget,
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
    ShiftedTime,
    SingleStepLogSNR,
    UniformLogSNR,
    UniformTime,
    UniformTimes,
    path,
)
from medidiff.diffusion.uncertainty import LevelUncertainty, UncertaintyLoss
from medidiff.diffusion.weights import AnyWeight, EDMWeight, MinSNR, UniformWeight

__all__ = [
    "CLEAN",
    "DDIM",
    "DDPM",
    "DEIS",
    "DPM2",
    "EDM",
    "LMS",
    "PNDM",
    "RK45",
    "TCD",
    "VE",
    "AdaptiveSteps",
    "AnnealedLangevin",
    "AnyBetas",
    "AnyConsistencyTarget",
    "AnySampler",
    "AnySchedule",
    "AnyScoreWeight",
    "AnySpacing",
    "AnyTarget",
    "AnyTimes",
    "AnyWeight",
    "BrownianNoise",
    "Clean",
    "Consistency",
    "ConsistencyLoss",
    "ConsistencyTarget",
    "Constrained",
    "Cosine",
    "CosineBetas",
    "Counter",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverPPAncestral",
    "DPMSolverPPSDE",
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
    "Heun",
    "InterpolatedNoise",
    "Karras",
    "KeyedNoise",
    "Known",
    "LangevinInpainting",
    "LatentConsistencyTarget",
    "LevelUncertainty",
    "LikelihoodWeight",
    "LinearBetas",
    "LogLikelihood",
    "LogNormalNoiseRatio",
    "LogitNormalTimes",
    "MinSNR",
    "Network",
    "NoiseLevel",
    "NoiseSource",
    "PolynomialTime",
    "PredictorCorrector",
    "Renoise",
    "RhoRK",
    "Sampler",
    "ScaledLinearBetas",
    "Schedule",
    "Score",
    "ScoreMatchingLoss",
    "ShiftedTime",
    "SigmaPower",
    "SingleStepLogSNR",
    "Step",
    "SubVP",
    "TapeNoise",
    "Target",
    "UncertaintyLoss",
    "UniPC",
    "UniformLogSNR",
    "UniformTime",
    "UniformTimes",
    "UniformWeight",
    "V",
    "VPLinear",
    "autoguided",
    "classifier_free",
    "clipped",
    "coloured",
    "counted",
    "dequantised",
    "diffuse",
    "eps_of",
    "estimate",
    "flow_step",
    "inpainted",
    "interval",
    "largest_distance",
    "level_count",
    "level_curriculum",
    "level_ratio",
    "log_likelihood",
    "noise_level",
    "path",
    "prediction_of",
    "renoise",
    "sample",
    "sample_adaptive",
    "scale",
    "start",
    "step_size_for",
    "thresholded",
    "training_noise",
    "training_uniforms",
    "uniforms",
    "walk",
    "walk_adaptive",
]
