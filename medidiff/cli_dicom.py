"""The command line's verb that makes DICOM objects of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medidiff import cli_paths
from medidiff.changes import pairs

PatientOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Of a study that is made: id=..., name=FAMILY^GIVEN, birth_date=YYYYMMDD, sex=F; "
        "repeat for more (default: a synthetic patient)"
    ),
]
DeidentifyOption = Annotated[
    Literal["none", "remove", "shift"],
    typer.Option(
        "--deidentify",
        help="Apply the basic profile of PS3.15 to what is written, dates removed or shifted",
    ),
]


def to_dicom(
    image: Annotated[
        Path,
        typer.Argument(
            help="NIfTI (or any image that is read); FILE[0] is one of several", metavar="IMAGE"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the DICOM files")],
    content: Annotated[
        Literal["image", "segmentation", "map"],
        typer.Option("--as", help="A derived series, a DICOM SEG, or a Parametric Map"),
    ] = "image",
    source: Annotated[
        Path | None,
        typer.Option(help="DICOM series that it was made from or lies over: file, folder, archive"),
    ] = None,
    kind: Annotated[
        Literal["processed", "synthetic"] | None,
        typer.Option(help="How it was made (default: as the provenance beside the file says)"),
    ] = None,
    modality: Annotated[
        str, typer.Option(help="What the values are of, MR or CT (default: the source's)")
    ] = "",
    place: Annotated[
        Literal["grid", "source", "new"],
        typer.Option(
            help="It lies on the source's voxels, in its space (resampled, cropped), or in another "
            "(an atlas)"
        ),
    ] = "grid",
    patient: PatientOption = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="A segment: VALUE=NAME or VALUE=SCHEME:CODE:NAME, e.g. "
            "1=SCT:10200004:Liver; repeat for more (default: one a value)"
        ),
    ] = None,
    quantity: Annotated[str, typer.Option(help="What a map shows, e.g. std")] = "map",
    unit: Annotated[str, typer.Option(help="Unit of a map in UCUM, e.g. mm2/s; 1 for none")] = "1",
    deidentify: DeidentifyOption = "none",
) -> None:
    """Turn an image, a label map or a map into DICOM objects that a PACS takes.

    They are marked as derived, with new UIDs, what made them and, with --source, from what.
    """
    cli_paths.check_scans(image, *([] if source is None else [source]))
    from medidiff import api
    from medidiff.jobs.to_dicom import patient_of, segments_of

    files = api.to_dicom(
        image,
        out,
        content=content,
        source=source,
        kind=kind,
        modality=modality,
        place=place,
        patient=patient_of(pairs(patient, "--patient")),
        labels=segments_of(pairs(label, "--label")),
        quantity=quantity,
        unit=unit,
        deidentify=deidentify,
    )
    typer.echo(f"{len(files)} DICOM files in {out}")
    tell_of_faces(deidentify)


def tell_of_faces(deidentify: Literal["none", "remove", "shift"]) -> None:
    """What a pseudonym does not hide."""
    if deidentify != "none":
        typer.echo(
            "Attributes only: where volumes show heads, a face can be rebuilt and recognised; "
            "see medidiff deface."
        )
