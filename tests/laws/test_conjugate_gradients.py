"""What conjugate gradients give, however they are preconditioned."""

from __future__ import annotations

import pytest
import torch

from medidiff.physics import ConjugateGradients
from medidiff.types import Tensor

COUNT, SIZE = 3, 24


def problem() -> tuple[Tensor, Tensor]:
    """Symmetric, positive matrices of wide spectra, (batch, n, n), and right sides (batch, n)."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn((COUNT, SIZE, SIZE), generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(draw)
    spectrum = torch.logspace(-3, 1, SIZE, dtype=torch.float64)
    matrices = (basis * spectrum) @ basis.mT
    return matrices, torch.randn((COUNT, SIZE), generator=generator, dtype=torch.float64)


def test_what_is_beside_is_that_of_the_solution() -> None:
    matrices, right = problem()
    other = torch.randn((COUNT, 5, SIZE), dtype=torch.float64)
    calls = []

    def normal(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return (matrices @ x[..., None])[..., 0], (other @ x[..., None])[..., 0]

    start = torch.ones_like(right)
    for steps in (3, 100):
        solver = ConjugateGradients(1e-10, steps)
        x, beside = solver.solve_beside(normal, right, start)
        assert torch.allclose(beside, (other @ x[..., None])[..., 0])
    assert torch.allclose((matrices @ x[..., None])[..., 0], right, atol=1e-8)
    assert torch.allclose(solver.solve(lambda x: normal(x)[0], right, start), x)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_good_preconditioner_spares_steps_and_changes_no_solution(start: float) -> None:
    matrices, right = problem()
    begin = torch.full_like(right, start)
    near = torch.linalg.inv(matrices + 0.002 * torch.eye(SIZE, dtype=torch.float64))

    def normal(x: Tensor) -> tuple[Tensor, Tensor]:
        return (matrices @ x[..., None])[..., 0], x.new_zeros(())

    def error(steps: int, preconditioned: bool) -> float:
        towards = (lambda x: (near @ x[..., None])[..., 0]) if preconditioned else (lambda x: x)
        solver = ConjugateGradients(1e-12, steps)
        x, _ = solver.solve_beside(normal, right, begin, precondition=towards)
        return float((normal(x)[0] - right).norm() / right.norm())

    assert error(6, True) < 0.05 * error(6, False)
    assert error(200, True) < 1e-8


def test_a_batch_is_its_members_when_preconditioned() -> None:
    matrices, right = problem()
    scale = matrices.diagonal(dim1=1, dim2=2)

    def solved(rows: slice) -> Tensor:
        part = matrices[rows]
        x, _ = ConjugateGradients(1e-3, 50).solve_beside(
            lambda x: ((part @ x[..., None])[..., 0], x.new_zeros(())),
            right[rows],
            torch.zeros_like(right[rows]),
            precondition=lambda x: x / scale[rows],
        )
        return x

    together = solved(slice(None))
    for member in range(COUNT):
        rows = slice(member, member + 1)
        assert torch.allclose(solved(rows), together[rows], rtol=1e-4, atol=1e-4)
