"""score_sde_pytorch's controllable generation: inpainting and a constraint on the colour."""

from __future__ import annotations

from medidiff.conformance.families.sde import controlled, sampler_of
from medidiff.conformance.recordings import Case, Unsupported
from medidiff.diffusion.constrained import Known, coloured


def replay(case: Case) -> None:
    """Compare one recording of controllable_generation.py with ours."""
    if case.sampler == "pc-inpaint":
        return controlled(case, case.meta, Known(case["data"], case["mask"]))
    if case.sampler == "pc-colour":
        # the original's matrix stands on the right of the channels
        known = coloured(sampler_of(case.meta), case["gray"], case["M"].T).known
        return controlled(case, case.meta, known)
    raise Unsupported(f"no replay for sampler {case.sampler}")
