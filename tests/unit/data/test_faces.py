"""A face is taken off where the affine says that the front is, and brain is left."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medidiff import api
from medidiff.data.confidentiality.faces import Defacing, deface
from medidiff.data.population import PopulationOptions, draw
from medidiff.errors import DataError, OutputError

SIZE = 56


@pytest.fixture(scope="module")
def head():
    return draw(PopulationOptions("head", 3, SIZE, seed=3), 0)


def places(affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where a mask's voxels lie, RAS in mm."""
    return (np.argwhere(mask) @ affine[:3, :3].T) + affine[:3, 3]


def test_the_face_goes_and_the_brain_stays(head) -> None:
    made = deface(head.image, head.affine)
    taken = places(head.affine, made.mask)
    assert (taken[:, 1] > -10).all()  # anterior of the middle
    assert (taken[:, 2] < 0).all()  # below the frontal lobes
    nose = np.linalg.inv(head.affine) @ [0, 88, -45, 1]
    assert made.mask[tuple(np.round(nose[:3]).astype(int))]
    assert np.array_equal(made.image[~made.mask], head.image[~made.mask])
    assert np.ptp(made.image[made.mask]) == 0
    assert 0.05 < made.share < 0.25
    above = places(head.affine, head.image > 150)
    upper = above[above[:, 2] > 0]
    assert len(upper) > 5000  # of which, as just said, none was taken


def test_the_order_and_direction_of_axes_do_not_matter(head) -> None:
    made = deface(head.image, head.affine)
    for axes, flips in (((2, 1, 0), (1, 1, 1)), ((1, 2, 0), (-1, 1, -1)), ((0, 1, 2), (1, -1, 1))):
        change = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
        turned = nibabel.orientations.apply_orientation(head.image, change)
        affine = head.affine @ nibabel.orientations.inv_ornt_aff(change, head.image.shape)
        again = deface(turned, affine)
        expected = nibabel.orientations.apply_orientation(made.mask, change)
        assert np.array_equal(again.mask, expected)


def test_a_blur_keeps_the_outline_and_hides_the_features(head) -> None:
    made = deface(head.image, head.affine, Defacing(fill="blur"))
    inside = made.image[made.mask]
    assert np.ptp(inside) > 0
    before = head.image[made.mask].astype(float)
    assert np.corrcoef(inside, before)[0, 1] > 0.3
    assert inside.std() < 0.8 * before.std()


def test_the_margin_moves_the_cut(head) -> None:
    shares = [
        deface(head.image, head.affine, Defacing(margin_mm=margin)).share for margin in (-15, 0, 15)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_what_is_no_whole_head_is_refused(head) -> None:
    with pytest.raises(DataError, match="no whole head"):
        deface(head.image[:8], head.affine)
    with pytest.raises(DataError, match="three axes"):
        deface(head.image[20], head.affine)
    with pytest.raises(DataError, match="vertex is cut off"):
        deface(head.image[: SIZE // 2 + 4], head.affine)
    with pytest.raises(DataError, match="one value only"):
        deface(np.zeros((40, 40, 40)), np.diag([5.0, 5, 5, 1]))


def test_a_head_turned_round_by_its_affine_is_refused() -> None:
    image = np.zeros((60, 60, 60), np.float32)
    place = np.indices(image.shape)
    radius = ((place - 30) ** 2).sum(axis=0)
    image[radius < 26**2] = 100
    front_below = (place[1] > 34) & (place[2] < 32) & (radius < 23**2)
    image[front_below & (place[1] % 4 < 2)] = 0  # sinuses, at the front as the affine says
    affine = np.diag([3.5, 3.5, 3.5, 1.0])
    assert deface(image, affine).share > 0
    wrong = affine @ nibabel.orientations.inv_ornt_aff([[0, 1], [1, -1], [2, 1]], image.shape)
    with pytest.raises(DataError, match="seems to call the back the front"):
        deface(image, wrong)


def test_a_file_is_written_on_its_grid_with_a_look_at_it(head, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(head.image, head.affine), scan)
    said = api.deface(
        scan, tmp_path / "out.nii.gz", mask=tmp_path / "mask.nii.gz", picture=tmp_path / "look.png"
    )
    assert "Look at the result" in said
    written = nibabel.load(tmp_path / "out.nii.gz")
    mask = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj) > 0
    assert np.allclose(written.affine, head.affine, atol=1e-4)
    assert np.asarray(written.dataobj).dtype == np.int16
    assert np.array_equal(np.asarray(written.dataobj)[~mask], head.image[~mask])
    assert Image.open(tmp_path / "look.png").size[1] >= 2 * SIZE
    with pytest.raises(OutputError, match=r"new \.nii\.gz file"):
        api.deface(scan, tmp_path / "out.nii.gz")
    with pytest.raises(OutputError, match=r"new \.png file"):
        api.deface(scan, tmp_path / "b.nii.gz", picture=tmp_path / "b.jpg")
    assert not (tmp_path / "b.nii.gz").exists()
    (tmp_path / "link").symlink_to(tmp_path)
    for mask in (tmp_path / "c.nii.gz", tmp_path / "link" / "c.nii.gz"):
        with pytest.raises(OutputError, match="a file each"):
            api.deface(scan, tmp_path / "c.nii.gz", mask=mask)
    assert not (tmp_path / "c.nii.gz").exists()
