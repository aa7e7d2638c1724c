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


def network(dims: int = 2) -> torch.nn.Module:
    made = build(OPTIONS, NetworkShape(dims=2 if dims == 2 else 3)).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    return made


def inputs(dims: int = 2, batch: int = 2) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, 1, *[24] * dims, device="cuda")
    return x, torch.linspace(3.0, 700.0, batch, device="cuda")


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_recorded_call_in_bfloat16_is_as_exact_as_the_plain_one(dims: int) -> None:
    made = network(dims).eval()
    x, label = inputs(dims)
    with torch.no_grad(), plain():
        exact = made(x, label)
        plainly = made.to(torch.bfloat16)(x.bfloat16(), label)
    recorded = accelerated(made, "auto")
    with torch.no_grad():
        first, again = (recorded(x.bfloat16(), label) for _ in range(2))
    assert torch.equal(first, again)
    assert relative(first, exact) < 1.2 * relative(plainly, exact)


def test_gradients_under_autocast_are_as_exact_as_the_plain_ones() -> None:
    made = network().train()
    x, label = inputs()

    def gradient(call: torch.nn.Module, dtype: torch.dtype) -> Tensor:
        made.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False):
            loss = call(x, label).float().square().mean()
        loss.backward()
        grads = [weight.grad for weight in made.parameters()]
        return torch.cat([grad.flatten() for grad in grads if grad is not None])

    exact = gradient(accelerated(made, "none"), torch.float32)
    plainly = gradient(accelerated(made, "none"), torch.bfloat16)
    ours = gradient(Graphed(made), torch.bfloat16)
    assert relative(ours, exact) < 1.2 * relative(plainly, exact)


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


def test_an_optimisers_steps_reach_the_recording() -> None:
    weights = []
    for record in (True, False):
        made = network().train()
        call = Graphed(made) if record else made
        optimiser = torch.optim.SGD(made.parameters(), lr=1e-3)
        generator = torch.Generator("cuda").manual_seed(1)
        x = torch.randn(2, 1, 24, 24, device="cuda", generator=generator)
        label = torch.tensor([3.0, 700.0], device="cuda")
        before = torch.cat([weight.detach().flatten().clone() for weight in made.parameters()])
        for _ in range(4):
            (call(x, label) - x).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        after = torch.cat([weight.detach().flatten() for weight in made.parameters()])
        weights.append(after - before)
        assert isinstance(call, torch.nn.Module)
        call.eval()
        with torch.no_grad():
            torch.testing.assert_close(call(x, label), made(x, label), rtol=1e-3, atol=1e-3)
    assert relative(weights[0], weights[1]) < 1e-2
