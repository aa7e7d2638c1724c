"""What a compressed frame says of itself, read before a decoder allocates memory for it.

JPEG (ITU-T T.81, B.2.2: SOFn), JPEG-LS (T.87, C.2.2: SOF55) and JPEG 2000 (T.800, A.5.1: SIZ).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # DHT, JPG, DAC are none
J2K_START, JP2_START = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True)
class CodestreamSize:
    """Size, components and bits per sample that a codestream declares."""

    rows: int
    columns: int
    components: int
    bits: int


def codestream_size(frame: bytes) -> CodestreamSize | None:
    """What the headers of a JPEG, JPEG-LS or JPEG 2000 codestream declare; None if not found."""
    if frame.startswith(JP2_START):
        frame = frame[max(frame.find(J2K_START), 0) :]
    if frame.startswith(J2K_START):
        return _j2k(frame)
    return _jpeg(frame) if frame.startswith(b"\xff\xd8") else None


def _j2k(frame: bytes) -> CodestreamSize | None:
    if len(frame) < 43:
        return None
    right, bottom, left, top = struct.unpack(">4I", frame[8:24])
    (components,) = struct.unpack(">H", frame[40:42])
    return CodestreamSize(bottom - top, right - left, components, (frame[42] & 0x7F) + 1)


def _jpeg(frame: bytes) -> CodestreamSize | None:
    at = 2
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in JPEG_FRAMES:
            bits, rows, columns, components = struct.unpack(">BHHB", frame[at + 4 : at + 10])
            return CodestreamSize(rows, columns, components, bits)
        at += 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]
    return None
