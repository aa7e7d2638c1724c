"""How many samples are drawn at once: as many as the memory holds, and no image depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import medidiff
from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity, unscaled
from medidiff.data.options import Space
from medidiff.errors import TaskError
from medidiff.inverse import DPS, DiffPIR, MomentMatching, PiGDM
from medidiff.inverse.problem import Posterior as Method
from medidiff.jobs import run
from medidiff.jobs.measurements import open_measurement
from medidiff.model import Model
from medidiff.networks import NetworkShape, Reach, UNetOptions, build
from medidiff.networks.memory import _LiveBytes
from medidiff.spec import ModelSpec
from medidiff.tasks import Reconstruction, room
from medidiff.tasks.base import Problem
from medidiff.tasks.cartesian import Cartesian
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.finish import finish
from medidiff.tasks.inpaint import Inpainting
from medidiff.tasks.measured import drawn

NETWORK = UNetOptions(channels=(8, 8), blocks=1, attention=(False, False), groups=2)


def tiny(*size: int) -> Model:
    shape, space = NetworkShape(dims=2), Space(2, size, (1.0, 1.0))
    intensity = FittedIntensity((0.0,), (1.0,), "train", None, (-1.0, 1.0))
    spec = ModelSpec("a", "MR", ("image",), space, intensity, NETWORK, shape)
    return Model(spec, build(NETWORK, shape).eval().requires_grad_(False))


def case(*size: int) -> Case:
    original = Original(size, np.eye(4), True, "MR", (0.0,))
    image = torch.linspace(-1, 1, int(np.prod(size))).view(1, *size)
    mask = torch.zeros(1, *size)
    mask[..., : size[-1] // 2] = 1
    beside = {"mask": mask}
    return Case("s", 0, image, {}, None, unscaled(1), np.eye(4), original, "c", beside=beside)


def holes(model: Model, *size: int) -> Problem:
    return Inpainting().prepare([case(*size)], model)


def peak(problem: Problem, model: Model, method: Method, n: int, chunk: int | None = None) -> int:
    how = Posterior(method, steps=2, chunk=chunk)  # type: ignore[arg-type]
    with _LiveBytes([*model.network.parameters()]) as live:
        drawn(problem, model, how, n, 0)
        return live.most


def test_as_many_as_the_memory_holds_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = tiny(32, 32), torch.zeros(1, 32, 32)
    _, each = room.drawing_bytes(model, image, 0, False)
    for free, expected in ((0.5, 1), (1, 1), (2.5, 2), (7.9, 4), (1e6, room.MOST_AT_ONCE)):
        held = int(free * each / room.SHARE)
        monkeypatch.setattr(room, "free_memory", lambda device, held=held: held)
        assert room.at_once(model, image) == expected


@pytest.mark.parametrize("method", [DiffPIR(), DPS(), PiGDM()], ids=lambda each: each.kind)
def test_drawing_one_takes_no_more_than_was_foreseen(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_AT_ONCE", 1)
    model = tiny(32, 32)
    problem = holes(model, 32, 32)
    assert problem.measurement is not None
    signal = 4 * problem.measurement.values[0].numel()
    gradient = not isinstance(method, DiffPIR)
    fixed, each = room.drawing_bytes(model, problem.given[0], signal, gradient)
    assert peak(problem, model, method, 1) < fixed + each


def test_a_gradient_that_is_not_taken_is_not_foreseen() -> None:
    for method, through in ((DPS(), True), (PiGDM(), True), (MomentMatching(), True)):
        assert Posterior(method).through_the_network == through
    for method in (DPS(gradient="none"), PiGDM(gradient="none"), DiffPIR()):
        assert not Posterior(method).through_the_network


def test_more_images_are_drawn_at_once_where_the_network_sees_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny(32, 32)
    problem = holes(model, 32, 32)
    assert problem.measurement is not None
    image, signal = problem.given[0], 4 * problem.measurement.values[0].numel()
    few = room.drawing_bytes(model, image, signal, True, 2)
    _, alone = room.drawing_bytes(model, image, signal, True)
    held = int((few[0] + 8 * few[1]) / room.SHARE) + 1
    monkeypatch.setattr(room, "free_memory", lambda device: held)
    assert held * room.SHARE < 8 * alone
    assert room.at_once(model, image, signal=signal, gradient=True, chunk=2) == 8
    assert room.at_once(model, image, signal=signal, gradient=True) < 8
    assert room.at_once(model, image, signal=signal, gradient=True, chunk=10**6) < 8  # no use
    assert peak(problem, model, DPS(), 8, chunk=2) < few[0] + 8 * few[1]


@pytest.mark.parametrize("side", [32, 24], ids=["the model's field", "a larger field"])
@pytest.mark.parametrize("coils", [1, 16])
@pytest.mark.parametrize("phase", ["given", "smooth", "rough"])
def test_receiver_coils_and_fits_of_a_phase_are_foreseen(
    phase: str, coils: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is foreseen for a call of the network, which lies beside no fit, hides nothing."""
    model, random = tiny(side, side), np.random.default_rng(0)
    drawn = random.standard_normal((coils, 32, 32, 2)).astype(np.float32)
    kspace = drawn.view(np.complex64)[..., 0]
    beside = {"phase": np.zeros((32, 32), np.float32)} if phase == "given" else {}
    head = Reconstruction(measurement=Cartesian(fine=0.2 if phase == "rough" else 0.0))
    problem = head.prepare(open_measurement(kspace, beside, model, 1).cases, model)
    assert problem.measurement is not None
    image, fit = problem.given[0], problem.measurement.refit_bytes
    call = room.STATES * 4 * image.numel() + room._call_bytes(model, image.shape[1:], False)
    monkeypatch.setattr(room, "_call_bytes", lambda *args: 0)
    _, each = room.drawing_bytes(model, image, kspace.nbytes, False, fit=fit)
    assert 0.5 * each < peak(problem, model, DiffPIR(), 2) / 2 < max(each, call)


def test_a_slice_by_slice_volume_takes_no_more_than_was_foreseen() -> None:
    model = tiny(16, 16)
    space = Space(3, (16, 16, 24), (1.0, 1.0, 1.0))
    volumes = model.reaching(space, Reach(slices=(2,), at_once=4))
    problem = holes(volumes, 16, 16, 24)
    fixed, each = room.drawing_bytes(volumes, problem.given[0], 4 * 16 * 16 * 24, False)
    assert peak(problem, volumes, DiffPIR(), 1) < fixed + each


def test_more_samples_take_no_more_memory_than_they_have_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "MOST_AT_ONCE", 2)
    model = tiny(16, 16)
    few, many = (peak(holes(model, 16, 16), model, DiffPIR(), n) for n in (4, 24))
    assert many - few <= 20 * 4 * 16 * 16 + 4096


def test_maps_are_the_same_however_many_voxels_are_sorted_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny(8, 8)
    head = Denoising(sigma=0.1, steps=2)
    problem = head.prepare([case(8, 8)], model)
    solution = head.solve(problem, model, 5, 0)
    (whole,) = finish(head, problem, solution, model, 5, 0)
    monkeypatch.setattr("medidiff.tasks.finish.VALUES", 5 * 8 * 3)
    (parts,) = finish(head, problem, solution, model, 5, 0)
    for name, image in whole.maps.items():
        assert np.array_equal(image, parts.maps[name])


def test_samples_that_cannot_be_kept_are_refused_before_any_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "free_memory", lambda device: 10 * 2**20)
    room.check_kept(1, 1, 2**30, 2**30, every=True)  # one result is no set of samples
    room.check_kept(5, 1, 2**16, 2**16, every=True)
    with pytest.raises(TaskError, match=r"200 samples take 0.101 GiB .* at most 13 .*result=mean"):
        room.check_kept(200, 1, 2**12, 2**17, every=True)
    with pytest.raises(TaskError) as told:  # and where that does not help, it is not said
        room.check_kept(200, 1, 2**16, 2**16, every=True)
    assert "result=mean" not in str(told.value)
    room.check_kept(20, 1, 2**16, 2**16, every=False)
    with pytest.raises(TaskError) as told:
        room.check_kept(200, 1, 2**16, 2**16, every=False)
    assert "result=mean" not in str(told.value)


def test_room_is_looked_for_once_before_any_slice_is_solved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later slices lie beside results that were foreseen: what is free then is less."""
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(run, "check_kept", lambda *numbers, every: asked.append(numbers))
    monkeypatch.setattr(run, "SLICES", 2)
    random = np.random.default_rng(0).standard_normal((3, 1, 16, 16, 2)).astype(np.float32)
    few = {"steps": 1, "draws": 1, "pilots": 0}
    kspace = random.view(np.complex64)[..., 0]
    medidiff.run("reconstruct", tiny(16, 16), kspace, n=2, posterior=few)
    assert asked == [(2, 3, 2 * 16 * 16, 16 * 16)]


def test_what_is_free_is_no_more_than_a_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    assert room.free_memory(cpu) > 0
    limits = [tmp_path / "none", tmp_path / "max", tmp_path / "few"]
    limits[1].write_text("max\n", encoding="ascii")
    limits[2].write_text(f"{2**40}\n", encoding="ascii")
    monkeypatch.setattr(room, "_limit_files", lambda: iter(limits))
    assert 0 < room.free_memory(cpu) < 2**40
    limits[2].write_text("4096\n", encoding="ascii")
    assert room.free_memory(cpu) == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_is_one_message_that_says_what_to_do(error: Exception) -> None:
    with pytest.raises(TaskError, match=r"memory .* not enough.*--tile"), room.memory_told():
        raise error


@pytest.mark.parametrize("step", ["prepare", "solve"])
def test_memory_may_run_out_at_any_step_of_a_head(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coil maps and phases of a measurement are estimated before it is solved."""

    def failing(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(Reconstruction, step, failing)
    random = np.random.default_rng(0).standard_normal((1, 16, 16, 2)).astype(np.float32)
    kspace = random.view(np.complex64)[..., 0]
    with pytest.raises(TaskError, match="memory of the GPU is not enough"):
        medidiff.run("reconstruct", tiny(16, 16), kspace)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), room.memory_told():
        raise RuntimeError("shape mismatch")
