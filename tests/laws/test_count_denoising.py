"""What is true of the head `denoise` for the noise of counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from medidiff.conformance.inverse_cases import squared_exponential
from medidiff.data.datasets import Case
from medidiff.data.intensity import FittedIntensity, Scale
from medidiff.data.options import Space
from medidiff.diffusion import KeyedNoise
from medidiff.errors import TaskError
from medidiff.evaluation.classical import DENOISERS
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tasks import restoration
from medidiff.tasks.base import Bench, Problem, Row
from medidiff.tasks.counted import count_mean
from medidiff.tasks.denoise import LEVELS, Denoising
from medidiff.tasks.restoration import restored
from medidiff.types import Tensor

WINDOW = Scale((0.0,), (200.0,))
SIZE = (64, 64)
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
DOSES = [
    Denoising(noise="poisson", counts=8.0),
    Denoising(noise="transmission", counts=40.0, attenuation=3.0),
]
doses = pytest.mark.parametrize("head", DOSES, ids=lambda head: head.noise)


@pytest.fixture(scope="module")
def model() -> Model:
    network = build(NETWORK, NetworkShape(dims=2)).eval().requires_grad_(False)
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    space = Space(2, SIZE, (1.0, 1.0))
    spec = ModelSpec("tiny", "PT", ("image",), space, intensity, NETWORK, NetworkShape(dims=2))
    return Model(spec, network)


def cases(images: Tensor) -> list[Case]:
    return [
        Case("", row, image, {}, None, WINDOW, np.eye(4), None)  # type: ignore[arg-type]
        for row, image in enumerate(images, 1)
    ]


def problem_of(head: Denoising, clean: Tensor, counts: float) -> Problem:
    """Noisy images of clean ones as a head prepares them."""
    given = cases(clean)
    keys = [(str(case.row), 0) for case in given]
    noise = head.noise_law
    drawn = noise.added(clean, given, counts, KeyedNoise(3, keys))
    levels = (noise.sigma(counts),) * len(given)
    problem = Problem(drawn, tuple(cases(drawn)), levels)
    return replace(problem, measurement=noise.measurement(problem))


@doses
def test_counts_drawn_have_the_image_for_their_mean_and_are_told_to_the_likelihood(
    head: Denoising,
) -> None:
    counts = float(head.counts)
    clean = torch.full((2, 1, *SIZE), 0.2)  # six tenths of the window
    problem = problem_of(head, clean, counts)
    assert problem.measurement is not None
    values = problem.measurement.values
    expected = counts * 0.6 if head.noise == "poisson" else counts * np.exp(-3 * 0.6)
    assert torch.allclose(values, values.round(), atol=1e-3)
    assert float(values.mean()) == pytest.approx(expected, rel=0.03)
    assert float(values.var()) == pytest.approx(expected, rel=0.06)
    # the likelihood is at its best where the image is right
    places = torch.linspace(-0.2, 0.6, 81)
    law = problem.measurement.law([0])
    density = [law.log_density(torch.full((1, 1, *SIZE), float(p)), values[:1]) for p in places]
    assert float(places[int(torch.cat(density).argmax())]) == pytest.approx(0.2, abs=0.05)


@doses
@pytest.mark.parametrize("signal", [0.25, 0.8])
def test_the_mean_of_an_even_image_has_no_bias(head: Denoising, signal: float) -> None:
    """With the exact denoiser of even images, two to six counts a voxel: a root or a logarithm of
    the counts would be off by a tenth and more."""
    clean = torch.full((4, 1, *SIZE), 2 * signal - 1, dtype=torch.float64)
    problem = problem_of(head, clean, float(head.counts))

    def denoise(images: Tensor, noise: Tensor) -> Tensor:
        assert bool((noise > 0).all())
        return images.mean((2, 3), keepdim=True).expand_as(images)

    found = (count_mean(denoise, problem, 3, seed=0) + 1) / 2
    assert float(found.mean()) == pytest.approx(signal, rel=0.02)


@doses
def test_draws_have_the_noise_that_the_prior_is_told(head: Denoising) -> None:
    """Where the estimate is right."""
    rows = torch.linspace(-0.8, 0.8, SIZE[0], dtype=torch.float64)
    clean = rows[:, None].expand(1, 1, *SIZE).contiguous()
    problem = problem_of(replace(head, counts=400.0), clean, 400.0)
    seen: list[tuple[Tensor, Tensor]] = []

    def denoise(images: Tensor, noise: Tensor) -> Tensor:
        seen.append((images - clean, noise))
        return clean

    count_mean(denoise, problem, 2, seed=1)
    for error, noise in seen[1:]:
        by_row = error[0, 0].std(1) / noise
        assert float(error.mean()) == pytest.approx(0, abs=0.02)
        assert by_row.min() > 0.7
        assert by_row.max() < 1.35
        assert float(error.std()) == pytest.approx(float(noise), rel=0.05)


@doses
def test_a_batch_equals_its_members_and_says_what_it_cost(head: Denoising, model: Model) -> None:
    clean = torch.rand((2, 1, *SIZE), generator=torch.Generator().manual_seed(0)) - 0.5
    drawn = cases(problem_of(head, clean, float(head.counts)).given)
    together = head.solve(head.prepare(drawn, model), model, 1, 5)
    assert together.nfe == 1 + head.count_draws
    assert together.facts["counts"] == pytest.approx([float(head.counts)] * 2)
    for case, member in zip(drawn, together.point, strict=True):
        alone = head.solve(head.prepare([case], model), model, 1, 5)
        assert torch.allclose(alone.point[0], member, atol=1e-4)
    fewer = replace(head, count_draws=1).solve(head.prepare(drawn, model), model, 1, 5)
    assert fewer.nfe == 2


@doses
def test_samples_are_drawn_from_the_law_by_default(head: Denoising, model: Model) -> None:
    drawn = cases(problem_of(head, torch.zeros(1, 1, *SIZE), float(head.counts)).given)
    found = head.solve(head.prepare(drawn, model), model, 2, 5)
    assert found.samples is not None
    assert found.facts["measurement"] == f"{head.noise} noise"
    assert found.facts["counts"] == pytest.approx([float(head.counts)])
    assert found.samples.shape == (2, 1, 1, *SIZE)


@doses
def test_the_counts_of_an_image_are_estimated(head: Denoising, model: Model) -> None:
    field = squared_exponential(SIZE[0], 12.0)
    unit = torch.randn((1, SIZE[0]), generator=torch.Generator().manual_seed(0)).double()
    clean = 0.2 * field.draw(unit)[0].clamp(-2, 2).float().expand(1, 1, *SIZE) - 0.2
    drawn = cases(problem_of(head, clean, 300.0).given)
    (level,) = replace(head, counts="estimate").prepare(drawn, model).levels
    assert head.noise_law.stated(level) == pytest.approx(300, rel=0.2)
    with pytest.raises(TaskError, match="state it with counts"):
        replace(head, counts="estimate").prepare(cases(torch.full((1, 1, *SIZE), -1.0)), model)


@doses
def test_a_benchmark_draws_counts_at_three_doses_or_at_its_own(
    head: Denoising, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoration, "single_threaded_processes", lambda: ThreadPoolExecutor(1))
    scans = cases(torch.rand((2, 1, *SIZE), generator=torch.Generator().manual_seed(0)) - 0.5)
    bench = Bench(model, [], scans[:1], scans[1:], baselines="none")
    found = replace(head, counts="estimate", count_draws=1).benchmark(bench)
    settings = list(dict.fromkeys(row["setting"] for row in found.rows))
    assert settings == [f"{head.noise} {counts:g}" for counts in LEVELS[head.noise]]
    noisy = [float(row["psnr_head"]) for row in found.rows if row["method"] == "noisy"]
    assert noisy == sorted(noisy, reverse=True)
    own = head.benchmark(bench)
    assert {row["setting"] for row in own.rows} == {f"{head.noise} {float(head.counts):g}"}
    tuned = bench_of_one(bench, head)
    assert {"block matching", "noisy"} <= {str(row["method"]) for row in tuned}


def bench_of_one(bench: Bench, head: Denoising) -> list[Row]:
    """With block matching alone, untuned."""
    (matching,) = [each for each in DENOISERS if each.name == "block matching"]
    single = replace(matching, grid=(1.0,))
    level = head.level(bench.test[0].images, bench.test[0])
    tuned = replace(bench, baselines="tuned")
    return restored(head, level, "s", tuned, [single], head.noise_law.corrections).rows


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": "poisson", "sigma": 0.1}, "has no sigma; state counts"),
        ({"noise": "transmission", "sigma": 0.1}, "has no sigma; state counts"),
        ({"noise": "rician", "counts": 100.0}, "has no counts; state sigma"),
        ({"noise": "poisson", "counts": 0.0}, "counts must be above 0"),
        ({"noise": "transmission", "attenuation": 0.0}, "attenuation must be above 0"),
        ({"count_draws": 0}, "at least 1"),
    ],
)
def test_a_level_that_is_not_of_the_noise_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Denoising(**options)
