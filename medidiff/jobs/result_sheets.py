"""A picture beside a result, of what a person would look at: the input, the result, and of several
samples how far they differ. It holds pixels, and no name or header of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.images import load_image
from medidiff.errors import DataError
from medidiff.model import Model
from medidiff.model_folder import stem
from medidiff.outputs import all_or_none
from medidiff.report.pictures import sheet
from medidiff.spec import ModelSpec, of_volumes
from medidiff.tasks.base import Head
from medidiff.tasks.restoration import SPREAD, shown_deviation
from medidiff.tasks.results import Result

ENDS = (0.001, 0.999)  # quantiles of a result whose input has no intensities of the model


def sheet_file(target: Path) -> Path:
    """Where the picture of a result lies: beside it, by its name."""
    return target.with_name(f"{stem(target)}.png")


def save_sheet(
    result: Result, head: Head, model: Model, files: Sequence[Any], target: Path
) -> Path:
    """A PNG beside `target`: a row a channel, of volumes a row an image with its middle planes.

    All are on the result's grid, in the model's window on this input; several channels in shares of
    theirs. What was measured has no image, and its result a window of its own.
    """
    spec = _spec_of(model, len(result.image))
    given = None if head.needs().measurement else _given(files)
    ends = None if given is None else _of_input(given, spec)
    ends = _of_result(result) if ends is None else ends
    shown = {"result": result.image}
    if given is not None and (there := _onto(given, result.image.shape)) is not None:
        shown = {"input": there, **shown}
    images, titles = [], []
    several = len(result.image) > 1
    for channel, (low, high) in enumerate(ends):
        own = {name: image[channel] for name, image in shown.items()}
        if "std" in result.maps:
            own[SPREAD] = shown_deviation(result.maps["std"][channel], low)
        for name, image in own.items():
            images.append(_cell((image - low) / (high - low) if several else image))
            titles.append(f"{name}\n{spec.images[channel]}" if several else name)
    place = sheet_file(target)
    with all_or_none([place]):
        sheet(
            images,
            place,
            window=(0.0, 1.0) if several else ends[0],
            columns=len(images) // len(ends) if result.image.ndim == 3 else None,
            titles=titles,
            affine=result.affine if result.placed else None,
            title=f"{head.kind}, {spec.name}; research only",
        )
    return place


def _spec_of(model: Model, channels: int) -> ModelSpec:
    """The model's own; where it took a volume slab by slab, with a channel for all of a slab."""
    slabs = model.spec.slices is not None and len(model.spec.images) != channels
    return of_volumes(model.spec) if slabs else model.spec


def _cell(image: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[None]))


def _given(files: Sequence[Any]) -> NDArray[np.float32]:
    """The input's images, a channel each."""
    return np.concatenate([load_image(file).as_tensor().numpy() for file in files])


def _of_input(given: NDArray[np.float32], spec: ModelSpec) -> list[tuple[float, float]] | None:
    """The intensities of each channel that the model's window begins and ends with; None of an
    input that is nearly all padding, which only the model's grid left out."""
    try:
        scale = spec.intensity.scale_of(torch.from_numpy(given))
    except DataError:
        return None
    return [*zip(scale.low, scale.high, strict=True)]


def _of_result(result: Result) -> list[tuple[float, float]]:
    """The same for a result whose intensities are a scanner's own."""
    ends = [tuple(map(float, np.quantile(channel, ENDS))) for channel in result.image]
    return [(low, high if low < high else low + 1) for low, high in ends]


def _onto(given: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The input with each voxel as often as the result has it along each axis; None where that is
    no whole number."""
    if len(given) != shape[0] or given.ndim != len(shape):
        return None
    for axis, (n, wanted) in enumerate(zip(given.shape, shape, strict=True)):
        if wanted % n:
            return None
        given = given.repeat(wanted // n, axis)
    return given
