"""Measured heads: units, grids, files, what stays as it was, and what is called calibrated."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch

import medidiff
from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity, Scale
from medidiff.data.options import Space
from medidiff.data.raw import read_raw
from medidiff.diffusion import EDM, KeyedNoise
from medidiff.errors import DataError, MedidiffError, TaskError
from medidiff.evaluation.calibration import Calibration, bootstrap_interval
from medidiff.jobs.benchmark import goals_of, keep_verdicts, verdict_of
from medidiff.jobs.cases import case_of_files
from medidiff.jobs.measurements import open_measurement
from medidiff.jobs.models import export_model
from medidiff.model import Model
from medidiff.model_folder import digest
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.physics import Sampling, to_kspace
from medidiff.physics.window import Placed, Weighted, Window, centred_on
from medidiff.spec import ModelSpec
from medidiff.tasks import Reconstruction, SuperResolution, calibrated, denoise, measured
from medidiff.tasks.base import OURS, Benchmarked, Calibrated, Target
from medidiff.tasks.calibrated import keep, verdict
from medidiff.tasks.cartesian import Cartesian
from medidiff.tasks.defaults import Posterior, chosen_for
from medidiff.tasks.kspace import kind_of, noise_level
from medidiff.tasks.measured import misfit
from medidiff.tasks.results import Result, stacked
from medidiff.tasks.simulate import FINER, SimulatedMRI, ring_of_coils

SIZE = (24, 32)
FEW = {"steps": 3, "draws": 1, "pilots": 1, "pilot_steps": 2}
LOOSE = FEW | {"method": {"kind": "diffpir", "weight": 1e6}, "phase": "kept"}
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    shape = NetworkShape(dims=2)
    network = build(NETWORK, shape).eval().requires_grad_(False)
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    space = Space(2, SIZE, (1.0, 1.0))
    made = Model(ModelSpec("tiny", "MR", ("image",), space, intensity, NETWORK, shape), network)
    made.save(tmp_path_factory.mktemp("models") / "tiny")
    return made


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)


def blob(size: tuple[int, ...] = SIZE) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij"))
    # soft: a hard edge would reach to the ends of k-space, where the noise is looked for
    return (180.0 * np.exp(-4 * (grid**2).sum(0)) * (1 + 0.2 * grid[0])).astype(np.float32)


def kspace_of(image: np.ndarray, coils: int = 1) -> np.ndarray:
    maps = ring_of_coils(coils, image.shape)[0]
    return to_kspace((maps * torch.from_numpy(image))[None])[0].numpy()


def lines(space: tuple[int, ...], centre: int = 8) -> np.ndarray:
    mask = np.zeros(space, np.float32)
    mask[:, ::2] = 1
    mask[:, space[1] // 2 - centre // 2 : space[1] // 2 + centre // 2] = 1
    return mask


def noisy(kspace: np.ndarray, sigma: float = 0.5) -> np.ndarray:
    draw = np.random.default_rng(0).standard_normal((2, *kspace.shape))
    return (kspace + sigma * (draw[0] + 1j * draw[1])).astype(np.complex64)


def test_kspace_is_reconstructed_from_an_array_in_its_own_units(model: Model) -> None:
    image, mask = blob(), lines(SIZE, 12)
    given = noisy(kspace_of(image, 4)) * mask
    coils = ring_of_coils(4, SIZE)[0].numpy()
    result = medidiff.run("reconstruct", model, given, mask=mask, coils=coils, n=2, posterior=FEW)
    assert result.image.shape == (1, *SIZE)
    assert set(result.maps) == {"std", "p05", "p95"}
    assert len(result.samples) == 2
    assert np.abs(result.image[0] - image).mean() < 0.15 * image.max()
    said = result.provenance
    assert said["uncertainty"] == "uncalibrated"
    assert said["interval"] == pytest.approx(1 / 3, abs=1e-4)  # between two samples
    assert np.array_equal(result.maps["p05"], np.minimum(*result.samples))
    assert said["measurement"] == "mri 4 coils R=1, 1-D mask"
    assert said["forward_equivalents"] == 2 * 3 + 2
    assert float(said["sigma"][0]) == pytest.approx(0.5 / 200, rel=0.4)  # type: ignore[index]


def test_the_prior_sees_the_same_whatever_the_units_of_the_signal(model: Model) -> None:
    given = noisy(kspace_of(blob())) * lines(SIZE)
    seen = []
    for factor in (1.0, 1e-6):
        opened = open_measurement(factor * given, {}, model, 1)
        seen.append(Reconstruction().prepare(opened.cases, model))
    one, other = (problem.measurement for problem in seen)
    assert one is not None
    assert other is not None
    assert torch.allclose(one.values, other.values, rtol=1e-4, atol=1e-4)
    assert torch.allclose(one.noise_std, other.noise_std, rtol=1e-4)
    assert seen[0].levels == pytest.approx(seen[1].levels, rel=1e-4)


@pytest.mark.parametrize("coils", [1, 4])
def test_a_simulated_measurement_is_scaled_by_itself_and_not_by_the_truth(
    model: Model, coils: int
) -> None:
    """Whatever intensity window the truth has, the head finds the same problem."""
    image = torch.from_numpy(blob())[None] / 100 - 1
    origin = Original(SIZE, np.eye(4), True, "MR", (0.0,))
    truth = Case("s", 1, image, {}, None, Scale((0.0,), (200.0,)), np.eye(4), origin)
    scanner = SimulatedMRI(2, 0.3, coils=coils)
    given = scanner([truth], KeyedNoise(0, [("measured", 0)]))
    told = [replace(case, scale=Scale((-50.0,), (900.0,))) for case in given]
    one, other = (Reconstruction().prepare(cases, model) for cases in (given, told))
    assert one.measurement is not None
    assert other.measurement is not None
    assert torch.equal(one.measurement.values, other.measurement.values)
    assert one.cases[0].scale == other.cases[0].scale != truth.scale
    assert one.levels == other.levels


def test_slices_of_fastmri_become_a_volume_on_the_grid_that_is_shown(
    model: Model, tmp_path: Path
) -> None:
    """Read-out oversampled twice, with coil maps in the file."""
    wide = np.zeros((48, 32), np.float32)
    wide[12:36] = blob()
    slices = np.stack([noisy(kspace_of(wide, 2)), noisy(kspace_of(wide, 2))])
    header = (
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace><matrixSize>'
        "<x>48</x><y>32</y><z>1</z></matrixSize><fieldOfView_mm><x>48</x><y>32</y><z>5</z>"
        "</fieldOfView_mm></encodedSpace><reconSpace><matrixSize><x>24</x><y>28</y><z>1</z>"
        "</matrixSize><fieldOfView_mm><x>24</x><y>28</y><z>5</z></fieldOfView_mm></reconSpace>"
        "</encoding></ismrmrdHeader>"
    )
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"], file["mask"] = slices, np.ones(32, np.float32)
        file["ismrmrd_header"], file["coils"] = header, ring_of_coils(2, (48, 32))[0].numpy()
    result = medidiff.run("reconstruct", model, tmp_path / "scan.h5", n=2, posterior=FEW)
    assert result.image.shape == (1, 24, 28, 2)
    assert np.allclose(np.linalg.norm(result.affine[:3, :3], axis=0), (1, 1, 5))
    assert len(result.provenance["residual"]) == 2  # type: ignore[arg-type]
    found, true = result.image[0, :, :, 0].ravel(), blob()[:, 2:30].ravel()
    assert np.corrcoef(found, true)[0, 1] > 0.8
    result.save(tmp_path / "out.nii.gz")
    assert nibabel.load(tmp_path / "out-p05.nii.gz").shape == (24, 28, 2)


LARGE = (48, 64)


def larger(model: Model) -> Model:
    """On a grid that holds smooth phases."""
    return Model(replace(model.spec, space=Space(2, LARGE, (1.0, 1.0))), model.network)


def test_a_phase_that_is_not_smooth_is_seen_allowed_and_said(model: Model) -> None:
    model, image, mask = larger(model), blob(LARGE), lines(LARGE, 12)
    rough = image * np.exp(1j * (image > 0.3 * image.max()))
    coils = ring_of_coils(4, LARGE)[0].numpy()
    given = to_kspace(torch.from_numpy(coils * rough)[None])[0].numpy()
    given = noisy(given.astype(np.complex64)) * mask

    def told(y: np.ndarray, **known: object) -> dict[str, Any]:
        measurement = {"kind": "cartesian", "sigma": 0.5, **known}
        beside = {"mask": mask, "coils": coils, "measurement": measurement, "posterior": FEW}
        return medidiff.run("reconstruct", model, y, **beside).provenance  # type: ignore[call-overload]

    seen, smooth = told(given), noisy(kspace_of(image, 4)) * mask
    assert seen["measurement"] == "mri 4 coils R=2, 1-D equispaced mask, phase not smooth"
    assert told(smooth)["measurement"] == "mri 4 coils R=2, 1-D equispaced mask"
    assert told(smooth, fine=0.1)["measurement"].endswith("not smooth")
    assert seen["residual"][0] < 0.7 * told(given, fine=0.0)["residual"][0]
    with pytest.raises(MedidiffError, match="fine must be 0 or more"):
        told(given, fine=-0.1)


def test_a_thin_bright_rim_out_of_phase_lies_within_the_window(model: Model) -> None:
    model, image, coils = larger(model), blob(LARGE), ring_of_coils(4, LARGE)[0].numpy()
    rim = np.zeros(LARGE, np.float32)
    rim[8, 16:48] = rim[39, 16:48] = 400.0
    given = to_kspace(torch.from_numpy(coils * (image + 1j * rim))[None])[0].numpy()
    mask = np.ones(LARGE, np.float32)
    mask[::2, ::3] = mask[1::2, 1::3] = 0
    mask[20:28, 28:36] = 1  # what is seen at low resolution
    opened = open_measurement(
        noisy(given.astype(np.complex64)) * mask, {"mask": mask, "coils": coils}, model, 1
    )
    high = [
        Reconstruction(measurement=Cartesian(sigma=0.5, fine=fine)).prepare(opened.cases, model)
        for fine in ("estimate", 0.0)
    ]
    rough, smooth = (problem.cases[0].scale.high[0] for problem in high)
    assert smooth < 300
    assert rough == pytest.approx(400, rel=0.15)


def test_where_maps_say_that_no_coil_sees_there_is_still_no_signal(model: Model) -> None:
    coils = ring_of_coils(4, SIZE)[0].numpy().copy()
    coils[..., :8] = 0  # as maps that are cut to the head have it
    given = noisy(kspace_of(blob(), 4))
    opened = open_measurement(given, {"coils": coils}, model, 1)
    found = Reconstruction().prepare(opened.cases, model).measurement
    assert found is not None
    ghost = torch.zeros(1, 1, *SIZE)
    ghost[..., 2:6] = 1.0
    left = found.residual(ghost, [0]) - found.residual(0 * ghost, [0])
    assert float(left) > 1


def test_a_brightness_that_is_a_guess_does_not_hold_estimates_down(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, own = [], Model.open_above
    monkeypatch.setattr(Model, "open_above", lambda self: opened.append(1) or own(self))
    medidiff.run("reconstruct", model, noisy(kspace_of(blob())), posterior=FEW)
    assert opened
    opened.clear()
    known = {"kind": "radon", "photons": 1e5, "attenuation": [0.0, 0.02]}
    views = np.ones((6, 24), np.float32)
    medidiff.run("reconstruct", model, views, measurement=known, posterior=FEW)
    assert not opened


def test_a_larger_voxel_is_brought_to_the_models(model: Model) -> None:
    """Half the samples over the same field of view: twice the voxel, and the result lies on it."""
    image = blob((12, 16))
    given = noisy(kspace_of(image), 0.2)
    result = medidiff.run(
        "reconstruct", model, given, spacing_mm=np.array([2.0, 2.0]), posterior=FEW
    )
    assert result.image.shape == (1, 12, 16)
    ratio = np.median(result.image[0][image > 0] / image[image > 0])
    assert ratio == pytest.approx(1.0, abs=0.15)


def test_a_sinogram_is_reconstructed(model: Model, tmp_path: Path) -> None:
    from medidiff.physics import ParallelBeam, Tomography, even_angles

    attenuation = torch.from_numpy(blob() / 200 * 0.02)[None, None]
    beam = ParallelBeam(even_angles(20), 42)
    sinogram = Tomography(beam, SIZE).forward(attenuation)[0, 0].numpy()
    np.savez(tmp_path / "scan.npz", sinogram=sinogram, angles=np.array(beam.angles))
    known = {"kind": "radon", "photons": 1e5, "attenuation": [0.0, 0.02]}
    result = medidiff.run(
        "reconstruct", model, tmp_path / "scan.npz", measurement=known, posterior=FEW
    )
    assert result.image.shape == (1, *SIZE)
    assert np.abs(result.image[0] - attenuation[0, 0].numpy()).mean() < 0.15 * 0.02


@pytest.mark.parametrize(
    ("name", "content"), [("a.npy", b"no array"), ("a.h5", b"no file"), ("a.txt", b"")]
)
def test_what_is_no_measurement_is_refused_without_its_name(
    model: Model, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        medidiff.run("reconstruct", model, tmp_path / name)
    assert name not in str(error.value)


def test_the_command_line_takes_kspace_and_what_lies_beside_it(
    model: Model, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from medidiff.cli import app

    folder = model.save(tmp_path / "model")
    np.save(tmp_path / "k.npy", noisy(kspace_of(blob())) * lines(SIZE))
    np.save(tmp_path / "mask.npy", lines(SIZE))
    words = ["run", "reconstruct", str(folder), str(tmp_path / "k.npy"), "-o", str(tmp_path / "o")]
    few = "posterior={steps: 2, draws: 1, pilots: 0}"
    found = CliRunner().invoke(app, [*words, "-s", f"mask={tmp_path / 'mask.npy'}", "-s", few])
    assert found.exit_code == 0, found.output
    assert nibabel.load(tmp_path / "o" / "k-reconstruct.nii.gz").shape == SIZE


def test_a_pickled_array_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read_raw(tmp_path / "bad.npy", 2)


def test_kspace_without_a_middle_says_so(model: Model) -> None:
    mask = lines(SIZE, 0)
    mask[:, 16] = 0
    with pytest.raises(TaskError, match="middle"):
        medidiff.run("reconstruct", model, noisy(kspace_of(blob())) * mask, posterior=FEW)


def test_an_unknown_setting_and_option_are_refused(model: Model) -> None:
    with pytest.raises(MedidiffError, match="settings has no 'ct'"):
        medidiff.run("reconstruct", model, kspace_of(blob()), settings=["ct"])
    with pytest.raises(MedidiffError, match="did you mean 'mask'"):
        medidiff.run("reconstruct", model, kspace_of(blob()), maks=lines(SIZE))


def test_inpainting_leaves_the_scan_as_it_is_outside_of_the_hole(
    model: Model, tmp_path: Path
) -> None:
    """On the input's grid, voxel by voxel, also where the model does not look."""
    scan, hole = blob((30, 40)) + 3.3, np.zeros((30, 40), np.uint8)
    hole[12:18, 15:22] = 1
    for name, values in (("scan", scan), ("hole", hole)):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    result = medidiff.run(
        "inpaint", model, tmp_path / "scan.nii.gz", mask=tmp_path / "hole.nii.gz", n=3,
        posterior=FEW, mismatch="warn",
    )  # fmt: skip
    outside = hole == 0
    for image in (result.image, result.maps["p05"], result.maps["p95"], *result.samples):
        assert np.array_equal(image[0][outside], scan[outside])
    assert (result.maps["std"][0][outside] == 0).all()
    assert (result.maps["std"][0][~outside] > 0).all()
    with pytest.raises(DataError, match="grid of the scan"):
        medidiff.run("inpaint", model, tmp_path / "scan.nii.gz", mask=hole[:-1], mismatch="warn")


def test_a_mask_lies_where_its_affine_says(model: Model, tmp_path: Path) -> None:
    """A mask that was saved with its first axis the other way round names the same voxels."""
    scan, hole = blob() + 3.3, np.zeros(SIZE, np.uint8)
    hole[4:9, 15:22] = 1
    back = np.diag([-1.0, 1, 1, 1])
    back[0, 3] = SIZE[0] - 1
    moved = np.eye(4)
    moved[0, 3] = 2.0
    files = {"scan": (scan, np.eye(4)), "back": (hole[::-1], back), "moved": (hole, moved)}
    files |= {"nothing": (0 * hole, np.eye(4))}
    for name, (values, affine) in files.items():
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")

    def filled(mask: object) -> np.ndarray:
        return medidiff.run(
            "inpaint", model, tmp_path / "scan.nii.gz", mask=mask, posterior=FEW
        ).image[0]

    assert np.array_equal(filled(tmp_path / "back.nii.gz") != scan, hole > 0)
    np.save(tmp_path / "hole.npy", hole)
    assert np.array_equal(filled(tmp_path / "hole.npy") != scan, hole > 0)
    for mask, said in {
        tmp_path / "moved.nii.gz": "the mask lies elsewhere than the scan",
        tmp_path / "nothing.nii.gz": "the mask is 0 everywhere",
        tmp_path / "no.nii.gz": "the mask cannot be read: there is no such file",
        tmp_path / "no.npy": "the mask cannot be read .there is no such file",
        "masks": "the mask cannot be read",
    }.items():
        with pytest.raises(DataError, match=f"input 1: {said}"):
            filled(mask)
    with pytest.raises(DataError, match="the mask holds NaN"):
        filled(np.full(SIZE, np.nan))


def test_a_forgotten_mask_is_told(model: Model, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(blob(), np.eye(4)), tmp_path / "scan.nii.gz")
    said = "no mask says what is missing"
    with pytest.warns(UserWarning, match=said):
        medidiff.run("inpaint", model, tmp_path / "scan.nii.gz", posterior=FEW)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        medidiff.run("inpaint", model, tmp_path / "scan.nii.gz", posterior=FEW, hole=[6, 6])
    assert not [each for each in told if said in str(each.message)]


def test_a_mask_the_other_way_round_is_told_and_one_of_everything_refused(
    model: Model, tmp_path: Path
) -> None:
    nibabel.save(nibabel.Nifti1Image(blob(), np.eye(4)), tmp_path / "scan.nii.gz")
    mask, few = np.ones(SIZE), FEW | {"steps": 1}
    with pytest.raises(TaskError, match="names all of the scan as missing"):
        medidiff.run("inpaint", model, tmp_path / "scan.nii.gz", mask=mask, posterior=few)
    mask[:6, :8] = 0
    with pytest.warns(UserWarning, match="94% of the scan as missing.* give 1 - mask"):
        medidiff.run("inpaint", model, tmp_path / "scan.nii.gz", mask=mask, posterior=few)
    small = tmp_path / "small.nii.gz"  # what lies around it on the model's grid is no scan
    nibabel.save(nibabel.Nifti1Image(blob()[2:-2, 2:-2], np.eye(4)), small)
    with pytest.raises(TaskError, match="names all of the scan as missing"):
        medidiff.run(
            "inpaint", model, small, mask=np.ones((20, 28)), posterior=few, mismatch="warn"
        )


def test_every_warning_of_a_run_is_in_its_provenance_once(model: Model, tmp_path: Path) -> None:
    for name, affine in (("wide", 1.5), ("scan", 1.0)):
        image = nibabel.Nifti1Image(blob(), np.diag([affine, affine, 1.0, 1.0]))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    few = {"steps": 4, "draws": 1, "method": {"kind": "daps"}}
    with pytest.warns(UserWarning, match="daps: the noise ratio falls"):
        wide, scan = medidiff.run(
            "inpaint", model, [tmp_path / "wide.nii.gz", tmp_path / "scan.nii.gz"],
            posterior=few, mismatch="warn",
        )  # fmt: skip
    told = [str(each) for each in wide.provenance["warning"]]  # type: ignore[attr-defined]
    begun = [each[:24] for each in told]
    assert len(begun) == len(set(told))
    for start in (
        "input 1 does not fit the",
        "no mask says what is mis",
        "daps: the noise ratio fa",
    ):
        assert start in begun
    assert not [each for each in scan.provenance["warning"] if "input 1" in each]  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="does not fit together"):
        drawn = model.tiled(12).sample(1, steps=1)
    assert len(drawn.provenance["warning"]) == 1  # type: ignore[arg-type]


def test_super_resolution_gives_a_finer_grid_over_the_same_field(
    model: Model, tmp_path: Path
) -> None:
    affine = np.array([[0, 4.0, 0, 7], [-4, 0, 0, 3], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    coarse = blob((6, 8))
    nibabel.save(nibabel.Nifti1Image(coarse, affine), tmp_path / "coarse.nii.gz")
    result = medidiff.run("super_resolution", model, tmp_path / "coarse.nii.gz", posterior=FEW)
    assert result.image.shape == (1, 24, 32)
    corner = np.array([-0.5, -0.5, 0, 1])  # the outer corner of the first voxel
    assert np.allclose((result.affine @ corner)[:2], (affine @ corner)[:2])
    assert np.allclose(result.affine[:3, :2], affine[:3, :2] / 4)
    means = result.image[0].reshape(6, 4, 8, 4).mean((1, 3))
    assert np.abs(means - coarse).max() < 0.1 * coarse.max()


def test_a_factor_that_leaves_nothing_is_refused_where_scans_are_made_coarser_too(
    model: Model, tmp_path: Path
) -> None:
    nibabel.save(nibabel.Nifti1Image(blob(), np.eye(4)), tmp_path / "scan.nii.gz")
    said = "a factor of 40 x 40 leaves nothing of the model's grid of 24 x 32 voxels"
    with pytest.raises(TaskError, match=said):
        medidiff.run("super_resolution", model, tmp_path / "scan.nii.gz", factor=40)
    case = case_of_files(model, [tmp_path / "scan.nii.gz"], "refuse", 1)
    with pytest.raises(TaskError, match=said):
        SuperResolution(factor=40).simulate([case], KeyedNoise(0, [("a", 0)]))


@pytest.mark.parametrize("factor", [4, [4, 4], [4, 4, 1]], ids=str)
def test_a_volume_becomes_finer_within_its_slices(
    model: Model, tmp_path: Path, factor: object
) -> None:
    affine = np.array([[0, -4.0, 0, 7], [-4, 0, 0, 3], [0, 0, 5, 0], [0, 0, 0, 1.0]])
    coarse = np.stack([blob((6, 8)), 0.5 * blob((6, 8))], -1)
    nibabel.save(nibabel.Nifti1Image(coarse, affine), tmp_path / "coarse.nii.gz")
    few = FEW | {"steps": 1}
    result = medidiff.run(
        "super_resolution", model, tmp_path / "coarse.nii.gz", posterior=few, factor=factor
    )
    assert result.image.shape == (1, 24, 32, 2)
    assert np.allclose(result.affine[:3, :3], affine[:3, :3] / [4, 4, 1])
    with pytest.raises(TaskError, match="one for each of 2 axes, not"):
        medidiff.run("super_resolution", model, tmp_path / "coarse.nii.gz", factor=[2] * 4)


def test_the_same_numbers_in_another_precision_give_the_same_image(model: Model) -> None:
    given = noisy(kspace_of(blob())) * lines(SIZE)
    one, other = (
        medidiff.run("reconstruct", model, values, posterior=FEW).image
        for values in (given, given.astype(np.complex128))
    )
    assert np.array_equal(one, other)


def test_an_array_where_a_scan_is_asked_for_and_half_a_sample_are_refused(model: Model) -> None:
    with pytest.raises(TaskError, match=r"denoise takes a scan's file .* found ndarray"):
        medidiff.run("denoise", model, blob())
    with pytest.raises(TaskError, match=r"a whole number of at least 1, found 2\.5"):
        medidiff.run("reconstruct", model, blob(), n=2.5)  # type: ignore[call-overload]


def test_one_sample_or_the_mean_alone(model: Model, tmp_path: Path) -> None:
    given = noisy(kspace_of(blob())) * lines(SIZE)
    every, mean, one = (
        medidiff.run("reconstruct", model, given, n=2, posterior=FEW, result=kept)
        for kept in ("all", "mean", "sample")
    )
    assert np.allclose(every.image, np.mean(every.samples, axis=0), atol=1e-3)
    assert np.array_equal(every.image, mean.image)
    assert not mean.samples
    assert np.allclose(one.image, every.samples[0], atol=1e-4)


@pytest.mark.parametrize("noise", ["gaussian", "rician", "poisson", "transmission"])
def test_a_scan_is_denoised_by_a_posterior_sampler(
    model: Model, tmp_path: Path, noise: str
) -> None:
    level = {"sigma": 0.05} if noise in ("gaussian", "rician") else {"counts": 2e3}
    nibabel.save(nibabel.Nifti1Image(blob() + 2.0, np.eye(4)), tmp_path / "scan.nii.gz")
    result = medidiff.run(
        "denoise", model, tmp_path / "scan.nii.gz", noise=noise, n=2, posterior=FEW,
        result="mean", **level,
    )  # fmt: skip
    assert result.provenance["measurement"] == f"{noise} noise"
    assert set(result.maps) == {"std", "p05", "p95"}
    assert not result.samples
    assert np.abs(result.image[0] - blob()).mean() < 0.1 * 180


def test_a_volume_says_of_all_its_slices_what_each_batch_said() -> None:
    """A batch that is as noisy as the one before is not left out."""
    good, bad = ([0.1] * 2, "calibrated"), ([0.1] * 2, "uncalibrated")

    def batch(levels: list[float], found: str) -> list[Result]:
        image = np.zeros((1, 2, 2), np.float32)
        said = [{"sigma": [*levels], "uncertainty": found, "samples": 2} for _ in levels]
        return [Result(image, np.eye(4), each) for each in said]

    said = stacked([batch(*good), batch(*bad), batch([0.2], "calibrated")], np.eye(4)).provenance
    assert said == {"sigma": [0.1] * 4 + [0.2], "uncertainty": "uncalibrated", "samples": 2}
    assert stacked([batch(*good)] * 2, np.eye(4)).provenance["uncertainty"] == "calibrated"


def test_a_result_that_does_not_explain_its_measurement_is_warned_of(model: Model) -> None:
    given, mask = kspace_of(blob()) * lines(SIZE), lines(SIZE)
    with pytest.warns(UserWarning, match="of 1 images leave up to .* Check the model's modality"):
        found = medidiff.run("reconstruct", model, noisy(given) * mask, mask=mask, posterior=LOOSE)
    (told,) = found.provenance["warning"]  # type: ignore[misc]
    assert str(told).startswith("mri 1 coil R=2")
    fits = {"measurement": "inpaint", "residual": [1.2, 0.0]}
    assert misfit(fits) is None
    assert misfit({"measurement": "rician noise"}) is None


def test_nothing_is_called_calibrated_that_does_not_fit(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a result that does not explain its measurement, nor a scan of another kind."""
    for module in (measured, denoise):
        monkeypatch.setattr(module, "verdict", lambda *told: "calibrated")
    given, mask = noisy(kspace_of(blob())) * lines(SIZE), lines(SIZE)
    far, near = (
        medidiff.run("reconstruct", model, given, mask=mask, n=2, posterior=LOOSE, measurement=how)
        for how in ({"kind": "cartesian"}, {"kind": "cartesian", "sigma": 1e4})
    )
    assert far.provenance["uncertainty"] == "uncalibrated"
    assert near.provenance["uncertainty"] == "calibrated"
    for size, expected in ((1.0, "calibrated"), (1.5, "uncalibrated")):
        file = tmp_path / f"{size}.nii.gz"
        scan = blob() + 20.0 * np.random.default_rng(0).standard_normal(SIZE)  # as is stated
        affine = np.diag([size, size, 1, 1])
        nibabel.save(nibabel.Nifti1Image(scan.astype(np.float32), affine), file)
        said = medidiff.run("denoise", model, file, sigma=0.1, steps=2, n=2, mismatch="warn")
        assert said.provenance["uncertainty"] == expected


def test_the_noise_level_is_that_of_the_outer_samples() -> None:
    given = torch.from_numpy(noisy(kspace_of(blob((64, 64)), 3), 2.0))
    assert noise_level(given, torch.ones(1, 64, 64)) == pytest.approx(2.0, rel=0.15)


def test_a_measured_mask_is_known_by_its_own_pattern() -> None:
    random, even = (
        Sampling(kind, 4, 0.08).mask((24, 176), seed=1) for kind in ("gaussian", "equispaced")
    )
    middle = torch.zeros_like(random)
    middle[:, 66:110] = 1
    assert kind_of(random, 1) == "mri 1 coil R=4, 1-D mask"
    assert kind_of(even, 8) == "mri 8 coils R=4, 1-D equispaced mask"
    assert kind_of(even.mT, 1) == "mri 1 coil R=4, 1-D equispaced mask"
    assert kind_of(middle, 1) == "mri 1 coil R=4, 1-D middle"


@pytest.mark.parametrize("grid", [(7, 12), (12, 7), (8, 8), (10, 9)])
def test_placed_and_weighted_operators_have_exact_adjoints(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    from medidiff.physics import DenseOperator

    dense = DenseOperator(draw(11, grid[0] * grid[1]), (1, *grid))
    x, y, like = draw(2, 1, 9, 10), draw(2, 11), torch.zeros(1, 1, 9, 10, dtype=torch.float64)
    placed = Placed(dense, (9, 10), grid, like)
    for operator in (placed, Weighted(placed, draw(11).abs(), like)):
        left, right = (operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum()
        assert float(left) == pytest.approx(float(right), rel=1e-10)
    again = centred_on(centred_on(x, (12, 12)), (9, 10))
    assert torch.equal(again, x)


def test_a_window_leaves_what_it_does_not_see() -> None:
    from medidiff.physics import BlockAverage

    operator = Window(BlockAverage((2, 2)), (5, 6), (4, 6))
    z, y = torch.rand(1, 1, 5, 6), torch.rand(1, 1, 2, 3)
    found = operator.prox(z, y, 1e-6)
    assert torch.equal(found[..., 4:, :], z[..., 4:, :])
    assert torch.allclose(operator.forward(found), y, atol=1e-4)


def test_maps_are_calibrated_only_by_a_verdict_on_these_weights(
    model: Model, tmp_path: Path
) -> None:
    own = Model.load(model.save(tmp_path / "own"))
    how, right = Posterior(), bootstrap_interval([0.9] * 20)
    found = Calibrated(
        "a", "mri 1 coil R=4", 0.01, medidiff_tree(how), Calibration(right, right, (0.1,) * 10, 8)
    )
    assert verdict(own, ["mri 1 coil R=4"], [0.01], how) == "uncalibrated"
    few = replace(found.found, coverage=bootstrap_interval([0.9] * 5))
    keep(own, [verdict_of(replace(found, found=few), "test")])
    assert verdict(own, ["mri 1 coil R=4"], [0.01], how) == "uncalibrated"
    keep(own, [verdict_of(found, "test")])
    assert verdict(own, ["mri 1 coil R=4"], [0.011], how) == "calibrated"
    half = export_model(tmp_path / "own", tmp_path / "a", "bfloat16")
    copy = Model.load(export_model(half, tmp_path / "b", "float32"))
    assert verdict(copy, ["mri 1 coil R=4"], [0.01], how) == "calibrated"
    (carried,) = json.loads((tmp_path / "b" / "calibration.json").read_text())["verdicts"]
    assert carried["judged_weights"] == digest(tmp_path / "own" / "model.safetensors")
    assert verdict(own, ["mri 1 coil R=4"] * 2, [0.01, 0.05], how) == "uncalibrated"
    assert verdict(own, ["mri 1 coil R=8"], [0.01], how) == "uncalibrated"
    assert verdict(own, ["mri 1 coil R=4"], [0.01], replace(how, steps=9)) == "uncalibrated"
    file = tmp_path / "own" / "calibration.json"
    other = json.loads(file.read_text()) | {"weights": "0"}
    file.write_text(json.dumps(other))
    assert verdict(own, ["mri 1 coil R=4"], [0.01], how) == "uncalibrated"


def test_a_verdict_is_of_the_network_that_sees_images_whole(model: Model, tmp_path: Path) -> None:
    own = Model.load(model.save(tmp_path / "own"))
    tiled, how, right = own.tiled(16), Posterior(), bootstrap_interval([0.9] * 20)
    found = Calibrated(
        "a", "mri 1 coil R=4", 0.01, medidiff_tree(how), Calibration(right, right, (0.1,) * 10, 8)
    )
    keep_verdicts(tiled, Benchmarked([], [], calibrated=[found]), "test")
    assert not (tmp_path / "own" / "calibration.json").exists()
    keep_verdicts(own, Benchmarked([], [], calibrated=[found]), "test")
    assert verdict(own, ["mri 1 coil R=4"], [0.01], how) == "calibrated"
    assert verdict(tiled, ["mri 1 coil R=4"], [0.01], how) == "uncalibrated"


def test_a_benchmark_is_not_lost_for_verdicts_that_cannot_be_kept(
    model: Model, tmp_path: Path
) -> None:
    own = Model.load(model.save(tmp_path / "own"))
    (tmp_path / "own" / "calibration.json.part").mkdir()  # nothing can be written there
    right = bootstrap_interval([0.9] * 20)
    found = Calibrated(
        "a", "inpaint", 0.01, medidiff_tree(Posterior()), Calibration(right, right, (0.1,) * 10, 8)
    )
    with pytest.warns(UserWarning, match="verdicts on calibration cannot be kept"):
        keep_verdicts(own, Benchmarked([], [], calibrated=[found]), "test")


def test_one_result_and_several_samples_have_their_own_sampler() -> None:
    for kind in ("mri 1 coil R=4", "radon 60 views over 180", "super-resolution x4x4", "inpaint"):
        one, several = chosen_for(kind, 1), chosen_for(kind, 8)
        pilots = one.pilots * one.pilot_steps if kind.startswith("mri") else 0
        assert one.steps * one.draws + pilots <= 100
        assert several.steps + pilots <= 100
        assert one.method != several.method


def test_levels_lie_between_the_ratios_that_are_asked_for() -> None:
    how, schedule = Posterior(steps=6, first_ratio=4.0, last_ratio=0.1), EDM()
    ratios = [float(level.noise_ratio) for level in how.levels(schedule)[:-1]]
    assert ratios[0] == pytest.approx(4.0)
    assert ratios[-1] == pytest.approx(0.1)
    assert len(ratios) == 6
    assert float(replace(how, first_ratio=None).levels(schedule)[0].noise_ratio) == 80.0


@pytest.mark.parametrize(
    "ends", [{"last_ratio": 0.0}, {"first_ratio": -1.0}, {"last_ratio": 2.0, "first_ratio": 1.0}]
)
def test_levels_that_do_not_go_down_are_refused(ends: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="last_ratio is the smaller one"):
        Posterior(**ends)  # type: ignore[arg-type]


def test_antithetic_samples_of_a_head_come_in_pairs(model: Model) -> None:
    """Those of even numbers have the noise of the first half of as many independent ones."""
    given, found = noisy(kspace_of(blob())) * lines(SIZE), {}
    for antithetic in (False, True):
        how = FEW | {"antithetic": antithetic}
        result = medidiff.run("reconstruct", model, given, mask=lines(SIZE), n=4, posterior=how)
        found[antithetic] = [np.asarray(each) for each in result.samples]
    alone, paired = found[False], found[True]
    np.testing.assert_allclose(paired[0], alone[0], rtol=1e-4)
    np.testing.assert_allclose(paired[2], alone[1], rtol=1e-4)
    assert not np.allclose(paired[1], alone[0], rtol=1e-2)
    assert not np.allclose(paired[1], alone[1], rtol=1e-2)


def test_a_chunk_bounds_what_the_network_sees_and_changes_no_image(
    model: Model, tmp_path: Path
) -> None:
    scan, found = tmp_path / "scan.nii.gz", {}
    nibabel.save(nibabel.Nifti1Image(blob() + 2.0, np.eye(4)), scan)
    for chunk in (None, 2):
        seen: list[int] = []
        hook = model.network.register_forward_pre_hook(
            lambda _, x, seen=seen: seen.append(len(x[0]))
        )
        how = {"method": {"kind": "pigdm"}, "steps": 2, "chunk": chunk}
        found[chunk] = medidiff.run("denoise", model, scan, sigma=0.1, n=3, posterior=how)
        hook.remove()
        assert max(seen) == (chunk or 3)
    np.testing.assert_allclose(found[2].image, found[None].image, rtol=1e-4)
    assert found[None].provenance["forward_equivalents"] == 3 * 2 * 3
    assert found[2].provenance["forward_equivalents"] == 3 * 2 * 4  # computed again on the way back
    with pytest.raises(TaskError, match="chunk is at least 1"):
        medidiff.run("denoise", model, scan, sigma=0.1, posterior={"chunk": 0})


@pytest.mark.parametrize("n", [1, 2])
def test_a_chunk_alone_leaves_the_sampler_as_it_was_chosen(
    model: Model, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    few = Posterior(steps=2, first_ratio=4.0, antithetic=True)
    monkeypatch.setattr(measured, "chosen_for", lambda kind, n=1: replace(few, steps=1 + n))
    given = noisy(kspace_of(blob())) * lines(SIZE)
    plain = medidiff.run("reconstruct", model, given, n=n)
    cut = medidiff.run("reconstruct", model, given, n=n, posterior={"chunk": 1})
    assert np.allclose(plain.image, cut.image, rtol=1e-4, atol=1e-3)
    for name in ("estimate", "samples", "network_calls", "measurement"):
        assert plain.provenance[name] == cut.provenance[name]
    assert cut.provenance["posterior"] == plain.provenance["posterior"] | {"chunk": 1}  # type: ignore[operator]


@pytest.mark.parametrize("noise", ["gaussian", "rician", "poisson"])
def test_a_chunk_alone_leaves_how_noise_is_taken_off(
    noise: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "chosen_for", lambda kind, n=1: Posterior(steps=2))
    scan, found = tmp_path / "scan.nii.gz", {}
    nibabel.save(nibabel.Nifti1Image(blob() + 2.0, np.eye(4)), scan)
    head = {"noise": noise, "steps": 2} | ({"counts": 50} if noise == "poisson" else {"sigma": 0.1})
    for how in ({}, {"posterior": {"chunk": 2}}):
        seen: list[int] = []
        hook = model.network.register_forward_pre_hook(
            lambda _, x, seen=seen: seen.append(len(x[0]))
        )
        found[len(how)] = medidiff.run("denoise", model, scan, n=3, **head, **how)
        hook.remove()
        assert max(seen) == (2 if how else 3)
    np.testing.assert_allclose(found[1].image, found[0].image, rtol=1e-4)
    for one, other in zip(found[1].samples, found[0].samples, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert found[1].provenance["estimate"] == found[0].provenance["estimate"]


def test_a_chunk_is_no_other_sampler_to_a_verdict() -> None:
    how = chosen_for("inpaint", 8)
    plain, cut = (calibrated._tree(each) for each in (how, replace(how, chunk=4)))
    assert calibrated._sampler("inpaint", cut) == calibrated._sampler("inpaint", plain)


def test_a_target_is_reached_by_the_low_end_of_the_interval() -> None:
    rows = [
        {"subject": f"s{i}", "setting": "a", "method": method, "psnr_head": value}
        for i in range(6)
        for method, value in ((OURS, 30.0 + i), ("bicubic", 28.0), ("other", 20.0))
    ]
    targets = [Target("a", ("bicubic",), least) for least in (2.0, 4.5)]
    goals = goals_of(SuperResolution(), Benchmarked(rows, targets=[*targets, Target("b", (), 1.0)]))  # type: ignore[arg-type]
    assert [goal.verdict for goal in goals] == ["reached", "missed"]


def test_benchmark_settings_measure_on_a_finer_grid() -> None:
    assert FINER == 2
    assert Reconstruction()._settings()[0].name == "mri 1 coil R=4"


def medidiff_tree(how: Posterior) -> dict[str, object]:
    from medidiff import options

    return options.tree(how)
