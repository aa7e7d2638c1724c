"""The series that a result was made from, as its headers tell it: what DICOM out refers to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from medidiff.data import decode
from medidiff.data.frames import Frame
from medidiff.data.functional import group
from medidiff.data.pixels import KINDS, RETIRED_JPEG
from medidiff.errors import DataError, MedidiffError

LOSSY = {
    # transfer syntax -> the compression's defined term (PS3.3, C.7.6.1.1.5.1)
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    **dict.fromkeys(RETIRED_JPEG, "ISO_10918_1"),
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
}


@dataclass(frozen=True)
class SourceFrame:
    """One frame that was read, with the header of its file (without pixels)."""

    header: Dataset
    frame: Frame

    @property
    def enhanced(self) -> bool:
        """Whether the file has functional groups: it may hold many frames."""
        return "PerFrameFunctionalGroupsSequence" in self.header

    def value(self, keyword: str, *groups: str) -> Any:
        """An attribute of this frame: from one of some functional groups, else of the file; None
        where it is not there or empty."""
        for name in groups:
            holder = group(self.header, self.frame.index, name)
            if holder is not None and keyword in holder:
                return holder[keyword].value
        value = self.header.get(keyword)
        return None if value is None or value == "" else value


@dataclass(frozen=True)
class SourceSeries:
    """The frames of one volume or picture, in the order that the reader gives its slices."""

    frames: tuple[SourceFrame, ...]

    @property
    def first(self) -> SourceFrame:
        """The frame whose file stands for the series."""
        return self.frames[0]

    @property
    def placed(self) -> bool:
        """Whether all frames say where they lie."""
        return all(one.frame.placed for one in self.frames)

    @property
    def modality(self) -> str:
        """As the header has it: MR, CT, ...; OT where it is silent."""
        return str(self.first.value("Modality") or "OT")

    @property
    def headers(self) -> list[Dataset]:
        """The headers of the files, each once."""
        return [*{id(one.header): one.header for one in self.frames}.values()]


@contextmanager
def told_without_values() -> Iterator[None]:
    """What a source's header makes impossible becomes a DataError; its values are in `.private`
    only."""
    try:
        yield
    except MedidiffError:
        raise
    except Exception as error:
        if _of_the_disc(error):
            raise
        # pydicom converts values when they are asked for, and quotes them
        raise DataError(
            "the header of the DICOM source holds values that are damaged or lacks ones that every "
            f"object has, so that nothing can be made of it ({type(error).__name__})",
            private=repr(error),
        ) from None


def _of_the_disc(error: BaseException | None) -> bool:
    """Whether the system said it, or something before it: pydicom raises its own from that."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return True
        error = error.__cause__ or error.__context__
    return False


def open_source(path: Path) -> SourceSeries:
    """The series in a DICOM file, folder, archive or series list, as `decode` would read it.

    Errors: DataError without names in its text.
    """
    with decode.told_without_names(path):
        if path.name.lower().endswith(".series.json"):
            from medidiff.data.series_list import open_series_list

            opened, part, _ = open_series_list(path)
        else:
            from medidiff.data.dicom import open_path

            if not path.exists():
                raise FileNotFoundError(path)
            opened, part = open_path(path)
        headers = [_without_pixels(data) for data in opened.datasets]
        return SourceSeries(
            tuple(SourceFrame(headers[one.file], one.frame) for one in part.members)
        )


def source_of(datasets: Sequence[Dataset]) -> SourceSeries:
    """A series of single-frame objects that were just made, as a source of others."""
    from medidiff.data.frames import frame_of

    headers = [_without_pixels(data) for data in datasets]
    return SourceSeries(tuple(SourceFrame(header, frame_of(header, 0)) for header in headers))


def lossy_of(source: SourceSeries) -> tuple[bool | None, list[Any], list[str]]:
    """Whether any pixel was ever compressed with loss (None where nothing says), by which ratios
    and methods."""
    ratios: list[Any] = []
    methods: list[str] = []
    said: set[str] = set()
    for header in source.headers:
        said.add(str(header.get("LossyImageCompression", "")))
        method = LOSSY.get(header.file_meta.get("TransferSyntaxUID", ""))
        if method is not None:
            said.add("01")
        if not ratios and not methods:
            ratios = _list(header.get("LossyImageCompressionRatio"))
            methods = _list(header.get("LossyImageCompressionMethod")) or [method or ""]
            methods = [name for name in methods if name]
    if "01" in said:
        return True, ratios, methods
    return (False if said == {"00"} else None), [], []


def _list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [*value] if type(value).__name__ == "MultiValue" else [value]


def _without_pixels(data: Dataset) -> Dataset:
    header = Dataset({element.tag: element for element in data if element.keyword not in KINDS})
    header.file_meta = data.file_meta
    return header
