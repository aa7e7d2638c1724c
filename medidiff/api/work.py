"""The verb that puts a model to work on scans."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

from numpy.typing import NDArray
from torch import Tensor

from medidiff.api.calls import ModelLike, PathLike, Progress, reporting
from medidiff.errors import TaskError
from medidiff.jobs.cases import Mismatch
from medidiff.jobs.models import load_model
from medidiff.jobs.reaching import Across, Reaching
from medidiff.jobs.run import run_head
from medidiff.tasks import head_and_beside
from medidiff.tasks.results import Result


@overload
def run(
    task: str,
    model: ModelLike,
    input: PathLike | NDArray[Any] | Tensor,
    *,
    n: int = ...,
    seed: int = ...,
    mismatch: Mismatch = ...,
    tile: int | None = ...,
    tile_overlap: float = ...,
    plane: str | None = ...,
    across: Across = ...,
    progress: Progress = ...,
    **task_options: object,
) -> Result: ...


@overload
def run(
    task: str,
    model: ModelLike,
    input: list[PathLike] | list[list[PathLike]] | list[NDArray[Any]],
    *,
    n: int = ...,
    seed: int = ...,
    mismatch: Mismatch = ...,
    tile: int | None = ...,
    tile_overlap: float = ...,
    plane: str | None = ...,
    across: Across = ...,
    progress: Progress = ...,
    **task_options: object,
) -> list[Result]: ...


def run(
    task: str,
    model: ModelLike,
    input: PathLike
    | NDArray[Any]
    | Tensor
    | list[PathLike]
    | list[list[PathLike]]
    | list[NDArray[Any]],
    *,
    n: int = 1,
    seed: int = 0,
    mismatch: Mismatch = "refuse",
    tile: int | None = None,
    tile_overlap: float = 0.25,
    plane: str | None = None,
    across: Across = "one",
    progress: Progress = "none",
    # the head's own options, checked against its dataclass: an unknown one is an error with a
    # suggestion
    **task_options: object,
) -> Result | list[Result]:
    """A head on one scan, or on a list of them (a list gives a list).

    A model of several channels takes a list of files for each case; `reconstruct` takes what a
    scanner measured, as a file or an array. `n` > 1 asks for posterior samples and maps. Some tasks
    take more that belongs to the input, as a file or an array: `mask`, and `reconstruct` also
    `coils`, `phase`, `angles`, `affine` and `spacing_mm`.
    `tile`: take the input whole, in overlapping tiles of so many voxels along each axis (of the
    model's size of voxel), however large it is; the memory is that of a tile, and neighbours are
    blended over the share `tile_overlap`. Without it an input beyond the model's field of view is
    refused, and tissue beyond its grid, which comes back as background, is warned of.
    A model of slices takes a volume slice by slice: those of `plane`, the directions in which rows
    and columns count up (the model's own, else PL), or with `across` "three" of all three
    orientations, averaged at each noise level.
    Errors: TaskError for an unknown task or option; DataError for input that cannot be read or
    does not fit the model (`mismatch="warn"` warns instead).
    """
    cases = input if isinstance(input, list) else [input]
    results = run_each(
        task,
        model,
        cases,
        n=n,
        seed=seed,
        mismatch=mismatch,
        tile=tile,
        tile_overlap=tile_overlap,
        plane=plane,
        across=across,
        progress=progress,
        **task_options,
    )
    return [*results] if isinstance(input, list) else next(results)


def run_each(
    task: str,
    model: ModelLike,
    inputs: Sequence[Any],
    *,
    n: int = 1,
    seed: int = 0,
    mismatch: Mismatch = "refuse",
    tile: int | None = None,
    tile_overlap: float = 0.25,
    plane: str | None = None,
    across: Across = "one",
    progress: Progress = "none",
    **task_options: object,
) -> Iterator[Result]:
    """The results of `run` on a list, each as soon as it is made: to keep it before the next one
    takes its time. Each is a scan as `run` takes it.

    Errors: as `run`, those of a scan when it is its turn, by its number in the list.
    """
    if isinstance(inputs, str | os.PathLike):
        raise TaskError("run_each takes a list of scans; run takes one")
    chosen, beside = head_and_beside(task, task_options)
    loaded, how = load_model(model), Reaching(tile, tile_overlap, plane, across)

    def made(index: int) -> Result:
        with reporting(progress) as report:
            (result,) = run_head(
                chosen,
                loaded,
                [_files(inputs[index])],
                n=n,
                seed=seed,
                mismatch=mismatch,
                report=report,
                beside=beside,
                how=how,
                before=index,
                total=len(inputs),
            )
        return result

    return map(made, range(len(inputs)))


def _files(item: Any) -> Sequence[Any]:
    return item if isinstance(item, list | tuple) else [item]
