"""One file a family of recordings: how its authors' conventions are said in ours.

Each file has `replay(case)`, which builds the levels from `case.meta` with our own schedules and
times, runs our sampler (or loss, bound, table), and compares. It returns if ours agrees, raises
AssertionError where it differs and `Unsupported` where there is nothing of ours to compare. It
reads the recorded states only to compare, and knows no case by name: a folder with other cases of
the same kinds goes through it as well.
"""

from __future__ import annotations

from collections.abc import Callable

from medidiff.conformance.families import (
    adp,
    analytic,
    deis,
    df,
    diffpure,
    dpm,
    edm,
    ermon,
    ext,
    gd,
    gdl,
    inverse,
    kd,
    model,
    ncsn,
    pndm,
    posterior,
    respacing,
    sde,
    sdec,
    sdg,
    unipc,
)
from medidiff.conformance.recordings import Case

FAMILIES: dict[str, Callable[[Case], None]] = {
    "adp": adp.replay,
    "analytic": analytic.replay,
    "ddrm": inverse.replay,
    "deis": deis.replay,
    "df": df.replay,
    "diffpure": diffpure.replay,
    "diffpure2": diffpure.replay,
    "dpm": dpm.replay,
    "dps": inverse.replay,
    "edm": edm.replay,
    "edm2": edm.replay,
    "ermon": ermon.replay,
    "ext": ext.replay,
    "gd": gd.replay,
    "gdl": gdl.replay,
    "kd": kd.replay,
    "model": model.replay,
    "ncsn1": ncsn.replay,
    "ncsn10": ncsn.replay,
    "ncsn2": ncsn.replay,
    "ncsnv2": ncsn.replay,
    "pndm": pndm.replay,
    "posterior": posterior.replay,
    "respacing": respacing.replay,
    "sde": sde.replay,
    "sdec": sdec.replay,
    "sdg": sdg.replay,
    "unipc": unipc.replay,
}
