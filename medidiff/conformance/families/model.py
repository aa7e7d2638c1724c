"""The mixture behind all recordings, probed at given levels."""

from __future__ import annotations

from medidiff.conformance.recordings import Case, check_agrees
from medidiff.diffusion.levels import noise_level
from medidiff.diffusion.targets import FlowVelocity, Score, V, prediction_of


def replay(case: Case) -> None:
    """Compare our mixture with the recorded probes pN_*."""
    probes = sorted({key.split("_")[0] for key in case.arrays if key.endswith("_alpha_sigma")})
    for probe in probes:
        x, level = case[f"{probe}_x"], noise_level(0.0, *case[f"{probe}_alpha_sigma"].tolist())
        mixture = case.mixture
        here = mixture(x, level)
        ours = {
            "x0": here.clean,
            "eps": here.eps,
            "logp": mixture.log_density(x, level),
            "score": prediction_of(Score(), here.clean, here.eps, level),
            "v": prediction_of(V(), here.clean, here.eps, level),
            "flow": prediction_of(FlowVelocity(), here.clean, here.eps, level),
            "eps2": mixture.eps_square(x, level),
        }
        for name, value in ours.items():
            if f"{probe}_{name}" in case:
                check_agrees(f"{probe} {name}", value, case[f"{probe}_{name}"])
