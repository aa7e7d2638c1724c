"""Every objective is trained from a configuration, and a resumed training is bit-equal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medidiff
from medidiff.config import load_config
from medidiff.errors import ConfigError
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.train import train_model
from medidiff.training.checkpoint import load_checkpoint

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
FEW = ["train.steps=6", "train.log_every=1", "train.save_every=3", "train.sample_every=0"]
IMPORTANCE = ["diffusion.importance={kept: 1}", "diffusion.times={kind: uniform-steps, steps: 3}"]
ENCODER = [
    "network={kind: encoder, channels: [8, 16], attention: [false, true], blocks: 1, groups: 4}",
    "data.conditions=[]",
]
OBJECTIVES = {
    "importance": IMPORTANCE,
    "importance-hybrid": [*IMPORTANCE, "diffusion.objective={kind: hybrid}"],
    "importance-variational": [*IMPORTANCE, "diffusion.objective={kind: variational}"],
    "uncertainty": ["diffusion.objective={kind: uncertainty, features: 8}"],
    "spread": ["diffusion.objective={kind: spread}"],
    "classifier": [*ENCODER, "diffusion.objective={kind: classifier, column: sex}"],
    "alignment": [*ENCODER, "diffusion.objective={kind: alignment, width: 8}"],
}
ON_A_MODEL = {"spread"}


class Broken(Exception):  # noqa: N818 not an error of ours
    """The process died."""


class Dies(Quiet):
    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        if what == "training" and done == 4:
            raise Broken


Train = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def no_server() -> Iterator[None]:
    """The journal is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        yield


@pytest.fixture(scope="module")
def train(place: Path, flat: Path, run_2d: Path) -> Train:
    def run(name: str, folder: str, *changes: str, dies: bool = False, resume: bool = False):
        given = [f"data.manifest={flat}", f"output={place / folder}", *FEW, *OBJECTIVES[name]]
        parent = medidiff.load(run_2d, "cpu") if name in ON_A_MODEL else None
        report = Dies() if dies else Quiet()
        return train_model(
            CONFIG, changes=[*given, *changes], parent=parent, resume=resume, report=report
        )

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.name}:{name}": value
        for file in sorted((run / "model").glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def losses(run: Path) -> dict[int, float]:
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    found = [(each["step"], each.get("metrics", {})) for each in events if "step" in each]
    return {step: metrics["loss"] for step, metrics in found if "loss" in metrics}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_that_died_goes_on_as_if_it_had_not(name: str, train: Train) -> None:
    whole = train(name, f"whole-{name}")
    with pytest.raises(Broken):
        train(name, f"parts-{name}", dies=True)
    parts = train(name, f"parts-{name}", resume=True)
    ours, theirs = weights(parts), weights(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert losses(parts) == losses(whole)


def memory(run: Path) -> dict[str, torch.Tensor]:
    found = load_checkpoint(run / "checkpoints", torch.device("cpu"))
    assert found is not None
    return found[0]["memory"]


def test_the_history_of_losses_is_kept_without_weights_and_changes_what_is_drawn(
    train: Train, place: Path
) -> None:
    whole = place / "whole-importance"
    run = whole if whole.exists() else train("importance", "whole-importance")
    history = memory(run)
    assert history["counts"].tolist() == [1, 1, 1]
    assert bool((history["losses"] > 0).all())
    given = [each for each in IMPORTANCE if "importance" not in each]
    plain = train("importance", "plain-steps", "diffusion.importance=null", *given)
    assert load_checkpoint(plain / "checkpoints", torch.device("cpu"))[0]["memory"] is None  # type: ignore[index]
    assert losses(plain)[1] == losses(run)[1]  # uniform until every step has its losses
    assert losses(plain)[6] != losses(run)[6]


def test_the_learned_uncertainty_is_no_part_of_the_model(train: Train, place: Path) -> None:
    whole = place / "whole-uncertainty"
    run = whole if whole.exists() else train("uncertainty", "whole-uncertainty")
    assert bool(memory(run)["weight"].any())
    assert {name.split(":")[1] for name in weights(run)} == {
        *medidiff.load(run, "cpu").network.state_dict()
    }


@pytest.mark.parametrize(
    "changes",
    [
        ["diffusion.importance={}", "diffusion.objective={kind: uncertainty}"],
        ["diffusion.importance={}", "diffusion.objective={kind: spread}"],
        ["diffusion.importance={}", "diffusion.times={kind: logit-normal}"],
        ["diffusion.importance={kept: 0}"],
        ["diffusion.objective={kind: uncertainty, features: 0}"],
    ],
)
def test_what_an_objective_has_no_use_for_is_refused(changes: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"importance|features|loss history"):
        load_config(CONFIG, changes)
