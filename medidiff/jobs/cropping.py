"""What is said where a model's grid cuts off more of a scan than air."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from medidiff.data.checks import grids
from medidiff.data.cropping import Cropped
from medidiff.data.datasets import Case, inside
from medidiff.data.fitness import BY_TILES, field_of_view
from medidiff.data.images import Original
from medidiff.data.options import Slices, Space
from medidiff.data.placing import place_row
from medidiff.data.rows import Row, rows_listed
from medidiff.data.slices import stack_grid
from medidiff.data.survey import CASES
from medidiff.jobs.reporting import Reporter
from medidiff.model import Model
from medidiff.tasks.base import Needs
from medidiff.warned import warn

OUTSIDE = "outside of the model's field of view"


def warn_of_cropped(case: Case, model: Model, needs: Needs, row: int) -> None:
    """Warn where a result of a head will lack some of its input."""
    advice = "" if model.reach.tiles is not None else f" ({BY_TILES})"
    if needs.around == "scan":
        beyond, hole = _unfilled(case)
        if beyond:
            warn(
                f"input {row}: {beyond} of the {hole} voxels of the mask lie {OUTSIDE} and stay "
                f"as they are in the scan{advice}",
                stacklevel=3,
            )
    elif case.cropped.matters:
        warn(
            f"input {row}: {case.cropped} lie {OUTSIDE} and come back as background{advice}",
            stacklevel=3,
        )


def _unfilled(case: Case) -> tuple[int, int]:
    """Voxels of a hole that the model does not see, of how many."""
    if "hole" not in case.beside:
        return 0, 0
    hole = case.beside["hole"].numpy() > 0
    return int((hole & ~inside(case)).sum()), int(hole.sum())


def warn_of_signal(cropped: Cropped, row: int) -> None:
    """Warn where what was measured gives signal beyond the model's grid."""
    if cropped.matters:
        warn(
            f"input {row}: {cropped} lie {OUTSIDE}: they come back as background, and what "
            "they gave of the signal is taken for the rest of the image. Use a model with a "
            "larger grid",
            stacklevel=3,
        )


def scans_cropped(
    rows: Sequence[Row],
    images: Sequence[str],
    space: Space,
    slices: Slices | None,
    workers: int,
    report: Reporter,
) -> dict[int, Cropped]:
    """What of scans lies beyond a training's grid, by row: of 400 of them at most, evenly spread.
    Only those are read that are larger than the grid at all.

    Errors: DataError for a file that cannot be read or brought to the grid.
    """
    count = min(CASES, len(rows))
    some = [rows[place * len(rows) // count] for place in range(count)]
    known = grids(some, images[0])
    larger = [row for row in some if _is_larger(*known[row.number], space)]

    def look(row: Row) -> Cropped:  # no image waits for the one before it
        return place_row(row, images, None, space, stacked=slices is not None).cropped

    found = {row.number: Cropped() for row in some}
    with ThreadPoolExecutor(workers) as pool:
        for done, (row, lost) in enumerate(zip(larger, pool.map(look, larger), strict=True)):
            found[row.number] = lost
            report.progress("looking beyond the grid", done + 1, len(larger))
    return found


def _is_larger(shape: tuple[int, ...], affine: NDArray[np.float64] | None, space: Space) -> bool:
    """Whether a scan may reach beyond the grid along some axis."""
    if affine is None:
        return True
    original = Original(shape, affine, True, None, ())
    grid = stack_grid(space, original) if len(shape) > space.dims else space
    step = 1.0 if isinstance(grid.spacing_mm, str) else np.array(grid.spacing_mm)
    return bool((np.array(field_of_view(original, grid)) > np.array(grid.size) * step).any())


def cropping_notes(found: Mapping[int, Cropped], scans: int, space: Space) -> tuple[str, ...]:
    """What is said of a training's scans, of which some were looked at; nothing where only air is
    cut off."""
    lost = {row: each for row, each in sorted(found.items()) if each.matters}
    if not lost:
        return ()
    looked = "" if len(found) == scans else " that were looked at"
    most = 100 * max(each.share for each in lost.values())
    return (
        f"{len(lost)} of {len(found)} training scans{looked} reach beyond the grid of "
        f"{' x '.join(map(str, space.size))} voxels with more than air ({rows_listed([*lost])}; up "
        f"to {most:.2g} % of what is not air): the model never sees that part. If it is not meant "
        "to be cut off, enlarge data.space.size",
    )
