"""Procedurally drawn heads: anatomy that varies from subject to subject, lesions with known masks.

A phantom resembles an axial T1-weighted picture of a head: bright scalp, dark skull, folded cortex,
white matter, ventricles, deep grey matter. It is meant for demonstrations and tests: nothing
measured on it says anything about patients.

Arrays are (rows, columns) with rows to posterior and columns to the patient's left, in 3-D (slices,
rows, columns) with slices to superior, so that `imshow(array)` shows an upright head in the
radiological convention.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.data.anatomy import FIELD_OF_VIEW_MM, grid, head, posed, with_lesions
from medidiff.data.phantom_files import write_nifti
from medidiff.data.scanners import averaged, mr_magnitude
from medidiff.data.shapes import Array

SPLITS = ("train", "val", "test")
FINE = 2  # drawn so much finer, then averaged: partial volume at every border


@dataclass(frozen=True)
class Subject:
    """Who is drawn: the two covariates that shape the anatomy, and whether there are lesions.

    `age` (years) widens the ventricles and the sulci; `sex` ("F" or "M") scales the head.
    """

    age: float
    sex: str
    lesions: bool


@dataclass(frozen=True)
class Phantom:
    """An image in arbitrary units (about 0 to 1000), its lesion mask, and its affine (RAS+, mm)."""

    image: NDArray[np.int16]
    mask: NDArray[np.uint8]
    affine: Array


def draw_subject(seed: int, index: int, lesion_share: float) -> Subject:
    """Age, sex and lesions of subject `index` of the population `seed`."""
    random = keyed_generator(seed, index, "subject")
    return Subject(
        age=round(float(random.uniform(20, 85)), 1),
        sex="M" if random.uniform() < 0.5 else "F",
        lesions=bool(random.uniform() < lesion_share),
    )


def draw_head(subject: Subject, *, dims: int, size: int, seed: int, index: int) -> Phantom:
    """The head of one subject, `size` voxels along each of `dims` axes.

    Units: arbitrary, like magnitude MRI; the field of view is 220 mm.
    Errors: ValueError for `dims` other than 2 and 3 and a `size` below 16.
    """
    if dims not in (2, 3) or size < 16:
        raise ValueError(
            f"a phantom has 2 or 3 dims and at least 16 voxels a side, not {dims}, {size}"
        )
    random = keyed_generator(seed, index, "anatomy")
    points = posed(grid(dims, size * FINE, random.uniform(0.0, 0.10)).points, dims, random)
    brightness, white, inside = head(points, subject.age, subject.sex, random)
    lesion = np.zeros_like(brightness)
    if subject.lesions:
        brightness, lesion = with_lesions(brightness, white, inside, points, dims, random)
    brightness = mr_magnitude(averaged(brightness, FINE), random)
    mask = averaged(lesion, FINE) > 0.5
    return Phantom(brightness, mask.astype(np.uint8), affine_of(dims, size, [FIELD_OF_VIEW_MM] * 3))


def write_population(
    folder: str | Path,
    n_train: int,
    n_val: int,
    n_test: int,
    dims: int = 2,
    size: int = 64,
    seed: int = 0,
    lesion_share: Sequence[float] = (0.5, 0.5, 0.5),
) -> Path:
    """Writes images, masks and a manifest of drawn heads; gives the manifest's path.

    `lesion_share`: the share of subjects with lesions in train, val and test; (0, 0.5, 0.5) leaves
    a healthy train split for anomaly detection. The files are NIfTI with a true affine (2-D ones
    too), the mask of a healthy subject is empty. Columns: subject, image, label, sex, age, lesion
    ("yes"/"no"), modality, split. The same arguments write the same voxels.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    header = ["subject", "image", "label", "sex:category", "age:number", "lesion:category"]
    rows: list[list[str]] = []
    counts = zip(SPLITS, (n_train, n_val, n_test), lesion_share, strict=True)
    for split, count, share in counts:
        for _ in range(count):
            index = len(rows)
            subject = draw_subject(seed, index, share)
            phantom = draw_head(subject, dims=dims, size=size, seed=seed, index=index)
            name = f"phantom{index:04d}"
            write_nifti(folder / "images" / f"{name}.nii.gz", phantom.image, phantom.affine)
            write_nifti(folder / "labels" / f"{name}.nii.gz", phantom.mask, phantom.affine)
            paths = [f"images/{name}.nii.gz", f"labels/{name}.nii.gz"]
            traits = [subject.sex, str(subject.age), "yes" if subject.lesions else "no"]
            rows.append([name, *paths, *traits, "MR", split])
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[*header, "modality", "split"], *rows])
    return manifest


def keyed_generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the seed, the subject and what they are for, nothing else."""
    digest = hashlib.blake2b(f"{seed}/{index}/{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def affine_of(dims: int, size: int, fields_mm: Sequence[float], level_mm: float = 0.0) -> Array:
    """The affine (RAS+) of an image of `size` voxels along fields of view in x, y, z.

    The third axis of a slice is superior, at `level_mm`, as thick as its pixels are wide.
    """
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    axes = ((1, -1), (0, -1)) if dims == 2 else ((2, 1), (1, -1), (0, -1))
    for axis, (direction, sign) in enumerate(axes):
        spacing_mm = fields_mm[direction] / size
        affine[direction, axis] = sign * spacing_mm
        affine[direction, 3] = sign * -spacing_mm * (size - 1) / 2
    if dims == 2:
        affine[2, 2], affine[2, 3] = fields_mm[0] / size, level_mm
    return affine
