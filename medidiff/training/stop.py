"""Being asked to stop: SIGTERM from a scheduler, Ctrl-C from a person, a wall-clock budget."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType


class Stopped(Exception):  # noqa: N818 it is an event, not an error
    """The run was stopped on request after saving a checkpoint; it can be resumed."""

    killed = True


class StopSignal:
    """`requested` turns true on SIGTERM, SIGUSR1 or Ctrl-C, or when the budget is spent.

    A second Ctrl-C interrupts at once. Outside the main thread only the budget counts.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self, minutes: float | None = None) -> None:
        self.reason: str | None = None
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "the time budget is spent"
        return self.reason is not None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = f"{signal.Signals(number).name} received"
