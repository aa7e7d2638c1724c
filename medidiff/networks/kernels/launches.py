"""The Triton kernels as they are launched: not at all where a step is only counted."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from medidiff.networks.kernels import only_counted


class Kernels:
    """The kernels of one file of this package, by name. They need Triton when launched, not when
    counted."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        if only_counted():
            return _Nothing()
        return getattr(importlib.import_module(f"{__package__}.{self._file}"), name)


class _Nothing:
    """A kernel that does nothing: `kernel[grid](...)`."""

    def __getitem__(self, grid: object) -> _Nothing:
        return self

    def __call__(self, *_: object, **__: object) -> None:
        """The outputs were allocated by whoever launches it, which is what is counted."""


def sum_type(name: str) -> Any:
    """Triton's type of the name; the name itself where nothing is launched."""
    if only_counted() or importlib.util.find_spec("triton") is None:
        return name
    import triton.language as tl

    return getattr(tl, name)


def cdiv(number: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-number // divisor)


def next_power_of_2(number: int) -> int:
    """The smallest power of 2 that is not below `number`."""
    return 1 << (number - 1).bit_length()
