from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest

from medidiff.tracking.journal import Journal


def test_events_come_back_in_order_and_stay_pending_until_marked(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(5):
        journal.append("metrics", {"metrics": {"loss": step / 2}, "step": step})
    first = journal.pending(3)
    assert [event.body["step"] for event in first] == [0, 1, 2]
    journal.mark(first[-1].end)
    assert [event.body["step"] for event in Journal(tmp_path).pending(10)] == [3, 4]
    assert not journal.is_delivered()
    journal.mark(0)
    assert len(journal.pending(10)) == 5


def test_a_line_cut_by_a_crash_is_neither_read_nor_joined_with_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("metrics", {"metrics": {"loss": 1.0}, "step": 1})
    journal.close()
    with journal.path.open("ab") as stream:
        stream.write(b'{"time": 5, "kind": "met')
    again = Journal(tmp_path)
    assert [event.body["step"] for event in again.pending(10)] == [1]
    again.append("metrics", {"metrics": {"loss": 2.0}, "step": 2})
    assert [event.body["step"] for event in again.pending(10)] == [1, 2]


def test_numbers_that_json_lacks_survive(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("metrics", {"metrics": {"a": math.nan, "b": -math.inf}, "step": 0})
    journal.append("status", {"status": "FAILED"})
    for line in journal.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    values = journal.events()[0].body["metrics"]
    assert math.isnan(float(values["a"]))
    assert float(values["b"]) == -math.inf


def test_two_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def write(name: str) -> None:
        for step in range(200):
            journal.append("metrics", {"metrics": {name * 50: 1.0}, "step": step})

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.events()) == 400


def test_an_event_of_an_unknown_kind_is_an_error_not_silence(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"time": 1, "kind": "hologram"}\n')
    with pytest.raises(ValueError, match="hologram"):
        Journal(tmp_path).events()
