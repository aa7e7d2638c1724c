"""The grid, the window and the noise of a plan, from a survey without files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import yaml

from medidiff.data.survey import Seen, Survey
from medidiff.errors import DataError
from medidiff.jobs.plans.axes import axes_of, sliced
from medidiff.jobs.plans.grid import grid_choice
from medidiff.jobs.plans.intensity import intensity_choice, modality_of
from medidiff.jobs.plans.lines import Line, to_yaml, tree_of
from medidiff.jobs.plans.noise import augment_lines, resolution_shift

FLAT = ((0.0, 0.0, 1.0, 90.0, 240.0, 250.0, 255.0),)


def survey_of(*cases: Seen) -> Survey:
    return Survey(cases, len(cases), len(cases))


def seen(
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | None = None,
    orientation: str | None = None,
    modality: str | None = "MR",
    percentiles: Sequence[tuple[float, ...]] = FLAT,
    whole: bool = True,
) -> Seen:
    return Seen(7, shape, spacing, orientation, modality, shape, tuple(percentiles), whole)


def test_a_large_radiograph_is_planned_coarser_and_never_finer_again() -> None:
    axes = axes_of(survey_of(*[seen((3000, 2500), (0.14, 0.14), "PL", "DX")] * 3))
    sizes = [grid_choice(axes, "DX", coarser).space.size for coarser in (1.0, 1.5, 2.0)]
    assert 480 <= max(sizes[0]) <= 528
    assert max(sizes[0]) > max(sizes[1]) > max(sizes[2])


def test_pictures_of_several_sizes_without_pixel_size_are_told() -> None:
    chosen = grid_choice(axes_of(survey_of(seen((64, 64)), seen((128, 100)))), "CR")
    assert chosen.space.spacing_mm == "as stored"
    assert any("state no pixel size" in warning for warning in chosen.warnings)


def test_volumes_stored_in_several_directions_are_seen_along_one() -> None:
    cases = [seen((40, 50, 12), (1, 1, 5), "RAS"), seen((12, 40, 50), (5, 1, 1), "SRA")]
    chosen = grid_choice(axes_of(survey_of(*cases)), "MR")
    assert chosen.space.orientation == "RAS"
    assert chosen.space.spacing_mm == (1, 1, 5)
    assert chosen.space.size == (40, 52, 12)


def test_planes_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="make a manifest of each"):
        axes_of(survey_of(seen((9, 9), (1, 1), "PL"), seen((9, 9), (1, 1), "SL")))


def test_several_modalities_are_refused_unless_named() -> None:
    both = survey_of(seen((9, 9)), seen((9, 9), modality="CT"))
    with pytest.raises(DataError, match=r"several modalities \(CT, MR\)"):
        modality_of(both, None)
    assert modality_of(both, "MR")[0] == "MR"


def test_windows_follow_units() -> None:
    hounsfield = ((-1024.0, -1000.0, -990.0, -300.0, 900.0, 1200.0, 2500.0),)
    ct = survey_of(seen((9, 9), modality=None, percentiles=hounsfield))
    assert modality_of(ct, None)[0] == "CT"
    assert intensity_choice(ct, "CT", "lung").line.value == {"kind": "ct-window", "window": "lung"}
    byte = intensity_choice(survey_of(seen((9, 9))), "CR", None)
    assert byte.line.value == {"kind": "window", "low": 0, "high": 255}
    fine = intensity_choice(survey_of(seen((9, 9), whole=False)), "MR", None)
    assert fine.line.value["kind"] == "percentile"


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_the_shift_is_hoogebooms_in_two_dimensions(side: int) -> None:
    log_snr_shift = -2 * resolution_shift((side, side))
    assert log_snr_shift == pytest.approx(2 * math.log(64 / side))
    assert resolution_shift((32, 32)) == 0


def test_hounsfield_units_and_sides_are_left_alone() -> None:
    (line,) = augment_lines((128, 128), "CT", True, 100)
    assert "intensity" not in line.value
    assert "flip_axes" not in line.value


def test_lines_are_read_back_as_they_were() -> None:
    lines = [Line("a.b", [1, 2], "why: #1"), Line("a.c.d", {"kind": "x"}, ""), Line("e", "f", "g")]
    assert yaml.safe_load(to_yaml(lines, ["a head"])) == tree_of(lines)


def test_thick_volumes_are_seen_as_slices_across_their_coarsest_spacing() -> None:
    thick = seen((40, 50, 12), (1, 1, 5), "RAS")
    flat, told = sliced(axes_of(survey_of(thick, thick)), None)
    assert (flat.orientation, told) == ("PL", ())
    assert flat.shape.tolist() == [[50, 40], [50, 40]]  # rows to posterior
    assert flat.depth.tolist() == [12, 12]
    chosen = grid_choice(flat, "MR")
    assert chosen.space.dims == 2
    assert chosen.space.spacing_mm == (1, 1)
    coronal, _ = sliced(axes_of(survey_of(seen((40, 12, 50), (1, 5, 1), "RAS"))), None)
    assert coronal.orientation == "IL"


def test_even_volumes_stay_volumes_and_what_is_asked_for_comes_first() -> None:
    below = axes_of(survey_of(seen((40, 50, 12), (1, 1, 2.9), "RAS")))
    assert sliced(below, None)[0] is below
    assert sliced(below, 2)[0].orientation == "PL"
    thick = axes_of(survey_of(seen((40, 50, 12), (1, 1, 5), "RAS")))
    assert sliced(thick, 3)[0] is thick
    with pytest.raises(DataError, match="do not say how the body lies"):
        sliced(axes_of(survey_of(seen((40, 50, 12)))), 2)


def test_volumes_that_are_thick_across_another_plane_are_told() -> None:
    axial, coronal = seen((40, 50, 12), (1, 1, 5), "RAS"), seen((40, 12, 50), (1, 5, 1), "RAS")
    flat, told = sliced(axes_of(survey_of(axial, axial, axial, coronal)), None)
    assert flat.orientation == "PL"
    assert "1 of 4 volumes are thick across another plane than axial" in told[0]
