"""Recorded calls and fused layers on a GPU: what they must agree with, and when they step aside."""

from __future__ import annotations

import pytest
import torch

from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.networks.graphs import Graphed, accelerated
from medidiff.networks.kernels import plain
from medidiff.types import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
OPTIONS = UNetOptions(channels=(32, 64), attention=(False, True), blocks=1)


def network(dims: int = 2, std: float = 0.1) -> torch.nn.Module:
    made = build(OPTIONS, NetworkShape(dims=2 if dims == 2 else 3)).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=std, generator=generator)
    return made


def inputs(dims: int = 2, batch: int = 2) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, 1, *[24] * dims, device="cuda")
    return x, torch.linspace(3.0, 700.0, batch, device="cuda")


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_recorded_call_in_bfloat16_is_the_plain_one_in_float32(dims: int) -> None:
    made = network(dims, std=0.05).eval()
    x, label = inputs(dims)
    with torch.no_grad(), plain():
        exact = made(x, label)
    made.to(torch.bfloat16)
    recorded = accelerated(made, "auto")
    with torch.no_grad():
        first, again = (recorded(x.bfloat16(), label) for _ in range(2))
    assert torch.equal(first, again)
    assert relative(first, exact) < 1e-2


def test_gradients_under_autocast_are_the_plain_ones_to_bfloat16() -> None:
    made = network(std=0.05).train()
    x, label = inputs()
    gradients = []
    for call in (Graphed(made), accelerated(made, "none")):
        made.zero_grad()
        half = torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
        with half:
            loss = call(x, label).float().square().mean()
        loss.backward()
        gradients.append([weight.grad.clone() for weight in made.parameters()])  # type: ignore[union-attr]
    for ours, plainly in zip(*gradients, strict=True):
        assert relative(ours, plainly) < 5e-2


def test_a_gradient_for_the_image_is_the_networks_own() -> None:
    made = network().eval()
    x, label = inputs()
    of_image = []
    for call in (Graphed(made), made):
        here = x.clone().requires_grad_()
        call(here, label).square().sum().backward()
        assert here.grad is not None
        of_image.append(here.grad)
    torch.testing.assert_close(of_image[0], of_image[1], rtol=1e-3, atol=1e-4)


def test_more_shapes_than_are_kept_are_called_unrecorded() -> None:
    made = network().eval()
    recorded = Graphed(made)
    with torch.no_grad():
        for batch in range(1, 8):
            x, label = inputs(batch=batch)
            for _ in range(2):
                torch.testing.assert_close(recorded(x, label), made(x, label), rtol=1e-3, atol=1e-3)


def test_another_shape_in_training_and_another_mode_are_not_replayed_wrongly() -> None:
    made = network()
    recorded = Graphed(made)
    for training, batch in ((True, 2), (True, 3), (False, 2), (True, 2)):
        recorded.train(training)
        x, label = inputs(batch=batch)
        ours = recorded(x, label)
        torch.testing.assert_close(ours, made(x, label), rtol=1e-3, atol=1e-3)
        ours.sum().backward()


def test_an_optimisers_step_reaches_the_recording() -> None:
    made = network().train()
    recorded = Graphed(made)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2, fused=True)
    x, label = inputs()
    losses = []
    for _ in range(6):
        loss = (recorded(x, label) - x).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    recorded.eval()
    with torch.no_grad():
        torch.testing.assert_close(recorded(x, label), made(x, label), rtol=1e-3, atol=1e-3)
