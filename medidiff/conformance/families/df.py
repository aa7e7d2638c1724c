"""diffusers' schedulers, by their names."""

from __future__ import annotations

from medidiff.conformance.families import df_multistep
from medidiff.conformance.recordings import Case, Unsupported


def replay(case: Case) -> None:
    """Dispatch on the scheduler."""
    if case.sampler not in df_multistep.SCHEDULERS:
        raise Unsupported(f"scheduler {case.sampler}")
    df_multistep.replay(case)
