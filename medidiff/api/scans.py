"""The verbs for the scans themselves: drawn, made free of names and faces, written as DICOM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydicom.sr.coding import Code

from medidiff.api.calls import PathLike, Progress, reporting
from medidiff.data.confidentiality.faces import Defacing
from medidiff.data.confidentiality.profile import Confidentiality
from medidiff.data.dicom_out_maps import NO_UNIT, Quantity
from medidiff.data.dicom_out_origin import Place
from medidiff.data.dicom_out_patient import Patient
from medidiff.data.dicom_out_protect import Dates, protection
from medidiff.data.dicom_out_segments import Segment
from medidiff.data.population import Format, Kind, PopulationOptions
from medidiff.jobs import privacy
from medidiff.jobs.defacing import write_defaced
from medidiff.jobs.phantoms import write_phantoms
from medidiff.jobs.privacy import PhiReport
from medidiff.jobs.to_dicom import Content, Conversion, Made, convert


def phantoms(
    out: PathLike,
    *,
    kind: Kind = "head",
    dimensions: int = 2,
    size: int = 128,
    count: int = 50,
    shares: Mapping[str, float] | None = None,
    lesions: Sequence[str] = (),
    lesion_share: float = 0.5,
    healthy: Sequence[str] = (),
    coils: int = 0,
    format: Format = "nifti",
    seed: int = 0,
    progress: Progress = "none",
) -> Path:
    """Draw a population of heads (like T1-weighted MR) or chests (CT in HU) whose truth is known,
    into the new folder `out`; gives the path of its manifest.

    `lesions`: kinds that subjects may have (hyperintense, hypointense, same-intensity,
    mass-effect), `lesion_share` of them, none in the splits `healthy`.
    `shares`: split -> share (default: train 0.8, val 0.1, test 0.1). `coils`: also the k-space that
    so many receiver coils would have seen of each head. The same arguments draw the same voxels.
    Errors: ConfigError, OutputError.
    """
    options = PopulationOptions(
        *(kind, dimensions, size, tuple(lesions), lesion_share, tuple(healthy), coils, seed)
    )
    with reporting(progress) as report:
        return write_phantoms(Path(out), options, count, shares, format, report)


def deidentify(
    folder: PathLike,
    out: PathLike,
    *,
    dates: Literal["remove", "shift"] = "remove",
    device: Literal["remove", "retain"] = "remove",
    patient: Literal["remove", "retain"] = "remove",
    keep_private: Sequence[str] = (),
    burnt_in: Literal["leave-out", "keep"] = "leave-out",
    progress: Progress = "none",
) -> str:
    """Copy the DICOM images of a folder or archive to `out` without the attributes that identify
    their patients (PS3.15 table E.1-1); gives what was done. Pixels stay as they are.

    Names, identifiers, UIDs and the shift of dates come from the site's key: the same subject has
    the same ones in every run. `keep_private`: attributes known to be safe, GROUP,ELEMENT,CREATOR.
    Errors: DataError, ConfigError, OutputError.
    """
    options = Confidentiality(dates, device, patient, tuple(keep_private))
    with reporting(progress) as report:
        return privacy.deidentify(Path(folder), Path(out), options, burnt_in, report)


def find_phi(
    folder: PathLike,
    *,
    out: PathLike | None = None,
    pixels: Literal["look", "skip"] = "look",
    progress: Progress = "none",
) -> PhiReport:
    """Look through files for what identifies people, counted by attribute and never printed.

    `out`: a JSON file for the counts. `pixels`: whether to look for writing in images.
    Errors: DataError, OutputError.
    """
    with reporting(progress) as report:
        place = None if out is None else Path(out)
        return privacy.find_phi(Path(folder), place, pixels == "look", report)


def deface(
    scan: PathLike,
    out: PathLike,
    *,
    mask: PathLike | None = None,
    picture: PathLike | None = None,
    fill: Literal["air", "blur"] = "air",
    margin_mm: float = 0.0,
) -> str:
    """Write a head volume without its face to `out` (.nii.gz), on the same grid; gives what was
    done. `mask`, `picture`: files for what was taken, and for a look at it.

    A simple geometric rule: look at every result.
    Errors: DataError for what is no whole head; OutputError.
    """
    with reporting("none"):
        return write_defaced(
            Path(scan),
            Path(out),
            Defacing(fill, margin_mm),
            mask=None if mask is None else Path(mask),
            picture=None if picture is None else Path(picture),
        )


def to_dicom(
    image: PathLike,
    out: PathLike,
    *,
    content: Content = "image",
    source: PathLike | None = None,
    kind: Made | None = None,
    modality: str = "",
    place: Place = "grid",
    patient: Patient | None = None,
    labels: Mapping[int, Segment] | None = None,
    quantity: str = "map",
    unit: str = "1",
    deidentify: Dates = "none",
    when: datetime | None = None,
) -> list[Path]:
    """Write an image, label map or map of a file as one DICOM series into the new folder `out`.

    `source`: the DICOM series that it was made from or lies over; patient, study and geometry are
    its. `place`: how it lies to that: on its voxels ("grid"), in its space ("source"), in another
    ("new"). `kind`: how it was made, where no provenance lies beside it. `labels`: value -> what it
    stands for. `quantity`, `unit` (UCUM): what a map holds. `deidentify`: apply the basic profile
    of PS3.15, with dates removed or shifted. `when`: the time that is stamped.
    Errors: DataError, ConfigError, OutputError.
    """
    asked = Conversion(
        content=content,
        source=None if source is None else Path(source),
        made=kind,
        modality=modality,
        place=place,
        patient=patient or Patient(),
        labels=labels,
        quantity=Quantity(quantity, NO_UNIT if unit == "1" else Code(unit, "UCUM", unit)),
        when=when,
    )
    with reporting("none"):
        return convert(Path(image), Path(out), asked, protection(deidentify))
