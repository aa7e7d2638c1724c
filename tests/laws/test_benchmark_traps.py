"""What would make a benchmark of heads too easy, and does not happen here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import Scale
from medidiff.diffusion import KeyedNoise
from medidiff.evaluation.classical import GAUSSIAN, Baseline
from medidiff.evaluation.distortion import ssim
from medidiff.physics import ParallelBeam, even_angles, to_kspace
from medidiff.tasks import denoise, restoration, settings, simulate
from medidiff.tasks.base import Bench, Benchmarked, Measurement, Problem, Solution
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.radon import projector_of
from medidiff.tasks.restoration import measured
from medidiff.tasks.settings import Rival, Setting
from medidiff.tasks.simulate import SimulatedMRI, SimulatedRadon

SIZE = (24, 24)


def case_of(row: int, level: float = 0.0) -> Case:
    down, across = np.mgrid[-1:1:24j, -1:1:24j]
    disc = np.where(down**2 + across**2 < 0.5, 1.2 + 0.3 * np.sin(9 * across), 0.0)
    image = torch.from_numpy(disc - 1 + level).float()[None]
    origin = Original(SIZE, np.eye(4), True, "MR", (0.0,))
    return Case(f"s{row}", row, image, {}, None, Scale((0.0,), (255.0,)), np.eye(4), origin)


def kspace_of(case: Case) -> torch.Tensor:
    (found,) = SimulatedMRI(1, 1.0, sigma=0.0)([case], KeyedNoise(0, [("case", 0)]))
    return found.beside["kspace"]


def test_no_inverse_crime_what_is_measured_is_not_the_transform_of_the_voxels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simulate, "PHASE_SPREAD", 0.0)
    case = case_of(1)
    plain = to_kspace(case.scale.inverse(case.images, axis=0)[None])[0]
    apart = torch.linalg.vector_norm(kspace_of(case) - plain)
    assert float(apart) > 0.02 * float(torch.linalg.vector_norm(plain))


def test_no_inverse_crime_a_sinogram_is_not_the_projection_of_the_voxels() -> None:
    case = case_of(1)
    scanner = SimulatedRadon(12, photons=1e12)  # next to no noise
    (found,) = scanner([case], KeyedNoise(0, [("case", 0)]))
    beam = ParallelBeam(even_angles(12, 180.0), found.beside["sinogram"].shape[-1], 1.0)
    image = (case.images[None] + 1) / 2 * scanner.attenuation
    plain = projector_of(beam, SIZE, (1.0, 1.0)).forward(image)[0]
    apart = torch.linalg.vector_norm(found.beside["sinogram"] - plain)
    share = float(apart / torch.linalg.vector_norm(plain))
    assert 0.005 < share < 0.1  # another projector, of the same object


def test_no_hermitian_crime_half_of_k_space_does_not_tell_the_other() -> None:
    kspace = kspace_of(case_of(1))[..., 1:, 1:]  # zero frequency lies at n // 2
    apart = torch.linalg.vector_norm(kspace - kspace.flip(-1, -2).conj())
    assert float(apart) > 0.1 * float(torch.linalg.vector_norm(kspace))


def test_metrics_are_of_the_head_and_of_the_declared_range() -> None:
    case = case_of(1)
    clean = case.images[None]
    wrong_outside = clean.clone()
    wrong_outside[..., :2, :2] += 0.5
    (row,) = measured(wrong_outside, clean, [case], "s", "m")
    (right,) = measured(clean + 0.02, clean, [case], "s", "m")
    assert float(row["psnr_head"]) > 60 > float(row["psnr"])
    assert float(row["background_bias"]) > 0
    # an error of .02 of a window of 2 is .01 of it
    assert float(right["psnr"]) == pytest.approx(40, abs=0.01)
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    (row,) = measured(noisy, clean, [case], "s", "m")
    expected = ssim((noisy + 1) / 2, (clean + 1) / 2, data_range=1.0)
    assert float(row["ssim"]) == pytest.approx(float(expected), abs=1e-6)
    twice = ssim((noisy + 1) / 2, (clean + 1) / 2, data_range=2.0)
    assert float(twice) > float(expected) + 0.005


@dataclass
class Recorded:
    """A head that says whose scans it was given."""

    seen: list[int]

    def corrupt(self, clean: torch.Tensor, cases: Sequence[Case], noise: Any) -> torch.Tensor:
        self.seen += [case.row for case in cases]
        return clean + 0.1 * noise(clean, 0)

    def prepare(self, cases: Sequence[Case], model: Any) -> Problem:
        return Problem(torch.stack([case.images for case in cases]), tuple(cases))

    def solve(self, problem: Problem, model: Any, n: int, seed: int) -> Solution:
        return Solution(problem.given, 1)


def bench_of() -> Bench:
    validation = [case_of(row) for row in (11, 12)]
    test = [case_of(row, 0.1) for row in (21, 22)]
    return Bench(None, [], validation, test)  # type: ignore[arg-type]


def test_denoisers_are_tuned_on_validation_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    head, tuned_on = Recorded([]), []

    def tune(baselines: Any, noisy: Any, truth: Any, **rest: Any) -> list[Baseline]:
        tuned_on.append(truth)
        return []

    monkeypatch.setattr(restoration, "tune", tune)
    nothing = Baseline("nothing", lambda image, sigma, strength: image)
    restoration._tuned(head, 0.1, "s", bench_of(), [nothing], GAUSSIAN, None)  # type: ignore[arg-type]
    assert head.seen == [11, 12]
    assert float(tuned_on[0].min()) == pytest.approx(0)  # the test scans begin at .05


def test_rivals_of_measured_heads_are_tuned_on_validation_scans() -> None:
    seen: list[int] = []

    def simulate(cases: Sequence[Case], noise: KeyedNoise) -> list[Case]:
        seen.extend(case.row for case in cases)
        return [replace(case) for case in cases]

    rival = Rival("nothing", lambda problem, strength: problem.given, (1.0,))
    judge = Setting("s", Recorded([]), simulate, (rival,))  # type: ignore[arg-type]
    assert settings.tune(judge, bench_of())[0].parameter == 1.0
    assert seen == [11, 12]


def test_tuning_tells_of_each_trial_and_of_one_end() -> None:
    told: list[tuple[int, int]] = []
    nothing = lambda problem, strength: problem.given - strength * 1e-4  # noqa: E731
    rivals = (Rival("plain", nothing), Rival("tuned", nothing, (1.0, 2.0, 4.0)))
    judge = Setting("s", Recorded([]), lambda cases, noise: list(cases), rivals)  # type: ignore[arg-type]
    bench = replace(bench_of(), progress=lambda what, done, total: told.append((done, total)))
    settings.tune(judge, bench)
    assert {total for _, total in told} == {8}
    done = [each for each, _ in told]
    assert done == sorted(done)
    assert done[0] == 0
    assert done.count(8) == 1
    assert len(set(done)) == 9


def test_the_residual_is_over_the_noise_that_was_told() -> None:
    """1 for what leaves the noise: neither the truth's norm nor the measurement's."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn((1, 1, 50, 50), generator=generator)
    measurement = Measurement(
        lambda members: Identity(),  # type: ignore[return-value]
        2 + noise,
        torch.tensor([0.3], dtype=torch.float64),
        torch.tensor([2500.0], dtype=torch.float64),
        ("k",),
    )
    assert float(measurement.residual(torch.full((1, 1, 50, 50), 2.0), [0])) == pytest.approx(
        1, abs=0.05
    )


def test_magnitude_noise_has_goals_in_the_head_and_a_limit_outside_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A background at 0 gains decibels over the whole image by itself: so the goals are in-head,
    and what is left outside is held below a tenth of sigma."""
    monkeypatch.setattr(denoise, "restored", lambda *told: Benchmarked([]))
    found = Denoising(noise="rician").benchmark(bench_of())
    goals = {
        target.setting: (target.against, target.metric, target.least) for target in found.targets
    }
    assert goals == {
        "rician 0.05": (("block matching",), "psnr_head", 2.5),
        "rician 0.1": (("block matching",), "psnr_head", 4.0),
        "rician 0.2": (("block matching",), "psnr_head", 6.0),
    }
    limits = [(each.setting, each.metric, round(each.most, 6)) for each in found.limits]
    assert limits == [(f"rician {s}", "background_bias", s / 10) for s in (0.05, 0.1, 0.2)]
    assert not Denoising(noise="gaussian").benchmark(bench_of()).limits


class Identity:
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
