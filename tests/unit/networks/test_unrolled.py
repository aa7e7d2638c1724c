import pytest
import torch

from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.networks.unrolled import UnrolledReconstruction, prox
from medidiff.physics import CartesianMRI, ConjugateGradients, Sampling

SHAPE = NetworkShape(in_channels=2, out_channels=2)
SMALL = UNetOptions(channels=(8, 16), blocks=1, attention=(False, False), groups=4)


def drawn(*shape, seed=0, dtype=torch.complex128):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def operators():
    mask = Sampling("gaussian", 2, 0.2).mask((6, 8))
    exact = ConjugateGradients(1e-14, 500)
    phase = torch.linspace(0, 1, 8, dtype=torch.float64).expand(1, 1, 6, 8)
    return {
        "closed form": CartesianMRI(mask),
        "coils": CartesianMRI(mask, drawn(1, 3, 6, 8), solver=exact),
        "real images": CartesianMRI(mask, drawn(1, 3, 6, 8), phase, exact),
    }


@pytest.mark.parametrize("kind", ["closed form", "coils", "real images"])
def test_gradients_of_the_measurement_s_turn_are_exact(kind):
    operator = operators()[kind]
    z = drawn(2, 1, 6, 8, dtype=torch.float64 if kind == "real images" else torch.complex128)
    y = operator.forward(drawn(*z.shape, seed=1, dtype=z.dtype)).detach()
    rho = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, rho: prox(operator, z, y, rho), (z, rho))


def test_training_gains_on_zero_filling_and_units_do_not_matter():
    along = torch.linspace(-1, 1, 16)
    blob = torch.exp(-4 * (along[:, None] ** 2 + along[None] ** 2))
    clean = torch.stack([blob.roll((s, 2 * s), (0, 1)) for s in range(4)])[:, None]
    images = torch.polar(clean, along.expand_as(clean).contiguous())
    operator = CartesianMRI(Sampling("gaussian", 3, 0.15).mask((16, 16)))
    y = operator.forward(images)
    network = UnrolledReconstruction(build(SMALL, SHAPE, seed=0), turns=3)
    first = (network(operator, y) - images).abs().square().mean().detach()
    assert float(first) == pytest.approx(
        float((operator.adjoint(y) - images).abs().square().mean())
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        (network(operator, y) - images).abs().square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        found = network(operator, y)
        torch.testing.assert_close(network(operator, 20 * y) / 20, found, atol=1e-5, rtol=1e-4)
    assert float((found - images).abs().square().mean()) < 0.5 * float(first)


def test_a_denoiser_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="two channels"):
        UnrolledReconstruction(build(SMALL, NetworkShape()))
