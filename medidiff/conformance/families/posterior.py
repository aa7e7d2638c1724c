"""Exact posteriors of linear inverse problems in the mixture."""

from __future__ import annotations

from medidiff.conformance.oracles import posterior
from medidiff.conformance.recordings import Case, check_agrees


def replay(case: Case) -> None:
    """Compare our closed form with the recorded one."""
    found = posterior(case.mixture, case["A"], case["y"], float(case["sigma_y"]))
    ours = {
        "post_w": found.weights,
        "post_mu": found.means,
        "post_var_diag": found.variances,
        "post_mean": found.mean,
        "post_var": found.variance,
        "log_evidence": found.log_evidence,
    }
    for name, value in ours.items():
        check_agrees(name, value, case[name])
