"""What is true of tiles and slices: the sampler, its noise and every head see one image."""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import medidiff
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Slices, Space
from medidiff.diffusion import KeyedNoise
from medidiff.errors import DataError, MedidiffError, ModelError, TaskError
from medidiff.jobs.reaching import Reaching
from medidiff.model import Model
from medidiff.networks import NetworkShape, Reach, Tiles, UNetOptions, build, coordinates
from medidiff.networks.reach import SliceBySlice, Tiled, slab_window, windows
from medidiff.spec import ModelSpec, SamplingOptions

UNIT = FittedIntensity((-1.0,), (1.0,), "train", None, (-1.0, 1.0))


class Local(nn.Module):
    """A network that sees `radius` voxels around each, and what it is told."""

    def __init__(self, dims: int, channels: int = 1, radius: int = 1) -> None:
        super().__init__()
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.field = kind(channels, 1, 2 * radius + 1, padding=radius, bias=False)
        torch.manual_seed(0)
        with torch.no_grad():
            self.field.weight.copy_(torch.randn_like(self.field.weight) / 5)

    def forward(
        self, x: Tensor, label: Tensor, condition: Tensor | None, concat: Tensor | None
    ) -> Tensor:
        own = label.view(-1, *[1] * (x.ndim - 1))
        if condition is not None:
            own = own + condition.view(own.shape)
        return torch.tanh(self.field(x if concat is None else torch.cat([x, concat], 1))) * own


def field(*shape: int) -> Tensor:
    return KeyedNoise(1, [("field", index) for index in range(shape[0])])(torch.zeros(shape), 0)


@pytest.mark.parametrize(
    ("size", "overlap", "length"), itertools.product((5, 8), (0, 1, 4), (5, 8, 9, 23))
)
def test_the_windows_of_tiles_add_up_to_one(size: int, overlap: int, length: int) -> None:
    tiles = Tiles(size, overlap)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(tiles.starts(length), windows(tiles, length, 1, total), strict=True):
        total[start : start + len(weight)] += weight
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


@pytest.mark.parametrize("space", [(20, 31), (13, 12, 17)])
def test_a_network_that_sees_less_than_the_margin_gives_by_tiles_what_it_gives_whole(
    space: tuple[int, ...],
) -> None:
    network, x = Local(len(space), 3), field(2, 1, *space)
    beside, label = field(2, 2, *space), torch.tensor([0.5, 2.0])
    told = torch.tensor([[0.1], [0.3]])
    whole = network(x, label, told, beside)
    by_tiles = Tiled(network, Tiles(10, 4))(x, label, told, beside)
    torch.testing.assert_close(by_tiles, whole, atol=1e-6, rtol=0)
    hard = Tiled(network, Tiles(10, 0))(x, label, told, beside)
    assert (hard - whole).abs().max() > 1e-2  # a law that no tiles could break says nothing


def test_tiles_are_told_where_they_lie_in_the_whole() -> None:
    class Echo(nn.Module):
        def forward(self, x: Tensor, label: Tensor, condition: None, concat: Tensor) -> Tensor:
            return concat

    grid = coordinates((9, 14), torch.zeros(1))[None]
    made = Tiled(Echo(), Tiles(6, 2))(torch.zeros(1, 1, 9, 14), torch.zeros(1), None, grid)
    torch.testing.assert_close(made, grid)


def test_coordinates_go_on_beyond_the_model_s_own_grid() -> None:
    own, larger = (coordinates((n,), torch.zeros(1, dtype=torch.float64), (8,))[0] for n in (8, 12))
    assert torch.equal(own, torch.linspace(-1, 1, 8).double())
    torch.testing.assert_close(larger[2:10], own, atol=1e-6, rtol=0)
    assert larger[-1] > 1


def test_a_gradient_through_tiles_is_that_of_the_whole() -> None:
    network, x = Local(2), field(1, 1, 20, 31).requires_grad_()
    label = torch.ones(1)
    (whole,) = torch.autograd.grad(network(x, label, None, None).square().sum(), x)
    by_tiles = Tiled(network, Tiles(10, 4))(x, label, None, None)
    (tiled,) = torch.autograd.grad(by_tiles.square().sum(), x)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_a_volume_by_slices_is_its_slices() -> None:
    network, x = Local(2), field(2, 1, 5, 6, 7)
    label, told = torch.tensor([0.5, 2.0]), torch.tensor([[0.1], [0.3]])
    made = SliceBySlice(network, (2,), 4)(x, label, told)
    for index in range(7):
        alone = network(x[..., index], label, told, None)
        torch.testing.assert_close(made[..., index], alone, atol=1e-6, rtol=0)
    three = SliceBySlice(network, (0, 1, 2), 4)(x, label, told)
    each = [SliceBySlice(network, (axis,), 99)(x, label, told) for axis in range(3)]
    torch.testing.assert_close(three, sum(each) / 3, atol=1e-6, rtol=0)


def prior(
    dims: Literal[2, 3], size: tuple[int, ...], *, told: bool = False, **space: object
) -> Model:
    options = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
    shape = NetworkShape(dims=dims, concat_channels=dims if told else 0)
    spec = ModelSpec(
        name="a",
        modality="MR",
        images=("image",),
        space=Space(dims, size, **space),  # type: ignore[arg-type]
        intensity=UNIT,
        network=options,
        shape=shape,
        coordinates=told,
        sampling=SamplingOptions(steps=3),
    )
    torch.manual_seed(0)
    network = build(options, shape)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return Model(spec, network.eval())


@pytest.mark.parametrize("told", [False, True])
def test_samples_by_tiles_use_the_field_of_the_whole(told: bool) -> None:
    model = prior(2, (24, 20), told=told)
    tiles = model.tiled(12, 0.5)
    assert (model.reach, tiles.reach) == (Reach(), Reach(Tiles(12, 6, "tile")))
    whole = model.sample(2, seed=3)
    with nullcontext() if told else pytest.warns(UserWarning, match="does not fit together"):
        drawn, one = tiles.sample(2, seed=3), tiles.sample(1, seed=3)
    torch.testing.assert_close(drawn.images[:1], one.images, atol=1e-5, rtol=0)
    assert not torch.equal(drawn.images, whole.images)
    # another field would be as far away as another seed
    apart = (drawn.images - whole.images).square().mean()
    assert apart < 0.1 * (model.sample(2, seed=4).images - whole.images).square().mean()
    assert drawn.provenance["reach"]
    assert "reach" not in whole.provenance
    with nullcontext() if told else pytest.warns(UserWarning, match="does not fit together"):
        assert torch.equal(model.tiled(24).sample(2, seed=3).images, whole.images)


def test_tiles_without_meaning_are_refused() -> None:
    model = prior(2, (24, 20))
    for size, overlap in ((1, 0.25), (12, 1.0), (12, -0.1)):
        with pytest.raises(ModelError, match="tiles of"):
            model.tiled(size, overlap)


def written(path: Path, values: np.ndarray, axes: str = "RAS", spacing: tuple = (1, 1, 1)) -> Path:
    letters = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (letter, step) in enumerate(zip(axes, spacing, strict=True)):
        row, sign = letters[letter]
        affine[row, axis] = sign * step
    affine[:3, 3] = (-7, 3, 11)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))


def noisy(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, shape)


def test_a_model_of_slices_takes_a_volume_slice_by_slice(tmp_path: Path) -> None:
    """Whatever way the volume lies, each slice comes back as if it had been given alone."""
    model = prior(2, (16, 12), spacing_mm=(1.0, 1.0), orientation="PL")
    values = noisy(12, 16, 5)
    result = medidiff.run("denoise", model, written(tmp_path / "v.nii.gz", values), sigma=0.1)
    assert result.image.shape == (1, 12, 16, 5)
    reach = result.provenance["reach"]
    assert isinstance(reach, dict)
    assert reach["slices"] == [2]
    turned = np.ascontiguousarray(values.transpose(2, 1, 0)[::-1, :, ::-1])
    other = medidiff.run("denoise", model, written(tmp_path / "t.nii.gz", turned, "IAL"), sigma=0.1)
    np.testing.assert_allclose(
        other.image[0][::-1, :, ::-1].transpose(2, 1, 0), result.image[0], atol=1e-5
    )
    for index in (0, 3):
        one = written(tmp_path / f"s{index}.nii.gz", values[..., index : index + 1])
        alone = medidiff.run("denoise", model, one, sigma=0.1)
        np.testing.assert_allclose(
            alone.image.reshape(12, 16), result.image[0, ..., index], atol=1e-5
        )


def test_total_variation_lies_across_the_slices_of_a_volume(tmp_path: Path) -> None:
    model = prior(2, (16, 12), spacing_mm=(1.0, 1.0), orientation="PL")
    scan = written(tmp_path / "v.nii.gz", noisy(12, 16, 5))

    def steps_across(**method: object) -> float:
        how = {"method": {"kind": "diffusion-mbir", **method}, "steps": 3, "draws": 1}
        result = medidiff.run("denoise", model, scan, sigma=0.1, posterior=how)
        return float(np.abs(np.diff(result.image[0], axis=-1)).mean())

    assert steps_across(axis=2, weight=100.0) < 0.7 * steps_across(axis=2, weight=0.0)
    with pytest.raises(TaskError, match=r"posterior\.method\.axis=2"):
        steps_across()


def test_slices_of_a_model_that_does_not_say_how_they_lie_are_those_of_pictures(
    tmp_path: Path,
) -> None:
    stored = prior(2, (16, 12), spacing_mm=(1.0, 1.0))
    known = prior(2, (16, 12), spacing_mm=(1.0, 1.0), orientation="PL")
    scan = written(tmp_path / "v.nii.gz", noisy(12, 16, 5))
    one, other = (medidiff.run("denoise", each, scan, sigma=0.1) for each in (stored, known))
    np.testing.assert_array_equal(one.image, other.image)
    turned = written(tmp_path / "t.nii.gz", noisy(5, 12, 16))
    sagittal = medidiff.run("denoise", stored, turned, sigma=0.1, plane="SA")
    assert sagittal.image.shape == (1, 5, 12, 16)
    with pytest.raises(TaskError, match="lie along PL"):
        medidiff.run("denoise", known, scan, sigma=0.1, plane="SA")
    with pytest.raises(TaskError, match="two letters"):
        Reaching(plane="PA")


def test_three_orientations_are_asked_of_cubes_and_change_the_result(tmp_path: Path) -> None:
    model = prior(2, (16, 16), spacing_mm=(1.0, 1.0), orientation="PL")
    scan = written(tmp_path / "v.nii.gz", noisy(16, 16, 14))
    one = medidiff.run("denoise", model, scan, sigma=0.1)
    three = medidiff.run("denoise", model, scan, sigma=0.1, across="three")
    assert one.image.shape == three.image.shape
    assert not np.allclose(one.image, three.image, atol=1e-3)
    thick = written(tmp_path / "t.nii.gz", noisy(16, 16, 6), spacing=(1, 1, 3))
    with pytest.raises(DataError, match="voxels are"):
        medidiff.run("denoise", model, thick, sigma=0.1, across="three")


@pytest.mark.parametrize("dims", [2, 3])
def test_an_input_beyond_the_field_of_view_is_taken_whole_by_tiles(
    dims: Literal[2, 3], tmp_path: Path
) -> None:
    size = (12, 12, 8)[:dims]
    letters = ("RA", "RAS")[dims - 2]
    model = prior(dims, size, spacing_mm=(1.0,) * dims, orientation=letters)
    scan = written(tmp_path / "v.nii.gz", noisy(21, 16, (1, 13)[dims - 2]))
    with pytest.raises(DataError, match=r"field of view.*\n?.*--tile"):
        medidiff.run("denoise", model, scan, sigma=0.1)
    result = medidiff.run("denoise", model, scan, sigma=0.1, tile=8, tile_overlap=0.5)
    shape = (21, 16, (1, 13)[dims - 2])
    assert result.image.reshape(shape).shape == shape
    again = medidiff.run("denoise", model, scan, sigma=0.1, tile=64)
    assert np.abs(again.image - result.image).mean() < 0.1  # whole, in one tile
    samples = medidiff.run("denoise", model, scan, sigma=0.1, n=2, tile=8, steps=2)
    assert len(samples.samples) == 2


def test_a_volume_of_slices_larger_than_the_model_is_taken_by_tiles(tmp_path: Path) -> None:
    model = prior(2, (12, 12), spacing_mm=(1.0, 1.0), orientation="RA")
    scan = written(tmp_path / "v.nii.gz", noisy(21, 16, 3))
    result = medidiff.run("denoise", model, scan, sigma=0.1, tile=8)
    assert result.image.shape == (1, 21, 16, 3)
    assert result.provenance["reach"] == {
        "tiles": {"size": 8, "overlap": 2, "statistics": "tile"},
        "slices": [2],
        "at_once": 16,
        "thickness": 1,
    }


def test_what_makes_no_sense_is_said(tmp_path: Path) -> None:
    solid = prior(3, (8, 8, 8), spacing_mm=(1.0,) * 3, orientation="RAS")
    scan = written(tmp_path / "v.nii.gz", noisy(8, 8, 8))
    with pytest.raises(TaskError, match="model of slices"):
        medidiff.run("denoise", solid, scan, sigma=0.1, across="three")
    with pytest.raises(MedidiffError, match="tiles of 1"):
        medidiff.run("denoise", solid, scan, sigma=0.1, tile=1)
    nibabel.save(nibabel.Nifti1Image(noisy(8, 8, 8), None), bare := tmp_path / "bare.nii.gz")
    flat = prior(2, (8, 8))
    with pytest.raises(DataError, match="how the body lies"):
        medidiff.run("denoise", flat, bare, sigma=0.1)


def test_a_model_that_is_told_where_it_is_takes_no_more_than_it_was_taught(tmp_path: Path) -> None:
    model = prior(2, (16, 12), told=True, spacing_mm=(1.0, 1.0), orientation="RA")
    larger = written(tmp_path / "l.nii.gz", noisy(24, 16, 1))
    with pytest.raises(DataError, match="field of view"):
        medidiff.run("denoise", model, larger, sigma=0.1, tile=8)
    own = written(tmp_path / "o.nii.gz", noisy(16, 12, 1))
    assert medidiff.run("denoise", model, own, sigma=0.1, tile=8).image.shape == (1, 16, 12)


class Blind(nn.Module):
    """A network of slabs that sees of each slice nothing but itself."""

    def __init__(self, thickness: int, channels: int = 1) -> None:
        super().__init__()
        self.thickness, self.inner = thickness, Local(2, channels)

    def forward(
        self, x: Tensor, label: Tensor, condition: Tensor | None, concat: Tensor | None
    ) -> Tensor:
        slices = x.unflatten(1, (-1, self.thickness)).unbind(2)
        made = [self.inner(each, label, condition, concat) for each in slices]
        return torch.stack(made, 2).flatten(1, 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_of_slices_that_know_nothing_of_each_other_give_what_slices_give(axis: int) -> None:
    x, label = field(2, 2, 7, 6, 8), torch.tensor([0.5, 2.0])
    blind = Blind(5, 2)
    slabs = SliceBySlice(blind, (axis,), 4, 5)(x, label)
    alone = SliceBySlice(blind.inner, (axis,), 4)(x, label)
    torch.testing.assert_close(slabs, alone, atol=1e-6, rtol=0)


def wiener(thickness: int, correlation: float = 2.0, noise: float = 0.5) -> Tensor:
    """E[clean | x] of so many neighbouring slices, each correlated with the others."""
    places = torch.arange(thickness, dtype=torch.float64)
    apart = places[:, None] - places
    covariance = torch.exp(-0.5 * (apart / correlation) ** 2)
    return covariance @ torch.linalg.inv(covariance + noise**2 * torch.eye(thickness).double())


class Linear(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: Tensor, *_: Tensor | None) -> Tensor:
        return torch.einsum("st,bthw->bshw", self.matrix, x)


def test_slabs_come_nearer_to_the_whole_than_slices_the_thicker_they_are() -> None:
    """A Gaussian volume, whose exact denoiser is a matrix across its slices."""
    depth = 24
    x = torch.eye(depth, dtype=torch.float64).view(depth, 1, depth, 1, 1)
    spread = torch.linalg.inv(torch.eye(depth).double() - wiener(depth)) / 4  # of x: C + noise^2
    found = []
    for thickness in (1, 3, 5, 7):
        call = SliceBySlice(Linear(wiener(thickness)), (0,), 16, thickness)
        matrix = call(x, torch.zeros(depth)).view(depth, depth).T  # its answer to each unit volume
        apart = matrix - wiener(depth)
        found.append(float((apart @ spread @ apart.T).diagonal().mean().sqrt()))
    assert found == sorted(found, reverse=True)
    assert found[2] < 0.25 * found[0]


def test_the_window_of_a_slab_is_even_and_falls_from_its_middle() -> None:
    window = slab_window(5)
    assert torch.allclose(window, window.flip(0))
    assert window.argmax() == 2
    assert (window > 0).all()


def slabs(thickness: int = 3) -> Model:
    """A model of slabs of axial slices, 2 mm apart."""
    flat = prior(2, (16, 12), spacing_mm=(1.0, 1.0), orientation="PL")
    own = Slices("axial", thickness=thickness)
    shape = NetworkShape(dims=2, in_channels=thickness, out_channels=thickness)
    spec = dataclasses.replace(
        flat.spec,
        slices=own,
        images=own.channels(("image",)),
        intensity=UNIT.repeated(thickness),
        shape=shape,
        step_mm=(1.9, 2.0, 2.1),
    )
    torch.manual_seed(0)
    network = build(spec.network, shape)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return Model(spec, network.eval())


def test_a_model_of_slabs_takes_a_volume_that_lies_any_way_round(tmp_path: Path) -> None:
    model, values = slabs(), noisy(12, 16, 5)
    scan = written(tmp_path / "v.nii.gz", values, spacing=(1, 1, 2))
    result = medidiff.run("denoise", model, scan, sigma=0.1)
    assert result.image.shape == (1, 12, 16, 5)
    reach = result.provenance["reach"]
    assert isinstance(reach, dict)
    assert reach["thickness"] == 3
    turned = np.ascontiguousarray(values.transpose(2, 1, 0)[::-1, :, ::-1])
    other = written(tmp_path / "t.nii.gz", turned, "IAL", (2, 1, 1))
    again = medidiff.run("denoise", model, other, sigma=0.1)
    np.testing.assert_allclose(
        again.image[0][::-1, :, ::-1].transpose(2, 1, 0), result.image[0], atol=1e-5
    )
    swapped = written(tmp_path / "s.nii.gz", values[..., [0, 1, 2, 4, 3]], spacing=(1, 1, 2))
    moved = medidiff.run("denoise", model, swapped, sigma=0.1)
    assert not np.allclose(moved.image[0, ..., 2], result.image[0, ..., 2], atol=1e-4)


def test_what_slabs_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    model = slabs()
    thin = written(tmp_path / "thin.nii.gz", noisy(12, 16, 2), spacing=(1, 1, 2))
    with pytest.raises(DataError, match="sees 3 neighbouring slices"):
        medidiff.run("denoise", model, thin, sigma=0.1)
    fine = written(tmp_path / "fine.nii.gz", noisy(12, 16, 9), spacing=(1, 1, 1))
    with pytest.raises(DataError, match="voxels are 1 x 1 x 1 mm, the model's 1 x 1 x 2"):
        medidiff.run("denoise", model, fine, sigma=0.1)
    with pytest.raises(ModelError, match=r"slices\.thickness above 1"):
        prior(2, (16, 12)).volumes(5)
    with pytest.raises(ModelError, match="at least 3 slices"):
        model.volumes(2)


def test_a_model_of_slabs_draws_volumes_with_their_geometry() -> None:
    model = slabs()
    drawn = model.volumes(6).sample(2, seed=1)
    assert drawn.images.shape == (2, 1, 16, 12, 6)
    assert np.linalg.norm(drawn.affine[:3, :3], axis=0).tolist() == [1, 1, 2]
    one = model.volumes(6).sample(1, seed=1)
    torch.testing.assert_close(one.images, drawn.images[:1], atol=1e-5, rtol=0)
    assert model.sample(1).images.shape == (1, 3, 16, 12)  # a slab
