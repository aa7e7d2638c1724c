"""How a job tells a person what it does: progress bars on a terminal, sparse lines in a batch log,
or nothing."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Reporter(Protocol):
    """Where a job reports to. Nothing said here names a patient's file or subject."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class Quiet:
    """Says nothing: for scripts."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """A line every `seconds` and at the end of each part: for batch logs."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds = seconds
        self.last: dict[str, float] = {}

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self.last.get(what, -self.seconds) < self.seconds:
            return
        self.last[what] = now
        self.say(f"{what}: {done}/{total} {note}".rstrip())

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Bars:
    """Progress bars on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        if not self.tasks:
            self.bars.start()
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total, note=note)
        self.bars.update(self.tasks[what], completed=done, total=total, note=note)
        if done >= total:
            self.bars.stop_task(self.tasks[what])

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.bars.stop()


def reporter() -> Reporter:
    """Bars where a person watches, lines where a file does."""
    console = Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines()
