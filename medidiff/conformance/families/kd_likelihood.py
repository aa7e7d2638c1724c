"""k-diffusion's log_likelihood: the flow in sigma itself, one probe, a prior N(0, sigma_max^2)."""

from __future__ import annotations

from medidiff.conformance.recordings import Case, check_agrees
from medidiff.diffusion.dormand_prince import ErrorControl
from medidiff.diffusion.likelihood import FlowLikelihood, log_likelihood
from medidiff.diffusion.noise import TapeNoise
from medidiff.diffusion.schedules import EDM

HUTCHINSON_TOLERANCE = 5e-3
"""What the recordings grant to a likelihood by one probe and loose adaptive steps."""


def replay(case: Case) -> None:
    """Compare one recorded likelihood; time is sigma itself, which is EDM with rho = 1."""
    schedule = EDM(sigma_min=case.meta["sigma_min"], sigma_max=case.meta["sigma_max"], rho=1.0)
    options = FlowLikelihood(
        divergence="hutchinson", probes=1, control=ErrorControl(1e-6, 1e-6, "batch")
    )
    probe = TapeNoise([[case["probe_v"]]])
    found = log_likelihood(case.mixture, case["x0"], schedule, probe, options)
    check_agrees("log-likelihood", found.nats, case["ll_hutchinson"], HUTCHINSON_TOLERANCE)
