"""Fused kernels, where a GPU and Triton are there; plain torch elsewhere.

`usable(x)` says which of the two ways a field goes. `plain()` is the switch: within it every field
goes the plain way, for comparison and for cards on which a kernel fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

from medidiff.types import Tensor

Result = TypeVar("Result")

_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)
_COUNTED: ContextVar[bool] = ContextVar("counted", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Plain torch for every field within the block."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """The fused way without its kernels, on any machine, for fields that hold no values."""
    token = _COUNTED.set(True)
    try:
        yield
    finally:
        _COUNTED.reset(token)


def only_counted() -> bool:
    """Whether kernels are not to be launched."""
    return _COUNTED.get()


def as_now(call: Callable[..., Result]) -> Callable[..., Result]:
    """`call` with the choice that holds now, also when autograd makes it later and elsewhere."""
    if not _PLAIN.get():
        return call

    def plainly(*inputs: object) -> Result:
        with plain():
            return call(*inputs)

    return plainly


def usable(x: Tensor) -> bool:
    """Whether a field goes through the fused kernels."""
    if _PLAIN.get():
        return False
    return only_counted() or ((x.is_cuda or _interpreted()) and available())


@cache
def available() -> bool:
    """Whether the kernels run here; warns once, with the reason, where they do not."""
    if importlib.util.find_spec("triton") is None:
        _warn("Triton is not installed")
        return False
    try:
        from medidiff.networks.kernels.probe import run

        run()
    except Exception as why:  # no compiler, no executable cache folder, an unknown card
        _warn(f"{type(why).__name__}: {why}")
        return False
    return True


def _interpreted() -> bool:
    """Triton's interpreter runs the kernels on a CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _warn(reason: str) -> None:
    warnings.warn(
        f"the fused kernels do not run here ({str(reason).splitlines()[0]}); plain torch is used, "
        "about twice slower. A C compiler and a writable TRITON_CACHE_DIR are what they need",
        RuntimeWarning,
        stacklevel=3,
    )
