"""A result as DICOM: its image, posterior samples and maps, a series each, in one study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medidiff.data.dicom_out import images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_maps import Quantity, parametric_map, unit_of
from medidiff.data.dicom_out_modules import Making
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_protect import Protect
from medidiff.data.dicom_out_source import source_of
from medidiff.errors import TaskError
from medidiff.model_folder import check_free, write_json
from medidiff.outputs import folder_or_none

if TYPE_CHECKING:
    from medidiff.tasks.results import Result

PROVENANCE = "provenance.json"
Series = dict[str, list[Dataset]]
"""Folder -> the objects that go into it."""


def dicom_series(result: Result, origins: Sequence[Origin], when: datetime) -> Series:
    """The objects of a result; an origin for each of its channels.

    Errors: TaskError for another number of origins; DataError for what DICOM cannot hold.
    """
    if len(origins) != len(result.image):
        raise TaskError(
            f"the result has {len(result.image)} channels and {len(origins)} sources are named"
        )
    found: Series = {}
    for channel, origin in enumerate(origins):
        mine = _with_modality(origin, result)
        if found and origin.source is None:  # all channels are of one patient
            mine = replace(mine, beside=next(iter(found.values()))[0])
        suffix = f"-{channel + 1}" if len(origins) > 1 else ""
        part = _channel(result, channel, mine, when, 1 + len(found))
        found |= {f"{name}{suffix}": objects for name, objects in part.items()}
    return found


def save_series(
    series: Series, folder: Path, provenance: Mapping[str, object], protect: Protect
) -> list[Path]:
    """A folder of folders, a series each, with the provenance as JSON beside them; all or none.

    Errors: OutputError if the folder is there already.
    """
    check_free([folder])
    files: list[Path] = []
    record = folder / PROVENANCE
    with folder_or_none(folder):
        for name, objects in series.items():
            files += written(objects, folder / name, protect)
        listed = [file.relative_to(folder).as_posix() for file in files]
        write_json(record, {**provenance, "files": listed})
    return [*files, record]


def _with_modality(origin: Origin, result: Result) -> Origin:
    known = origin.modality or (origin.source.modality if origin.source else result.modality)
    return replace(origin, modality=known)


def _channel(result: Result, channel: int, origin: Origin, when: datetime, number: int) -> Series:
    affine = result.affine if result.placed else None
    sides = np.linalg.norm(result.affine[:3, :2], axis=0) if result.sized else None

    def objects(values: NDArray[Any], whose: Origin, made: Making, index: int) -> list[Dataset]:
        return images(values, affine, whose, made, index, sides)

    task = _task(result)
    main = objects(result.image[channel], origin, _making(result, task, when), number)
    index = 1
    found: Series = {"image": main}
    beside = replace(origin, beside=main[0])
    samples = result.samples if len(result.samples) > 1 else ()
    for number, sample in enumerate(samples):
        index += 1
        made = _making(result, f"{task} sample {number}", when)
        found[f"sample-{number:02d}"] = objects(sample[channel], beside, made, index)
    over = replace(beside, source=source_of(main))  # which refers to the source itself
    for name, values in result.maps.items():
        index += 1
        made = _making(result, f"{task} {name}", when)
        if result.placed and over.source is not None and over.source.placed:
            quantity = Quantity(name, unit_of(origin.modality))
            found[name] = [parametric_map(values[channel], affine, over, made, quantity, index)]
        else:  # a parametric map must say where it lies
            found[name] = objects(values[channel], beside, made, index)
    return found


def _making(result: Result, what: str, when: datetime) -> Making:
    kind = "SYNTHETIC" if result.provenance.get("kind") == "SYNTHETIC" else "AI-PROCESSED"
    return Making(kind, what, result.provenance, when)


def _task(result: Result) -> str:
    task = result.provenance.get("task")
    return str(task.get("kind")) if isinstance(task, Mapping) else "result"
