"""Populations of drawn heads and chests whose truth is known: anatomy that varies, lesions with
masks, splits and a manifest.

For tests, examples and first tries: nothing measured on them says anything about patients.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medidiff.data import anatomy
from medidiff.data import thorax as chest
from medidiff.data.anatomy import FIELD_OF_VIEW_MM
from medidiff.data.boxes import Axes
from medidiff.data.coils import coil_sensitivities, complex_noise, multi_coil, smooth_phase
from medidiff.data.face import with_face
from medidiff.data.lesions import AnyLesion, Contrast, MassEffect, SameIntensity, insert_lesion
from medidiff.data.phantom_files import write_dicom, write_nifti
from medidiff.data.phantoms import FINE, Subject, affine_of, draw_subject, keyed_generator
from medidiff.data.scanners import averaged, ct_image, mr_magnitude
from medidiff.data.shapes import Array
from medidiff.data.thorax_build import draw_build
from medidiff.data.vessels import drawn, grow
from medidiff.errors import ConfigError
from medidiff.outputs import check_new_folder

Kind = Literal["head", "thorax"]
LesionName = Literal["hyperintense", "hypointense", "same-intensity", "mass-effect"]
Format = Literal["nifti", "dicom"]
MODALITY: dict[Kind, str] = {"head": "MR", "thorax": "CT"}
LESIONS: dict[Kind, dict[str, AnyLesion]] = {
    "head": {
        "hyperintense": Contrast(contrast=0.3),
        "hypointense": Contrast(contrast=-0.3),
        "same-intensity": SameIntensity(grain_mm=4.0),
        "mass-effect": MassEffect(),
    },
    "thorax": {  # a nodule, a bulla, a change of texture, a growth that pushes vessels aside
        "hyperintense": Contrast(contrast=880.0, texture=0.05, detail=0.0),
        "hypointense": Contrast(contrast=-130.0, texture=0.05, detail=0.0),
        "same-intensity": SameIntensity(grain_mm=5.0),
        "mass-effect": MassEffect(),
    },
}
RADII_MM: dict[Kind, tuple[float, float]] = {"head": (7.0, 16.0), "thorax": (6.0, 18.0)}
MOST_LESIONS = 3
VEINS = 14
SLICE_LEVELS_MM = (-60.0, 70.0)  # of a chest: from the diaphragm to the aortic arch


@dataclass(frozen=True)
class PopulationOptions:
    """Who is drawn, and how."""

    kind: Kind = "head"
    dims: int = 2
    size: int = 128
    """Voxels along each axis; the field of view is 220 mm for heads, 400 x 400 x 320 for chests."""
    lesions: tuple[str, ...] = ()
    """Kinds of lesions (`LesionName`); one is drawn for each subject that has any."""
    lesion_share: float = 0.5
    """The share of subjects with lesions."""
    healthy: tuple[str, ...] = ()
    """Splits without lesions, e.g. ("train",) for anomaly detection."""
    coils: int = 0
    """Receiver coils of a head's simulated k-space; 0 writes none."""
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """A drawn subject: the image in arbitrary units (MR) or HU (CT), the mask of its lesions, what
    they are ("healthy" without any), the affine (RAS+, mm)."""

    subject: Subject
    image: NDArray[np.int16]
    mask: NDArray[np.uint8]
    lesion: str
    affine: Array


def draw(options: PopulationOptions, index: int, *, split: str = "train") -> Drawn:
    """Subject `index` of a population; the same options and index draw the same voxels.

    Arrays are (rows, columns) with rows to posterior and columns to the patient's left, in 3-D
    (slices, rows, columns) with slices to superior.
    Errors: ConfigError for options that cannot be drawn.
    """
    check_options(options)
    share = 0.0 if split in options.healthy or not options.lesions else options.lesion_share
    subject = draw_subject(options.seed, index, share)
    random = keyed_generator(options.seed, index, f"{options.kind} anatomy")
    clean, organ, level_mm = PICTURES[options.kind](subject, options, random)
    clean, mask, name = _with_lesions(clean, organ, subject, options, index)
    scanner = mr_magnitude if options.kind == "head" else ct_image
    image = scanner(averaged(clean, FINE), keyed_generator(options.seed, index, "scanner"))
    mask = (averaged(mask.astype(np.float32), FINE) > 0.5).astype(np.uint8)
    affine = affine_of(options.dims, options.size, FIELDS_MM[options.kind], level_mm)
    return Drawn(subject, image, mask, name, affine)


def check_options(options: PopulationOptions) -> None:
    """Errors: ConfigError for options that cannot be drawn."""
    if options.kind not in get_args(Kind) or options.dims not in (2, 3) or options.size < 16:
        raise ConfigError(
            f"a phantom is a head or a thorax, of 2 or 3 dimensions and at least 16 voxels a side, "
            f"not {options.kind}, {options.dims}, {options.size}"
        )
    unknown = [name for name in options.lesions if name not in get_args(LesionName)]
    if unknown or not 0 <= options.lesion_share <= 1:
        raise ConfigError(
            f"lesions {', '.join(unknown) or 'of share ' + format(options.lesion_share, 'g')}: "
            f"kinds are {', '.join(get_args(LesionName))}; the share lies between 0 and 1"
        )
    if options.coils < 0 or (options.coils and options.kind != "head"):
        raise ConfigError(f"{options.coils} coils: a head has any number, a thorax is CT: 0")


Picture = Callable[
    [Subject, PopulationOptions, np.random.Generator], tuple[Array, NDArray[np.bool_], float]
]


def _head(
    subject: Subject, options: PopulationOptions, random: np.random.Generator
) -> tuple[Array, NDArray[np.bool_], float]:
    level = random.uniform(0.0, 0.10)
    grid = anatomy.grid(options.dims, options.size * FINE, level)
    points = anatomy.posed(grid.points, options.dims, random)
    image, white, brain = anatomy.head(points, subject.age, subject.sex, random)
    if options.dims == 3:
        image, cranium = with_face(image, points, random)
        white, brain = white * cranium, brain * cranium
    vessels = _head_vessels(grid, random)
    vessels *= white
    shade = float(random.choice([0.30, 1.05]))  # flow voids, or contrast agent
    image += vessels * (shade - image)
    return image, brain > 0.9, level * anatomy.HEAD_MM


def _head_vessels(grid: Axes, random: np.random.Generator) -> Array:
    """Veins of the white matter that run from the ventricles outwards, 1 to 2 mm thick."""
    angles = np.linspace(0, 2 * np.pi, VEINS, endpoint=False) + random.normal(0, 0.15, VEINS)
    level = grid.z[0] if len(grid.z) == 1 else 0.1
    height = random.normal(level, 0.08, VEINS)
    ways = np.stack([np.cos(angles), np.sin(angles), random.normal(0, 0.12, VEINS)], axis=1)
    roots = np.stack([0.20 * np.cos(angles), 0.32 * np.sin(angles), height], axis=1)
    trees = grow(roots, ways, random, length=0.16, radius=0.012, generations=4, spread=0.35)
    return drawn(trees, grid, 0.012)


def _chest(
    subject: Subject, options: PopulationOptions, random: np.random.Generator
) -> tuple[Array, NDArray[np.bool_], float]:
    level = float(random.uniform(*SLICE_LEVELS_MM))
    build = draw_build(subject.age, subject.sex, random)
    grid = chest.grid(options.dims, options.size * FINE, level)
    hu, lung = chest.thorax(grid, build, random)
    return hu, lung > 0.9, level


PICTURES: dict[Kind, Picture] = {"head": _head, "thorax": _chest}
FIELDS_MM: dict[Kind, tuple[float, float, float]] = {
    "head": (FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM),
    "thorax": chest.FIELD_OF_VIEW_MM,
}


def _with_lesions(
    clean: Array, organ: NDArray[np.bool_], subject: Subject, options: PopulationOptions, index: int
) -> tuple[Array, NDArray[np.bool_], str]:
    mask = np.zeros(clean.shape, dtype=bool)
    if not subject.lesions:
        return clean, mask, "healthy"
    random = keyed_generator(options.seed, index, "lesions")
    name = options.lesions[int(random.integers(len(options.lesions)))]
    fields = FIELDS_MM[options.kind]
    along = (1, 0) if options.dims == 2 else (2, 1, 0)
    spacing = [fields[axis] / (options.size * FINE) for axis in along]
    for _ in range(int(random.integers(1, MOST_LESIONS + 1))):
        radius = float(random.uniform(*RADII_MM[options.kind]))
        lesion = LESIONS[options.kind][name]
        made = insert_lesion(
            clean, organ, lesion, radius_mm=radius, spacing_mm=spacing, random=random
        )
        clean, mask = made.image, mask | made.mask
    return clean, mask, name


HEADER = ("subject", "image", "label", "sex:category", "age:number", "lesion:category")


def write(
    folder: Path,
    options: PopulationOptions,
    counts: dict[str, int],
    *,
    format: Format = "nifti",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write a population: images, masks (NIfTI in either format), manifest; gives its path.

    `counts`: split -> subjects. The mask of a subject without lesions is empty. With `coils`,
    kspace/NAME.h5 holds each head's fully sampled k-space, the sensitivities and the complex image.
    `phantoms.json` beside the manifest says how to draw the same again.
    Errors: ConfigError for options; OutputError for a folder that holds something.
    """
    check_options(options)
    check_new_folder(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir()
    if options.coils:
        (folder / "kspace").mkdir()
    splits = [split for split, count in counts.items() for _ in range(count)]
    rows = []
    for index, split in enumerate(splits):
        rows.append(_written(folder, options, index, split, format))
        progress(index + 1, len(splits))
    facts = {"options": asdict(options), "counts": counts, "format": format, "synthetic": True}
    (folder / "phantoms.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[*HEADER, "modality", "split"], *rows])
    return manifest


def _written(
    folder: Path, options: PopulationOptions, index: int, split: str, format: Format
) -> list[str]:
    made = draw(options, index, split=split)
    name, modality = f"phantom{index:04d}", MODALITY[options.kind]
    image, label = f"images/{name}", f"labels/{name}.nii.gz"
    if format == "dicom":
        said = {"sex": made.subject.sex, "age": made.subject.age, "lesion": made.lesion}
        said |= {"kind": options.kind, "seed": options.seed, "subject": index}
        write_dicom(folder / image, made.image, made.affine, modality, name, said)
    else:
        image += ".nii.gz"
        write_nifti(folder / image, made.image, made.affine)
    write_nifti(folder / label, made.mask, made.affine)
    if options.coils:
        spacing = np.linalg.norm(made.affine[:3, :3], axis=0)[: options.dims]
        _write_kspace(folder / "kspace" / f"{name}.h5", made.image, spacing, options, index)
    traits = [made.subject.sex, str(made.subject.age), made.lesion]
    return [name, image, label, *traits, modality, split]


def _write_kspace(
    path: Path, image: NDArray[np.int16], spacing: Array, options: PopulationOptions, index: int
) -> None:
    """What `coils` receivers would have seen of an image with a smooth phase, with noise of 1 % of
    its maximum, in HDF5: kspace (1, coil, *space), as `run reconstruct` reads it."""
    import h5py

    random = keyed_generator(options.seed, index, "coils")
    sensitivities = coil_sensitivities(image.shape, options.coils, random)
    phase = smooth_phase(image.shape, random)
    noise = complex_noise(sensitivities.shape, 0.01 * float(image.max()), random)
    with h5py.File(path, "w", track_order=True) as file:
        file["kspace"] = multi_coil(image.astype(np.float32), sensitivities, phase, noise)[None]
        file["spacing_mm"] = spacing.astype(np.float64)
        file["sensitivities"] = sensitivities
        file["image"] = (phase * image).astype(np.complex64)
        file.attrs["simulated"] = True
