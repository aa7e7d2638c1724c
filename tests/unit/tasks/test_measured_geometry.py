"""Where measured images lie, how large their pixels are, and what is refused of a measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import medidiff
from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity, unscaled
from medidiff.data.options import Space
from medidiff.diffusion import KeyedNoise
from medidiff.errors import DataError, TaskError
from medidiff.jobs.centring import offset_of, power_of
from medidiff.jobs.measurements import Opened, open_measurement
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.physics import from_kspace, to_kspace
from medidiff.physics.window import centred_on
from medidiff.spec import ModelSpec
from medidiff.tasks.cartesian import Cartesian
from medidiff.tasks.kspace import noise_level
from medidiff.tasks.radon import Radon
from medidiff.tasks.results import Result
from medidiff.tasks.simulate import SimulatedRadon

SIZE = (12, 16)
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
KSPACE, SINOGRAM = np.ones(SIZE, np.complex64), np.ones((6, 24), np.float32)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)


def model_of(spacing: object = (2.0, 3.0), modality: str = "MR") -> Model:
    shape = NetworkShape(dims=2)
    network = build(NETWORK, shape).eval().requires_grad_(False)
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    space = Space(2, SIZE, spacing)  # type: ignore[arg-type]
    return Model(ModelSpec("a", modality, ("image",), space, intensity, NETWORK, shape), network)


def sides(affine: np.ndarray) -> list[float]:
    return np.linalg.norm(affine[:3, :2], axis=0).tolist()


@pytest.mark.parametrize("given", [KSPACE, SINOGRAM])
@pytest.mark.parametrize(
    ("spacing", "expected"), [((2.0, 3.0), [2, 3]), ("as stored", [1, 1]), ((1.0, 1.0), [1, 1])]
)
def test_voxels_are_the_models_where_none_are_stated(
    given: np.ndarray, spacing: object, expected: list[float]
) -> None:
    kind = "cartesian" if given is KSPACE else "radon"
    opened = open_measurement(given, {}, model_of(spacing), 1, kind)
    assert sides(opened.affine) == expected
    assert sides(opened.cases[0].affine) == expected


def stated(given: np.ndarray, **beside: object) -> Opened:
    return open_measurement(given, beside, model_of(), 1, "radon")


def test_a_sinogram_is_solved_on_the_models_pixels_and_on_no_others() -> None:
    turned = np.array([[0, 3.0, 0, 7], [2, 0, 0, 9], [0, 0, 5, 1], [0, 0, 0, 1]])
    assert np.array_equal(stated(SINOGRAM, affine=turned).affine, turned)
    same = stated(SINOGRAM, spacing_mm=np.array([2.0, 3.0, 5.0])).affine
    assert np.array_equal(same, np.diag([2.0, 3.0, 5.0, 1.0]))
    for beside in ({"affine": np.eye(4)}, {"spacing_mm": np.array([1.0, 3.0])}):
        with pytest.raises(DataError, match=r"pixels of 2 x 3 mm.*found 1 x"):
            stated(SINOGRAM, **beside)
    with pytest.raises(DataError, match="found 1 x 1 mm"):
        stated(SINOGRAM, affine=np.eye(4), spacing_mm=np.array([2.0, 3.0]))


def test_sinograms_of_another_layout_are_refused_with_those_that_are_understood() -> None:
    for shape in ((5, 6, 24), (2, 3, 6, 24)):
        with pytest.raises(DataError, match=r"\(slices, 1, views, detectors\)"):
            stated(np.ones(shape, np.float32))
    assert len(stated(np.ones((5, 1, 6, 24), np.float32)).cases) == 5
    assert len(stated(np.ones((1, 6, 24), np.float32)).cases) == 1


def test_the_noise_of_a_sinogram_is_estimated_and_never_what_lay_in_memory() -> None:
    draw = np.random.default_rng(0).standard_normal((60, 276)).astype(np.float32)
    sinogram, model = 1 + 0.01 * draw, model_of()
    cases = stated(sinogram).cases
    for _ in range(8):
        left_behind = torch.full((sinogram.size,), torch.nan)
        del left_behind
        (level,) = Radon(attenuation=(0.0, 0.02)).problem(cases, model).levels
        assert level == pytest.approx(0.01 / 0.02, rel=0.1)


def test_as_many_angles_as_views_are_asked_for() -> None:
    opened = open_measurement(SINOGRAM, {"angles": np.arange(5.0)}, model_of(), 1, "radon")
    with pytest.raises(TaskError, match="6 views and 5 angles"):
        Radon().problem(opened.cases, model_of())


def test_a_beam_that_cannot_be_is_told_as_any_other_wrong_input() -> None:
    (case,) = open_measurement(SINOGRAM, {}, model_of(), 1, "radon").cases
    with pytest.raises(TaskError, match="a pitch above 0"):
        Radon(pitch_mm=float("inf")).problem([case], model_of())
    nowhere = torch.full((6,), torch.nan, dtype=torch.float64)
    turned = replace(case, beside={**case.beside, "angles": nowhere})
    with pytest.raises(TaskError, match="angles are finite numbers"):
        Radon().problem([turned], model_of())


def case_of(affine: np.ndarray, **beside: torch.Tensor) -> Case:
    original = Original(SIZE, affine, True, "MR", (0.0,))
    image = torch.full((1, *SIZE), -1.0)
    image[0, 4:8, 5:11] = 1.0
    return Case("a", 1, image, {}, None, unscaled(1), affine, original, "", beside)


@pytest.mark.parametrize("spacing", [(2.0, 3.0), (1.0, 1.0), "as stored"])
def test_simulated_pixels_are_as_large_as_those_that_are_solved_for(spacing: object) -> None:
    """The clean image, projected by the solver's operator, is what was simulated."""
    mm = (2.0, 3.0) if spacing == "as stored" else spacing
    turned = np.array([[0, mm[1], 0, 7], [mm[0], 0, 0, 9], [0, 0, 5, 1], [0, 0, 0, 1.0]])  # type: ignore[index]
    case, noise = case_of(turned), KeyedNoise(0, [("a", 0)])
    scanner = SimulatedRadon(8, photons=1e9, attenuation=0.001)
    simulated = scanner([case], noise)
    known = Radon(photons=1e9, attenuation=(0.0, 0.001))
    measurement = known.problem(simulated, model_of(spacing)).measurement
    assert measurement is not None
    signal = measurement.signal
    assert signal is not None
    expected = signal.operator([0]).forward((case.images[None] + 1) / 2 * 0.001)
    apart = (expected - signal.values).abs().mean() / expected.abs().mean()
    assert float(apart) < 0.05
    wide = np.hypot(SIZE[0] * mm[0], SIZE[1] * mm[1])  # type: ignore[index, operator]
    assert signal.values.shape[-1] == np.ceil(wide) + 2


def test_a_fan_is_another_measurement_than_parallel_rays_and_has_its_own_verdict() -> None:
    case = case_of(np.eye(4), sinogram=torch.ones(1, 6, 24))
    other = case_of(np.eye(4), sinogram=torch.ones(1, 6, 24), angles=30.0 * torch.arange(6))
    fan = Radon(source_mm=100.0, detector_mm=100.0, sigma=0.1, attenuation=(0.0, 0.02))
    for how, kind in ((fan, "6 views over 180, fan"), (replace(fan, source_mm=None), "over 180")):
        measurement = how.problem([case], model_of()).measurement
        assert measurement is not None
        assert measurement.kind.endswith(kind)
    for cases in ([case, other], [other, case]):
        with pytest.raises(TaskError, match="6 views of the same angles each"):
            fan.problem(cases, model_of())


def test_pixels_of_several_sizes_are_no_batch() -> None:
    cases = [case_of(np.eye(4)), case_of(np.diag([2.0, 2, 2, 1]))]
    with pytest.raises(TaskError, match="one size"):
        SimulatedRadon(8)(cases, KeyedNoise(0, [("a", 0), ("b", 0)]))


def test_a_file_without_kspace_says_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["images"] = np.ones(SIZE)
    with pytest.raises(DataError, match="the file holds no data set named kspace"):
        open_measurement(tmp_path / "scan.h5", {}, model_of(), 1)


@pytest.mark.parametrize(
    ("space", "share"),
    [((64, 256, 256), 0.02), ((128, 96), 0.02), ((64, 40), 0.039), ((16, 9), 0.1)],
)
def test_the_noise_is_that_of_the_outermost_samples(space: tuple[int, ...], share: float) -> None:
    """A fiftieth of them, where that is 200 real numbers; a tenth of few: farther in, there is more
    of the image than of its noise."""
    ends = torch.zeros(space)
    for axis, n in enumerate(space):
        along = ((torch.arange(n) - n // 2) / (n / 2)) ** 2
        ends = ends + along.reshape([-1 if other == axis else 1 for other in range(len(space))])
    outer = ends[ends >= ends.flatten()[:: max(1, ends.numel() // 600_000)].quantile(1 - share)]
    found = noise_level(torch.complex(ends, ends)[None], torch.ones(1, *space))
    assert found == pytest.approx(float(outer.median()) / 0.6744897501960817, rel=1e-3)


def test_a_measurement_without_signal_is_refused() -> None:
    model, blank = model_of(), torch.zeros(1, *SIZE)
    empty = case_of(np.eye(4), kspace=blank.to(torch.complex64), mask=blank + 1)
    with pytest.raises(TaskError, match="the measurement holds no signal"):
        Cartesian(sigma=1.0).problem([empty], model)
    for level in (0.0, -1.0):
        dark = case_of(np.eye(4), sinogram=torch.full((1, 8, 40), level))
        with pytest.raises(TaskError, match="the measurement holds no signal"):
            Radon(photons=1e5).problem([dark], model)


def test_a_sinogram_with_the_sign_of_the_logarithm_is_refused() -> None:
    rays = torch.linspace(-2, 2, 60).square().neg().exp().expand(1, 40, 60)
    noisy = rays + 0.01 * torch.randn(1, 40, 60, generator=torch.Generator().manual_seed(0))
    Radon().problem([case_of(np.eye(4), sinogram=noisy)], model_of())
    with pytest.raises(TaskError, match=r"line integrals are -0\.4.* minus the logarithm"):
        Radon().problem([case_of(np.eye(4), sinogram=-noisy)], model_of())
    air = noisy - rays - 1e-3  # a slice beyond the head, whose noise has either sign
    cases = [case_of(np.eye(4), sinogram=each) for each in (noisy, air)]
    Radon().problem(cases, model_of())
    with pytest.raises(TaskError, match="minus the logarithm"):
        Radon().problem([case_of(np.eye(4), sinogram=-each) for each in (noisy, air)], model_of())


def test_the_noise_of_each_sinogram_is_told_by_its_neighbouring_detectors() -> None:
    model, noise = model_of(), torch.randn(2, 1, 40, 60, generator=torch.Generator().manual_seed(0))
    smooth = torch.linspace(-2, 2, 60).square().neg().exp()
    given = [
        case_of(np.eye(4), sinogram=smooth + level * each)
        for level, each in zip((0.01, 0.04), noise, strict=True)
    ]
    measurement = Radon(attenuation=(0.0, 0.02)).problem(given, model).measurement
    assert measurement is not None
    # 2 / 0.02 model units for each 1/mm
    expected = torch.tensor([1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(measurement.noise_std, expected, rtol=0.05, atol=0)


def test_angles_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(
        DataError, match="the list of angles holds 6 numbers that are NaN or infinite"
    ):
        stated(SINOGRAM, angles=np.full(len(SINOGRAM), np.inf))


def test_a_fan_that_does_not_turn_around_the_image_is_refused() -> None:
    case = case_of(np.eye(4), sinogram=torch.ones(1, 8, 40))
    with pytest.raises(TaskError, match="source turns within the image"):
        Radon(source_mm=5.0, photons=1e5).problem([case], model_of())
    with pytest.raises(ValueError, match="source_mm must be above 0"):
        Radon(source_mm=-5.0)


def off_middle(space: tuple[int, int], middle: tuple[int, int]) -> np.ndarray:
    """A head whose middle lies somewhere; its brightest voxel is there."""
    rows, columns = np.indices(space)
    away = np.hypot((rows - middle[0]) / 4, (columns - middle[1]) / 5)
    return (np.exp(-(away**4)) * (1.1 - 0.1 * away)).astype(np.float32)


def test_the_models_field_of_view_lies_on_the_head() -> None:
    space, middle = (32, 16), (9, 8)
    image = torch.from_numpy(off_middle(space, middle))
    given = to_kspace(image[None, None].to(torch.complex64))[0].numpy()
    coils = image[None, None].numpy().astype(np.complex64)
    opened = open_measurement(given, {"coils": coils}, model_of(), 1)
    case = opened.cases[0]
    seen = centred_on(from_kspace(case.beside["kspace"][None]), SIZE)[0, 0]
    assert float(seen.abs().square().sum()) > 0.999 * float(image.square().sum())
    assert torch.allclose(
        case.beside["coils"].real, from_kspace(case.beside["kspace"][None])[0].real, atol=1e-5
    )
    brightest = np.unravel_index(int(seen.abs().argmax()), SIZE)
    here = (case.affine @ [*brightest, 0, 1])[:2]
    assert here.tolist() == pytest.approx((opened.affine @ [*middle, 0, 1])[:2].tolist())


def test_the_field_of_view_stays_within_what_was_measured_and_moves_along_no_shorter_axis() -> None:
    at_the_edge = torch.from_numpy(off_middle((32, 16), (2, 3)))[None, None]
    kspace, mask = to_kspace(at_the_edge.to(torch.complex64))[0], torch.ones(1, 32, 16)
    assert offset_of([power_of(kspace, mask)], SIZE) == (-10, 0)
    assert offset_of([power_of(torch.zeros_like(kspace), mask)], SIZE) == (0, 0)


def told_of(image: np.ndarray) -> tuple[Opened, list[str]]:
    """What is opened of its k-space, and what a run says of it."""
    given = to_kspace(torch.from_numpy(image)[None, None].to(torch.complex64))[0].numpy()
    real, other = 1e-3 * np.random.default_rng(0).normal(size=(2, *given.shape))
    given = (given + real + 1j * other).astype(np.complex64)  # a sample of 0 is none
    opened = open_measurement(given, {}, model_of(), 1)
    result = medidiff.run("reconstruct", model_of(), given, posterior={"steps": 2, "draws": 1})
    assert isinstance(result, Result)
    found = result.provenance["warning"]
    assert isinstance(found, list)
    return opened, [each for each in found if "not air" in each]


def long_head(rows: slice, narrow: slice) -> np.ndarray:
    """In 32 rows, of which some are narrow."""
    image = np.zeros((32, 16), np.float32)
    image[rows], image[narrow, 7:9] = 1.0, 1.0
    return image


def test_no_end_of_a_head_that_the_field_can_hold_is_left_out() -> None:
    image = long_head(slice(13, 21), slice(9, 13))  # a nose
    kspace = to_kspace(torch.from_numpy(image)[None, None].to(torch.complex64))[0]
    by_power = offset_of([power_of(kspace, torch.ones(1, 32, 16))], SIZE)
    opened, told = told_of(image)
    seen = centred_on(from_kspace(opened.cases[0].beside["kspace"][None]), SIZE)[0, 0].abs()
    assert 16 + by_power[0] - 6 > 9  # where that would begin
    assert float(seen.square().sum()) > 0.999 * float(np.square(image).sum())
    assert told == []


def test_signal_beyond_the_field_is_told() -> None:
    opened, (told,) = told_of(long_head(slice(6, 26), slice(0)))
    assert opened.cropped.share == pytest.approx(8 / 20, abs=0.06)
    assert told.startswith("input 1: about ")
    assert "larger grid" in told
    assert "--tile" not in told
