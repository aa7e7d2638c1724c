"""The verbs for manifests: written of a folder, dealt to splits, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from medidiff.api.calls import PathLike, Progress, reporting
from medidiff.data.build import BuildOptions
from medidiff.data.dicom import Stacking
from medidiff.data.splitting import SplitOptions
from medidiff.jobs import manifests
from medidiff.jobs.manifests import ManifestMade


def build_manifest(
    folder: PathLike,
    out: PathLike,
    *,
    subjects: Literal["pseudonym", "raw"] = "pseudonym",
    tilt: Literal["refuse", "resample"] = "refuse",
    gaps: Literal["refuse", "resample"] = "refuse",
    arrange: Literal["images", "cases"] = "images",
    kspace: Literal["volumes", "slices"] = "volumes",
    progress: Progress = "none",
) -> ManifestMade:
    """Write the manifest `out` (.csv) of a folder tree or archive of scans.

    DICOM is taken by series, each volume of which gets a row and a list of its files in a folder
    beside the manifest; NIfTI, NRRD, MetaImage, PNG and JPEG by their names (BIDS and usual
    layouts); fully sampled k-space in fastMRI's HDF5 as its root-sum-of-squares images. What cannot
    be used is left out and told, and so is a mix of 2-D and 3-D. `subjects`: the patient
    identifiers of DICOM and k-space as keyed pseudonyms or raw. `tilt`, `gaps`: series with a
    tilted gantry, with uneven or missing slices. `arrange`: a row an image, or a row a session with
    a column a sequence. `kspace`: a row a file, or a row a slice for models of slices.
    Errors: DataError, OutputError, ManifestError.
    """
    options = BuildOptions(subjects, Stacking(tilt, gaps), arrange, kspace)
    with reporting(progress) as report:
        return manifests.build(Path(folder), Path(out), options, report)


def split_manifest(
    manifest: PathLike,
    out: PathLike,
    *,
    shares: Mapping[str, float] | None = None,
    stratify: Sequence[str] = (),
    hold_out: Sequence[str] = (),
    site_column: str = "site",
    hold_out_split: str = "test",
    seed: int = 0,
) -> str:
    """Write a manifest again with its subjects dealt to splits; gives how many went where.

    `shares`: split -> share of the subjects. `stratify`: columns that every split has alike.
    `hold_out`: sites whose subjects all go to `hold_out_split`, which then takes no others.
    Errors: ConfigError, OutputError, ManifestError.
    """
    dealt = SplitOptions().shares if shares is None else tuple(shares.items())
    options = SplitOptions(
        dealt, tuple(stratify), tuple(hold_out), site_column, hold_out_split, seed
    )
    with reporting("none"):
        return manifests.split(Path(manifest), Path(out), options)


def check_manifest(
    manifest: PathLike,
    *,
    images: Sequence[str] | None = None,
    missing: Literal["refused", "allowed"] = "refused",
    progress: Progress = "none",
) -> str:
    """Open every image of a manifest, and look for what would leak between its splits.

    Found: what training would refuse; images that are nearly the same under two subjects or in two
    splits; pieces of one scan, and one study, under two subjects. `images`: image columns (default:
    all). `missing`: whether a row may lack some of them.
    Errors: ManifestError with every problem.
    """
    with reporting(progress) as report:
        return manifests.check(Path(manifest), report, images=images, missing=missing)
