"""Which process writes a run, and whether it still lives. Standard library only."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one with the same number by its start."""

    host: str
    pid: int
    start: str

    def is_gone(self) -> bool:
        """Whether it surely runs no more. False for another host: nothing is known of it here."""
        return self.host == socket.gethostname() and _start_of(self.pid) != self.start

    def is_here(self) -> bool:
        """Whether it runs on this host now."""
        return self.host == socket.gethostname() and _start_of(self.pid) == self.start


def this_process() -> Process:
    """The calling process."""
    return process(os.getpid())


def process(pid: int) -> Process:
    """The process of this host that has the number `pid` now."""
    return Process(socket.gethostname(), pid, _start_of(pid))


def _start_of(pid: int) -> str:
    """When the process started, in this system's own words; "" if it does not run."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        if fields[0] in "ZX":  # a zombie does no more work
            return ""
        # ticks since boot, so the boot is part of the answer (proc(5), field 22)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{fields[19]}"
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
