"""What a measurement is read from, what is refused of it, and what goes along with a read-out that
is cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from medidiff import cli
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.data.raw import read_array, read_raw
from medidiff.data.raw_checks import Kind
from medidiff.errors import DataError, OutputError, TaskError
from medidiff.inverse import DiffPIR
from medidiff.jobs.measurements import open_measurement
from medidiff.jobs.run import output_files
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tasks import Reconstruction, head
from medidiff.tasks.cartesian import Cartesian
from medidiff.tasks.defaults import Posterior

SIZE, COILS = (12, 16), 3
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
HEADER = (
    "<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>24</x><y>16</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>48</x><y>48</y><z>5</z></fieldOfView_mm></encodedSpace><reconSpace>"
    "<matrixSize><x>12</x><y>16</y><z>1</z></matrixSize></reconSpace></encoding></ismrmrdHeader>"
)
Values = np.ndarray


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)


def model() -> Model:
    shape = NetworkShape(dims=2)
    network = build(NETWORK, shape).eval().requires_grad_(False)
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    space = Space(2, SIZE, (2.0, 3.0))
    return Model(ModelSpec("a", "MR", ("image",), space, intensity, NETWORK, shape), network)


def kspace(*shape: int) -> Values:
    draw = np.random.default_rng(0).standard_normal((2, *shape))
    return (draw[0] + 1j * draw[1]).astype(np.complex64)


def spoilt(values: Values, by: float) -> Values:
    values = values.copy()
    values.flat[5] = by
    return values


GOOD = kspace(2, COILS, *SIZE)


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (spoilt(GOOD, np.nan), "cartesian", r"1 numbers that are NaN .* first at \(0, 0, 0, 5\)"),
        (spoilt(GOOD, np.inf), "cartesian", "NaN or infinite"),
        (np.abs(GOOD), "cartesian", r"k-space is complex, found float32 .* join them"),
        (0 * GOOD, "cartesian", "all samples of the k-space are 0"),
        (GOOD[:, :0], "cartesian", "the k-space holds nothing"),
        (GOOD[:0], "cartesian", "the k-space holds nothing"),
        (GOOD[:1, :1], "radon", "a sinogram is real"),
        (spoilt(np.ones((6, 24), np.float32), np.nan), "radon", "the sinogram holds 1 numbers"),
    ],
)
def test_values_that_cannot_be_used_are_refused(values: Values, kind: Kind, said: str) -> None:
    with pytest.raises(DataError, match=f"measurement 3: .*{said}"):
        open_measurement(values, {}, model(), 3, kind)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("mask", np.ones(15), r"mask of \(15,\) and the k-space of .* it is \(16,\), \(12, 16\)"),
        ("mask", np.zeros(16), "the mask of slice 0 names no sample"),
        ("mask", np.full(16, np.nan), "the mask holds 16 numbers that are NaN"),
        ("mask", np.ones((COILS, *SIZE)), "do not go together"),
        ("coils", kspace(2, *SIZE), "one map a coil"),
        ("coils", kspace(*SIZE), "one map a coil"),
        ("coils", 0 * kspace(COILS, *SIZE), "coil maps are 0 everywhere"),
        ("phase", kspace(*SIZE), "angle in radians"),
        ("phase", np.ones(7), "do not go together"),
        ("spacing_mm", np.array([1.0, 0.0]), "spacing_mm is above 0"),
        ("spacing_mm", np.array([1.0]), "2 sizes or more"),
        ("affine", np.zeros((4, 4)), "do not span space"),
        ("affine", np.eye(3), "4 x 4"),
    ],
)
def test_what_does_not_belong_to_a_measurement_is_refused(
    name: str, given: Values, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        open_measurement(GOOD, {name: given}, model(), 1)


def test_what_a_measurement_of_its_kind_does_not_have_is_refused_and_not_ignored() -> None:
    sinogram = np.ones((6, 24), np.float32)
    for values, kind, name, said in (
        (GOOD, "cartesian", "angles", "kind: radon"),
        (sinogram, "radon", "mask", "kind: cartesian"),
        (sinogram, "radon", "coils", "kind: cartesian"),
    ):
        with pytest.raises(DataError, match=f"measurement 1: {name} would not be used.*{said}"):
            open_measurement(values, {name: np.ones(6)}, model(), 1, kind)  # type: ignore[arg-type]


def test_an_affine_and_a_size_of_voxels_that_contradict_it_are_refused() -> None:
    beside = {"affine": np.diag([2.0, 3, 5, 1]), "spacing_mm": np.array([2.0, 2.0])}
    with pytest.raises(DataError, match="affine's voxels are of 2 x 3 x 5 mm"):
        open_measurement(GOOD, beside, model(), 1)


@pytest.mark.parametrize(
    ("shape", "voxel_mm", "said"),
    [
        (SIZE, 2000.0, r"12000 x 10667 of the model's voxels.* 2000 x 2000 mm"),
        (SIZE, 0.002, "1 x 1 of the model's voxels"),
        ((12, 1), 2.0, "12 x 1 of the model's voxels"),
    ],
)
def test_fields_of_another_order_of_size_are_refused_before_they_are_made(
    shape: tuple[int, int], voxel_mm: float, said: str
) -> None:
    beside = {"spacing_mm": np.full(2, voxel_mm)}
    with pytest.raises(DataError, match=said):
        open_measurement(kspace(1, 1, *shape), beside, model(), 1)


def test_masks_and_phases_may_be_one_a_slice() -> None:
    masks, phases = np.ones((2, *SIZE)), np.zeros((2, *SIZE))
    masks[1, :, ::2] = 0
    phases[1] = 0.5
    opened = open_measurement(GOOD, {"mask": masks, "phase": phases}, model(), 1)
    for index, case in enumerate(opened.cases):
        assert np.array_equal(case.beside["mask"][0], masks[index])
        assert np.allclose(case.beside["phase"][0], phases[index])


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def absent(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize("harm", [damaged, absent])
def test_files_that_cannot_be_read_are_refused_without_their_names(
    suffix: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    file = tmp_path / f"DOE{suffix}"
    if suffix == ".h5":
        with h5py.File(file, "w") as made:
            made["kspace"] = GOOD
    else:
        (np.save if suffix == ".npy" else np.savez)(file, GOOD)
    harm(file)
    with pytest.raises(DataError, match="measurement 1: the measurement cannot be read") as told:
        open_measurement(file, {}, model(), 1)
    assert "DOE" not in str(told.value)
    assert "DOE" in str(told.value.private)
    if suffix != ".h5":
        with pytest.raises(DataError, match="measurement 1: mask cannot be read") as told:
            open_measurement(GOOD, {"mask": file}, model(), 1)
        assert "DOE" not in str(told.value)


def test_what_belongs_to_a_measurement_may_lie_by_name_in_one_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", kspace=GOOD, mask=np.arange(16), note=np.ones(3))
    assert np.array_equal(read_array("mask", tmp_path / "all.npz"), np.arange(16))
    raw = read_raw(tmp_path / "all.npz", 2, {"affine": np.eye(4)})
    assert set(raw.beside) == {"mask", "affine"}


def scan(place: Path, values: Values, **more: Values) -> Path:
    with h5py.File(place / "scan.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = values, HEADER
        for name, each in more.items():
            file[name] = each
    return place / "scan.h5"


def test_what_lies_in_a_file_by_a_known_name_and_is_no_numbers_is_named(tmp_path: Path) -> None:
    words = np.array([b"every", b"second"])
    np.savez(tmp_path / "scan.npz", kspace=GOOD, mask=words)
    for file in (tmp_path / "scan.npz", scan(tmp_path, GOOD, mask=words)):
        with pytest.raises(DataError, match="measurement 1: the mask is no array of numbers"):
            open_measurement(file, {}, model(), 1)


def test_a_file_of_another_layout_says_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["dataset/data"] = np.zeros(3)
    with pytest.raises(DataError, match=r"holds ISMRMRD acquisitions; .* kspace \(slice, coil"):
        open_measurement(tmp_path / "raw.h5", {}, model(), 1)


def test_a_header_with_numbers_that_are_none_is_refused_as_a_header(tmp_path: Path) -> None:
    with h5py.File(scan(tmp_path, kspace(1, COILS, 24, 16)), "a") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = HEADER.replace("<x>48</x>", "<x>nan</x>")
    with pytest.raises(DataError, match="header does not say the encodedSpace's fieldOfView_mm"):
        open_measurement(tmp_path / "scan.h5", {}, model(), 1)


def test_complex_numbers_may_be_pairs_of_named_parts(tmp_path: Path) -> None:
    pairs = np.zeros(GOOD.shape, [("real", "f4"), ("imag", "f4")])
    pairs["real"], pairs["imag"] = np.real(GOOD), np.imag(GOOD)
    with h5py.File(tmp_path / "matlab.h5", "w") as file:
        file["kspace"] = pairs
    raw = read_raw(tmp_path / "matlab.h5", 2)
    assert raw.values.dtype == np.complex64
    assert np.array_equal(raw.values, GOOD)


def test_maps_and_masks_of_a_read_out_that_is_cut_are_cut_with_it(tmp_path: Path) -> None:
    """They are of the k-space that they are given beside, or of what is shown already."""
    file, maps = scan(tmp_path, kspace(2, COILS, 24, 16)), kspace(COILS, 24, 16)
    mask = np.ones((24, 16)) * (np.arange(16) % 3 > 0)
    for beside in (
        {"coils": maps, "mask": mask, "phase": np.real(maps[0])},
        {"coils": maps[:, 6:18], "mask": mask[6:18], "phase": np.real(maps[0, 6:18])},
    ):
        raw = read_raw(file, 2, beside)
        assert raw.values.shape == (2, COILS, *SIZE)
        assert np.array_equal(raw.beside["coils"], maps[:, 6:18])
        assert np.array_equal(raw.beside["phase"], np.real(maps[0, 6:18]))
        opened = open_measurement(file, beside, model(), 1)
        assert np.array_equal(opened.cases[1].beside["mask"][0] > 0, mask[6:18] > 0)


def test_a_read_out_of_which_part_is_missing_is_not_cut(tmp_path: Path) -> None:
    """A transform along it would spread what is there over what is not."""
    partial = kspace(2, COILS, 24, 16)
    partial[:, :, :7] = 0
    varying = np.ones((24, 16))
    varying[::2, ::2] = 0
    for values, beside in ((partial, {}), (kspace(2, COILS, 24, 16), {"mask": varying})):
        raw = read_raw(scan(tmp_path, values), 2, beside)
        assert np.array_equal(raw.values, values)
        assert raw.kept == SIZE
        assert raw.spacing_mm == (2.0, 3.0, 5.0)
        (tmp_path / "scan.h5").unlink()
    raw = read_raw(scan(tmp_path, partial, mask=np.ones(16, np.float32)), 2)
    assert not raw.beside["mask"][:7].any()  # what a mask of lines says nothing of
    assert raw.beside["mask"][7:].all()


def test_maps_of_an_earlier_result_are_seen_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "scan-reconstruct-p05.nii.gz").write_bytes(b"")
    with pytest.raises(OutputError, match=r"p05\.nii\.gz is there already"):
        output_files([["scan.npy"]], tmp_path, "reconstruct")
    assert output_files([["other.npy"]], tmp_path, "reconstruct")


def test_the_command_line_says_it_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    folder, out = model().save(tmp_path / "model"), tmp_path / "out"
    np.save(tmp_path / "DOE.npy", spoilt(GOOD, np.nan))
    words = ["run", "reconstruct", str(folder), str(tmp_path / "DOE.npy"), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["medidiff", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("medidiff: measurement 1: the k-space holds 1 numbers that are NaN")
    assert len(told.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (spoilt(GOOD, np.nan), "measurement 2: the k-space holds"),
        (np.fft.ifftshift(GOOD * (np.abs(np.arange(16) - 8) < 4)), "input 2: the middle of the"),
    ],
)
def test_of_several_inputs_the_one_that_is_meant_is_named_and_the_results_before_are_kept(
    second: Values,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    folder, out = model().save(tmp_path / "model"), tmp_path / "out"
    files = [tmp_path / "one.npy", tmp_path / "two.npy"]
    for file, values in zip(files, (GOOD[:1, :1], second[:1, :1]), strict=True):
        np.save(file, values)
    few = "posterior={steps: 1, draws: 1}"
    words = ["run", "reconstruct", str(folder), *map(str, files), "--out", str(out), "-s", few]
    monkeypatch.setattr("sys.argv", ["medidiff", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert any(line.startswith("reconstruct: 1/2") for line in told)
    assert told[-1].startswith(f"medidiff: {said}")
    assert {each.name for each in out.iterdir()} == {
        "one-reconstruct.nii.gz",
        "one-reconstruct.json",
    }


def test_options_of_the_usual_measurement_and_sampler_may_be_stated_without_their_kind() -> None:
    given = {"measurement": {"sigma": 0.5}, "posterior": {"method": {"weight": 2}, "steps": 7}}
    chosen = head("reconstruct", given)
    assert isinstance(chosen, Reconstruction)
    assert chosen.measurement == Cartesian(sigma=0.5)
    assert chosen.posterior == Posterior(DiffPIR(weight=2), steps=7)
    with pytest.raises(TaskError, match=r"measurement\.kind: .* known here: cartesian, radon"):
        head("reconstruct", {"measurement": {"span": 90}})


@pytest.mark.parametrize(
    "measurement",
    [
        {"sigma": math.inf},
        {"fine": math.inf},
        {"kind": "radon", "sigma": math.inf},
        {"kind": "radon", "photons": math.inf},
        {"kind": "radon", "attenuation": [0, math.inf]},
        {"kind": "radon", "shift_mm": math.inf},
    ],
)
def test_numbers_without_end_are_refused(measurement: dict[str, object]) -> None:
    with pytest.raises(TaskError, match=r"measurement\.?.*(finite|0 or more radians)"):
        head("reconstruct", {"measurement": measurement})
