"""Slices of volumes are cases of their own: the right plane, pixels, places, intensities."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medidiff.data import placing
from medidiff.data.datasets import CacheKind, CaseSet, restore
from medidiff.data.fitness import field_of_view
from medidiff.data.images import load_image
from medidiff.data.intensity import fit
from medidiff.data.manifest import Manifest, read_manifest
from medidiff.data.options import PLANES, Percentile, PlaneName, Slices, Space
from medidiff.data.privacy import SiteKey
from medidiff.data.slices import chosen, resolved
from medidiff.errors import DataError

SHAPE = (10, 12, 5)
"""Along R, A and S."""
ALL = Slices("axial", foreground=0)


def volume(number: int) -> np.ndarray:
    """Values that tell their place apart, with nothing in the lowest slice and little above it."""
    scan = np.arange(1, 1 + np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) + 700 * (number + 1)
    scan[:, :, 0] = 0
    scan[:, 2:, 1] = 0
    return scan


def write(
    folder: Path,
    letters: Sequence[str] = ("RAS", "LPS", "SPL"),
    spacing: tuple[float, float, float] = (2, 2, 6),
) -> Manifest:
    """The same bodies, stored any way round. `spacing` along R, A and S."""
    rows = []
    for number, codes in enumerate(letters):
        image = nibabel.Nifti1Image(volume(number), np.diag([*spacing, 1]))
        start = nibabel.orientations.axcodes2ornt("RAS")
        turn = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(codes))
        nibabel.save(
            image.as_reoriented(turn),  # pyright: ignore[reportArgumentType]
            folder / f"{number}.nii.gz",
        )
        rows.append({"subject": f"s{number}", "split": "train", "image": f"{number}.nii.gz"})
    for row in rows:
        row["label"] = row["image"]
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return read_manifest(folder / "manifest.csv")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write(tmp_path)


def cut(
    manifest: Manifest,
    key: SiteKey,
    slices: Slices = Slices("axial"),  # noqa: B008 frozen
    size: tuple[int, int] = (12, 10),
    cache: CacheKind = "memory",
) -> CaseSet:
    assert slices.plane != "thick"
    space = Space(2, size, orientation=PLANES[slices.plane])
    return CaseSet(
        manifest.rows, ["image"], space, label="label", key=key, cache=cache, slices=slices
    )


def test_a_case_is_a_slice_as_radiologists_look_at_it(manifest: Manifest, key: SiteKey) -> None:
    cases = cut(manifest, key, ALL)
    assert len(cases) == 3 * SHAPE[2]
    for number in range(3):
        seen = volume(number)[::-1, ::-1].transpose(1, 0, 2)  # rows to P, columns to L
        for place in range(SHAPE[2]):
            case = cases[number * SHAPE[2] + place]
            assert np.array_equal(case.images[0].numpy(), seen[:, :, place])
            assert case.label is not None
            assert np.array_equal(case.label.numpy(), seen[:, :, place])
            assert case.row == manifest.rows[number].number


@pytest.mark.parametrize(("plane", "axis"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_a_slice_lies_where_it_lay_in_its_volume(
    manifest: Manifest, key: SiteKey, plane: PlaneName, axis: int
) -> None:
    for case in cut(manifest, key, Slices(plane, foreground=0), size=(16, 14)):
        back, affine = restore(case, case.images)
        stored = load_image(manifest.rows[case.row - 2].images["image"])
        whole = stored.as_tensor()[0].numpy()
        across = next(a for a in range(3) if "SAR"[2 - axis] in "RAS" and _runs(stored, a) == axis)
        assert case.slice is not None
        assert np.array_equal(back[0], np.take(whole, case.slice, axis=across))
        middle = [(n - 1) / 2 for n in back.shape[1:]]
        there = np.insert(np.array(middle), across, case.slice)
        world = np.asarray(stored.affine)[:3, :3] @ there + np.asarray(stored.affine)[:3, 3]
        assert np.allclose(affine[:3, :2] @ middle + affine[:3, 3], world)


def _runs(image: torch.Tensor, axis: int) -> int:
    """The axis of the body (R, A or S) that an axis of an image runs along."""
    return int(np.abs(np.asarray(image.affine)[:3, axis]).argmax())  # type: ignore[attr-defined]


def test_slices_without_enough_foreground_are_left_out(manifest: Manifest, key: SiteKey) -> None:
    def places(foreground: float, every: int = 1) -> list[int | None]:
        slices = Slices("axial", every, foreground)
        return [case.slice for case in cut(manifest, key, slices) if case.row == 2]

    assert places(foreground=0) == [0, 1, 2, 3, 4]
    assert places(foreground=0.1) == [1, 2, 3, 4]
    assert places(foreground=0.5) == [2, 3, 4]
    assert places(foreground=0, every=2) == [0, 2, 4]
    assert places(foreground=0, every=3) == [0, 3]
    assert places(foreground=0, every=100) == [2]


def test_a_slab_s_slices_are_channels_in_their_order(manifest: Manifest, key: SiteKey) -> None:
    slab = Slices("axial", foreground=0, thickness=3)
    alone, cases = cut(manifest, key, ALL), cut(manifest, key, slab)
    depth = SHAPE[2]
    assert [case.slice for case in cases][: depth - 2] == [1, 2, 3]  # those with both neighbours
    for number in range(3):
        for place in range(1, depth - 1):
            case = cases[number * (depth - 2) + place - 1]
            three = [alone[number * depth + place + step] for step in (-1, 0, 1)]
            assert torch.equal(case.images, torch.cat([each.images for each in three]))
            middle = three[1]
            assert torch.equal(case.label, middle.label)  # pyright: ignore[reportArgumentType]
            assert np.array_equal(case.original.affine, middle.original.affine)
            back, _ = restore(case, case.images)
            assert np.array_equal(back[1:2], restore(middle, middle.images)[0])
    fitted = fit(Percentile(scope="image"), (case.measured for case in cases.one_a_row()))
    scale = cases.scale_of(cases[0], fitted.repeated(3))
    assert scale == fitted.scale_of(cases[0].measured).repeated(3)
    assert slab.channels(("t1", "t2"))[:4] == ("t1-1", "t1", "t1+1", "t2-1")
    assert slab.columns(slab.channels(("t1", "t2"))) == ("t1", "t2")
    with pytest.raises(DataError, match="row 2: the volume has 5 slices, fewer than"):
        cut(manifest, key, Slices("axial", thickness=7))
    with pytest.raises(ValueError, match="odd number"):
        Slices(thickness=2)


def test_a_volume_without_foreground_is_refused_by_its_row() -> None:
    with pytest.raises(DataError, match="no slice of the volume has foreground"):
        chosen((0, 0, 0), Slices())


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_slices_are_the_same_from_every_cache(
    manifest: Manifest, key: SiteKey, cache: CacheKind
) -> None:
    for case, other in zip(cut(manifest, key), cut(manifest, key, cache=cache), strict=True):
        assert torch.equal(case.images, other.images)
        assert torch.equal(case.measured, other.measured)
        assert (case.member, case.slice) == (other.member, other.slice)
        assert np.array_equal(case.original.affine, other.original.affine)


def test_a_kept_volume_is_not_decoded_for_its_slices(
    manifest: Manifest, key: SiteKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(manifest, key, cache="disk")
    monkeypatch.setattr(placing, "load_image", None)
    cases = cut(manifest, key, Slices("axial", every=2), cache="disk")
    (case,) = cases.at([1])
    stored = case.images.untyped_storage().nbytes()
    assert stored == case.measured.untyped_storage().nbytes()  # a view of what is mapped
    assert case.images.is_contiguous()


def test_which_slices_are_kept_follows_the_modality_that_the_manifest_states(
    manifest: Manifest, key: SiteKey
) -> None:
    """Nothing lies below -500 HU, so as CT all slices hold something."""

    def slices_of(modality: str, cache: CacheKind) -> list[int | None]:
        rows = tuple(replace(row, text={"modality": modality}) for row in manifest.rows)
        return [case.slice for case in cut(replace(manifest, rows=rows), key, cache=cache)]

    stated = ("MR", "CT", "mr")
    found = [slices_of(modality, "disk") for modality in stated]
    assert found == [slices_of(modality, "memory") for modality in stated]
    assert found[0] == found[2] != found[1]


def test_intensities_are_those_of_the_volume(manifest: Manifest, key: SiteKey) -> None:
    raw = cut(manifest, key, ALL)
    fitted = fit(Percentile(scope="image"), (case.measured for case in raw.one_a_row()))
    space = raw.space
    cases = CaseSet(manifest.rows, ["image"], space, fitted, key=key, slices=raw.slices)
    by_row = {case.row: case.scale for case in cases}
    assert len({*by_row.values()}) == 3
    for case in cases:
        assert case.scale == by_row[case.row] == fitted.scale_of(case.measured)
    nothing = next(case for case in cases if case.slice == 0)  # no percentiles of its own
    assert bool((nothing.images == nothing.scale.normalise(torch.zeros(1, 1))).all())


def test_the_subject_stays_and_no_two_slices_share_their_noise(
    manifest: Manifest, key: SiteKey
) -> None:
    cases = list(cut(manifest, key))
    assert {case.subject for case in cases} == {key.pseudonym(f"s{n}") for n in range(3)}
    assert len({case.member for case in cases}) == len(cases)


def test_pixels_are_resampled_within_the_slice_only(manifest: Manifest, key: SiteKey) -> None:
    space = Space(2, (24, 20), (1.0, 1.0), "PL")
    cases = CaseSet(manifest.rows, ["image"], space, key=key, slices=ALL)
    assert len(cases) == 15
    top = cases[4]
    assert top.images.shape == (1, 24, 20)
    assert top.original.spacing_mm == (2, 2)
    assert top.spacing == (1, 1)
    seen = volume(0)[::-1, ::-1, 4].T
    assert float(top.images.max()) <= seen.max()
    assert float(top.images[0, 1:-1, 1:-1].min()) >= seen.min() - 1  # nothing of the slice below
    assert field_of_view(top.original, space) == (24, 20)


def test_surroundings_of_a_slice_lie_in_its_plane(manifest: Manifest, key: SiteKey) -> None:
    space = Space(2, (8, 6), orientation="PL")
    (case, *_) = CaseSet(
        manifest.rows[:1], ["image"], space, key=key, slices=Slices("axial"), margin=(2, 9)
    )
    assert case.around.shape == (1, 12, 10)
    assert np.array_equal(case.around[0].numpy(), volume(0)[::-1, ::-1, case.slice].T)


def grids(manifest: Manifest) -> dict[int, tuple[tuple[int, ...], np.ndarray | None]]:
    images = {row.number: load_image(row.images["image"]) for row in manifest.rows}
    return {row: (tuple(x.shape[1:]), np.asarray(x.affine)) for row, x in images.items()}


def test_the_thick_plane_is_found_in_the_volumes(tmp_path: Path) -> None:
    space = Space(2, (12, 10))
    for name, spacing in (("axial", (2, 2, 6)), ("coronal", (2, 6, 2)), ("sagittal", (6, 1, 2))):
        (folder := tmp_path / name).mkdir()
        there = grids(write(folder, spacing=spacing))  # type: ignore[arg-type]
        found = resolved(space, Slices(every=3), there)
        assert found == (replace(space, orientation=PLANES[name]), Slices(name, every=3))  # type: ignore[index,arg-type]


def test_what_cannot_be_cut_is_refused_with_its_rows(tmp_path: Path) -> None:
    space, thick = Space(2, (12, 10)), Slices()
    there = grids(write(tmp_path))
    other = np.diag([2.0, 6.0, 2.0, 1.0])
    with pytest.raises(DataError, match=r"axial in 2 \(rows 2, 3\), coronal in 1 \(row 4\)"):
        resolved(space, thick, {**there, 4: (SHAPE, other)})
    with pytest.raises(DataError, match="no volume's voxels are longer"):
        resolved(space, thick, {2: (SHAPE, np.eye(4))})
    with pytest.raises(DataError, match="row 3 holds 2-D images"):
        resolved(space, thick, {**there, 3: ((10, 12), np.eye(4))})
    with pytest.raises(DataError, match="row 3 holds volumes that do not say"):
        resolved(space, thick, {**there, 3: (SHAPE, None)})
    with pytest.raises(DataError, match="acquired in axial slices; space"):
        resolved(replace(space, orientation="LS"), thick, there)
    even = {2: (SHAPE, np.eye(4)), **{row: there[row] for row in (3, 4)}}
    assert resolved(space, thick, even)[1].plane == "axial"  # an even one goes with the others


def test_a_picture_among_volumes_is_refused(manifest: Manifest, key: SiteKey) -> None:
    flat = nibabel.Nifti1Image(volume(0)[:, :, 2], np.diag([2.0, 2.0, 6.0, 1.0]))
    nibabel.save(flat, manifest.rows[1].images["image"])
    with pytest.raises(DataError, match="row 3: the image is 2-D"):
        cut(manifest, key)
