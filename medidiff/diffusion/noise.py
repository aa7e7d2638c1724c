"""Noise fields that depend on what they are for, not on when or where they are drawn.

A field is keyed by (seed, subject, sample, step, draw): the same in a batch or alone, on one GPU or
eight, in a run or its resumption. The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3", SC'11, section 3.3), written in torch's int64 so that a CPU and
a GPU give the same integers. torch's global generator is never touched.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import torch

from medidiff.diffusion.levels import scale
from medidiff.sending import sent
from medidiff.types import Image, Tensor

if TYPE_CHECKING:
    from medidiff.diffusion.levels import NoiseLevel

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Key: TypeAlias = tuple[str | int, ...]
"""What a draw is for: names and numbers, hashed together with the seed."""

UnitNumbers: TypeAlias = Callable[[Tensor, int, Tensor], Tensor | None]
"""(words of the keys, count, like) -> (keys, count) numbers, or None where it cannot make them."""

_faster: UnitNumbers | None = None


class NoiseSource(Protocol):
    """(like, step, draw) -> a unit Gaussian field of the shape, dtype and device of `like`."""

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image: ...


@runtime_checkable
class IntervalNoise(Protocol):
    """A source whose field over a stretch of levels belongs to that stretch, not to the hop."""

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image: ...

    def between(self, like: Image, now: NoiseLevel, to: NoiseLevel, lap: int = 0) -> Image: ...


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Four random 32-bit words for each counter of four and key of two, all held in int64.

    Shapes: the four counters and two keys broadcast together.
    Source: Salmon et al. 2011, section 3.3, ten rounds; known answers of Random123 in the tests.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    even, odd = torch.stack((c0, c2)), torch.stack((c1, c3))
    multipliers = _numbers(_MULTIPLIERS, c0.device, even.ndim)
    for added in _round_keys(key, even):
        # int64 wraps, but its bits are the product's; what stands above a word is cut off later
        product = (even * multipliers).flip(0)
        even, odd = ((product >> 32) ^ odd ^ added) & _WORD, product
    odd = odd & _WORD
    return even[0], odd[0], even[1], odd[1]


def uniforms(seed: int, keys: Sequence[Key], count: int = 1) -> Tensor:
    """`count` uniform numbers in the open interval (0, 1) for each key.

    Shapes: (len(keys), count), float64, on the CPU; 52 random bits each.

    >>> uniforms(0, [("time", 7)]).shape
    torch.Size([1, 1])
    """
    words = _words(key_words("uniform", seed, keys), 2 * count, torch.device("cpu"))
    high, low = words[:, 0::2] >> 6, words[:, 1::2] >> 6
    return ((high * 2**26 + low).double() + 0.5) * 2.0**-52


def gaussians(seed: int, keys: Sequence[Key], count: int, like: Tensor) -> Tensor:
    """`count` unit Gaussian numbers for each key, by Box and Muller from pairs of words.

    Shapes: (len(keys), count), on the device of `like`; computed in float64 if `like` is float64,
    else in float32, then cast to its dtype. Number i does not depend on `count`.
    """
    unit = _unit_numbers(key_words("gaussian", seed, keys), count + count % 2, like)
    radius = (-2 * unit[:, 0::2].log()).sqrt()
    angle = 2 * math.pi * unit[:, 1::2]
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :count].to(like.dtype)


@dataclass(frozen=True)
class KeyedNoise:
    """Noise for a batch whose entries are (subject, sample) pairs.

    A field is a function of (seed, subject, sample, step, draw) and the voxel's index in
    (channel, *space), whatever the batch around it.
    Errors: ValueError if the batch has another size than `members`.
    """

    seed: int
    members: tuple[tuple[str, int], ...]

    def __init__(self, seed: int, members: Sequence[tuple[str, int]]) -> None:
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "members", tuple((name, sample) for name, sample in members))

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        if like.shape[0] != len(self.members):
            raise ValueError(f"noise for {len(self.members)} images, asked for {like.shape[0]}")
        keys = [(subject, sample, step, draw) for subject, sample in self.members]
        return gaussians(self.seed, keys, like[0].numel(), like).reshape(like.shape)

    def take(self, indices: Sequence[int]) -> KeyedNoise:
        """The noise of a part of the batch."""
        return KeyedNoise(self.seed, [self.members[index] for index in indices])


@dataclass(frozen=True)
class AntitheticNoise:
    """Keyed noise for samples that come in pairs: those of an odd number have the noise of the one
    before them, negated, at every step.

    Where a sample is nearly linear in its noise, as late in sampling, what the noise moves cancels
    in the mean of a pair; each sample by itself is as good a sample as any.
    Errors: as `KeyedNoise`.
    Source: Hammersley & Morton 1956, antithetic variates; in diffusion sampling Jia et al. 2025
    (arXiv:2506.06185).
    Differs: they negate the noise that sampling begins with, here that of each step is, too.
    """

    seed: int
    members: Sequence[tuple[str, int]]

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        pairs = KeyedNoise(self.seed, [(name, sample // 2) for name, sample in self.members])
        signs = [1 - 2 * (sample % 2) for _, sample in self.members]
        return pairs(like, step, draw) * scale(torch.tensor(signs).double(), like)


def training_noise(seed: int, step: int, indices: Sequence[int]) -> KeyedNoise:
    """Noise for one training step, keyed by (seed, global step, global index of the example).

    The example's index counts over all ranks, so the number of ranks does not change the draw.
    """
    return KeyedNoise(seed, [(f"train {step}", int(index)) for index in indices])


def training_uniforms(
    seed: int, step: int, indices: Sequence[int], purpose: str, count: int = 1
) -> Tensor:
    """Uniform numbers for one training step, keyed like `training_noise` and by their purpose.

    Shapes: (len(indices), count), float64, in (0, 1).
    """
    return uniforms(seed, [("train", purpose, step, int(index)) for index in indices], count)


@dataclass(frozen=True, eq=False)
class TapeNoise:
    """Recorded fields played back: fields[step][draw], each of the shape of the whole batch.

    Errors: IndexError past the end of the tape.
    """

    fields: Sequence[Sequence[Image]]

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        return self.fields[step][draw].to(like)


def take_unit_numbers_from(faster: UnitNumbers) -> None:
    """Let `faster` make the numbers of `gaussians` where it can: the same ones, bit by bit."""
    global _faster
    _faster = faster


def _unit_numbers(keys: Tensor, count: int, like: Tensor) -> Tensor:
    """(len(keys), count) numbers in (0, 1), in float64 if `like` is, else in float32."""
    found = None if _faster is None else _faster(keys, count, like)
    if found is not None:
        return found
    exact = torch.float64 if like.dtype == torch.float64 else torch.float32
    return (_words(keys, count, like.device).to(exact) + 0.5) * 2.0**-32


def _round_keys(key: Sequence[Tensor], like: Tensor) -> Tensor:
    """The two key words of every round, (rounds, 2, ...), made where the keys are."""
    pair = torch.stack(torch.broadcast_tensors(*key))
    pair = pair.reshape(2, *[1] * (like.ndim - pair.ndim), *pair.shape[1:])
    rounds = torch.arange(_ROUNDS, device=pair.device).reshape(-1, *[1] * pair.ndim)
    keys = (pair + rounds * _numbers(_WEYL, pair.device, pair.ndim)) & _WORD
    return sent(keys, like.device)


@cache
def _numbers(values: tuple[int, ...], device: torch.device, ndim: int) -> Tensor:
    return sent(torch.tensor(values), device).reshape(-1, *[1] * (ndim - 1))


def key_words(purpose: str, seed: int, keys: Sequence[Key]) -> Tensor:
    """(len(keys), 2) words on the CPU: 64 bits of BLAKE2b over a key spelled unambiguously."""
    rows = []
    for key in keys:
        text = json.dumps([purpose, seed, *key], ensure_ascii=True, separators=(",", ":"))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        rows.append([int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")])
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 2)


def _words(keys: Tensor, count: int, device: torch.device) -> Tensor:
    """(len(keys), count) words; word i is lane i % 4 of the block with counter i // 4."""
    blocks = torch.arange((count + 3) // 4, dtype=torch.int64, device=device)[None]
    zero = torch.zeros_like(blocks)
    counter = (blocks & _WORD, blocks >> 32, zero, zero)
    lanes = philox(counter, (keys[:, :1], keys[:, 1:]))
    return torch.stack(lanes, dim=-1).flatten(1)[:, :count]
