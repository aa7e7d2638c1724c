"""Parametric maps and segmentations: read back by their library, they are what was given."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code
from pydicom.uid import ParametricMapStorage, SegmentationStorage

from medidiff.data.decode import decode
from medidiff.data.dicom_out import images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_maps import HOUNSFIELD, Quantity, parametric_map
from medidiff.data.dicom_out_modules import Making
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_segments import Segment, segmentation
from medidiff.data.dicom_out_source import SourceSeries, open_source, source_of
from medidiff.errors import DataError

MADE = Making("AI-PROCESSED", "denoise std", {"model": "prior", "model_digest": "ab12"},
              datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))  # fmt: skip
SEGMENTS = [Segment(1, "left"), Segment(7, "liver", Code("10200004", "SCT", "Liver"))]


@pytest.fixture
def series(tmp_path: Path, write_series: Callable[..., np.ndarray]) -> SourceSeries:
    """Four oblique slices whose header lacks most of what it should have."""
    axes = (0.6, 0.8, 0, -0.8, 0.6, 0)
    write_series(tmp_path / "in", [9, 0, 6, 3], axes=axes, PatientName="Doe^Jane", SeriesNumber=4)
    return open_source(tmp_path / "in")


def affine_of(tmp_path: Path) -> np.ndarray:
    affine = decode(tmp_path / "in").affine
    assert affine is not None
    return affine


def labels() -> np.ndarray:
    return np.random.default_rng(0).choice([0, 1, 7], (4, 4, 6))


def on_grid(volume: highdicom.Volume, affine: np.ndarray) -> np.ndarray:
    """A volume of highdicom's, which counts slices so that axes are right-handed, in our order."""
    ras = np.diag([-1, -1, 1, 1]) @ volume.affine
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, len(volume.array) - 1
    assert np.allclose(ras @ flip, affine, atol=1e-6)
    return volume.array[::-1]


def test_a_label_map_comes_back_as_it_was(series: SourceSeries, tmp_path: Path) -> None:
    affine = affine_of(tmp_path)
    data = segmentation(labels(), affine, Origin(series), MADE, SEGMENTS)
    (file,) = written([data], tmp_path / "seg")
    found = highdicom.seg.segread(file)
    volume = found.get_volume(combine_segments=True)
    assert (on_grid(volume, affine) == np.where(labels() == 7, 2, labels())).all()
    liver = found.get_segment_description(2)
    assert (liver.segment_label, liver.segmented_property_type.value) == ("liver", "10200004")
    assert liver.algorithm_type.value == "AUTOMATIC"


def test_labels_on_turned_axes_lie_where_they_did(series: SourceSeries, tmp_path: Path) -> None:
    affine = affine_of(tmp_path)
    turned = np.flip(labels().transpose(2, 0, 1), 0)
    order = affine[:, [2, 0, 1, 3]].copy()
    order[:3, 3] += order[:3, 0] * (turned.shape[0] - 1)
    order[:3, 0] *= -1
    data = segmentation(turned, order, Origin(series), MADE, SEGMENTS)
    straight = segmentation(labels(), affine, Origin(series), MADE, SEGMENTS)
    assert data.PixelData == straight.PixelData


def test_a_map_comes_back_as_it_was(series: SourceSeries, tmp_path: Path) -> None:
    affine = affine_of(tmp_path)
    values = np.random.default_rng(0).random((4, 4, 6)).astype(np.float32) * 0.3
    quantity = Quantity("std", HOUNSFIELD)
    data = parametric_map(values, affine, Origin(series), MADE, quantity)
    (file,) = written([data], tmp_path / "map")
    found = highdicom.pm.ParametricMap.from_dataset(dcmread(file))
    volume = found.get_volume()
    assert np.allclose(on_grid(volume, affine), values, rtol=1e-6)
    mapping = dcmread(file).SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    definition = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert definition.CodeMeaning == "Standard Deviation"


@pytest.mark.parametrize("kind", [SegmentationStorage, ParametricMapStorage])
def test_each_frame_refers_to_the_source_s_plane_and_nothing_stands_in(
    series: SourceSeries, tmp_path: Path, kind: str
) -> None:
    data = _of_kind(kind, series, affine_of(tmp_path))
    heights = {str(one.header.SOPInstanceUID): one.frame.corner for one in series.frames}
    for frame in data.PerFrameFunctionalGroupsSequence:
        (item,) = frame.DerivationImageSequence[0].SourceImageSequence
        corner = heights[item.ReferencedSOPInstanceUID]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert corner is not None
        assert np.allclose([float(value) for value in place], corner, atol=1e-6)
    assert "2.25.0" not in str(data)
    (referred,) = data.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == series.first.header.SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in referred.ReferencedInstanceSequence} == {
        *heights
    }
    assert (data.PatientName, data.PatientID) == ("Doe^Jane", "MRN-77")
    assert data.SeriesDescription.startswith("AI-PROCESSED denoise std")
    assert data.SeriesNumber == 401
    assert data.private_block(0x77, "MEDIDIFF")[3].value == "ab12"
    assert data.ContributingEquipmentSequence[-1].Manufacturer == "medidiff"


@pytest.mark.parametrize("kind", [SegmentationStorage, ParametricMapStorage])
def test_the_same_content_is_the_same_object(
    series: SourceSeries, tmp_path: Path, kind: str
) -> None:
    affine = affine_of(tmp_path)
    one, other = (_of_kind(kind, series, affine) for _ in range(2))
    assert one.SOPInstanceUID == other.SOPInstanceUID
    assert written([one], tmp_path / "a")[0].read_bytes() == (
        written([other], tmp_path / "b")[0].read_bytes()
    )


@pytest.mark.parametrize("kind", [SegmentationStorage, ParametricMapStorage])
def test_no_name_is_in_a_warning(series: SourceSeries, tmp_path: Path, kind: str) -> None:
    for one in series.frames:
        one.header.PatientName = "DOE JANE"  # highdicom warns of names with one part only
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = _of_kind(kind, series, affine_of(tmp_path))
    assert data.PatientName == "DOE JANE"
    assert not [one for one in caught if "DOE" in str(one.message)]


def test_a_map_over_a_result_is_in_its_study_and_space(
    series: SourceSeries, tmp_path: Path
) -> None:
    scan = decode(tmp_path / "in")
    made = Making("AI-PROCESSED", "denoise", when=MADE.when)
    main = images(scan.array[0], scan.affine, Origin(series), made)
    over = Origin(source_of(main), beside=main[0])
    data = parametric_map(scan.array[0] * 0.1, scan.affine, over, MADE, Quantity("std"), 2)
    assert data.StudyInstanceUID == series.first.header.StudyInstanceUID
    assert data.FrameOfReferenceUID == main[0].FrameOfReferenceUID
    assert data.SeriesNumber == main[0].SeriesNumber + 1
    (item,) = (
        data.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    )
    assert item.ReferencedSOPInstanceUID in {one.SOPInstanceUID for one in main}


@pytest.mark.parametrize(
    ("values", "segments", "said"),
    [
        (np.zeros((4, 4, 6)), [], "no segment"),
        (np.full((4, 4, 6), 0.5), SEGMENTS, "whole numbers"),
        (np.full((4, 4, 6), 3), SEGMENTS, "no segment is named for the labels"),
        (np.ones((4, 4, 5)), SEGMENTS, "does not lie on the voxels"),
    ],
)
def test_what_is_no_label_map_of_the_series_is_refused(
    values: np.ndarray, segments: list[Segment], said: str, series: SourceSeries, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        segmentation(values, affine_of(tmp_path), Origin(series), MADE, segments)


def test_a_map_needs_a_series_to_lie_over() -> None:
    with pytest.raises(DataError, match="name it"):
        parametric_map(np.ones((4, 4)), np.eye(4), Origin(), MADE, Quantity("std"))


def _of_kind(kind: str, series: SourceSeries, affine: np.ndarray) -> Dataset:
    if kind == SegmentationStorage:
        return segmentation(labels(), affine, Origin(series), MADE, SEGMENTS)
    return parametric_map(labels() * 0.1, affine, Origin(series), MADE, Quantity("std"))
