"""What scans say of the scanner that made them, beside what a training calls them."""

from __future__ import annotations

from collections.abc import Mapping

from medidiff.data.rows import rows_listed


def is_ct(modality: str | None) -> bool:
    """Whether the values of such scans are Hounsfield units."""
    return (modality or "").upper() == "CT"


def modality_notes(stated: Mapping[int, str | None], called: str) -> list[str]:
    """What a person should know of scans that say nothing of their modality, or another than they
    are `called`; empty if all agree.

    `stated`: manifest row -> what its file or the manifest's column 'modality' says.
    """
    notes: list[str] = []
    silent = [row for row, said in stated.items() if not said]
    if silent and len(silent) == len(stated):
        notes.append(
            "no scan states its modality, neither in its file nor in a column 'modality' of the "
            f"manifest: that they are called {called} is taken on trust, and one of "
            "another modality among them is not noticed; add the column"
        )
    elif silent:
        notes.append(
            f"{len(silent)} of {len(stated)} scans state no modality ({rows_listed(silent)}): they "
            f"are taken for {called}; fill the column 'modality' of the manifest"
        )
    others: dict[str, list[int]] = {}
    for row, said in stated.items():
        if said and said.upper() != called.upper():
            others.setdefault(said, []).append(row)
    notes += [
        f"{len(rows)} of {len(stated)} scans are {said} ({rows_listed(rows)}), but the "
        f"configuration calls them {called}: the model will refuse {said}, and take {called}; is "
        "the key 'modality' right?"
        for said, rows in others.items()
    ]
    return notes
