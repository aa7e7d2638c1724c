import numpy as np
import pytest
import torch
from PIL import Image

from medidiff.data.options import Space
from medidiff.report.pictures import comparison, merged, planes, sheet


def bright_centre(pixels: np.ndarray) -> tuple[bool, bool]:
    """(in the lower half, in the right half)"""
    down, right = np.argwhere(pixels > 0.5).mean(0)
    return down > (pixels.shape[0] - 1) / 2, right > (pixels.shape[1] - 1) / 2


def test_a_picture_without_geometry_is_shown_as_stored():
    image = torch.rand(1, 5, 7)
    (plane,) = planes(image)
    assert np.array_equal(plane.pixels, image[0].numpy())


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    # RAS: the high end of the first axis is the patient's right, of the second the front
    slab = torch.zeros(1, 6, 8)
    slab[0, 4:, 6:] = 1
    (plane,) = planes(slab, np.diag([1.0, 1.0, 5.0, 1.0]))
    assert plane.name == "axial"
    assert plane.pixels.shape == (8, 6)
    assert bright_centre(plane.pixels) == (False, False)
    (plane,) = planes(slab, np.diag([-1.0, -1.0, 5.0, 1.0]))  # LPS: now left and back
    assert bright_centre(plane.pixels) == (True, True)


def test_a_volume_gives_three_planes_with_their_proportions():
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    found = {plane.name: plane for plane in planes(torch.rand(1, 4, 6, 8), affine)}
    assert list(found) == ["axial", "coronal", "sagittal"]
    assert [found[n].pixels.shape for n in found] == [(6, 4), (8, 4), (8, 6)]
    assert [found[n].aspect for n in found] == [2.0, 3.0, 1.5]


def test_planes_of_a_volume_whose_orientation_is_unknown_are_named_by_their_axis():
    volume = torch.rand(1, 4, 6, 8)
    found = {plane.name: plane.pixels for plane in planes(volume)}
    assert list(found) == ["across axis 2", "across axis 1", "across axis 0"]
    assert np.array_equal(found["across axis 1"], volume[0, :, 3].numpy())
    assert Space(3, (4, 6, 8)).known_affine() is None
    assert Space(3, (4, 6, 8), orientation="RAS").known_affine() is not None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_planes_do_not_depend_on_how_a_volume_is_stored(order, signs):
    volume = torch.rand(1, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    stored, affine = volume, np.eye(4)
    for axis, sign in enumerate(signs):
        if sign < 0:
            stored = stored.flip(axis + 1)
            affine[axis, axis] = -1
    stored = stored.permute(0, *(axis + 1 for axis in order))
    affine = affine[:, [*order, 3]]
    for ours, truth in zip(planes(stored, affine), planes(volume, np.eye(4)), strict=True):
        assert ours.name == truth.name
        assert np.array_equal(ours.pixels, truth.pixels)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_sheet_shows_all_images_in_one_window(tmp_path):
    images = torch.stack([torch.full((1, 8, 8), value) for value in (0.0, 50.0, 100.0, 200.0)])
    place = sheet(images, tmp_path / "new" / "s.png", window=(0.0, 100.0), title="four")
    shown = pixels(place)
    greys = {level for level in range(256) if (shown == level).all(-1).sum() > 1500}
    assert {0, 255} <= greys
    assert greys & {127, 128}
    assert len(greys) == 3  # 100 and 200 are both white: the window ends at 100


def test_a_sheet_of_volumes_has_a_row_each(tmp_path):
    place = sheet(torch.rand(2, 1, 8, 8, 8), tmp_path / "v.png", window=(0, 1), titles=["a", "b"])
    height, width, _ = pixels(place).shape
    assert width > height


def test_a_comparison_shows_errors_against_the_truth_in_colour(tmp_path):
    case = {
        name: torch.full((1, 8, 8), value)
        for name, value in (("input", 80.0), ("ours", 20.0), ("truth", 50.0))
    }
    grey = pixels(comparison([case], tmp_path / "g.png", window=(0, 100)))
    assert (grey.max(-1) == grey.min(-1)).all()
    shown = pixels(comparison([case], tmp_path / "c.png", window=(0, 100), truth="truth"))
    red = (shown[..., 0] > shown[..., 2] + 50).sum(0)
    blue = (shown[..., 2] > shown[..., 0] + 50).sum(0)
    assert red.sum() > 500
    assert blue.sum() > 500
    assert red.nonzero()[0].mean() < blue.nonzero()[0].mean()  # too bright: the input, on the left


def test_names_of_several_lists_keep_their_order():
    lists = [["zero", "tv", "ours", "truth", "map"], ["fbp", "tv", "ours", "truth"], ["x", "truth"]]
    assert merged(lists) == ["zero", "fbp", "tv", "ours", "x", "truth", "map"]


def test_a_method_that_was_not_run_is_left_blank(tmp_path):
    """Neither a black picture nor an error of its size."""
    grey = torch.full((1, 8, 8), 50.0)
    both = {"a": grey, "b": torch.full((1, 8, 8), 20.0), "truth": grey}
    lacking = {"a": grey, "truth": grey}
    full, part = (
        pixels(comparison(cases, tmp_path / "p.png", window=(0, 100), truth="truth"))
        for cases in ([both, both], [both, lacking])
    )
    half = part.shape[0] // 2
    blue = [(each[..., 2] > each[..., 0] + 50).sum(1) for each in (full, part)]
    assert blue[0][half:].sum() > 500
    assert blue[1][half:].sum() == 0
    assert blue[1][:half].sum() > 500
    assert (part[half:] < 60).all(-1).sum() < 0.5 * (full[half:] < 60).all(-1).sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: sheet([], p, window=(0, 1)), "at least one"),
        (lambda p: sheet(torch.rand(1, 1, 8, 8), p, window=(1, 1)), "rises"),
        (lambda p: sheet(torch.rand(2, 1, 8, 8), p, window=(0, 1), titles=["a"]), "1 titles"),
        (lambda p: sheet(torch.rand(2, 8, 8), p, window=(0, 1)), "2-D or 3-D"),
        (lambda p: comparison([], p, window=(0, 1)), "at least one"),
        (
            lambda p: comparison([{"a": torch.rand(1, 8, 8)}], p, window=(0, 1), truth="b"),
            "not among",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "x.png")


def test_a_sheet_without_titles_leaves_no_room_for_them(tmp_path):
    images = torch.zeros(4, 1, 8, 8)
    plain = sheet(images, tmp_path / "a.png", window=(0, 1))
    titled = sheet(images, tmp_path / "b.png", window=(0, 1), titles=["a", "b", "c", "d"])
    heights = [Image.open(file).height for file in (plain, titled)]
    assert heights[0] < heights[1]
