from __future__ import annotations

import math

import pytest
import torch

from medidiff.networks.conditions import ClassCondition, NumberCondition
from medidiff.networks.embeddings import Embedding, sinusoidal

WAVES = 64

CONDITIONS = (
    ClassCondition(name="sex", values=("F", "M")),
    NumberCondition(name="age", mean=50.0, std=10.0),
)


@pytest.fixture
def embedding() -> Embedding:
    generator = torch.Generator().manual_seed(0)
    module = Embedding(16, CONDITIONS, WAVES)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return module


def test_the_waves_have_the_frequencies_of_the_formula():
    waves = sinusoidal(torch.tensor([3.0], dtype=torch.float64), WAVES)[0]
    for index in (0, 7, WAVES - 1):
        phase = 3.0 / 10_000 ** (index / WAVES)
        assert waves[index].item() == pytest.approx(math.cos(phase), abs=1e-12)
        assert waves[WAVES + index].item() == pytest.approx(math.sin(phase), abs=1e-12)


def test_nothing_known_is_the_same_as_no_condition(embedding: Embedding):
    label = torch.tensor([1.0, 500.0])
    unknown = torch.full((2, 2), math.nan)
    torch.testing.assert_close(embedding(label, unknown), embedding(label, None), rtol=0, atol=0)


@pytest.mark.parametrize("column", [0, 1])
def test_each_condition_and_its_absence_changes_the_vector(embedding: Embedding, column: int):
    rows = torch.zeros(3, 2)
    rows[:, column] = torch.tensor([0.0, 1.0, math.nan])
    first, second, unknown = embedding(torch.full((3,), 9.0), rows)
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first, unknown, atol=1e-3)
    assert not torch.allclose(second, unknown, atol=1e-3)


def test_unknown_conditions_give_finite_gradients(embedding: Embedding):
    embedding(torch.tensor([4.0]), torch.full((1, 2), math.nan)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in embedding.parameters())


def test_neighbouring_labels_stay_apart_under_autocast(embedding: Embedding):
    label = torch.tensor([900.0, 900.01])
    plain = embedding(label, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = embedding(label, None)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain)
    assert not torch.equal(mixed[0], mixed[1])


def test_the_waves_keep_float32_when_the_weights_are_bfloat16(embedding: Embedding):
    label = torch.tensor([900.0, 901.0])
    exact = embedding(label, None)
    rounded = embedding.to(torch.bfloat16)(label, None)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
