"""What a head gives back: images on the input's grid, with maps and provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from medidiff.data.images import save_image
from medidiff.errors import OutputError
from medidiff.model_folder import check_free, sidecar, stem, write_json
from medidiff.outputs import all_or_none

if TYPE_CHECKING:
    from medidiff.data.dicom_out_patient import Patient
    from medidiff.data.dicom_out_protect import Dates


OF_SLICES = ("sigma", "counts", "residual")
"""Lists in the provenance of each result of a batch: a number for each case of that batch."""


@dataclass(frozen=True)
class Result:
    """One processed or synthetic image.

    Shapes: image, maps and samples are (channel, *space) on the input's grid.
    Units: the intensity units of the input.
    """

    image: NDArray[np.float32]
    affine: NDArray[np.float64]
    """Voxel index -> RAS+ millimetres."""
    provenance: Mapping[str, object]
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Further images by name, such as "std" over posterior samples."""
    samples: Sequence[NDArray[np.float32]] = ()
    modality: str = ""
    """What the values are of, as DICOM writes it: MR, CT, ..."""
    placed: bool = True
    """Whether the input said where it lies; else `affine` only says the axes."""
    sized: bool = False
    """Whether an input that did not say where it lies said how large its voxels are, as `affine`
    does then."""

    def save(self, file: str | os.PathLike[str]) -> list[Path]:
        """Write the image as NIfTI (`file` ends in .nii.gz or .nii), maps beside it, and a
        provenance sidecar.

        Errors: OutputError if a file is already there or the name is not a NIfTI name; nothing is
        overwritten.
        """
        place = Path(file)
        check_nifti_name(place)
        base = stem(place)
        named = {place: self.image}
        named |= {
            place.with_name(f"{base}-{name}.nii.gz"): value for name, value in self.maps.items()
        }
        if len(self.samples) > 1:
            named |= {
                place.with_name(f"{base}-sample-{index:02d}.nii.gz"): value
                for index, value in enumerate(self.samples)
            }
        check_free([*named, sidecar(place)])
        place.parent.mkdir(parents=True, exist_ok=True)
        description = f"{self.provenance['kind']} medidiff"
        listed = [target.name for target in named]
        with all_or_none([*named, sidecar(place)]):
            for target, value in named.items():
                save_image(target, value, self.affine, description=description)
            write_json(sidecar(place), {**self.provenance, "files": listed})
        return [*named, sidecar(place)]

    def save_dicom(
        self,
        folder: str | os.PathLike[str],
        *,
        sources: Sequence[str | os.PathLike[str]] = (),
        patient: Patient | None = None,
        deidentify: Dates = "none",
        when: datetime | None = None,
    ) -> list[Path]:
        """Write derived DICOM series into a new folder: the image, samples, maps.

        `sources`: the DICOM series of the input, one for each channel: their patient, study and
        geometry are kept. Without them the study is new, and of `patient` (default: a synthetic
        one). `deidentify`: apply the basic profile of PS3.15, with dates removed or shifted.
        `when`: stamped on the objects, and part of what their UIDs are made from.
        Errors: OutputError if the folder is there already; DataError for what DICOM cannot hold.
        """
        from medidiff.data.dicom_out_modules import now
        from medidiff.data.dicom_out_origin import Origin
        from medidiff.data.dicom_out_patient import Patient
        from medidiff.data.dicom_out_protect import protection, without_handles
        from medidiff.data.dicom_out_source import open_source
        from medidiff.tasks.dicom_results import dicom_series, save_series

        # a result may have finer voxels than its source, but lies in its space
        origins = [Origin(open_source(Path(source)), place="source") for source in sources]
        origins = origins or [Origin(patient=patient or Patient())] * len(self.image)
        series = dicom_series(self, origins, when or now())
        said = self.provenance if deidentify == "none" else without_handles(self.provenance)
        return save_series(series, Path(folder), said, protection(deidentify))


def older(image: Path) -> list[Path]:
    """Maps and samples that an earlier result left beside an image's place: they would be lost, or
    be taken for the new one's."""
    base = stem(image)
    names = ("std", "p05", "p95", "sample-00")
    beside = [image.with_name(f"{base}-{name}.nii.gz") for name in names]
    return [each for each in beside if each.exists()]


def stacked(batches: Sequence[Sequence[Result]], affine: NDArray[np.float64]) -> Result:
    """The volume of slices that follow each other along the third axis of `affine`, as they were
    solved, some at a time; of one slice, that slice.

    What provenance says of each slice of a batch in a list (noise levels, residuals) is joined.
    """
    slices = [each for batch in batches for each in batch]
    if len(slices) == 1:
        return slices[0]

    def joined(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(images, axis=-1)

    first = slices[0]
    said = [batch[0].provenance for batch in batches]
    own = {name: _joined([each[name] for each in said]) for name in OF_SLICES if name in said[0]}
    provenance = {
        name: own[name] if name in own else _together(name, [x.provenance[name] for x in slices])
        for name in first.provenance
    }
    return Result(
        joined([each.image for each in slices]),
        affine,
        provenance,
        {name: joined([each.maps[name] for each in slices]) for name in first.maps},
        [joined(each) for each in zip(*(each.samples for each in slices), strict=True)],
        first.modality,
        first.placed,
        first.sized,
    )


def _joined(lists: Sequence[object]) -> list[object]:
    return [item for each in lists for item in cast(Sequence[object], each)]


def _together(name: str, values: Sequence[object]) -> object:
    """What is the same once. A volume is calibrated where all of its slices are."""
    distinct = [value for index, value in enumerate(values) if value not in values[:index]]
    if name == "uncertainty" and "uncalibrated" in distinct:
        return "uncalibrated"
    return distinct[0] if len(distinct) == 1 else distinct


def check_nifti_name(place: Path) -> None:
    """Errors: OutputError for a name that is not NIfTI's."""
    if not place.name.endswith((".nii", ".nii.gz")):
        raise OutputError(f"{place}: results are written as NIfTI; name a file ending in .nii.gz")
