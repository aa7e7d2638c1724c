"""A series is split by what differs in it, and its gaps are named for what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.data.dicom import Stacking, load, open_all, volume_of
from medidiff.data.index import index_tree

Write = Callable[..., None]
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)


def parts(folder: Path) -> list[tuple[int, str, dict[str, str]]]:
    (series,) = index_tree(folder).series
    return [(len(part.members), part.gaps.kind, dict(part.differs)) for part in series.parts]


def stack(folder: Path, write: Write, heights: list[float], name: str, **other: object) -> None:
    folder.mkdir(exist_ok=True)
    for index, height in enumerate(heights):
        pixels = np.full((4, 6), index)
        write(folder / f"{name}{index}.dcm", pixels, (0, 0, height), **other)


@pytest.mark.parametrize(
    ("keyword", "values", "mark"),
    [
        ("EchoTime", (4.9, 7.4), "echo time"),
        ("AcquisitionNumber", (1, 2), "acquisition"),
        ("TemporalPositionIdentifier", (1, 2), "time point"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "image type"),
        ("ConvolutionKernel", ("B30f", "B70f"), "kernel"),
        ("TriggerTime", (0, 300), "trigger time"),
    ],
)
def test_a_series_is_split_by_what_differs(
    keyword: str, values: tuple[object, object], mark: str, tmp_path: Path, write_slice: Write
) -> None:
    for name, value in zip("ab", values, strict=True):
        stack(tmp_path, write_slice, [0, 5, 10], name, **{keyword: value})
    found = parts(tmp_path)
    assert [(count, kind) for count, kind, _ in found] == [(3, "even"), (3, "even")]
    assert [set(differs) for *_, differs in found] == [{mark}, {mark}]
    assert found[0][2] != found[1][2]


def test_echoes_are_never_mixed_even_where_the_gaps_would_be_even(
    tmp_path: Path, write_slice: Write
) -> None:
    stack(tmp_path, write_slice, [0, 10], "a", EchoTime=5)
    stack(tmp_path, write_slice, [5, 15], "b", EchoTime=9)
    assert [count for count, *_ in parts(tmp_path)] == [2, 2]


def test_orientations_and_matrices_are_volumes_of_their_own(
    tmp_path: Path, write_slice: Write
) -> None:
    stack(tmp_path, write_slice, [0, 5, 10], "a")
    write_slice(tmp_path / "s.dcm", np.ones((4, 6)), (0, 0, 0), axes=SAGITTAL)
    write_slice(tmp_path / "t.dcm", np.ones((8, 8)), (0, 0, 0))
    found = parts(tmp_path)
    assert [count for count, *_ in found] == [3, 1, 1]
    assert "sagittal" in found[1][2]["orientation"]
    assert found[2][2]["matrix"] == "8 x 8"


def test_acquisition_numbers_that_count_slices_split_nothing(
    tmp_path: Path, write_slice: Write
) -> None:
    for index in range(4):
        place = (0, 0, 3.0 * index)
        write_slice(tmp_path / f"{index}.dcm", np.ones((4, 6)), place, AcquisitionNumber=index)
    assert parts(tmp_path) == [(4, "even", {})]


def test_slices_at_one_place_with_their_own_times_do_not_fall_apart(
    tmp_path: Path, write_slice: Write
) -> None:
    for index in range(6):
        place = (0, 0, 3.0 * (index % 3))
        time = f"1200{index:02d}"
        write_slice(tmp_path / f"{index}.dcm", np.ones((4, 6)), place, AcquisitionTime=time)
    assert [(count, kind) for count, kind, _ in parts(tmp_path)] == [(6, "doubled")]


def test_a_file_that_is_there_twice_counts_once(tmp_path: Path, write_slice: Write) -> None:
    stack(tmp_path, write_slice, [0, 5, 10], "a")
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "a1.dcm").read_bytes())
    (series,) = index_tree(tmp_path).series
    assert series.duplicates == 1
    assert [len(part.members) for part in series.parts] == [3]


@pytest.mark.parametrize(
    ("heights", "kind", "said"),
    [
        ([0, 5, 10, 20, 25, 30], "missing", "1 slices are missing"),
        ([0, 5, 10, 25, 30, 35], "missing", "2 slices are missing"),
        ([0, 5, 10, 13, 18], "uneven", "uneven"),
        ([0, 5, 10.05, 15], "even", ""),
    ],
)
def test_gaps_are_named_for_what_they_are(
    heights: list[float], kind: str, said: str, tmp_path: Path, write_slice: Write
) -> None:
    stack(tmp_path, write_slice, heights, "a")
    (series,) = index_tree(tmp_path).series
    (part,) = series.parts
    assert part.gaps.kind == kind
    assert said in part.gaps.problem


def test_missing_slices_are_interpolated_by_choice_and_leave_the_others(
    tmp_path: Path, write_slice: Write
) -> None:
    heights = [0.0, 5, 10, 20, 25]
    stack(tmp_path, write_slice, heights, "a", RescaleSlope=1, RescaleIntercept=0)
    found = load(tmp_path, Stacking(gaps="resample"))
    assert found.array[:, 0, 0].tolist() == [0, 1, 2, 2.5, 3, 4]
    assert found.affine is not None
    assert found.affine[:3, 0].tolist() == [0, 0, 5]


def test_slices_that_wander_sideways_are_refused(tmp_path: Path, write_slice: Write) -> None:
    for index, aside in enumerate([0, 0, 4, 0]):
        write_slice(tmp_path / f"{index}.dcm", np.ones((4, 6)), (aside, 0, 5.0 * index))
    assert [kind for _, kind, _ in parts(tmp_path)] == ["wandering"]


def test_a_tilted_stack_is_straightened_by_choice(tmp_path: Path, write_slice: Write) -> None:
    """A plane of values that is linear in space stays the same plane."""
    rows = np.arange(20)[:, None] * 2.0  # mm
    for k in range(5):
        y = rows + 1.5 * k  # the row's place in the body
        pixels = np.repeat(100 + y, 6, axis=1)
        place = (0.0, 1.5 * k, 5.0 * k)
        write_slice(tmp_path / f"{k}.dcm", pixels, place, RescaleSlope=1, RescaleIntercept=0)
    (series,) = index_tree(tmp_path).series
    opened = open_all([Path(source.path).read_bytes() for source, _ in series.files])
    found = volume_of(opened, series.parts[0], Stacking(tilt="resample"))
    assert found.affine is not None
    axes = found.affine[:3, :3]
    assert np.allclose(axes.T @ axes, np.diag([25, 4, 0.25]))
    k, r = np.meshgrid(np.arange(5), np.arange(found.array.shape[1]), indexing="ij")
    y = -(found.affine[1, 3] + found.affine[1, 1] * r)  # LPS
    inside = (y >= 1.5 * k) & (y <= 1.5 * k + 38)
    assert inside.sum() >= 90
    truth = np.floor(100 + y)  # pixels are stored as whole numbers
    assert np.abs(found.array[..., 0] - truth)[inside].max() <= 1.0
    assert (found.array[..., 0][~inside] == found.array.min()).all()
