"""The image of a head is the same for every number of samples, and its cost is what was called."""

from __future__ import annotations

import pytest
import torch

from medidiff.inverse import DiffPIR
from medidiff.tasks import defaults
from medidiff.tasks.base import Head
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.inpaint import Inpainting

from .test_room import case, tiny

HEADS: tuple[Head, ...] = (
    Inpainting(),
    Denoising(noise="gaussian", sigma=0.1, steps=3),
    Denoising(noise="rician", sigma=0.1, steps=3, phase_draws=2),
    Denoising(noise="poisson", counts=400.0),
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Posterior(DiffPIR(), steps=3, draws=2, antithetic=True)
    monkeypatch.setattr(defaults, "ONE_RESULT", (("", one),))
    monkeypatch.setattr(defaults, "SAMPLES", (("", Posterior(DiffPIR(fresh=0.5), steps=2)),))


@pytest.mark.parametrize(
    "head", HEADS, ids=lambda head: f"{head.kind}-{head.__dict__.get('noise')}"
)
def test_the_image_is_the_same_for_every_number_of_samples(head: Head) -> None:
    model = tiny(16, 16)
    problem = head.prepare([case(16, 16)], model)
    one, more = (head.solve(problem, model, n, 0) for n in (1, 3))
    assert torch.allclose(one.point, more.point, atol=1e-5)
    assert one.facts["estimate"] == more.facts["estimate"]
    assert more.samples is not None
    assert not torch.allclose(more.samples.mean(0), more.point, atol=1e-3)


@pytest.mark.parametrize("result", ["all", "mean", "sample"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("noise", ["gaussian", "rician", "poisson"])
def test_every_call_is_counted_and_none_is_made_for_nothing(
    noise: str, n: int, result: str
) -> None:
    level = {"counts": 400.0} if noise == "poisson" else {"sigma": 0.1, "steps": 3}
    head, model = Denoising(noise=noise, result=result, **level), tiny(16, 16)  # type: ignore[arg-type]
    calls: list[int] = []
    model.network.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    problem = head.prepare([case(16, 16)], model)
    found = head.solve(problem, model, n, 0)
    assert sum(calls) == found.nfe == (found.nfe if found.cost is None else found.cost)
    assert (found.samples is None) == (n == 1)
