from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from medidiff.tracking.process import this_process


def test_a_living_process_is_here_and_not_gone() -> None:
    me = this_process()
    assert me.is_here()
    assert not me.is_gone()


def test_a_process_that_ended_is_gone() -> None:
    code = (
        "from medidiff.tracking.process import this_process as p;"
        "q = p(); print(q.host, q.pid, q.start)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    host, pid, start = out.stdout.split(maxsplit=2)
    ended = replace(this_process(), host=host, pid=int(pid), start=start.strip())
    assert ended.is_gone()
    assert not ended.is_here()


def test_another_process_that_took_the_number_does_not_pass_for_it() -> None:
    earlier = replace(this_process(), start="an earlier boot:1")
    assert earlier.is_gone()


def test_nothing_is_said_of_a_process_on_another_host() -> None:
    elsewhere = replace(this_process(), host="node-that-is-not-this-one", pid=1)
    assert not elsewhere.is_gone()
    assert not elsewhere.is_here()
