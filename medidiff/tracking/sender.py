"""The thread that keeps the store up to date while a run goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from medidiff.tracking.delivery import Courier
from medidiff.tracking.store import reason_of

log = logging.getLogger("medidiff.tracking")

INTERVAL_S = 1.0
RETRY_S = 15.0
RETRY_MAX_S = 300.0


class Sender:
    """Delivers what is pending every second; waits longer while the store does not answer.

    The first failure is warned of, the others only noted at level DEBUG: the run itself goes on.
    """

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._thread = threading.Thread(target=self._work, name="medidiff-sender", daemon=True)
        self._changed = threading.Condition()
        self._wanted = False
        self._stopping = False
        self._begun = 0
        self._ended = 0
        self._warned = False

    def start(self, limit_s: float) -> None:
        """Begin, and wait for the first attempt to end, at most `limit_s`."""
        with self._changed:
            self._wanted = True
            self._thread.start()
            self._changed.wait_for(lambda: self._ended > 0, limit_s)

    def flush(self, limit_s: float) -> bool:
        """Try to deliver everything now; True if nothing is pending."""
        with self._changed:
            attempt = self._begun + 1
            self._wanted = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._ended >= attempt or not self._thread.is_alive(), limit_s
            )
        return self._courier.journal.is_delivered()

    def stop(self) -> None:
        """End the thread after its present attempt."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _work(self) -> None:
        pause = INTERVAL_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping, pause)
                if self._stopping:
                    return
                self._wanted = False
                self._begun += 1
            pause = self._attempt(pause)
            with self._changed:
                self._ended = self._begun
                self._changed.notify_all()

    def _attempt(self, pause: float) -> float:
        """Deliver once; returns how long to wait until the next time."""
        try:
            self._courier.deliver()
        except Exception as error:  # of any kind: what was not sent stays in the journal
            reason = reason_of(error)
            if self._warned:
                log.debug("MLflow: %s", reason)
            else:
                self._warned = True
                log.warning(
                    "MLflow cannot be used: %s. The run goes on and is kept in %s; "
                    "`medidiff sync %s` sends it later.",
                    reason,
                    self._courier.journal.path,
                    self._courier.folder,
                    exc_info=log.isEnabledFor(logging.DEBUG),
                )
            return min(max(2 * pause, RETRY_S), RETRY_MAX_S)
        return INTERVAL_S


def within(limit_s: float, action: Callable[[], None]) -> bool:
    """Whether `action` ended well within `limit_s`; it is left to itself if it takes longer."""
    done = threading.Event()

    def act() -> None:
        try:
            action()
        except Exception as error:  # the caller has the journal to fall back on
            log.debug("MLflow: %s", reason_of(error))
        else:
            done.set()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(limit_s)
    return done.is_set()
