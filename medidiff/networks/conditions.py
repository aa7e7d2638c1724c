"""What a network may be told about a case: a class or a number, each of which may be unknown.

A network is given its conditions as one row of numbers per image, (batch, K), in the order of its
options: the index of a class, or a number standardised by the mean and spread of the training data.
NaN says "unknown", for a value that is missing and for one that was dropped for classifier-free
guidance (Ho and Salimans 2022, arXiv:2207.12598); a row of NaN is the unconditional model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.types import Tensor

Value = str | float | None


@dataclass(frozen=True)
class ClassCondition:
    """One of a few named classes, such as sex or the contrast of a scan."""

    kind: Literal["class"] = "class"
    name: str = "class"
    """The name users and manifests give it."""
    values: tuple[str, ...] = ()
    """The classes it knows; their order is part of the weights."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a class condition needs a name")
        if not self.values:
            raise ValueError(f"condition '{self.name}' has no values; name its classes")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"condition '{self.name}' names a class twice: {_listed(self.values)}")

    def code(self, value: str | float) -> float:
        """The index of a class.

        Errors: ValueError naming the classes that there are.
        """
        if value not in self.values:
            raise ValueError(
                f"condition '{self.name}' is {value!r}; it must be one of {_listed(self.values)}"
            )
        return float(self.values.index(value))


@dataclass(frozen=True)
class NumberCondition:
    """A measured number, such as age, standardised by its mean and spread in the training data."""

    kind: Literal["number"] = "number"
    name: str = "number"
    """The name users and manifests give it."""
    mean: float = 0.0
    """Mean over the training cases, in the number's own unit."""
    std: float = 1.0
    """Standard deviation over the training cases, in the number's own unit."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a number condition needs a name")
        if not math.isfinite(self.mean):
            raise ValueError(f"condition '{self.name}': mean must be finite, not {self.mean}")
        if not (math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"condition '{self.name}': std must be above 0, not {self.std}")

    def code(self, value: str | float) -> float:
        """The standardised number; text such as "63" counts as the number it spells.

        Errors: ValueError if it is not a finite number (NaN stays NaN: unknown).
        """
        try:
            number = float(value)
        except ValueError:
            number = math.inf
        if math.isinf(number):
            raise ValueError(f"condition '{self.name}' is {value!r}; it must be a finite number")
        return (number - self.mean) / self.std


AnyCondition = ClassCondition | NumberCondition


def encode(conditions: Sequence[AnyCondition], mapping: Mapping[str, Value] | None) -> Tensor:
    """The row of numbers that tells a network about one case.

    Shapes: (K,), float32, in the order of `conditions`; NaN where a value is None or not given.
    Errors: ValueError for a name that the network does not know or a value that does not fit.
    """
    given = mapping or {}
    names = [condition.name for condition in conditions]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(
            f"no condition is called {_listed(unknown)}; "
            + (f"this network knows {_listed(names)}" if names else "this network takes none")
        )
    return torch.tensor(
        [_code_of(condition, given.get(condition.name)) for condition in conditions],
        dtype=torch.float32,
    )


def encode_batch(
    conditions: Sequence[AnyCondition], mappings: Sequence[Mapping[str, Value] | None]
) -> Tensor:
    """The rows of several cases.

    Shapes: (batch, K), float32.
    Errors: as `encode`.
    """
    if not mappings:
        return torch.empty((0, len(conditions)))
    return torch.stack([encode(conditions, mapping) for mapping in mappings])


def drop(condition: Tensor, keep: Tensor) -> Tensor:
    """The conditions with those not kept made unknown.

    Shapes: `condition` (batch, K); `keep` is boolean, (batch, K) or (batch, 1).
    """
    return condition.masked_fill(~keep, math.nan)


def _code_of(condition: AnyCondition, value: Value) -> float:
    return math.nan if value is None else condition.code(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
