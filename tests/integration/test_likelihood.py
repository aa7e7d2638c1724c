"""How likely a prior finds scans: against the closed form, the truth of its units, and the verb."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import medidiff
from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity, Scale
from medidiff.data.options import Space
from medidiff.diffusion import GreyDecoder
from medidiff.diffusion.variance import Transition
from medidiff.errors import DataError, TaskError
from medidiff.jobs.likelihood import LikelihoodOptions, Likelihoods, _grey, likelihoods_of
from medidiff.jobs.reporting import Quiet
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec

SIZE = 4
BOTH = ("flow", "bound")


def model_of(perturbed: float = 0.0) -> Model:
    """A network of zeros, which under v is the exact model of N(0, 1), or one that is perturbed."""
    options = UNetOptions(channels=(4, 8), blocks=1, attention=(False, True), groups=2)
    options = replace(options, head_channels=4)
    shape = NetworkShape()
    network = build(options, shape).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.add_(perturbed * torch.randn(weight.shape, generator=generator))
    fitted = FittedIntensity((0.0,), (255.0,), "train", (0, 100), (-9.0, 9.0))
    spec = ModelSpec("tiny", "MR", ("image",), Space(2, (SIZE, SIZE)), fitted, options, shape)
    return Model(spec, network)


def case_of(row: int, images: torch.Tensor, line: Scale) -> Case:
    original = Original((SIZE, SIZE), np.eye(4), True, "MR", (0.0,))
    return Case(f"subject-{row}", row, images, {}, None, line, np.eye(4), original)


def gaussian_cases(count: int = 3) -> list[Case]:
    generator = torch.Generator().manual_seed(1)
    line = Scale((0.0,), (255.0,))
    return [
        case_of(row, torch.randn(1, SIZE, SIZE, generator=generator), line) for row in range(count)
    ]


def whole_cases(count: int = 2) -> list[Case]:
    generator = torch.Generator().manual_seed(2)
    line = Scale((20.0,), (180.0,))
    return [
        case_of(row, line.normalise(image.float(), axis=0), line)
        for row, image in enumerate(
            torch.randint(0, 256, (count, 1, SIZE, SIZE), generator=generator)
        )
    ]


def found(model: Model, cases: list[Case], **options: object) -> Likelihoods:
    asked = LikelihoodOptions(**options)  # type: ignore[arg-type]
    return likelihoods_of(model, cases, asked, split="test", seed=0, report=Quiet())


def values(likelihoods: Likelihoods, method: str, name: str) -> list[float]:
    return [row[name] for row in likelihoods.rows if row["method"] == method]  # type: ignore[misc]


def test_the_flow_s_likelihood_is_that_of_the_gaussian_which_the_model_is() -> None:
    cases = gaussian_cases()
    nats = values(found(model_of(), cases), "flow", "nats_per_dim")
    exact = [
        float(math.log(2 * math.pi) / 2 + case.images.double().square().mean() / 2)
        for case in cases
    ]
    assert nats == pytest.approx(exact, abs=1e-4)


def test_the_bound_comes_down_to_the_likelihood_as_one_over_its_steps() -> None:
    cases = gaussian_cases(20)
    exact = [math.log(2 * math.pi) / 2 + float(c.images.square().mean()) / 2 for c in cases]
    gaps = []
    for steps in (60, 240):
        bounds = found(model_of(), cases, methods=("bound",), steps=steps)
        nats = values(bounds, "bound", "nats_per_dim")
        gaps.append(sum(nats) / len(nats) - sum(exact) / len(exact))
    # the last draw alone moves each of the two by 0.04
    assert gaps[0] / 2.5 > gaps[1] > 0


def test_random_signs_agree_with_every_row_of_the_jacobian_of_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, cases = model_of(0.05), gaussian_cases(2)
    exact = values(found(model, cases), "flow", "nats_per_dim")
    monkeypatch.setattr("medidiff.diffusion.likelihood.EXACT_UP_TO", 1)
    estimated = found(model, cases, probes=16)
    errors = values(estimated, "flow", "standard_error")
    for one, other, error in zip(
        exact, values(estimated, "flow", "nats_per_dim"), errors, strict=True
    ):
        assert 0 < error < 0.2
        assert abs(one - other) < 4 * error + 1e-3


def test_each_case_has_its_own_likelihood_whatever_the_batch() -> None:
    model, cases = model_of(0.05), gaussian_cases(5)
    together = found(model, cases, methods=BOTH, steps=5)
    alone = found(model, cases[4:], methods=BOTH, steps=5)
    for method in BOTH:
        assert values(together, method, "nats_per_dim")[4] == pytest.approx(
            values(alone, method, "nats_per_dim")[0], abs=1e-4
        )


def test_a_density_of_intensities_is_that_of_model_units_over_the_stretch() -> None:
    row = found(model_of(), gaussian_cases(1)).rows[0]
    assert row["nats_per_dim_intensity"] == pytest.approx(
        row["nats_per_dim"] + math.log(127.5)  # type: ignore[operator]
    )
    assert "bits_per_dim" not in row


def test_bits_are_the_density_of_whole_intensities_with_uniform_noise() -> None:
    cases = whole_cases(16)
    likelihoods = found(model_of(), cases, methods=BOTH, bit_depth=8, steps=300)
    for bits, nats in zip(
        values(likelihoods, "flow", "bits_per_dim"),
        values(likelihoods, "flow", "nats_per_dim"),
        strict=True,
    ):
        assert bits == pytest.approx((nats + math.log(80)) / math.log(2))
    # both bound one probability of nearly the same model
    means = [sum(values(likelihoods, method, "bits_per_dim")) / len(cases) for method in BOTH]
    assert means[0] == pytest.approx(means[1], abs=0.4)


def test_bits_are_refused_where_the_intensities_are_not_the_stated_integers() -> None:
    cases = whole_cases()
    with pytest.raises(DataError, match=r"rows \[0, 1\] are not whole numbers from 0 to 127"):
        found(model_of(), cases, bit_depth=7)
    between = replace(cases[1], images=cases[1].images + 0.3 / 80)
    with pytest.raises(DataError, match=r"rows \[1\]"):
        found(model_of(), [cases[0], between], bit_depth=8)


def test_the_bins_of_grey_levels_hold_all_mass() -> None:
    levels = torch.arange(16, dtype=torch.float64)[:, None, None, None]
    darkest, step = torch.tensor(-1.7).double(), torch.tensor(0.31).double()
    decoder = GreyDecoder(darkest, step, 16)
    p = Transition(torch.full((1, 1, 1, 1), 0.4).double(), torch.tensor(0.5).double())
    mass = (-decoder.nll(darkest + step * levels, p)).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)


def test_the_bins_of_a_case_are_those_of_its_own_intensities() -> None:
    (case,) = whole_cases(1)
    every = case.scale.normalise(torch.arange(256, dtype=torch.float64).reshape(256, 1, 1, 1))
    decoder = _grey([case], every[:1], 256)
    for centre in (float(every[0]), float(every[-1])):  # half lies outside
        p = Transition(torch.full((1, 1, 1, 1), centre).double(), torch.tensor(0.5).double())
        assert float((-decoder.nll(every, p)).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_options_of_no_meaning_are_refused(run_2d: Path, flat: Path) -> None:
    for wrong in ({"probes": 0}, {"steps": 1}, {"bit_depth": 17}):
        with pytest.raises(TaskError):
            LikelihoodOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="--likelihood"):
        medidiff.evaluate(run_2d, manifest=flat, bit_depth=8)


def test_the_verb_writes_the_likelihood_by_subject(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = medidiff.evaluate(
        run_2d, manifest=flat, n=4, out=out, likelihood=("bound",), bound_steps=4
    )
    assert "nats_per_dim_intensity" in result.text
    assert "log p(I) = log p(u) + log(2 / (high - low))" in result.text
    rows = list(csv.DictReader((out / "likelihood.csv").open()))
    summary = json.loads((out / "likelihood.json").read_text())
    assert len(rows) == len(summary["rows"]) == len({row["subject"] for row in rows}) == 4
    (nats,) = (item for item in summary["summary"] if item["metric"] == "nats_per_dim")
    assert nats["interval"]["n"] == 4
    assert nats["interval"]["low"] < nats["interval"]["mean"] < nats["interval"]["high"]
    assert "change of variables" in (out / "likelihood.md").read_text()
    with pytest.raises(DataError, match="whole numbers"):
        medidiff.evaluate(run_2d, manifest=flat, n=4, likelihood=("bound",), bit_depth=8)
