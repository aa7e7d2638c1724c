"""Philox, keyed fields, and their independence of batch, rank and order."""

from __future__ import annotations

import pytest
import torch

from medidiff.diffusion import (
    AntitheticNoise,
    KeyedNoise,
    TapeNoise,
    training_noise,
    training_uniforms,
    uniforms,
)
from medidiff.diffusion.noise import gaussians, philox

ALL = 0xFFFFFFFF
# kat_vectors of Random123, philox4x32 with 10 rounds: counter, key, result
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL,) * 4, (ALL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
FROZEN_FIELD = [0.9619575355327199, -0.24885086745175944, 0.6870319674495544, -0.6059990813212851]
FROZEN_UNIFORM = 0.8567714904399936
MEMBERS = [("S-1", 0), ("S-1", 1), ("S-2", 0)]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: tuple, key: tuple, answer: tuple) -> None:
    words = philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert tuple(int(word) for word in words) == answer


def test_a_field_never_changes_between_versions() -> None:
    # a model's example images are named by their seed: these numbers are part of the format
    field = KeyedNoise(7, [("S-1", 0)])(torch.zeros(1, 1, 2, 2, dtype=torch.float64), 3, 1)
    expected = torch.tensor(FROZEN_FIELD, dtype=torch.float64)
    torch.testing.assert_close(field.flatten(), expected, rtol=0, atol=1e-12)
    number = uniforms(7, [("S-1", 0)])
    assert float(number) == pytest.approx(FROZEN_UNIFORM, abs=1e-15)


def test_noise_is_the_same_in_every_batch() -> None:
    noise, like = KeyedNoise(0, MEMBERS), torch.zeros(3, 2, 5, 3)
    together = noise(like, 4)
    for index in range(3):
        assert torch.equal(noise.take([index])(like[:1], 4)[0], together[index])
    assert torch.equal(noise.take([2, 0])(like[:2], 4), together[[2, 0]])


def test_antithetic_samples_have_each_other_s_noise_in_every_batch() -> None:
    members = [("a", 0), ("a", 1), ("a", 2), ("b", 1)]
    like = torch.zeros(4, 1, 4, 4)
    field = AntitheticNoise(3, members)(like, 5, 1)
    plain = KeyedNoise(3, [("a", 0), ("a", 0), ("a", 1), ("b", 0)])(like, 5, 1)
    assert torch.equal(field, torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None] * plain)
    alone = AntitheticNoise(3, members[1:2])(like[:1], 5, 1)
    assert torch.equal(alone[0], field[1])


def test_every_part_of_the_key_counts() -> None:
    like = torch.zeros(1, 1, 4, 4)
    fields = [
        KeyedNoise(0, [("a", 0)])(like, 0),
        KeyedNoise(1, [("a", 0)])(like, 0),
        KeyedNoise(0, [("b", 0)])(like, 0),
        KeyedNoise(0, [("a", 1)])(like, 0),
        KeyedNoise(0, [("a", 0)])(like, 1),
        KeyedNoise(0, [("a", 0)])(like, 0, 1),
        KeyedNoise(0, [("a", 0)])(like, -1),
    ]
    for first in range(len(fields)):
        for second in range(first):
            assert not torch.equal(fields[first], fields[second])


def test_a_key_cannot_be_spelt_in_two_ways() -> None:
    assert not torch.equal(uniforms(1, [("a", 23)]), uniforms(1, [("a2", 3)]))
    assert not torch.equal(uniforms(1, [("2", 3)]), uniforms(1, [(2, 3)]))


def test_fields_are_unit_gaussian_and_independent() -> None:
    field = KeyedNoise(0, MEMBERS[:2])(torch.zeros(2, 1, 400, 500), 0).flatten(1).double()
    one, two = field
    assert float(one.mean()) == pytest.approx(0, abs=0.01)
    assert float(one.var()) == pytest.approx(1, abs=0.015)
    assert float((one**4).mean()) == pytest.approx(3, abs=0.07)
    for other in (two, one.roll(1), one.roll(2), one.roll(4)):
        assert float((one * other).mean()) == pytest.approx(0, abs=0.01)


def test_single_and_double_precision_are_one_field() -> None:
    noise, like = KeyedNoise(0, MEMBERS[:1]), torch.zeros(1, 1, 64, 64)
    double = noise(like.double(), 0)
    assert double.dtype == torch.float64
    assert noise(like.bfloat16(), 0).dtype == torch.bfloat16
    torch.testing.assert_close(noise(like, 0).double(), double, rtol=0, atol=2e-5)


def test_a_larger_field_begins_with_the_smaller() -> None:
    like = torch.zeros(())
    assert torch.equal(
        gaussians(0, [("a",)], 7, like)[0], gaussians(0, [("a",)], 1000, like)[0, :7]
    )


def test_uniforms_are_uniform_and_inside_the_open_interval() -> None:
    draw = uniforms(0, [("a",), ("b",)], 50_000)
    assert draw.shape == (2, 50_000)
    assert draw.dtype == torch.float64
    assert 0 < float(draw.min()) < 1e-3
    assert 1 > float(draw.max()) > 1 - 1e-3
    assert float(draw.mean()) == pytest.approx(0.5, abs=5e-3)
    assert float(draw.var()) == pytest.approx(1 / 12, abs=2e-3)
    assert float((draw[0] * draw[1]).mean()) == pytest.approx(0.25, abs=5e-3)


def test_a_training_draw_knows_only_the_step_and_the_example() -> None:
    like = torch.zeros(4, 1, 3, 3)
    all_four = training_noise(0, 12, [8, 9, 10, 11])(like, 0)
    second_rank = training_noise(0, 12, [10, 11])(like[:2], 0)
    assert torch.equal(second_rank, all_four[2:])
    assert not torch.equal(training_noise(0, 13, [10, 11])(like[:2], 0), second_rank)
    times = training_uniforms(0, 12, [8, 9, 10, 11], "time")
    assert torch.equal(training_uniforms(0, 12, [10, 11], "time"), times[2:])
    assert not torch.equal(training_uniforms(0, 12, [10, 11], "drop"), times[2:])


def test_torch_s_own_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    KeyedNoise(0, MEMBERS)(torch.zeros(3, 1, 2, 2), 0)
    uniforms(0, [("a",)])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="noise for 3 images, asked for 2"):
        KeyedNoise(0, MEMBERS)(torch.zeros(2, 1, 2, 2), 0)


def test_a_tape_plays_back_its_fields() -> None:
    fields = torch.randn(2, 2, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    tape = TapeNoise([list(step) for step in fields])
    assert torch.equal(tape(torch.zeros(1, 1, 2, 2), 1, 0), fields[1, 0])
    with pytest.raises(IndexError):
        tape(torch.zeros(1, 1, 2, 2), 2)
