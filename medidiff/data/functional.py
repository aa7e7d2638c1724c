"""The functional groups of multi-frame DICOM: what differs by frame (PS3.3, C.7.6.16)."""

from __future__ import annotations

from pydicom import Dataset


def group(data: Dataset, index: int, name: str) -> Dataset | None:
    """A functional group of one frame, else the shared one, else None."""
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for groups in (*frames[index : index + 1], *shared):
        found = groups.get(name)
        if found:
            return found[0]
    return None
