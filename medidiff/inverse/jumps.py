"""Paths that go back: noise put back and walked down again."""

from __future__ import annotations

from collections.abc import Sequence

from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.sampling import PathItem, Renoise


def with_jumps(levels: Sequence[NoiseLevel], length: int, repeats: int) -> list[PathItem]:
    """The path in which each stretch of `length` hops, counted from its end, is walked `repeats`
    times; a last, shorter stretch at the noisy end is walked once.

    Source: Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1 and appendix B (jump length j and
    resampling number r).
    """
    items: list[PathItem] = [levels[0]]
    last = len(levels) - 1
    for index in range(1, last + 1):
        items.append(levels[index])
        if (last - index) % length == 0 and index >= length:
            for _ in range(repeats - 1):
                first = index - length
                items += [Renoise(levels[first]), *levels[first + 1 : index + 1]]
    return items


def check_jumps(kind: str, length: int, repeats: int) -> None:
    """Errors: ValueError unless both are at least 1."""
    if length < 1 or repeats < 1:
        raise ValueError(f"{kind} needs jump_length >= 1, repeats >= 1, got {length}, {repeats}")
