"""Synthesis is judged beside what two sets of real images would show."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medidiff.data.intensity import unscaled
from medidiff.jobs.benchmark import Table, make_table
from medidiff.report.tables import Reference
from medidiff.tasks.base import OURS, Bench
from medidiff.tasks.synthesis import Synthesis

N = 40


def drawn(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Smooth random pictures of one population."""
    coarse = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 0.3 * functional.interpolate(coarse, size=(24, 24), mode="bicubic") + shift


def judged(made: Tensor) -> Table:
    """The table of a model that makes just these images."""
    model = SimpleNamespace(
        sample=lambda n, **_: SimpleNamespace(images=made[:n]),
        spec=SimpleNamespace(intensity=SimpleNamespace(typical=unscaled(1))),
    )

    def cases(n: int, seed: int) -> list[SimpleNamespace]:
        images = enumerate(drawn(n, seed))
        return [SimpleNamespace(images=x, subject=f"S-{i}", listed={"row": i}) for i, x in images]

    head = Synthesis(images=N)
    bench = Bench(model, cases(120, 1), cases(N, 2), cases(N, 3))  # type: ignore[arg-type]
    return make_table(head, head.benchmark(bench))


def reference(table: Table, metric: str) -> Reference:
    (found,) = [item for item in table.references if item.metric == metric]
    return found


def test_new_images_of_the_same_population_lie_in_the_scatter_of_real_sets() -> None:
    table = judged(drawn(N, 4))
    assert table.mean("kernel_p", OURS) > 0.05
    assert reference(table, "kernel_distance").within
    assert reference(table, "copied_share").within
    assert reference(table, "kernel_distance").images == N
    assert reference(table, "kernel_distance").real_against_real.n == 20


def test_images_of_another_population_do_not() -> None:
    table = judged(drawn(N, 4, shift=0.4))
    assert table.mean("kernel_p", OURS) < 0.01
    assert not reference(table, "kernel_distance").within
    assert "outside the scatter of real sets" in table.text


def test_copies_of_training_images_are_found() -> None:
    table = judged(drawn(120, 1)[:N] + 0.001)
    assert reference(table, "copied_share").value == pytest.approx(1.0)
    assert not reference(table, "copied_share").within
    assert not reference(table, "memorisation_ratio").within
