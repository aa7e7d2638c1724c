"""Unique identifiers made from what they identify."""

from __future__ import annotations

import hashlib

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID


def uid_of(*parts: str | bytes) -> UID:
    """The UID of some content: 2.25 and 128 bits of its SHA-256 as a version 8 UUID.

    The same content has the same UID, so that an object sent twice is one object; whatever differs
    has another. A UID of the source is never given out again: it can only be part of the content.
    Source: DICOM PS3.5, B.2 (UUID derived UID); RFC 9562, 5.8.
    """
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big") + content)
    number = int.from_bytes(digest.digest()[:16], "big")
    number = number & ~(0xF << 76) | (0x8 << 76)  # version 8
    number = number & ~(0x3 << 62) | (0x2 << 62)  # RFC 9562's variant
    return UID(f"2.25.{number}")


def encoded(data: Dataset) -> bytes:
    """A data set as little endian bytes, for its digest."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, data)
    return stream.getvalue()
