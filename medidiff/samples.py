"""Images drawn from a model, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from torch import Tensor

from medidiff.data.images import save_image
from medidiff.model_folder import check_free, sidecar, write_json
from medidiff.outputs import all_or_none, folder_or_none


@dataclass(frozen=True)
class Samples:
    """Images drawn from a model, in its intensity units, on its own grid."""

    images: Tensor
    """(n, channel, *space)"""
    affine: np.ndarray
    nfe: int
    """Network calls per image."""
    provenance: Mapping[str, object]

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write each image as NIfTI with a provenance sidecar; returns the image files.

        Errors: OutputError if a file is already there (nothing is overwritten).
        """
        place = Path(folder)
        files = [place / f"sample-{index:04d}.nii.gz" for index in range(len(self.images))]
        check_free([*files, *map(sidecar, files)])
        place.mkdir(parents=True, exist_ok=True)
        for index, (file, image) in enumerate(zip(files, self.images, strict=True)):
            with all_or_none([file, sidecar(file)]):
                save_image(file, image, self.affine, description="SYNTHETIC medidiff")
                write_json(sidecar(file), {**self.provenance, "index": index})
        return files

    def save_dicom(
        self, folder: str | os.PathLike[str], modality: str, when: datetime | None = None
    ) -> list[Path]:
        """Write each image as a DICOM series of a synthetic patient of its own, several channels
        as several series; returns the files. `when`: the time that is stamped (default: now).

        Errors: OutputError if a folder is already there; DataError for a modality that DICOM does
        not write volumes of.
        """
        from medidiff.data.dicom_out import channels
        from medidiff.data.dicom_out_files import written
        from medidiff.data.dicom_out_modules import Making, now

        files: list[Path] = []
        targets = [Path(folder) / f"sample-{index:04d}" for index in range(len(self.images))]
        check_free(targets)
        for index, (target, image) in enumerate(zip(targets, self.images, strict=True)):
            said = {**self.provenance, "index": index}
            made = Making("SYNTHETIC", "sample", said, when or now())
            with folder_or_none(target):
                for name, objects in channels(image.numpy(), self.affine, modality, made).items():
                    files += written(objects, target / name)
        return files
