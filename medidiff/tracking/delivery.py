"""From the journal to the store.

Sending an event twice changes nothing there, so a crash in between is harmless.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from medidiff.tracking.journal import Event, Journal
from medidiff.tracking.record import read_record, write_record
from medidiff.tracking.store import (
    UnavailableError,
    connect,
    experiment_id,
    is_missing,
    is_refusal,
    is_trouble,
    reason_of,
    redacted,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("medidiff.tracking")

Item = TypeVar("Item")

MAX_PARAM = 6000  # MLflow's limits
MAX_TAG = 8000
MAX_METRICS = 1000
MAX_TEXTS = 100


class Courier:
    """Takes what is pending in the journal of one folder to the store."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self.journal = journal
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._connecting = threading.Lock()

    def deliver(self) -> int:
        """Send all that is pending; returns the number of events.

        Errors: UnavailableError; what was not sent stays pending.
        """
        count = 0
        try:
            client, run_id = self._connected()
            while events := self.journal.pending(MAX_METRICS):
                send(client, run_id, self.folder, events)
                self.journal.mark(events[-1].end)
                count += len(events)
        except Exception as error:
            self._client = None  # look for a sign of life before the next attempt
            if is_trouble(error):
                raise UnavailableError(reason_of(error)) from error
            raise
        return count

    def set_status(self, status: str, time_ms: int) -> None:
        """Tell the store how the run ended, ahead of all that is pending."""
        client, run_id = self._connected()
        client.set_terminated(run_id, status=status, end_time=time_ms)

    def _connected(self) -> tuple[MlflowClient, str]:
        with self._connecting:
            if self._client is None or self._run_id is None:
                self._client, self._run_id = self._connect()
            return self._client, self._run_id

    def _connect(self) -> tuple[MlflowClient, str]:
        record = read_record(self.folder)
        if record is None:
            raise UnavailableError("run.json is missing")
        uri = store_uri(record.tracking_uri)
        client = connect(uri)
        known = record.run_id if redacted(uri) == record.tracking_uri else None
        run_id = find_run(client, known, record.key)
        if run_id is None:
            run_id = client.create_run(
                experiment_id(client, uri, record.experiment),
                start_time=record.created_ms,
                tags={"medidiff.key": record.key},
                run_name=record.name,
            ).info.run_id
        if run_id != known:
            self.journal.mark(0)  # a store that does not have this run yet gets all of it
            write_record(self.folder, replace(record, run_id=run_id, tracking_uri=redacted(uri)))
        return client, run_id


def find_run(client: MlflowClient, run_id: str | None, key: str) -> str | None:
    """The run that is `run_id`, or else carries our `key`; None if the store has neither."""
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            if client.get_run(run_id).info.lifecycle_stage == "active":
                return run_id
        except MlflowException as error:
            if not is_missing(error):
                raise
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(
        everywhere, filter_string=f"tags.`medidiff.key` = '{key}'", max_results=1
    )
    return found[0].info.run_id if found else None


@dataclass
class _Batch:
    metrics: list[tuple[str, float, int, int]]
    params: dict[str, str]
    tags: dict[str, str]


def send(client: MlflowClient, run_id: str, folder: Path, events: Sequence[Event]) -> None:
    """Send `events` in order; what the store refuses for good is warned of and passed over."""
    for together, group in groupby(events, key=lambda event: event.kind in _BATCHED):
        if together:
            _send_batch(client, run_id, list(group))
        else:
            for event in group:
                with _refusals_warned(event):
                    _send_one(client, run_id, folder, event)


_BATCHED = ("params", "tags", "metrics")


class _refusals_warned:  # noqa: N801 a context manager reads as a verb
    """A refusal becomes a warning; any other error passes."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception) or not is_refusal(error):
            return False
        log.warning(
            "MLflow refused an event of kind %r (it stays in journal.jsonl): %s",
            self.event.kind,
            reason_of(error),
        )
        return True


def _send_batch(client: MlflowClient, run_id: str, events: list[Event]) -> None:
    try:
        _log_batch(client, run_id, _merged(events))
    except Exception as error:
        if not is_refusal(error):
            raise
        for event in events:  # find the one that is refused; sending the others again is harmless
            with _refusals_warned(event):
                _log_batch(client, run_id, _merged([event]))


def _merged(events: list[Event]) -> _Batch:
    batch = _Batch([], {}, {})
    for event in events:
        if event.kind == "metrics":
            batch.metrics += [
                (key, float(value), event.time_ms, event.body["step"])
                for key, value in event.body["metrics"].items()
            ]
        elif event.kind == "params":
            batch.params |= event.body["params"]
        else:
            batch.tags |= event.body["tags"]
    return batch


def _log_batch(client: MlflowClient, run_id: str, batch: _Batch) -> None:
    from mlflow.entities import Metric, Param, RunTag

    for chunk in _chunks(batch.metrics, MAX_METRICS):
        client.log_batch(run_id, metrics=[Metric(*values) for values in chunk])
    params = {
        key: _fitting(client, run_id, f"params/{key}.txt", value, MAX_PARAM)
        for key, value in batch.params.items()
    }
    tags = {
        key: _fitting(client, run_id, f"tags/{key}.txt", value, MAX_TAG)
        for key, value in batch.tags.items()
    }
    for chunk in _chunks(params.items(), MAX_TEXTS):
        client.log_batch(run_id, params=[Param(*pair) for pair in chunk])
    for chunk in _chunks(tags.items(), MAX_TEXTS):
        client.log_batch(run_id, tags=[RunTag(*pair) for pair in chunk])


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _fitting(client: MlflowClient, run_id: str, file: str, value: str, limit: int) -> str:
    """`value`, or where it is kept if it is too long for MLflow, which would cut it silently."""
    if len(value) <= limit:
        return value
    client.log_text(run_id, value, file)
    return f"artifact {file}, sha256 {hashlib.sha256(value.encode()).hexdigest()}"


def _send_one(client: MlflowClient, run_id: str, folder: Path, event: Event) -> None:
    if event.kind == "status":
        status = event.body["status"]
        if status == "RUNNING":
            client.update_run(run_id, status=status)
        else:
            client.set_terminated(run_id, status=status, end_time=event.time_ms)
        return
    source = folder / event.body["path"]  # an absolute path replaces the folder
    target = PurePosixPath(event.body["name"])
    if not source.exists():
        log.warning("%s is gone and cannot be sent to MLflow", target)
        return
    if source.is_dir():
        client.log_artifacts(run_id, str(source), artifact_path=str(target))
        return
    parent = None if target.parent == PurePosixPath(".") else str(target.parent)
    with tempfile.TemporaryDirectory() as place:  # MLflow keeps the local name
        named = Path(place) / target.name
        shutil.copyfile(source, named)
        client.log_artifact(run_id, str(named), artifact_path=parent)
