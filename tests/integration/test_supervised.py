"""Supervised networks beside a head: trained through the heads' own simulators, kept, and compared
on the same measurements, subject by subject."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import medidiff
from medidiff.api import Peer
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.errors import TaskError
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tasks.base import OURS, Problem

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NETWORK = UNetOptions(channels=(8, 16), blocks=1, attention=(False, False), groups=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(place: Path) -> Model:
    shape = NetworkShape(dims=2)
    network = build(NETWORK, shape).eval().requires_grad_(False)
    intensity = FittedIntensity((0.0,), (700.0,), "train", None, (-1.0, 1.0))
    space = Space(2, (32, 32), (6.875, 6.875))
    return Model(ModelSpec("tiny", "MR", ("image",), space, intensity, NETWORK, shape), network)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("supervised", "supervised_peers", "supervised_tasks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import supervised
    import supervised_tasks

    monkeypatch.setattr(supervised_tasks, "MASKS", 20)

    return supervised


@pytest.mark.parametrize(
    "setting",
    [
        "mri 1 coil R=4",
        pytest.param("rician", marks=pytest.mark.slow),
        pytest.param("mri 8 coils R=4", marks=pytest.mark.slow),
    ],
)
def test_a_network_gains_in_training_and_is_the_same_when_it_is_kept(
    scripts: ModuleType, model: Model, flat: Path, tmp_path: Path, setting: str
) -> None:
    import supervised_peers as peers

    what = peers.Trained(setting, NETWORK, turns=2)
    scans = scripts.Scans(scripts.cases_of(model, flat, "train", None), (32, 32), CPU)
    held_out = scripts.cases_of(model, flat, "validation", 3)
    task = scripts.task_of(setting, model, CPU)
    checks = list(task.validation(held_out, model))
    training = scripts.Training(what, task, scans, checks, CPU)
    optimiser = torch.optim.AdamW(training.network.parameters())
    budget = scripts.Budget(minutes=1, batch=4, rate=4e-3)
    training._set_turns(1.0)
    steps = 30
    for step in range(steps):
        training._step(optimiser, budget, 200 + step, share=0.5)
    training.average.network.load_state_dict(training.network.state_dict())
    place = tmp_path / "weights.safetensors"
    training._validate(place, 1.0, steps, 4)

    def psnr(network: torch.nn.Module) -> float:
        solve = peers.solver(network, what)
        values = [value for check in checks for value in check.psnr(solve)]
        return sum(values) / len(values)

    kept, facts = peers.kept(place, CPU)
    assert psnr(kept) == pytest.approx(training.best, abs=1e-3)
    assert facts.validation_psnr == training.best
    assert training.best > psnr(peers.untrained(what)) + 0.1  # that gives back what it is given

    onwards = scripts.Training(what, task, scans, checks, CPU, start=place)
    onwards.run(scripts.Budget(minutes=1e-9, batch=4), tmp_path / "later.safetensors")  # a step
    later = peers.described(tmp_path / "later.safetensors")
    assert (later.steps, later.images, later.turns) == (steps + 1, 4 * steps + 4, 2)
    assert later.validation_psnr == pytest.approx(training.best, abs=0.5)


def test_a_peer_is_compared_by_subject_on_the_measurements_of_the_head(
    model: Model, flat: Path
) -> None:
    def mean(problem: Problem) -> torch.Tensor:
        return problem.given.mean((2, 3), keepdim=True).expand_as(problem.given)

    given = Peer("given back", lambda problem: problem.given)
    flat_one = Peer("mean", mean, settings=("rician 0.1",))
    table = medidiff.benchmark(
        "denoise",
        model,
        manifest=flat,
        noise="rician",
        baselines="none",
        peers=[given, flat_one],
    )
    assert table.mean("psnr", "given back") == table.mean("psnr", "noisy")
    assert {row["setting"] for row in table.rows if row["method"] == "mean"} == {"rician 0.1"}
    (apart,) = [d for d in table.differences if (d.baseline, d.metric) == ("mean", "psnr_head")]
    values = {
        method: {
            row["subject"]: float(row["psnr_head"])
            for row in table.rows
            if (row["setting"], row["method"]) == ("rician 0.1", method)
        }
        for method in (OURS, "mean")
    }
    pairs = [value - values["mean"][subject] for subject, value in values[OURS].items()]
    assert apart.interval.mean == pytest.approx(sum(pairs) / len(pairs))
    assert apart.interval.n == len(pairs) == 4


@pytest.mark.parametrize(
    ("task", "name", "told"),
    [("denoise", "medidiff", "found twice"), ("synthesis", "another", "it has no peers")],
)
def test_peers_need_names_of_their_own_and_problems(
    model: Model, flat: Path, task: str, name: str, told: str
) -> None:
    peer = Peer(name, lambda problem: problem.given)
    with pytest.raises(TaskError, match=told):
        medidiff.benchmark(task, model, manifest=flat, peers=[peer])


def test_what_is_to_be_reached_depends_on_what_a_network_was_trained_for(
    scripts: ModuleType,
) -> None:
    import supervised_peers as peers

    modl = peers.Trained("mri 1 coil R=4", NETWORK)
    others = ("mri 1 coil R=8", "mri 1 coil equispaced R=4")
    assert modl.settings == (modl.setting, *others)
    goals = [peers.least_of(modl.name, setting) for setting in modl.settings]
    assert goals == [-0.5, 3.0, 3.0]
    assert peers.least_of(peers.Trained("rician", NETWORK).name, "rician 0.2") == -0.3
    assert peers.least_of("total variation", "mri 1 coil R=4") is None
