"""ermongroup/ddim: generalized_steps (DDIM) and ddpm_steps."""

from __future__ import annotations

from medidiff.conformance.families.tables import check_betas, levels_at, states_of, table_of
from medidiff.conformance.recordings import Case, Unsupported, check_states
from medidiff.diffusion.denoiser import clipped
from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.steps import quadratic_steps


def replay(case: Case) -> None:
    """A trajectory along a uniform or quadratic list of steps."""
    schedule = table_of(case.meta["schedule"])
    check_betas(case, schedule)
    count = len(case["timesteps"])
    # the ancestral cases have the kind of their list in their name only
    spelled = case.meta.get("skip_type") or case.name.split("_")[2]
    if spelled == "quad":
        steps = quadratic_steps(schedule.steps, count)
    elif spelled == "uniform":
        steps = uniform_steps(schedule.steps, count)
    else:
        raise Unsupported(f"ddim has no skip_type {spelled!r}")
    levels = levels_at(schedule, steps)
    if case.sampler.startswith("ddpm"):
        model = clipped(case.mixture, -1, 1) if case.meta["clip_x0"] else case.mixture
        check_states(states_of(case, model, levels, DDPM(variance="large")), case)
        return
    check_states(states_of(case, case.mixture, levels, DDIM(eta=case.meta["eta"])), case)


def uniform_steps(table: int, count: int) -> list[int]:
    """Strides of table // asked from step 1 to the end of the table.

    Where `asked` does not divide the table this may visit more steps than were asked for, so the
    recorded count is looked for, from `asked` = count down. Nobody wants it by name:
    `leading-steps` visits as many as it is told.
    """
    for asked in range(count, 0, -1):
        steps = range(1, table + 1, table // asked)
        if len(steps) == count:
            return list(steps)
    raise Unsupported(f"no uniform list of {table} has {count} steps")
