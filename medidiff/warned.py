"""Warnings that belong to results: shown as Python shows them, and kept for the provenance."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_kept: ContextVar[list[str] | None] = ContextVar("kept", default=None)
_whose: ContextVar[str] = ContextVar("whose", default="")


def warn(message: str, stacklevel: int = 1) -> None:
    """Warn, as `warnings.warn` does; within `kept_warnings` the message is kept, once."""
    _keep([message])
    whose = _whose.get()
    if whose and not message.startswith(whose):
        message = f"{whose}: {message}"
    warnings.warn(message, stacklevel=stacklevel + 1)


@contextmanager
def warnings_of(whose: str) -> Iterator[None]:
    """What is warned of within is shown as that of one of several inputs, such as "input 2"."""
    before = _whose.set(whose)
    try:
        yield
    finally:
        _whose.reset(before)


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """A list that fills with what is warned of within; what holds it gets the same at its end."""
    found: list[str] = []
    before = _kept.set(found)
    try:
        yield found
    finally:
        _kept.reset(before)
        _keep(found)


def warned_of() -> list[str]:
    """What was warned of so far, within `kept_warnings`."""
    return [*(_kept.get() or ())]


def _keep(messages: list[str]) -> None:
    kept = _kept.get()
    if kept is not None:
        kept += [each for each in messages if each not in kept]
