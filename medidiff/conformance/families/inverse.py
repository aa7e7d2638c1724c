"""DDRM and DPS: methods of inverse problems, which are no part of the diffusion core."""

from __future__ import annotations

from medidiff.conformance.recordings import Case, Unsupported


def replay(case: Case) -> None:
    """Nothing of ours to compare yet."""
    raise Unsupported("inverse problems come with their own package")
